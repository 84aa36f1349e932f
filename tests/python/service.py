"""Another program that reads and writes the two tables, over SQLAlchemy, in its own ways.

    service.py URL create                   makes the tables
    service.py URL load                     prints all it can load, as one JSON object
    service.py URL write ID VERSION         writes a rule
    service.py URL edit ID VERSION          changes a rule's text in place
    service.py URL delete ID                deletes a rule
    service.py URL set ID STATE [CEILING]   sets a state
    service.py URL clear ID                 takes a state away
    service.py URL query SQL                prints the first column of the first row
"""

import datetime
import json
import sys

import yaml
from sqlalchemy import Column, DateTime, Float, Integer, String, Text, create_engine, select, text
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.orm import DeclarativeBase, Session


class Base(DeclarativeBase):
    pass


class Rule(Base):
    __tablename__ = "ttp_rule"
    rule_id = Column(String(255), primary_key=True)
    rule_version = Column(Integer, nullable=False)
    source_path = Column(String(255), nullable=False)
    yaml_content = Column(Text().with_variant(MEDIUMTEXT, "mysql"), nullable=False)
    updated_at = Column(DateTime, nullable=False)
    updated_by = Column(String(255), nullable=False)


class State(Base):
    __tablename__ = "ttp_rule_state"
    rule_id = Column(String(255), primary_key=True)
    state = Column(String(255), nullable=False)
    confidence_max = Column(Float)
    expires_at = Column(DateTime)
    reason = Column(String(255))
    set_by = Column(String(255))
    set_at = Column(DateTime, nullable=False)


TEXT = """rule_id: {0}
rule_version: {1}
name: written by a service
applies_to: [command]
match: {{field: command_text, pattern: 'é{1}'}}
emits:
  - {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}
"""


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def load(session):
    rules = {}
    for row in session.scalars(select(Rule)):
        rule = yaml.safe_load(row.yaml_content)
        assert rule["rule_id"] == row.rule_id and rule["rule_version"] == row.rule_version, row.rule_id
        rules[row.rule_id] = {
            "version": row.rule_version,
            "path": row.source_path,
            "text": row.yaml_content,
            "by": row.updated_by,
            "age": (now() - row.updated_at).total_seconds(),
        }
    states = {row.rule_id: [row.state, row.confidence_max] for row in session.scalars(select(State))}
    print(json.dumps({"rules": rules, "states": states}))


def main(url, command, *args):
    engine = create_engine(url)
    if command == "create":
        Base.metadata.create_all(engine)
        return
    with Session(engine) as session:
        if command == "load":
            load(session)
        elif command == "write":
            session.add(Rule(rule_id=args[0], rule_version=int(args[1]), source_path="", yaml_content=TEXT.format(*args),
                             updated_at=now(), updated_by="service"))
        elif command == "edit":
            rule = session.get_one(Rule, args[0])
            rule.yaml_content, rule.rule_version = TEXT.format(*args), int(args[1])
            rule.updated_at, rule.updated_by = now(), "service"
        elif command == "delete":
            session.delete(session.get_one(Rule, args[0]))
        elif command == "set":
            ceiling = float(args[2]) if len(args) > 2 else None
            session.merge(State(rule_id=args[0], state=args[1], confidence_max=ceiling, set_by="service", set_at=now()))
        elif command == "query":
            print(session.scalar(text(args[0])))
        elif command == "clear":
            session.delete(session.get_one(State, args[0]))
        else:
            sys.exit(__doc__)
        session.commit()


main(*sys.argv[1:])
