"""The store for programs without asyncio, from the threads of such a program."""

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from rulesyncd import RuleState, RuleStoreError
from rulesyncd.sync import RuleStore, Subscription
from swarm import DEADLINE, PROGRAM, Swarm, words


@pytest.fixture
def store(swarm: Swarm) -> Iterator[RuleStore]:
    swarm.save("R1", 1)
    swarm.save("R2", 1)
    swarm.run("sync")
    swarm.start_all()
    with RuleStore(swarm.socket, command=PROGRAM) as store:
        store.load_compiled(DEADLINE)
        yield store


def hear(changes: Subscription, count: int) -> list[str]:
    heard = [changes.get(DEADLINE) for _ in range(count)]
    return [words(change) for change in heard]


def test_the_calls_are_those_of_the_other(store: RuleStore, swarm: Swarm) -> None:
    assert sorted(rule.rule_id for rule in store.load_compiled()) == ["R1", "R2"]
    assert store.get_state("unknown") == RuleState()
    changes = store.subscribe_changes()
    stored = store.set_state("R1", RuleState("disabled"), "alice")
    assert next(changes).new_value == stored == store.get_state("R1") == store.states["R1"]
    assert store.rules["R1"].state == stored
    swarm.save("R2", 2)
    assert hear(changes, 1) == ["R2 v2"]
    assert store.cursor is not None
    assert changes.get(timeout=0.01) is None
    with pytest.raises(RuleStoreError, match="expected enabled"):
        store.set_state("R1", RuleState("paused"))


def test_every_thread_hears_every_change_and_the_end(store: RuleStore, swarm: Swarm) -> None:
    heard: list[Counter[str]] = [Counter() for _ in range(4)]

    def listen(mine: Counter[str], changes: Subscription) -> None:
        for change in changes:
            mine[words(change)] += 1

    threads = [threading.Thread(target=listen, args=(mine, store.subscribe_changes())) for mine in heard]
    for thread in threads:
        thread.start()
    witness = store.subscribe_changes()
    for number in range(200):
        swarm.save(f"N{number}", 1)
    hear(witness, 200)
    store.stop()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert heard == [Counter({f"N{number} v1": 1 for number in range(200)})] * 4
    with pytest.raises(RuleStoreError, match="not started"):
        store.load_compiled()


def test_a_consumer_that_raises_loses_nothing(store: RuleStore, swarm: Swarm) -> None:
    witness, heard = store.subscribe_changes(), []
    changes = store.subscribe_changes()
    for version in (2, 3, 4, 5):
        swarm.save("R1", version)
        hear(witness, 1)

    def consume(changes: Subscription) -> None:
        for change in changes:
            heard.append(words(change))
            raise ValueError("a handler that fails")

    for _ in range(2):
        with pytest.raises(ValueError, match="fails"):
            consume(changes)
    changes.close()
    following = store.subscribe_changes()
    assert heard + hear(following, 2) == ["R1 v2", "R1 v3", "R1 v4", "R1 v5"]
    assert list(changes) == []


def test_callbacks_run_in_a_thread_until_they_are_ended(store: RuleStore, swarm: Swarm) -> None:
    heard: list[tuple[str, str]] = []
    came = threading.Semaphore(0)

    def note(change: object) -> None:
        heard.append((words(change), threading.current_thread().name))  # type: ignore[arg-type]
        came.release()
        raise ValueError("and fails")

    witness = store.subscribe_changes()
    end = store.on_change(note)
    for version in (2, 3):
        swarm.save("R1", version)
        hear(witness, 1)
        assert came.acquire(timeout=DEADLINE)
    end()
    swarm.save("R1", 4)
    hear(witness, 1)
    assert heard == [("R1 v2", "rulesyncd callback"), ("R1 v3", "rulesyncd callback")]


def test_a_worker_is_waited_for_no_longer_than_told(swarm: Swarm) -> None:
    with RuleStore(swarm.socket) as store:
        began = time.monotonic()
        with pytest.raises(RuleStoreError, match="no worker answered"):
            store.load_compiled(timeout=0.2)
        assert time.monotonic() - began >= 0.2


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_callbacks_go_on_after_a_refusal(swarm: Swarm) -> None:
    swarm.environment["RULESYNCD_WORKER_ALLOW_UIDS"] = str(os.getuid() + 1)
    swarm.save("R1", 1)
    swarm.run("sync")
    swarm.start_all()
    heard: list[str] = []
    with RuleStore(swarm.socket) as store:
        witness = store.subscribe_changes()
        store.on_change(lambda change: heard.append(words(change)))
        with pytest.raises(RuleStoreError, match="allow_uids"):
            witness.get(DEADLINE)
        del swarm.environment["RULESYNCD_WORKER_ALLOW_UIDS"]
        swarm.kill("worker")
        swarm.start("worker")
        eventually(lambda: heard == ["R1 v1"])


def test_stop_ends_a_call_that_waits_for_the_database(store: RuleStore, swarm: Swarm) -> None:
    del store
    own = RuleStore(swarm.socket, database_url=swarm.url)
    own.start()
    said: list[str] = []

    def set_state() -> None:
        with pytest.raises(RuleStoreError) as stopped:
            own.set_state("R1", RuleState("disabled"))
        said.append(str(stopped.value))

    with closing(sqlite3.connect(swarm.path / "rules.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        caller = threading.Thread(target=set_state, daemon=True)
        caller.start()
        # The thread in which the loop waits for the database.
        eventually(lambda: any(thread.name.startswith("asyncio_") for thread in threading.enumerate()))
        own.stop()
        caller.join(DEADLINE)
        assert not caller.is_alive()
        assert said == ["the store was stopped"]
        other.execute("ROLLBACK")


def test_close_wakes_a_consumer_that_is_about_to_wait(store: RuleStore) -> None:
    changes = store.subscribe_changes()

    class Late(threading.Condition):
        def __enter__(self) -> bool:
            if threading.current_thread() is consumer:
                # Between what the consumer checked and its wait.
                closer = threading.Thread(target=changes.close)
                closer.start()
                closer.join()
            return super().__enter__()

    changes._changed = Late()
    consumer = threading.Thread(target=changes.get, daemon=True)
    consumer.start()
    consumer.join(DEADLINE)
    assert not consumer.is_alive()
