"""Real daemons for the tests: a master and a worker on a database, or a worker on a directory."""

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rulesyncd import CompiledRule, RuleChange, RuleState, RuleStore, Subscription

PROGRAM = os.environ["RULESYNCD_PROGRAM"]

#: ``sqlite``, ``dir``, or the address of a server on which each test makes a database.
BACKEND = os.environ.get("RULESYNCD_TEST_BACKEND", "sqlite")

#: For what takes milliseconds on an idle machine.
DEADLINE = 120.0

#: How much is done where much is done: all of it on SQLite, and everywhere in `tests/run long`.
IS_LONG = BACKEND == "sqlite" or "RULESYNCD_TEST_LONG" in os.environ

Store = RuleStore[CompiledRule, RuleState, RuleChange]


def rule_text(rule_id: str, version: int) -> str:
    return (
        f"rule_id: {rule_id}\nrule_version: {version}\nname: rule {rule_id}\ndescription: é\n"
        "applies_to: [command, http_request]\n"
        f"match:\n  field: command_text\n  pattern: 'v{version}'\n"
        "emits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n"
        "evidence_fields: [command_text]\n"
    )


class Swarm:
    """The daemons of one test."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.rules = path / "rules"
        self.rules.mkdir()
        self.socket = str(path / "events.sock")
        self.environment = {
            "PATH": os.environ["PATH"],
            "RULESYNCD_DATABASE_URL": url,
            "RULESYNCD_SOCKET": self.socket,
            "RULESYNCD_WORKER_CACHE": str(path / "catalogue.ndjson"),
            "RULESYNCD_WORKER_HEARTBEAT_INTERVAL": "200ms",
            "RULESYNCD_WORKER_POLL_INTERVAL": "100ms",
            "RULESYNCD_MASTER_SOCKET": str(path / "master.sock"),
            "RULESYNCD_RULES_DIR": str(self.rules),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def has_database(self) -> bool:
        return not self.url.startswith("dir:")

    def start(self, mode: str) -> None:
        with (self.path / f"{mode}.log").open("ab") as log:
            self.processes[mode] = subprocess.Popen([PROGRAM, mode], env=self.environment, stderr=log)

    def start_all(self) -> None:
        if self.has_database:
            self.start("master")
        self.start("worker")

    def kill(self, mode: str) -> None:
        process = self.processes.pop(mode)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for mode in list(self.processes):
            self.kill(mode)

    def save(self, rule_id: str, version: int) -> None:
        # As an editor does: the file is never half written.
        draft = self.path / "draft"
        draft.write_text(rule_text(rule_id, version))
        draft.rename(self.rules / f"{rule_id}.yaml")

    def delete(self, rule_id: str) -> None:
        (self.rules / f"{rule_id}.yaml").unlink()

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [PROGRAM, *arguments], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", "--json", "--socket", self.socket))
        return status

    def store(self, **options: Any) -> Store:
        """Return a store that sets states by the command."""
        # An address in the environment is the operator's word, as it is for the command.
        options = {"command": PROGRAM, **options}
        store: Store = RuleStore(self.socket, **options)
        return store

    def prepare(self) -> None:
        """Serve two rules, and have the program in a directory ``bin``, as on a host."""
        (self.path / "bin").mkdir()
        (self.path / "bin" / "rulesyncd").symlink_to(PROGRAM)
        self.save("R1", 1)
        self.save("R2", 1)
        self.run("sync")
        self.start_all()
        deadline = time.monotonic() + DEADLINE
        while not Path(self.socket).exists() or self.status()["rules"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def database() -> Iterator[tuple[Path, str]]:
    """Make a directory for the daemons, and an empty database."""
    with tempfile.TemporaryDirectory(prefix="rs") as name:
        path = Path(name)
        if BACKEND == "sqlite":
            yield path, f"sqlite://{path}/rules.db"
        elif BACKEND == "dir":
            yield path, f"dir://{path}/rules"
        else:
            server = urlsplit(BACKEND)
            # Not a database's own name: tests of several processes share the server.
            fresh = f"t{uuid.uuid4().hex}"
            execute(BACKEND, f"CREATE DATABASE {fresh}")
            yield path, urlunsplit(server._replace(path=f"/{fresh}"))
            # The daemons are killed; the server may not know yet, and ends with the tests anyway.


def execute(url: str, sql: str) -> None:
    """Run a statement as another program."""
    parts = urlsplit(url)
    if parts.scheme == "postgresql":
        import psycopg  # noqa: PLC0415

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql)
    elif parts.scheme == "mysql":
        import pymysql  # noqa: PLC0415

        socket = re.search(r"socket=([^&]+)", parts.query)
        assert socket is not None
        with (
            closing(
                pymysql.connect(
                    unix_socket=socket.group(1),
                    user=parts.username,
                    database=parts.path.removeprefix("/") or None,
                    autocommit=True,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
    else:
        import sqlite3  # noqa: PLC0415

        with closing(sqlite3.connect(parts.path, timeout=DEADLINE, isolation_level=None)) as file:
            file.execute(sql)


async def take(changes: Subscription[RuleChange], count: int) -> list[RuleChange]:
    """Return the next changes."""
    async with asyncio.timeout(DEADLINE):
        return [await anext(changes) for _ in range(count)]


async def eventually(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def words(change: RuleChange) -> str:
    kind, rule_id, value = change
    match value:
        case None:
            return f"{rule_id} deleted"
        case CompiledRule():
            assert kind == "definition"
            return f"{rule_id} v{value.rule_version}"
        case RuleState():
            assert kind == "state"
            return f"{rule_id} {value.state}"
