"""The store for programs without asyncio, from the threads of such a program."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

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
