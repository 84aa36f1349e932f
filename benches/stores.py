"""What two Python classes do with a directory of rules: read it, write it to the table, load it.

    stores.py DIRECTORY files|write|load    prints the seconds of that step

As the service has it: PyYAML's safe_load, a pydantic model with every pattern compiled, and one
transaction a rule over SQLAlchemy.
"""

import datetime
import pathlib
import re
import sys
import tempfile
import time

import pydantic
import yaml
from sqlalchemy import Column, DateTime, Integer, String, Text, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Session


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "ttp_rule"
    rule_id = Column(String(255), primary_key=True)
    rule_version = Column(Integer, nullable=False)
    source_path = Column(String(255), nullable=False)
    yaml_content = Column(Text, nullable=False)
    updated_at = Column(DateTime, nullable=False)
    updated_by = Column(String(255), nullable=False)


class Emit(pydantic.BaseModel):
    tactic: str
    technique_id: str
    sub_technique_id: str | None = None
    confidence: float


class Rule(pydantic.BaseModel):
    rule_id: str
    rule_version: int
    name: str
    description: str = ""
    applies_to: list[str]
    match: dict
    emits: list[Emit]
    evidence_fields: list[str] = []


def compiled(text):
    rule = Rule.model_validate(yaml.safe_load(text))
    re.compile(rule.match["pattern"])
    return rule


def files(directory):
    return [(path, text, compiled(text)) for path in sorted(directory.iterdir()) for text in [path.read_text()]]


def write(engine, rules):
    for path, text, rule in rules:
        with Session(engine) as session:
            row = session.get(Row, rule.rule_id) or Row(rule_id=rule.rule_id)
            row.rule_version, row.source_path, row.yaml_content = rule.rule_version, path.name, text
            row.updated_at, row.updated_by = datetime.datetime.now(datetime.timezone.utc), "filesystem"
            session.add(row)
            session.commit()


def load(engine):
    with Session(engine) as session:
        return [compiled(row.yaml_content) for row in session.scalars(select(Row))]


def main(directory, step):
    with tempfile.TemporaryDirectory() as place:
        engine = create_engine(f"sqlite:///{place}/rules.db")
        Base.metadata.create_all(engine)
        start = time.perf_counter()
        rules = files(pathlib.Path(directory))
        if step in ("write", "load"):
            # To write is to read the files first, as a sync does.
            write(engine, rules)
        if step == "load":
            start = time.perf_counter()
            load(engine)
        print(time.perf_counter() - start)


main(*sys.argv[1:])
