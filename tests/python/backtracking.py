"""Holds the daemon's `backtracking` warnings against the time that Python's `re` takes.

Usage: backtracking.py RULESYNCD DIRECTORY...

Takes the patterns of the rule sets below the directories (ModSecurity's Core Rule Set and Fail2ban's
filters, as Debian packages them), and asks `RULESYNCD check` about each. Then it makes texts of its
own for each pattern, from Python's own parse tree, and measures. A pattern is slow where a text of
LENGTH takes longer than SLOW, quick where none takes longer than QUICK; between the two a machine
decides, and neither verdict is wrong. Prints the counts, and the patterns that were
judged wrongly; exits with 1 where precision or recall fall below the bounds at the end.
"""

import configparser
import json
import multiprocessing
import pathlib
import re
import re._constants as constants
import re._parser as parser
import signal
import subprocess
import sys
import tempfile
import time
import warnings

# The warnings are about 20,000 characters; half of them take a quarter of the time, or less.
LENGTH = 10_000
SLOW, QUICK, LIMIT = 0.12, 0.03, 0.15

warnings.simplefilter("ignore")


def core_rules(path):
    for file in sorted(path.rglob("*.conf")):
        for line in file.read_text(errors="replace").splitlines():
            if rule := re.match(r'\s*SecRule\s+\S+\s+"@rx (.*)"\s*\\?$', line):
                yield rule[1].replace('\\"', '"')


def filters(path):
    for file in sorted(path.rglob("filter.d/*.conf")):
        config = configparser.RawConfigParser(strict=False)
        try:
            config.read(file)
        except configparser.Error:
            continue
        for key in ("failregex", "ignoreregex", "prefregex"):
            for line in config.get("Definition", key, fallback="").splitlines():
                # What Fail2ban fills in is left out.
                if line and "%(" not in line and "__" not in line:
                    yield re.sub(r"<[A-Z-]+>", r"(?:\\S+)", line)


def patterns(paths):
    found = []
    for path in map(pathlib.Path, paths):
        for pattern in [*core_rules(path), *filters(path)]:
            try:
                re.compile(pattern)
            except re.error:
                continue
            if pattern not in found and pattern.isprintable():
                found.append(pattern)
    return found


def verdicts(program, found):
    """The warning of each pattern, or None."""
    with tempfile.TemporaryDirectory() as directory:
        for number, pattern in enumerate(found):
            rule = (
                f"rule_id: R{number:04}\nrule_version: 1\nname: n\napplies_to: [a]\n"
                f"match:\n  pattern: {json.dumps(pattern)}\n"
                "emits: [{tactic: TA0007, technique_id: T1083, confidence: 1}]\n"
            )
            pathlib.Path(directory, f"R{number:04}.yaml").write_text(rule)
        began = time.perf_counter()
        checked = subprocess.run([program, "check", "--format", "json", directory], capture_output=True)
        print(f"{len(found)} patterns judged in {time.perf_counter() - began:.2f} s")
    said = dict.fromkeys(range(len(found)))
    for finding in json.loads(checked.stdout)["findings"]:
        if finding["code"] == "backtracking":
            said[int(pathlib.Path(finding["path"]).stem[1:])] = finding["message"]
    return [said[number] for number in range(len(found))]


class Late(Exception):
    pass


def late(*_):
    raise Late


def takes(compiled, text):
    """Seconds that a search takes, as far as LIMIT."""
    began = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        compiled.search(text)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Late:
        return LIMIT
    return time.perf_counter() - began


def members(part):
    """Some characters that one item of Python's parse tree matches."""
    op, argument = part
    wanted = "aA0 _-=/\\.'\"<;:()\t\n,x"
    match op:
        case constants.LITERAL:
            return [chr(argument)]
        case constants.NOT_LITERAL:
            return [c for c in wanted if ord(c) != argument][:9]
        case constants.ANY:
            return list("a0 -=/")
        case constants.IN:
            source = re.compile("[" + "".join(written(item) for item in argument) + "]")
            named = [chr(item[1]) for item in argument if item[0] is constants.LITERAL]
            return [c for c in dict.fromkeys(named + list(wanted)) if source.match(c)][:9]
    return []


def written(item):
    op, argument = item
    match op:
        case constants.NEGATE:
            return "^"
        case constants.LITERAL:
            return f"\\U{argument:08x}"
        case constants.RANGE:
            return f"\\U{argument[0]:08x}-\\U{argument[1]:08x}"
        case constants.CATEGORY:
            names = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}
            kind = str(argument).removeprefix("CATEGORY_")
            return "\\" + (names[kind[4:]].upper() if kind.startswith("NOT_") else names[kind])
    raise ValueError(op)


def texts(tree):
    """Pairs of what leads to a repetition of the tree, and what it can repeat."""
    before = ""
    for part in tree:
        op, argument = part
        if op in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            least, most, body = argument
            if most is constants.MAXREPEAT or most > 50:
                for one in [*(members(body[0]) if len(body) == 1 else []), least_text(body)]:
                    yield before, one
            for inner, one in texts(body):
                yield before + inner, one
        elif op is constants.SUBPATTERN:
            for inner, one in texts(argument[3]):
                yield before + inner, one
        elif op is constants.BRANCH:
            for branch in argument[1]:
                for inner, one in texts(branch):
                    yield before + inner, one
        elif op is constants.ATOMIC_GROUP:
            for inner, one in texts(argument):
                yield before + inner, one
        before += least_text([part])


def least_text(tree):
    text = ""
    for part in tree:
        op, argument = part
        if op in (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT):
            text += least_text(argument[2]) * min(argument[0], 50)
        elif op is constants.SUBPATTERN:
            text += least_text(argument[3])
        elif op is constants.ATOMIC_GROUP:
            text += least_text(argument)
        elif op is constants.BRANCH:
            text += least_text(argument[1][0])
        else:
            text += (members(part) or [""])[0]
    return text


def slowest(pattern):
    """The longest that any text of ours takes, and that text's beginning."""
    compiled = re.compile(pattern)
    worst = (0.0, "")
    tried = set()
    for before, one in texts(parser.parse(pattern)):
        for head, pump in ((before, one), ("", before + one)):
            if not pump or (head, pump) in tried or len(tried) > 40:
                continue
            tried.add((head, pump))
            for end in ("", "!", "\n\n"):
                # What doubles with each repetition shows in a short text, too.
                for length in (40, LENGTH):
                    text = head + pump * (length // len(pump)) + end
                    worst = max(worst, (takes(compiled, text), text[:60]))
                    if worst[0] >= LIMIT:
                        return worst
    return worst


def main():
    program, *paths = sys.argv[1:]
    found = patterns(paths)
    counts = {"right": 0, "right warning": 0, "false warning": 0, "missed": 0, "between": 0}
    with multiprocessing.Pool(initializer=signal.signal, initargs=(signal.SIGALRM, late)) as pool:
        measured = pool.map(slowest, found, chunksize=1)
    for pattern, warning, (seconds, text) in zip(found, verdicts(program, found), measured):
        if QUICK < seconds < SLOW:
            kind = "between"
        elif seconds >= SLOW:
            kind = "right warning" if warning else "missed"
        else:
            kind = "false warning" if warning else "right"
        counts[kind] += 1
        if kind in ("false warning", "missed"):
            print(f"{kind}: {seconds:.2f} s for {text!r}\n    {pattern[:200]}\n    {warning}")
    print(counts)
    warned, slow = counts["right warning"] + counts["false warning"], counts["right warning"] + counts["missed"]
    precision, recall = counts["right warning"] / max(warned, 1), counts["right warning"] / max(slow, 1)
    print(f"{len(found)} patterns, precision {precision:.2f}, recall {recall:.2f}")
    sys.exit(len(found) < 300 or precision < 0.9 or recall < 0.8)


if __name__ == "__main__":
    main()
