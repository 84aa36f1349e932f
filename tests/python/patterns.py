"""Holds the daemon's verdict on patterns against Python's `re`.

Usage: patterns.py CASES

CASES has one JSON object a line: `pattern`, and `fault` (what `check` warns of, or null). The
warning must be there exactly where `re.compile` fails. Prints the counts; exits with 1 and the
first patterns that break this.
"""

import json
import re
import sys
import warnings
from collections import Counter

# What the daemon does not know: how deep Python gets.
UNJUDGED = ("recursion",)

warnings.simplefilter("ignore")


def verdict(case):
    try:
        re.compile(case["pattern"])
        error = None
    except (re.error, OverflowError, ValueError, RecursionError) as reason:
        error = f"{type(reason).__name__}: {reason}"
    if error is None:
        return "both take it" if case["fault"] is None else "BAD: warned of, and Python takes it", case["fault"]
    if case["fault"] is not None:
        return "neither takes it", error
    if any(known in error for known in UNJUDGED):
        return "not judged", error
    return "BAD: not warned of, and Python refuses it", error


def main():
    counts, bad = Counter(), []
    with open(sys.argv[1], encoding="utf-8") as cases:
        for line in cases:
            case = json.loads(line)
            said, why = verdict(case)
            counts[said] += 1
            if said.startswith("BAD") and len(bad) < 20:
                bad.append((said, case["pattern"], why))
    for said, count in sorted(counts.items()):
        print(f"{count:7} {said}")
    for said, pattern, why in bad:
        print(f"\n{said} ({why})\n{pattern!r}")
    sys.exit(1 if bad or not counts["both take it"] or not counts["neither takes it"] else 0)


if __name__ == "__main__":
    main()
