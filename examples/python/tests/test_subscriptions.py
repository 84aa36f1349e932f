"""Subscriptions: independent, from the call on, and without a loss however they are used."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from rulesyncd import RuleChange, RuleState, RuleStoreError, Subscription
from swarm import DEADLINE, IS_LONG, Store, Swarm, eventually, take, words

pytestmark = pytest.mark.backends


async def test_a_subscription_begins_at_the_call_and_not_at_the_first_anext(
    store: Store, swarm: Swarm
) -> None:
    changes = store.subscribe_changes()
    swarm.save("R1", 2)
    await eventually(lambda: store.rules["R1"].rule_version == 2, "the edit")
    # Whoever subscribes now has missed it; the other has not, though it never asked.
    later = store.subscribe_changes()
    swarm.save("R1", 3)
    assert [words(change) for change in await take(changes, 2)] == ["R1 v2", "R1 v3"]
    assert [words(change) for change in await take(later, 1)] == ["R1 v3"]


async def test_one_that_is_opened_before_the_rules_are_known_begins_with_them(swarm: Swarm) -> None:
    async with swarm.store() as store:
        changes = store.subscribe_changes()
        swarm.save("R1", 1)
        swarm.save("R2", 1)
        swarm.start_all()
        assert sorted(words(change) for change in await take(changes, 2)) == ["R1 v1", "R2 v1"]


async def test_a_wait_that_is_given_up_again_and_again_loses_nothing(store: Store, swarm: Swarm) -> None:
    changes, witness = store.subscribe_changes(), store.subscribe_changes()

    async def listen() -> list[str]:
        heard: list[str] = []
        while len(heard) < 10:
            with contextlib.suppress(TimeoutError):
                heard.append(words(await asyncio.wait_for(anext(changes), 0.001)))
        return heard

    listening = asyncio.create_task(listen())
    for version in range(2, 12):
        swarm.save("R1", version)
        await take(witness, 1)
    heard = await asyncio.wait_for(listening, DEADLINE)
    assert heard == [f"R1 v{version}" for version in range(2, 12)]


async def test_a_consumer_that_raises_loses_nothing(store: Store, swarm: Swarm) -> None:
    heard: list[str] = []

    async def consume(until: int) -> None:
        async for change in store.subscribe_changes():
            heard.append(words(change))
            if len(heard) == until:
                raise ValueError("a handler that fails once")

    for number in range(10):
        swarm.save(f"N{number}", 1)
    consuming = asyncio.create_task(consume(3))
    # The subscription begins with the task, and the rules may be there already: they count as loaded then.
    await asyncio.sleep(0)
    for number in range(10):
        await eventually(lambda number=number: f"N{number}" in store.rules, "a new rule")  # type: ignore[misc]
    for number in range(10):
        swarm.save(f"N{number}", 2)
    with pytest.raises(ValueError, match="once"):
        await asyncio.wait_for(consuming, DEADLINE)
    for until in (4, 8, sum(len(store.rules) > 0 for _ in range(10)) + 4):
        with pytest.raises(ValueError, match="once"):
            await asyncio.wait_for(consume(until), DEADLINE)
    assert max(Counter(heard).values()) == 1
    assert heard == sorted(heard, key=heard.index)


async def test_what_a_dropped_iterator_did_not_hand_out_goes_to_the_next(store: Store, swarm: Swarm) -> None:
    witness = store.subscribe_changes()
    changes: Subscription[RuleChange] | None = store.subscribe_changes()
    for version in (2, 3, 4):
        swarm.save("R1", version)
        await take(witness, 1)
    assert changes is not None
    assert words(await anext(changes)) == "R1 v2"
    changes = None
    gc.collect()
    # And what comes while nobody listens.
    swarm.save("R1", 5)
    await take(witness, 1)
    following = store.subscribe_changes()
    assert [words(change) for change in await take(following, 3)] == ["R1 v3", "R1 v4", "R1 v5"]
    await following.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(following)


async def test_8_tasks_hear_10000_changes_none_lost_and_none_twice(store: Store, swarm: Swarm) -> None:
    rules, versions = 1000, (10 if IS_LONG else 2)
    count = rules * versions

    async def listen() -> Counter[str]:
        changes = store.subscribe_changes()
        heard: Counter[str] = Counter()
        while heard.total() < count:
            heard[words(await anext(changes))] += 1
        return heard

    tasks = [asyncio.create_task(listen()) for _ in range(8)]
    witness = store.subscribe_changes()
    await asyncio.sleep(0)
    for version in range(1, versions + 1):
        # Of two edits that fall into one poll only the last exists for a worker: so one after the other.
        for number in range(rules):
            swarm.save(f"N{number}", version)
        await take(witness, rules)
    expected = Counter({f"N{number} v{v}": 1 for number in range(rules) for v in range(1, versions + 1)})
    async with asyncio.timeout(DEADLINE):
        for heard in await asyncio.gather(*tasks):
            assert heard == expected
    assert store.counters.merges == 0


async def test_a_call_that_is_cancelled_at_any_await_harms_nothing(store: Store, swarm: Swarm) -> None:
    witness, changes = store.subscribe_changes(), store.subscribe_changes()
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        store.load_compiled,
        lambda: store.get_state("R1"),
        changes.__anext__,
        store.start,
    ]
    if swarm.has_database:
        calls.append(lambda: store.set_state("R2", RuleState("disabled"), "alice"))
    version = 1
    expected: list[str] = []
    heard: list[str] = []
    for call in calls:
        steps = cancelled = 0
        while True:
            version += 1
            swarm.save("R1", version)
            expected.append(f"R1 v{version}")
            task = asyncio.ensure_future(call())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            # A cancelled call changed nothing that others see: all is heard, in order.
            while words(await asyncio.wait_for(anext(witness), DEADLINE)) != expected[-1]:
                pass
            if isinstance(done, RuleChange):
                heard.append(words(done))
            if not isinstance(done, asyncio.CancelledError):
                assert not isinstance(done, BaseException), done
                break
            cancelled += 1
            steps = steps + 1 if steps < 8 else steps * 4
            if call == changes.__anext__ and steps > 30:
                break
        assert cancelled > 0
    while len([change for change in heard if change.startswith("R1")]) < len(expected):
        heard += [words(change) for change in await take(changes, 1)]
    assert [change for change in heard if change.startswith("R1")] == expected
    assert len(asyncio.all_tasks()) == 2  # this one and the store's


async def test_a_consumer_that_is_far_behind_hears_the_last_of_each_rule(swarm: Swarm) -> None:
    swarm.save("R1", 1)
    swarm.start_all()
    async with swarm.store(max_backlog=10) as store:
        await store.load_compiled(DEADLINE)
        await eventually(lambda: "R1" in store.rules, "the first rule")
        slow, quick = store.subscribe_changes(), store.subscribe_changes()
        for version in range(2, 22):
            swarm.save("R1", version)
            swarm.save("N", version)
            await take(quick, 2)
        swarm.delete("N")
        await take(quick, 1)
        assert store.counters.merges > 0
        heard: list[str] = []
        while not heard or heard[-1] != "R1 v21":
            heard += [words(change) for change in await take(slow, 1)]
        rest = [change for change in heard if not change.startswith("R1")]
        assert len(heard) <= 12
        # Of a rule that came and went, either nothing is heard, or its end at last.
        swarm.save("R1", 22)
        while heard[-1] != "R1 v22":
            heard += [words(change) for change in await take(slow, 1)]
            rest = [change for change in heard if not change.startswith("R1")]
        assert not rest or rest[-1] == "N deleted"


async def test_callbacks_hear_each_change_in_order_and_may_fail(
    store: Store, swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    witness = store.subscribe_changes()

    async def slowly(change: RuleChange) -> None:
        await asyncio.sleep(0)
        heard.append(words(change))

    def failing(change: RuleChange) -> None:
        raise ValueError(words(change))

    end = store.on_change(slowly)
    store.on_change(failing)
    for version in (2, 3, 4):
        swarm.save("R1", version)
        await take(witness, 1)
    await eventually(lambda: len(heard) == 3, "three calls")
    assert heard == ["R1 v2", "R1 v3", "R1 v4"]
    await eventually(lambda: caplog.text.count("failed on a change") == 3, "three records")
    end()
    swarm.save("R1", 5)
    await take(witness, 1)
    await eventually(lambda: caplog.text.count("failed on a change") == 4, "the fourth record")
    assert len(heard) == 3


@pytest.mark.parametrize("error", [RuleStoreError("a store's own"), StopAsyncIteration()])
async def test_a_callback_may_raise_what_the_store_raises(
    error: Exception, store: Store, swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_: RuleChange) -> None:
        raise error

    def is_recorded(count: int) -> bool:
        return caplog.text.count("failed on a change") == count

    store.on_change(failing)
    for count in (1, 2):
        swarm.save("R1", 1 + count)
        await eventually(partial(is_recorded, count), "a record")


@pytest.mark.states
async def test_a_state_is_shown_when_set_state_returns_whatever_else_happens(store: Store) -> None:
    for number in range(10):
        word = "disabled" if number % 2 else "clipped"
        stored = await store.set_state("R1", RuleState(word, reason=str(number)))
        assert await store.get_state("R1") == stored
        assert store.rules["R1"].state == stored
    unwaited = await store.set_state("R1", RuleState("disabled", reason="later"), wait=False)
    await eventually(lambda: store.states["R1"] == unwaited, "the state that was not waited for")


@pytest.mark.states
async def test_a_state_that_the_worker_does_not_show_is_said_to_be_written(
    store: Store, swarm: Swarm
) -> None:
    async with swarm.store(database_url=swarm.url) as writer:
        swarm.kill("worker")
        with pytest.raises(
            RuleStoreError, match=r"is written, but the worker on .* did not show it within 1 s"
        ):
            await writer.set_state("R1", RuleState("disabled"), timeout=1)
    swarm.start("worker")
    await eventually(lambda: store.rules["R1"].state.state == "disabled", "the state")
