"""Workers that are killed, sockets with garbage, and copies that went wrong."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rulesyncd import RuleStoreError
from swarm import DEADLINE, IS_LONG, Store, Swarm, eventually, take, words

RESTARTS = 100 if IS_LONG else 20

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.backends
async def test_a_worker_that_is_killed_and_restarted_costs_and_repeats_no_change(
    store: Store, swarm: Swarm
) -> None:
    changes = store.subscribe_changes()
    for number in range(RESTARTS):
        swarm.kill("worker")
        # Else a worker that does not reach its database at once serves its last cache, marked as stale, with
        # versions that are older than what was heard.
        (swarm.path / "catalogue.ndjson").unlink(missing_ok=True)
        # What happens while nobody is there; a few deletions alone, for a worker holds back many.
        swarm.save("R1", 2 + number)
        swarm.save(f"N{number}", 1)
        expected = [f"R1 v{2 + number}", f"N{number} v1"]
        if number % 30 == 1:
            swarm.delete(f"N{number - 1}")
            expected.append(f"N{number - 1} deleted")
        swarm.start("worker")
        heard = [words(change) for change in await take(changes, len(expected))]
        assert sorted(heard) == sorted(expected), number
    assert store.counters.connections > RESTARTS
    assert store.counters.digest_mismatches == 0
    await store.load_compiled(DEADLINE)
    assert store._follower.replica.digest == swarm.status()["digest"]


@pytest.mark.backends
async def test_a_connection_that_breaks_is_resumed_without_a_snapshot(store: Store, swarm: Swarm) -> None:
    async with proxy(swarm.socket, swarm.path / "proxy.sock") as cut:
        through: Store = type(store)(str(swarm.path / "proxy.sock"))
        async with through:
            await through.load_compiled(DEADLINE)
            changes = through.subscribe_changes()
            snapshot = through._follower.replica
            for version in range(2, 12):
                cut()
                swarm.save("R1", version)
                assert [words(change) for change in await take(changes, 1)] == [f"R1 v{version}"]
            assert through._follower.replica is snapshot
            assert through.counters.connections >= 10
            # A new connection acknowledges what it has, without a change.
            connections = through.counters.connections
            cut()

            def is_acknowledged() -> bool:
                stream = swarm.status()["stream"]
                acked = [peer["acked"] for peer in stream["subscribers"] if peer["subscribed"]]
                return through.counters.connections > connections and acked == [stream["seq"]] * 2

            await eventually(is_acknowledged, "an acknowledgement of what was resumed")


@pytest.mark.backends
async def test_a_copy_that_went_wrong_is_found_counted_and_mended(store: Store, swarm: Swarm) -> None:
    changes = store.subscribe_changes()
    store._follower.replica.delete_rule("R2")
    await eventually(lambda: store.counters.digest_mismatches == 1, "a heartbeat that shows it")
    assert [words(change) for change in await take(changes, 1)] == ["R2 v1"]
    await store.load_compiled(DEADLINE)
    assert store._follower.replica.digest == swarm.status()["digest"]


@asynccontextmanager
async def proxy(target: str, path: Path) -> AsyncIterator[Callable[[], None]]:
    """Pass connections on to the worker; gives what breaks them."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_unix_connection(target)
        except OSError:
            writer.close()
            return
        writers.extend((writer, to_writer))
        pumps = [asyncio.create_task(pump(reader, to_writer)), asyncio.create_task(pump(to_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        writer.close()
        to_writer.close()

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()
        writers.clear()

    async with await asyncio.start_unix_server(serve, path):
        yield cut
        cut()


@asynccontextmanager
async def impostor(path: Path, handler: Handler) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield str(path)


async def test_garbage_on_the_socket_is_never_believed_and_the_worker_behind_it_is_found(
    store: Store, swarm: Swarm
) -> None:
    """Replay the worker's own lines, each time with a random fault, and the whole truth in between."""
    true_reader, true_writer = await asyncio.open_unix_connection(swarm.socket, limit=1 << 20)
    true_writer.write(b'{"op":"subscribe","follow":false}\n')
    truth = await true_reader.read()
    true_writer.close()
    chance = random.Random(21)
    visits = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.write(truth if visits % 10 == 0 else mutate(truth, chance))
        await writer.drain()
        if visits % 10 == 0:
            await reader.read(1024)

    async with impostor(swarm.path / "garbage.sock", serve) as socket:
        garbled: Store = type(store)(socket)
        garbled._follower._longest_wait = 0.001
        async with garbled:
            seen = set()
            while visits < 1000:
                await asyncio.sleep(0.005)
                seen.add(garbled._follower.replica.digest)
            # Nothing but nothing and the truth.
            assert seen <= {f"{0:064x}", store._follower.replica.digest}
            await garbled.load_compiled(DEADLINE)
            assert garbled.rules == store.rules
            assert garbled._task is not None
            assert not garbled._task.done()


def mutate(truth: bytes, chance: random.Random) -> bytes:  # noqa: PLR0911
    at = chance.randrange(len(truth))
    lines = truth.splitlines(keepends=True)
    match chance.randrange(8):
        case 0:
            return truth[:at]
        case 1:
            return truth[:at] + chance.randbytes(chance.randrange(1, 40)) + truth[at:]
        case 2:
            return truth[:at] + bytes([chance.randrange(256)]) + truth[at + 1 :]
        case 3:
            chance.shuffle(lines)
            return b"".join(lines)
        case 4:
            return lines[0] + b"[" * 100_000 + b"\n"
        case 5:
            word = chance.choice(
                (b"null", b"true", b"1e999", b"-1", b'"\\ud800"', b"9" * 5000, b"NaN", b"{}")
            )
            fields = truth.split(b":")
            fields[chance.randrange(len(fields))] = word
            return b":".join(fields)
        case 6:
            return b""
        case _:
            return chance.randbytes(1000)


async def test_a_heartbeat_of_a_worker_that_has_loaded_nothing_yet_is_no_mismatch(swarm: Swarm) -> None:
    visits = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        place = {"epoch": f"run {visits}", "seq": 0}
        lines = [
            {"type": "hello", "protocol": 1, "server": "rulesyncd", **place},
            {"type": "heartbeat", "database": "down", "stale_for_ms": 0, **place},
            {"type": "snapshot_begin", "rules": 0, "states": 0, "reason": "initial", **place},
            {"type": "snapshot_end", "digest": "0" * 64, **place},
        ]
        writer.writelines(json.dumps(line).encode() + b"\n" for line in lines)
        await writer.drain()

    async with impostor(swarm.path / "restarting.sock", serve) as socket:
        store: Store = swarm.store().__class__(socket)
        async with store:
            await eventually(lambda: store.counters.connections >= 4, "four runs of the worker")
            assert store.counters.digest_mismatches == 0
            # Nobody said how old what was loaded is.
            assert store.stale_for is None


async def test_a_peer_that_says_nothing_is_given_up_and_start_does_not_wait_for_it(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesyncd.store.START_TIMEOUT", 0.1)
    monkeypatch.setattr("rulesyncd.connection.HELLO_TIMEOUT", 0.2)

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with impostor(swarm.path / "silent.sock", say_nothing) as socket:
        store: Store = swarm.store().__class__(socket)
        async with store:
            with pytest.raises(RuleStoreError, match="did not say hello"):
                await store.load_compiled(timeout=1)


async def test_a_line_without_end_takes_bounded_memory(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulesyncd.connection.MAX_LINE", 1 << 16)
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 1 << 24:
            writer.write(b"x" * (1 << 16))
            sent += 1 << 16
            await writer.drain()

    async with impostor(swarm.path / "endless.sock", pour) as socket:
        store: Store = swarm.store().__class__(socket)
        async with store:
            with pytest.raises(RuleStoreError, match="line without end"):
                await store.load_compiled(timeout=1)
    assert sent < 1 << 23


async def test_a_worker_of_another_version_is_refused_with_what_to_do(swarm: Swarm) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"type":"hello","protocol":2,"server":"rulesyncd/9","epoch":"e","seq":0}\n')
        await writer.drain()

    async with impostor(swarm.path / "newer.sock", greet) as socket:
        store: Store = swarm.store().__class__(socket)
        async with store:
            with pytest.raises(RuleStoreError, match="version 2 of the protocol"):
                await store.load_compiled(DEADLINE)
            changes = store.subscribe_changes()
            # Each refusal is told once.
            with pytest.raises(RuleStoreError, match="version 2"):
                await asyncio.wait_for(anext(changes), DEADLINE)


async def test_an_outage_is_one_warning(swarm: Swarm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "rulesyncd")
    async with swarm.store() as store:
        await eventually(lambda: caplog.text.count("connecting again") >= 4, "four tries")
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1, caplog.text
        del store
