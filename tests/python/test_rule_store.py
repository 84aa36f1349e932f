"""The Python client against running daemons.

Needs the program's path in RULESYNCD_PROGRAM and the client's directory on the import path.
"""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
from datetime import datetime, timedelta, timezone

from rule_store import CompiledRule, RuleState, RuleStore, RuleStoreError

PROGRAM = os.environ["RULESYNCD_PROGRAM"]
DEADLINE = 20


def rule(rule_id, version):
    return (
        f"rule_id: {rule_id}\nrule_version: {version}\nname: rule {rule_id}\napplies_to: [command]\n"
        f"match:\n  field: command_text\n  pattern: 'v{version}'\n"
        "emits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n"
    )


class Swarm:
    """A master and a worker on one SQLite file."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="rs")
        self.path = pathlib.Path(self.directory.name)
        (self.path / "rules").mkdir()
        self.socket = str(self.path / "events.sock")
        self.url = f"sqlite://{self.path / 'rules.db'}"
        self.processes = {}
        self.environment = {
            "PATH": os.environ["PATH"],
            "RULESYNCD_DATABASE_URL": self.url,
            "RULESYNCD_RULES_DIR": str(self.path / "rules"),
            "RULESYNCD_SOCKET": self.socket,
            "RULESYNCD_MASTER_SOCKET": str(self.path / "master.sock"),
            "RULESYNCD_WORKER_CACHE": str(self.path / "catalogue.ndjson"),
            "RULESYNCD_WORKER_HEARTBEAT_INTERVAL": "100ms",
        }

    def start(self, mode):
        with open(self.path / f"{mode}.log", "a") as log:
            self.processes[mode] = subprocess.Popen([PROGRAM, mode], env=self.environment, stderr=log)

    def kill(self, mode):
        process = self.processes.pop(mode)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def save(self, rule_id, version):
        (self.path / "rules" / f"{rule_id}.yaml").write_text(rule(rule_id, version))

    def delete(self, rule_id):
        (self.path / "rules" / f"{rule_id}.yaml").unlink()

    def store(self):
        return RuleStore(self.socket, command=PROGRAM, database_url=self.url)

    def status(self):
        out = subprocess.run(
            [PROGRAM, "status", "--json", "--socket", self.socket],
            env=self.environment,
            capture_output=True,
            check=True,
        )
        return json.loads(out.stdout)

    def close(self):
        for mode in list(self.processes):
            self.kill(mode)
        self.directory.cleanup()


def words(change):
    kind, rule_id, value = change
    if value is None:
        return f"{rule_id} deleted"
    return f"{rule_id} v{value.rule_version}" if kind == "definition" else f"{rule_id} {value.state}"


class RuleStoreTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.swarm = Swarm()
        self.addCleanup(self.swarm.close)
        self.swarm.save("R1", 1)
        self.swarm.save("R2", 1)
        self.swarm.start("master")
        self.swarm.start("worker")
        self.store = self.swarm.store()
        while len(await asyncio.wait_for(self.store.load_compiled(), DEADLINE)) < 2:
            await asyncio.sleep(0.01)
        self.changes = self.store.subscribe_changes()
        self.addAsyncCleanup(self.changes.aclose)

    async def next(self, count=1):
        return [words(await asyncio.wait_for(self.changes.__anext__(), DEADLINE)) for _ in range(count)]

    async def test_rules_are_loaded_as_what_they_are(self):
        rules = {rule.rule_id: rule for rule in await self.store.load_compiled()}
        self.assertEqual(sorted(rules), ["R1", "R2"])
        first = rules["R1"]
        self.assertIsInstance(first, CompiledRule)
        self.assertEqual((first.rule_version, first.applies_to, first.state), (1, ("command",), RuleState()))
        self.assertEqual(first.match_spec, {"field": "command_text", "pattern": "v1"})
        self.assertEqual(first.emits[0].confidence, 0.85)

    async def test_changes_come_one_at_a_time_and_none_is_lost_after_the_load(self):
        self.swarm.save("R1", 2)
        self.assertEqual(await self.next(), ["R1 v2"])
        self.swarm.delete("R2")
        self.assertEqual(await self.next(), ["R2 deleted"])

    async def test_a_state_is_set_read_and_ends_by_itself(self):
        soon = datetime.now(timezone.utc) + timedelta(seconds=2)
        wanted = RuleState("clipped", 0.3, soon, "noisy", "ann")
        stands = await self.store.set_state("R1", wanted)
        self.assertEqual((stands.state, stands.confidence_max, stands.set_by), ("clipped", 0.3, "ann"))
        self.assertEqual(await self.next(), ["R1 clipped"])
        self.assertEqual(await self.store.get_state("R1"), stands)
        self.assertEqual(await self.next(), ["R1 enabled"])
        self.assertGreaterEqual(datetime.now(timezone.utc), soon)
        self.assertEqual(await self.store.get_state("unknown"), RuleState())

        await self.store.set_state("R1", RuleState("disabled"))
        self.assertEqual(await self.next(), ["R1 disabled"])
        await self.store.set_state("R1", RuleState())
        self.assertEqual(await self.next(), ["R1 enabled"])
        with self.assertRaisesRegex(RuleStoreError, "confidence"):
            await self.store.set_state("R1", RuleState("clipped"))

    async def test_a_state_of_an_unknown_rule_is_refused_with_near_names_unless_forced(self):
        with self.assertRaisesRegex(RuleStoreError, "no rule R11; did you mean R1 or R2?"):
            await self.store.set_state("R11", RuleState("disabled"))
        await self.store.set_state("R11", RuleState("disabled"), force=True)
        self.assertEqual(await self.next(), ["R11 disabled"])

    async def test_another_database_than_the_workers_is_refused(self):
        elsewhere = RuleStore(
            str(self.swarm.path / "events.sock"),
            command=self.store._command,
            database_url=f"sqlite://{self.swarm.path}/other.db",
        )
        with self.assertRaisesRegex(RuleStoreError, "--database-url"):
            await elsewhere.set_state("R1", RuleState("disabled"))
        self.assertFalse((self.swarm.path / "other.db").exists())

    async def test_a_killed_worker_costs_no_change_and_repeats_none(self):
        self.swarm.save("R1", 2)
        self.assertEqual(await self.next(), ["R1 v2"])
        waiting = asyncio.ensure_future(self.next(4))
        self.swarm.kill("worker")
        self.swarm.save("R1", 3)
        self.swarm.save("R3", 1)
        self.swarm.delete("R2")
        await self.store.set_state("R1", RuleState("disabled"))
        while sorted(self.rows()) != [("R1", 3), ("R3", 1)]:
            await asyncio.sleep(0.01)
        self.swarm.start("worker")
        self.assertEqual(sorted(await waiting), ["R1 disabled", "R1 v3", "R2 deleted", "R3 v1"])
        self.swarm.save("R3", 2)
        self.assertEqual(await self.next(), ["R3 v2"])

    async def test_a_consumer_that_raises_in_the_middle_of_a_snapshots_differences_loses_nothing(self):
        for number in range(10):
            self.swarm.save(f"N{number}", 1)
        self.assertEqual(sorted(await self.next(10)), [f"N{number} v1" for number in range(10)])
        await self.changes.aclose()
        # The worker is another one then: what happened meanwhile comes as a snapshot's differences.
        self.swarm.kill("worker")
        for number in range(10):
            self.swarm.save(f"N{number}", 2)
        while sum(row[1] for row in self.rows()) != 2 + 10 * 2:
            await asyncio.sleep(0.01)
        self.swarm.start("worker")
        heard = []

        async def consume(until):
            async for change in self.store.subscribe_changes():
                heard.append(words(change))
                if len(heard) == until:
                    raise ValueError("a handler that fails once")

        for until in (3, 4, 10):
            with self.assertRaises(ValueError):
                await asyncio.wait_for(consume(until), DEADLINE)
        self.assertEqual(sorted(heard), [f"N{number} v2" for number in range(10)])
        self.swarm.save("N0", 3)
        self.changes = self.store.subscribe_changes()
        self.assertEqual(await self.next(), ["N0 v3"])

    async def test_each_of_two_tasks_hears_every_change(self):
        async def hear(count):
            changes = self.store.subscribe_changes()
            heard = []
            while len(heard) < count:
                # A wait that is cut off again and again loses nothing either.
                with contextlib.suppress(asyncio.TimeoutError):
                    heard.append(words(await asyncio.wait_for(changes.__anext__(), 0.02)))
            return heard

        tasks = [asyncio.ensure_future(hear(20)) for _ in range(3)]
        for version in range(2, 22):
            self.swarm.save("R1", version)
            # One after the other: of edits that fall into one poll the last is heard.
            self.assertEqual(await self.next(), [f"R1 v{version}"])
        expected = [f"R1 v{version}" for version in range(2, 22)]
        for heard in await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE):
            self.assertEqual(heard, expected)

    def rows(self):
        with contextlib.closing(sqlite3.connect(self.swarm.path / "rules.db", timeout=10)) as database:
            return database.execute("select rule_id, rule_version from ttp_rule").fetchall()

    async def test_what_was_taken_in_is_acknowledged_and_the_digest_is_the_workers(self):
        self.swarm.save("R1", 2)
        await self.store.set_state("R1", RuleState("clipped", 0.85, None, "é", "ann"))
        heard = await self.next(2)
        self.assertEqual(sorted(heard), ["R1 clipped", "R1 v2"])
        # A change is acknowledged when the next is asked for.
        asking = asyncio.ensure_future(self.next())
        deadline = time.monotonic() + DEADLINE
        # Where the worker was there before the first rules, these were changes, too.
        while self.acknowledged() != [self.swarm.status()["stream"]["seq"]]:
            self.assertLess(time.monotonic(), deadline)
            await asyncio.sleep(0.05)
        self.assertEqual(self.changes._position.known.digest(), self.swarm.status()["digest"])
        # A copy that went wrong is found at a heartbeat and mended.
        self.changes._position.known.rules["R9"] = (1, "0" * 64, "R9.yaml")
        self.assertEqual(await asking, ["R9 deleted"])

    def acknowledged(self):
        return [peer["acked"] for peer in self.swarm.status()["stream"]["subscribers"] if peer["subscribed"]]

    async def test_a_user_that_may_not_is_told(self):
        self.swarm.kill("worker")
        self.swarm.environment["RULESYNCD_WORKER_ALLOW_UIDS"] = str(os.getuid() + 1)
        self.swarm.start("worker")
        with self.assertRaisesRegex(RuleStoreError, "allow_uids"):
            await asyncio.wait_for(self.store.load_compiled(), DEADLINE)

    async def test_a_user_that_is_turned_away_before_it_has_spoken_is_told(self):
        path = str(self.swarm.path / "quick.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def turn_away():
                connection, _ = listener.accept()
                with connection:
                    connection.send(b'{"type":"error","code":"not_allowed","message":"not you"}\n')

            # In one step of this loop, so before the client's next.
            asyncio.get_running_loop().add_reader(listener, turn_away)
            self.addCleanup(asyncio.get_running_loop().remove_reader, listener.fileno())
            store = RuleStore(path)
            for call in (store.load_compiled, lambda: store.get_state("R1"), store.subscribe_changes().__anext__):
                with self.assertLogsNothing(), self.assertRaisesRegex(RuleStoreError, "not you"):
                    await asyncio.wait_for(call(), DEADLINE)

    @contextlib.contextmanager
    def assertLogsNothing(self):
        with self.assertLogs("rule_store") as logs:
            logging.getLogger("rule_store").info("one record, for assertLogs wants one")
            yield
        self.assertEqual(len(logs.output), 1, logs.output)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
