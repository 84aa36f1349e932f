"""Reads `check`'s reports for other programs, as others read them.

Usage: reports.py SCHEMA SARIF JUNIT

SCHEMA is OASIS's for SARIF 2.1.0. Ends with an error where a report is not valid, or where the two do not tell
of the same files.
"""

import json
import sys
from urllib.parse import unquote

from jsonschema import Draft7Validator, FormatChecker
from junitparser import Error, Failure, JUnitXml


def main():
    schema, sarif, junit = sys.argv[1:]
    with open(schema, encoding="utf-8") as file:
        validator = Draft7Validator(json.load(file), format_checker=FormatChecker())
    with open(sarif, encoding="utf-8") as file:
        report = json.load(file)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)]
    assert not errors, errors
    # The validator can tell.
    assert not validator.is_valid({**report, "version": "2.0.0"})
    assert not validator.is_valid({"version": "2.1.0", "runs": [{"results": []}]})

    results = report["runs"][0]["results"]
    failed = {
        unquote(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        for result in results
        if result["level"] == "error"
    }
    cases = [case for suite in JUnitXml.fromfile(junit) for case in suite]
    outcomes = {case.name: [type(outcome) for outcome in case.result] for case in cases}
    assert {name for name, outcome in outcomes.items() if outcome == [Failure]} == failed, outcomes
    assert [name for name, outcome in outcomes.items() if outcome == [Error]] == ["absent/é.yaml"], outcomes
    assert any(case.system_out and "unknown-key" in case.system_out for case in cases)


if __name__ == "__main__":
    main()
