"""Holds texts before and after `check --fix` against what PyYAML loads of them.

Usage: fixed.py CASES

CASES has one JSON object a line: `before` and `after` (hexadecimal).

* A text that PyYAML and the model of a rule take is the same rule to them afterwards.
* A document that PyYAML loads is equal afterwards, keys in their order, but for the texts that a rule must
  have and that were none: those the model refuses.

Prints the counts; exits with 1 and the first texts that break this.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import yaml
from differential import reads

# Fields whose value must be a text, as paths without the indices.
TEXTS = {
    ("rule_id",),
    ("name",),
    ("description",),
    ("applies_to", None),
    ("evidence_fields", None),
    ("emits", None, "tactic"),
    ("emits", None, "technique_id"),
    ("emits", None, "sub_technique_id"),
}


def load(text):
    try:
        return True, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return False, None


def differences(before, after, path=()):
    """Where two documents differ; 1, 1.0 and True are three things."""
    if type(before) is type(after) is dict and list(map(repr, before)) == list(map(repr, after)):
        for (key, old), new in zip(before.items(), after.values(), strict=True):
            yield from differences(old, new, (*path, key))
    elif type(before) is type(after) is list and len(before) == len(after):
        for old, new in zip(before, after, strict=True):
            yield from differences(old, new, (*path, None))
    elif type(before) is not type(after) or repr(before) != repr(after):
        yield path, before, after


def is_allowed(path, before, after):
    if path == ("rule_id",) and isinstance(before, str):
        return before != after == before.strip()
    return path in TEXTS and isinstance(after, str) and not isinstance(before, str | list | dict | type(None))


def judge(line):
    case = json.loads(line)
    before, after = bytes.fromhex(case["before"]), bytes.fromhex(case["after"])
    rule, _ = reads("PyYAML, of bytes", before)
    if rule is not None:
        fixed, reason = reads("PyYAML, of bytes", after)
        same = fixed == rule
        return "the same rule" if same else "BAD: another rule", before, after, reason or fixed
    loads, old = load(before)
    loads_now, new = load(after)
    if not loads:
        return "loads now" if loads_now else "does not load, and did not", before, after, None
    if not loads_now:
        return "BAD: loaded, and does not now", before, after, None
    found = list(differences(old, new))
    if not found:
        return "the same document", before, after, None
    bad = [found for found in found if not is_allowed(*found)]
    return ("BAD: another document" if bad else "a text that was none is one"), before, after, bad


def main():
    counts, examples = Counter(), {}
    with open(sys.argv[1], encoding="utf-8") as cases, ProcessPoolExecutor() as pool:
        for verdict, *case in pool.map(judge, cases, chunksize=500):
            counts[verdict] += 1
            examples.setdefault(verdict, []).append(case)
    for verdict, count in sorted(counts.items()):
        print(f"{count:7} {verdict}")
    bad = [verdict for verdict in counts if verdict.startswith("BAD")]
    for verdict in bad:
        for before, after, why in examples[verdict][:5]:
            print(f"\n{verdict} ({why})\n{before!r}\n{after!r}")
    enough = min(counts["the same rule"], counts["the same document"], counts["a text that was none is one"]) >= 100
    sys.exit(1 if bad or not enough else 0)


if __name__ == "__main__":
    main()
