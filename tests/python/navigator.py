"""Reads a layer with MITRE's own reader, which refuses what its format does not have.

Usage: navigator.py LAYER

Prints a line for each technique: `T1083 discovery 85`, with `disabled` instead of a score.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from importlib.metadata import distribution
from types import ModuleType

# Without the package's own __init__, which imports drawing and spreadsheets.
for name in ["mitreattack", "mitreattack.navlayers"]:
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(distribution("mitreattack-python").locate_file(name.replace(".", "/")))]

from mitreattack.navlayers.core import Layer  # noqa: E402


def read(document):
    """The layer, or what the reader says of it."""
    said = io.StringIO()
    with redirect_stdout(said):
        layer = Layer(json.dumps(document), strict=True)
        loaded = layer.to_dict()
    return loaded if loaded and not said.getvalue() else said.getvalue()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    loaded = read(document)
    assert isinstance(loaded, dict), loaded
    # Nothing that was written is passed over.
    for key in ["name", "description", "domain", "versions", "gradient"]:
        assert loaded[key] == document[key], (key, loaded[key], document[key])
    # The reader can tell.
    assert isinstance(read({**document, "techniques": [{"techniqueID": "T1083", "score": "high"}]}), str)
    assert isinstance(read({**document, "gradient": {"colors": [], "minValue": 0}}), str)

    for technique in loaded["techniques"]:
        effect = technique["score"] if technique.get("enabled", True) else "disabled"
        print(technique["techniqueID"], technique["tactic"], effect)


main()
