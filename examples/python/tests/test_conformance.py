"""The store's contract, over real daemons: the same on a directory and on every database."""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from rulesyncd import CompiledRule, Emit, RuleChange, RuleState, RuleStore, RuleStoreError
from rulesyncd.command import StateCommand
from rulesyncd.database import StateTable
from swarm import DEADLINE, Store, Swarm, eventually, take, words

pytestmark = pytest.mark.backends

DEFAULT = RuleState()
HOUR = timedelta(hours=1)


def in_(span: timedelta) -> datetime:
    """Return a time that every column holds: in whole seconds."""
    return (datetime.now(UTC) + span).replace(microsecond=0)


async def test_rules_are_loaded_as_records(store: Store) -> None:
    rules = {rule.rule_id: rule for rule in await store.load_compiled()}
    assert sorted(rules) == ["R1", "R2"]
    assert rules["R1"] == CompiledRule(
        rule_id="R1",
        rule_version=1,
        name="rule R1",
        description="é",
        applies_to=frozenset({"command", "http_request"}),
        match_spec={"field": "command_text", "pattern": "v1"},
        emits=(Emit("T1083", None, "TA0007", 0.85),),
        evidence_fields=("command_text",),
        state=DEFAULT,
    )
    assert store.rules == rules
    assert store.states == {}


async def test_a_rule_without_a_state_has_the_default_known_or_not(store: Store) -> None:
    assert await store.get_state("R1") == DEFAULT
    assert await store.get_state("unknown") == DEFAULT
    assert await store.get_state("no id / at all") == DEFAULT


@pytest.mark.states
async def test_a_state_of_one_rule_is_no_state_of_another(store: Store) -> None:
    await store.set_state("R1", RuleState("disabled"), "alice")
    assert (await store.get_state("R1")).state == "disabled"
    assert await store.get_state("R2") == DEFAULT
    assert {rule_id: rule.state.state for rule_id, rule in store.rules.items()} == {
        "R1": "disabled",
        "R2": "enabled",
    }


@pytest.mark.states
async def test_a_state_is_read_as_it_was_set(store: Store) -> None:
    wanted = RuleState("clipped", 0.3, in_(HOUR), "noisy: é\n-- --force", "alice")
    stored = await store.set_state("R1", wanted)
    assert stored.set_at is not None
    assert abs(stored.set_at - datetime.now(UTC)) < HOUR
    assert stored == wanted.replace(set_at=stored.set_at)
    assert await store.get_state("R1") == stored
    assert store.states == {"R1": stored}
    (loaded,) = (rule for rule in await store.load_compiled() if rule.rule_id == "R1")
    assert loaded.state == stored


@pytest.mark.states
async def test_a_naive_time_is_utc(store: Store) -> None:
    end = in_(HOUR)
    stored = await store.set_state("R1", RuleState("disabled", expires_at=end.replace(tzinfo=None)))
    assert stored.expires_at == end


@pytest.mark.states
async def test_a_state_of_an_unknown_rule_can_be_set(store: Store) -> None:
    changes = store.subscribe_changes()
    stored = await store.set_state("R9", RuleState("disabled"), "alice")
    assert await store.get_state("R9") == stored
    assert await take(changes, 1) == [RuleChange("state", "R9", stored)]
    assert "R9" not in store.rules


@pytest.mark.states
async def test_set_by_takes_precedence_and_the_default_without_it_clears(store: Store) -> None:
    assert (await store.set_state("R1", RuleState("disabled", set_by="alice"), "bob")).set_by == "bob"
    enabled = await store.set_state("R1", RuleState(), "bob")
    assert (enabled.state, enabled.set_by) == ("enabled", "bob")
    assert await store.set_state("R1", RuleState()) == DEFAULT
    assert await store.get_state("R1") == DEFAULT
    # There is nothing to clear any more.
    assert await store.set_state("R1", RuleState()) == DEFAULT


@pytest.mark.states
async def test_each_of_five_states_is_one_change(store: Store) -> None:
    changes = store.subscribe_changes()
    stored = [await store.set_state("R1", RuleState("disabled", reason=str(number))) for number in range(5)]
    assert await take(changes, 5) == [RuleChange("state", "R1", state) for state in stored]
    assert changes_are_empty(changes)


async def test_each_of_five_saves_is_one_change(store: Store, swarm: Swarm) -> None:
    changes = store.subscribe_changes()
    heard = []
    for rule_id, version in (("R3", 1), ("R3", 2), ("R1", 2), ("R2", None), ("R2", 7)):
        if version is None:
            swarm.delete(rule_id)
        else:
            swarm.save(rule_id, version)
        heard += await take(changes, 1)
    assert [words(change) for change in heard] == ["R3 v1", "R3 v2", "R1 v2", "R2 deleted", "R2 v7"]
    assert heard[3] == RuleChange("definition", "R2", None)
    assert changes_are_empty(changes)


def changes_are_empty(changes: object) -> bool:
    feed = getattr(changes, "_feed", None)
    return feed is not None and len(feed) == 0


@pytest.mark.states
async def test_a_state_expires_by_itself_on_time(store: Store) -> None:
    end = in_(timedelta(seconds=3))
    changes = store.subscribe_changes()
    await store.set_state("R1", RuleState("disabled", expires_at=end))
    assert [words(change) for change in await take(changes, 1)] == ["R1 disabled"]
    assert await take(changes, 1) == [RuleChange("state", "R1", DEFAULT)]
    assert datetime.now(UTC) >= end
    assert await store.get_state("R1") == DEFAULT


@pytest.mark.states
async def test_an_end_that_is_past_is_the_default_at_once_with_its_change(store: Store) -> None:
    changes = store.subscribe_changes()
    await store.set_state("R1", RuleState("disabled"))
    await store.set_state("R1", RuleState("clipped", 0.3, in_(-HOUR)))
    assert await store.get_state("R1") == DEFAULT
    assert [words(change) for change in await take(changes, 2)] == ["R1 disabled", "R1 enabled"]
    # The rule was enabled before: it is a change nevertheless.
    await store.set_state("R2", RuleState("disabled", expires_at=in_(-HOUR)))
    assert await store.get_state("R2") == DEFAULT
    assert await take(changes, 1) == [RuleChange("state", "R2", DEFAULT)]


@pytest.mark.states
@pytest.mark.parametrize("ceiling", [None, 0.0, 1.0, 1.5, 0.333333])
async def test_a_clipped_rule_needs_no_ceiling_and_one_above_1_limits_nothing(
    store: Store, ceiling: float | None
) -> None:
    stored = await store.set_state("R1", RuleState("clipped", ceiling))
    assert (stored.state, stored.confidence_max) == ("clipped", ceiling)
    assert await store.get_state("R1") == stored


@pytest.mark.states
async def test_a_connection_of_its_own_sets_states_as_the_command_does(store: Store, swarm: Swarm) -> None:
    changes = store.subscribe_changes()
    # The first of two hosts does not answer.
    url = swarm.url.replace("?host=", "?host=/nowhere,")
    async with swarm.store(database_url=url) as own:
        assert isinstance(own._writer, StateTable)
        for state in (
            RuleState("clipped", 0.333333, in_(HOUR), "é 🦀"),
            RuleState("disabled", reason="' OR 1=1 --"),
            RuleState("enabled"),
        ):
            stored = await own.set_state("R1", state, "alice")
            assert stored == state.replace(set_by="alice", set_at=stored.set_at)
            assert await own.get_state("R1") == stored
            assert await take(changes, 1) == [RuleChange("state", "R1", stored)]
            shown = json.loads(swarm.run("state", "get", "R1", "--json"))
            assert (shown["state"], shown["set_by"], shown["reason"]) == (state.state, "alice", state.reason)
            assert datetime.fromisoformat(shown["set_at"]) == stored.set_at
        with pytest.raises(RuleStoreError, match="differs from it in case alone"):
            await own.set_state("r1", RuleState("disabled"))
        assert await own.set_state("R1", RuleState()) == DEFAULT
        assert await take(changes, 1) == [RuleChange("state", "R1", DEFAULT)]


@pytest.mark.parametrize(("url", "driver"), [("postgresql+asyncpg", "psycopg"), ("mysql", "pymysql")])
def test_without_a_driver_the_command_sets_states(
    url: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    assert isinstance(RuleStore(database_url=f"{url}://localhost/rules")._writer, StateCommand)


async def test_what_cannot_be_set_is_refused_and_changes_nothing(store: Store, swarm: Swarm) -> None:
    changes = store.subscribe_changes()
    async with swarm.store(database_url=swarm.url if swarm.has_database else None) as own:
        for writer in (store, own):
            for rule_id, state, why in (
                ("R1", RuleState("paused"), "expected enabled, disabled or clipped"),
                ("no id", RuleState("disabled"), "not a rule's id"),
                ("", RuleState("disabled"), "not a rule's id"),
                ("R1", RuleState("clipped", -0.1), "expected a number of at least 0"),
                ("R1", RuleState("clipped", float("nan")), "expected a number of at least 0"),
                ("R1", RuleState("clipped", float("inf")), "expected a number of at least 0"),
                ("R1", RuleState("disabled", reason="é" * 2049), "more than 4096 bytes"),
                ("R1", RuleState("disabled", set_by="nul \0 inside"), "has a NUL"),
            ):
                with pytest.raises(RuleStoreError, match=why):
                    await writer.set_state(rule_id, state)
    if swarm.has_database:
        assert swarm.run("state", "list", "--json") == ""
    assert await store.get_state("R1") == DEFAULT
    assert changes_are_empty(changes)


async def test_a_program_that_cannot_be_run_is_named(store: Store, swarm: Swarm) -> None:
    del store
    async with swarm.store(command="/nowhere/rulesyncd") as other:
        with pytest.raises(RuleStoreError, match="/nowhere/rulesyncd cannot be run"):
            await other.set_state("R1", RuleState("disabled"))
    for other_program in ("true", "echo"):
        async with swarm.store(command=other_program) as other:
            with pytest.raises(RuleStoreError, match="it is no rulesyncd"):
                await other.set_state("R1", RuleState("disabled"))


async def test_a_directory_says_that_it_has_no_states(store: Store, swarm: Swarm) -> None:
    if swarm.has_database:
        assert await store.set_state("R1", RuleState("disabled")) != DEFAULT
    else:
        with pytest.raises(RuleStoreError, match="directory of rules, without tables and operator states"):
            await store.set_state("R1", RuleState("disabled"))


async def test_a_database_that_does_not_answer_is_no_state(store: Store, swarm: Swarm) -> None:
    if not swarm.has_database:
        pytest.skip("a directory is no database")
    changes = store.subscribe_changes()
    async with swarm.store(database_url="sqlite:////nowhere/rules.db") as other:
        with pytest.raises(RuleStoreError, match="not written"):
            await other.set_state("R1", RuleState("disabled"))
    assert changes_are_empty(changes)


async def test_a_worker_is_waited_for_no_longer_than_told(swarm: Swarm) -> None:
    began = time.monotonic()
    async with swarm.store() as store:
        with pytest.raises(
            RuleStoreError, match=r"no worker answered on .* within 0.3 s.*is rulesyncd-worker"
        ):
            await store.load_compiled(timeout=0.3)
        assert 0.3 <= time.monotonic() - began < DEADLINE
        assert (store.cursor, store.stale_for, store.rules) == (None, None, {})
        # And one that comes later is waited for.
        swarm.save("R1", 1)
        loading = asyncio.create_task(store.load_compiled(DEADLINE))
        swarm.start_all()
        await loading
        await eventually(lambda: list(store.rules) == ["R1"], "the rule that the worker has")


async def test_a_store_that_is_not_started_says_so(swarm: Swarm) -> None:
    store = swarm.store()
    for call in (store.load_compiled, lambda: store.get_state("R1")):
        with pytest.raises(RuleStoreError, match="not started"):
            await call()
    with pytest.raises(RuleStoreError, match="not started"):
        store.subscribe_changes()


async def test_a_user_that_is_not_allowed_is_told_by_every_call(swarm: Swarm) -> None:
    import os  # noqa: PLC0415

    swarm.environment["RULESYNCD_WORKER_ALLOW_UIDS"] = str(os.getuid() + 1)
    swarm.start_all()
    async with asyncio.timeout(DEADLINE), swarm.store() as store:
        changes = store.subscribe_changes()
        await eventually(lambda: store._follower.failure is not None, "the worker's refusal")
        for call in (store.load_compiled, lambda: store.get_state("R1"), lambda: anext(changes)):
            with pytest.raises(RuleStoreError, match="allow_uids"):
                await call()


async def test_the_copy_says_where_it_is_and_how_old(store: Store, swarm: Swarm) -> None:
    await eventually(lambda: store.stale_for is not None, "the first word about its age")
    before = store.cursor
    assert before is not None
    stream = swarm.status()["stream"]
    assert (before.epoch, before.seq) == (stream["epoch"], stream["seq"])
    changes = store.subscribe_changes()
    swarm.save("R1", 2)
    await take(changes, 1)
    assert store.cursor == before._replace(seq=before.seq + 1)
    swarm.kill("worker")
    age = store.stale_for
    assert age is not None
    await eventually(lambda: (store.stale_for or 0.0) > age + 0.5, "a copy that grows older")
    # What was loaded is there still.
    assert store.rules["R1"].rule_version == 2
    assert await store.get_state("R1") == DEFAULT


async def test_what_was_applied_is_acknowledged_and_the_copy_is_the_workers(
    store: Store, swarm: Swarm
) -> None:
    changes = store.subscribe_changes()

    def is_acknowledged() -> bool:
        stream = swarm.status()["stream"]
        return [peer["acked"] for peer in stream["subscribers"] if peer["subscribed"]] == [stream["seq"]]

    assert store.cursor is not None
    assert store.cursor.seq == 0
    await eventually(is_acknowledged, "an acknowledgement of the snapshot, before the first change")
    swarm.save("R1", 2)
    await take(changes, 1)
    await eventually(is_acknowledged, "an acknowledgement of every change")
    assert store._follower.replica.digest == swarm.status()["digest"]
    assert store.counters.digest_mismatches == 0


async def test_stop_ends_subscriptions_and_start_goes_on(store: Store, swarm: Swarm) -> None:
    changes = store.subscribe_changes()
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    await store.stop()
    assert await asyncio.wait_for(waiting, DEADLINE) is None
    with pytest.raises(RuleStoreError, match="not started"):
        await store.load_compiled()
    swarm.save("R1", 2)
    await store.start()
    await eventually(lambda: store.rules["R1"].rule_version == 2, "the edit")
    assert isinstance(store, RuleStore)
