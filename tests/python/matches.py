"""Holds what `fancy-regex` finds with a pattern as the daemon spells it against what Python's `re` finds.

Usage: matches.py CASES

CASES has one JSON object a line: `pattern`, `text`, and `found` (the first match as [start, end] in
characters, or null). Prints the counts; exits with 1 and the first cases in which the two differ.
"""

import json
import re
import sys
import warnings
from collections import Counter

warnings.simplefilter("ignore")


def main():
    counts, bad = Counter(), []
    with open(sys.argv[1], encoding="utf-8") as cases:
        for line in cases:
            case = json.loads(line)
            found = re.search(case["pattern"], case["text"])
            found = list(found.span()) if found else None
            if found == case["found"]:
                counts["both find something" if found else "neither finds anything"] += 1
            else:
                counts["BAD: the two differ"] += 1
                bad.append((case, found))
    for said, count in sorted(counts.items()):
        print(f"{count:7} {said}")
    for case, found in bad[:20]:
        print(f"\n{case['pattern']!r} in {case['text']!r}: found {case['found']}, Python finds {found}")
    sys.exit(1 if bad or min(counts["both find something"], counts["neither finds anything"]) < 1000 else 0)


if __name__ == "__main__":
    main()
