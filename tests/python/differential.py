"""Holds what the daemon made of many texts against PyYAML and a pydantic model of a rule.

Usage: differential.py CASES [SHOWN]

CASES has one JSON object a line: `text` (hexadecimal), `rule` (what the daemon takes it for, or
null), `codes` (why it was refused).

* Whatever the daemon accepts Python must load, and both must have the same rule. So must libyaml
  (PyYAML's other loader) and ruamel.yaml, which reads YAML 1.2.
* Whatever Python loads and the daemon refuses must be refused for a reason in REASONS.
* The JSON Schema of a rule must take and refuse what the daemon takes and refuses, where that is
  not refused as YAML.

Prints the counts; exits with 1 and the first texts that break this.
"""

import json
import math
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError as RuamelError

# Why a text is refused that one Python program would load.
REASONS = {
    "ambiguous-value": "YAML 1.1 and 1.2 read it differently",
    "merge-key": "YAML 1.2 has none",
    "tag": "readers of other languages do not know Python's",
    "duplicate-key": "some readers take the first, some the last, some none",
    "key-not-string": "not every reader has other keys",
    "dialect": "readers disagree on this syntax",
    "syntax": "YAML 1.2 refuses it",
    "tab": "YAML 1.2 refuses it here",
    "character": "readers disagree on this character",
    "number": "does not fit into 64 bits, or is not finite",
    "alias": "a value that contains itself",
}

# Why a text is refused that is good YAML: all but `sub-technique` the schema tells too.
STRUCTURE = {"not-a-mapping", "missing-field", "wrong-type", "empty-list", "out-of-range", "rule-id"}
WARNINGS = {"unknown-key", "attack-id", "pattern"}

SCHEMA = json.loads((Path(__file__).parents[2] / "config/rule.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
# To Python's `re` a `$` is before the last line break too; to a schema's dialect it is not.
SCHEMA["properties"]["rule_id"]["pattern"] = SCHEMA["properties"]["rule_id"]["pattern"].replace("$", r"\Z")

Text = Annotated[str, Field(strict=True)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Emit(Strict):
    technique_id: Text
    sub_technique_id: Text | None = None
    tactic: Text
    confidence: float = Field(ge=0, le=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def belongs(self):
        if self.sub_technique_id is not None and not self.sub_technique_id.startswith(self.technique_id):
            raise ValueError("the sub-technique is not the technique's")
        return self


class Rule(Strict):
    rule_id: Text = Field(pattern=r"^[A-Za-z0-9_-]{1,255}\z")
    rule_version: int = Field(ge=0, le=2**31 - 1)
    name: Text
    description: Text | None = None
    applies_to: list[Text] = Field(min_length=1)
    match: dict[Text, Any]
    emits: list[Emit] = Field(min_length=1)
    evidence_fields: list[Text] = []

    @field_validator("match")
    @classmethod
    def passes_as_json(cls, match):
        walk(match)
        return match


def walk(value):
    """Refuses what JSON does not have: dates, bytes, keys that are not strings."""
    match value:
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError("a key is not a string")
                walk(inner)
        case list():
            for inner in value:
                walk(inner)
        case float() if not math.isfinite(value):
            raise ValueError("not finite")
        case str():
            value.encode()
        case None | bool() | int() | float():
            pass
        case _:
            raise ValueError("not in JSON")


def compiled(rule):
    """The rule in the stream's form, as text: 1 and 1.0 and true are three things."""
    definition = {
        "rule_id": rule.rule_id,
        "rule_version": rule.rule_version,
        "name": rule.name,
        "description": rule.description,
        "applies_to": sorted(set(rule.applies_to), key=lambda text: text.encode()),
        "match_spec": rule.match,
        "emits": [emit.model_dump() for emit in rule.emits],
        "evidence_fields": rule.evidence_fields,
    }
    return json.dumps(definition)


# As a reader of the table gets the text, as a reader of the file does, and other readers.
READERS = {
    "PyYAML": lambda text: yaml.safe_load(text.decode()),
    "PyYAML, of bytes": yaml.safe_load,
    "libyaml": lambda text: yaml.load(text, yaml.CSafeLoader),
    "ruamel.yaml, as YAML 1.2": lambda text: YAML(typ="safe", pure=True).load(text.decode()),
}


def reads(reader, text):
    """The rule as a reader has it, or the reason why it has none."""
    try:
        return compiled(Rule.model_validate(READERS[reader](text))), None
    except RecursionError:
        return None, "recursion"
    except (yaml.YAMLError, RuamelError, ValidationError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"


def against_schema(text, case):
    """Whether the schema says what the daemon says; None where it has no say."""
    refused = case["rule"] is None
    if not STRUCTURE.issuperset(set(case["codes"]) - WARNINGS):
        return None
    try:
        loaded = yaml.safe_load(text.decode())
        walk(loaded)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if isinstance(loaded, dict) and isinstance(loaded.get("rule_version"), float):
        return None  # 1.0 is an integer to JSON Schema
    valid = VALIDATOR.is_valid(loaded)
    if valid == refused:
        return "BAD: refused, and the schema takes it" if refused else "BAD: accepted, and the schema refuses it"
    return "the schema refuses it too" if refused else "the schema takes it too"


def judge(line):
    case = json.loads(line)
    text = bytes.fromhex(case["text"])
    schema = against_schema(text, case)
    if schema is not None and schema.startswith("BAD"):
        return schema, text, case["codes"], None
    return *against_python(text, case), schema


def against_python(text, case):
    if case["rule"] is not None:
        ours = json.dumps(case["rule"])
        for reader in READERS:
            theirs, reason = reads(reader, text)
            if theirs is None:
                return f"BAD: accepted, and {reader} does not load it", text, reason
            if theirs != ours:
                return f"BAD: accepted, and {reader} has another rule", text, f"\n{ours}\n{theirs}"
        return "all load it, alike", text, ""
    theirs, _ = reads("PyYAML", text)
    if theirs is None:
        return "neither loads it", text, ""
    known = next((code for code in case["codes"] if code in REASONS), None)
    if known is None:
        return "BAD: refused, and PyYAML loads it", text, case["codes"]
    return f"refused, PyYAML would load it: {known}", text, ""


def main():
    shown = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    counts, examples = Counter(), {}
    with open(sys.argv[1], encoding="utf-8") as cases, ProcessPoolExecutor() as pool:
        for verdict, text, why, schema in pool.map(judge, cases, chunksize=500):
            counts[verdict] += 1
            counts[schema] += schema is not None
            found = examples.setdefault(verdict, [])
            if len(found) < shown:
                found.append((text, why))
    for verdict, count in sorted((+counts).items()):
        print(f"{count:7} {verdict}")
    bad = [verdict for verdict in +counts if verdict.startswith("BAD")]
    for verdict in bad:
        for text, why in examples[verdict]:
            print(f"\n{verdict} ({why})\n{text!r}")
    sys.exit(1 if bad or not counts["all load it, alike"] else 0)


if __name__ == "__main__":
    main()
