import json
import re
import sys
import warnings

warnings.simplefilter("ignore")
sys.stdin.reconfigure(encoding="utf-8")
print(json.dumps(sys.version.split()[0]), flush=True)
for line in sys.stdin:
    pattern, text = json.loads(line)
    try:
        found = re.search(pattern, text)
        answer = {"found": found.group() if found else None}
    except Exception as error:
        answer = {"error": f"not a regular expression of Python's: {error}"}
    print(json.dumps(answer), flush=True)
