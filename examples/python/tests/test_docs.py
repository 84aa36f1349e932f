"""Every example in a docstring runs, against daemons of its own."""

import asyncio
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

import rulesyncd
from swarm import DEADLINE, Swarm

MODULES = [
    importlib.import_module(f"rulesyncd.{module.name}")
    for module in pkgutil.iter_modules(rulesyncd.__path__)
    if module.name != "__main__"
]
EXAMPLES = {
    example.name: example
    for module in (rulesyncd, *MODULES)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_does_what_it_says(name: str, swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{swarm.path / 'bin'}:{os.environ['PATH']}")
    swarm.prepare()
    example = EXAMPLES[name]
    example.globs |= {
        "SOCKET": swarm.socket,
        "RuleState": rulesyncd.RuleState,
        "RuleStore": example.globs.get("RuleStore", rulesyncd.RuleStore),
        "datetime": datetime,
    }
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize(
    ("program", "first_line"),
    [
        ("README.md", "state DIS0002 RuleState(state='disabled'"),
        ("examples/python/follow.py", "matching R1, R2"),
    ],
)
async def test_a_program_that_is_shown_runs(program: str, first_line: str, swarm: Swarm) -> None:
    """Run README's example and the script beside the package, as a user would."""
    swarm.prepare()
    text = (Path(__file__).parents[3] / program).read_text()
    if program == "README.md":
        (text,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert text.count("\n") <= 15
    text = text.replace("/run/rulesyncd/events.sock", swarm.socket)
    environment = {**os.environ, "PATH": f"{swarm.path / 'bin'}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-uc", text, swarm.socket, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE)
        assert line.decode().startswith(first_line), line
    finally:
        process.kill()
        await process.communicate()


def test_every_public_name_has_an_example() -> None:
    documented = {name.removeprefix("rulesyncd.") for name in EXAMPLES}
    calls = [f"store.RuleStore.{name}" for name in ("load_compiled", "get_state", "set_state", "on_change")]
    names = [
        f"{item.__module__.removeprefix('rulesyncd.')}.{name}"
        for name in rulesyncd.__all__
        if inspect.isclass(item := getattr(rulesyncd, name))
    ]
    for name in (*names, *calls, "store.RuleStore.subscribe_changes", "sync.RuleStore", "sync.Subscription"):
        assert name in documented, name


def test_no_file_is_long_and_only_the_standard_library_is_imported() -> None:
    known = {"rulesyncd", "opentelemetry"}
    for path in Path(rulesyncd.__path__[0]).glob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, path.name
        for name in re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE):
            assert name in sys.stdlib_module_names | known, f"{path.name}: {name}"
