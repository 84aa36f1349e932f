"""Records, and a service's own in their place. No daemon takes part, except where a store is named."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple, assert_type

import pytest

from rulesyncd import (
    ChangeKind,
    CompiledRule,
    Emit,
    RuleChange,
    RuleState,
    RuleStore,
    RuleStoreAdapter,
)
from swarm import DEADLINE, PROGRAM, Store, Swarm, take

RULE = CompiledRule(
    "R1", 1, "name", "", frozenset({"command"}), {"field": "x"}, (Emit("T1548", None, "TA0004", 0.9),)
)


def test_records_are_values_that_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        RULE.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        RuleState().state = "disabled"  # type: ignore[misc]
    assert RuleState("clipped", 0.5).replace(state="disabled") == RuleState("disabled", 0.5)
    assert len({RULE, RULE, RuleState(), RuleState()}) == 2
    assert RuleChange("definition", "R1", None) == ("definition", "R1", None)
    assert isinstance(RULE.applies_to, frozenset)
    assert RULE.emits[0]._asdict()["technique_id"] == "T1548"


def test_times_are_utc_whatever_they_came_as() -> None:
    naive = datetime(2026, 5, 1, 7, 25, 9, 123456)  # noqa: DTZ001
    east = naive.replace(tzinfo=timezone(timedelta(hours=5)))
    assert RuleState(expires_at=naive).expires_at == naive.replace(tzinfo=UTC)
    converted = RuleState(expires_at=east).expires_at
    assert converted == east
    assert converted is not None
    assert converted.tzinfo is UTC


class OwnState(NamedTuple):
    """A service's own state."""

    state: str = "enabled"
    confidence_max: float | None = None
    expires_at: datetime | None = None
    reason: str | None = None
    set_by: str | None = None
    set_at: datetime | None = None


@dataclass(frozen=True)
class OwnRule:
    """A service's own rule, with lists where this package has sets and tuples."""

    rule_id: str
    rule_version: int
    name: str
    description: str
    applies_to: frozenset[str]
    match_spec: dict[str, Any]
    emits: list[Emit]
    evidence_fields: list[str]
    state: OwnState

    def __post_init__(self) -> None:
        """Refuse what the service cannot use."""
        if self.rule_version == 13:
            raise ValueError("no version 13 here")


class OwnChange(NamedTuple):
    """A service's own change."""

    change_kind: ChangeKind
    rule_id: str
    new_value: Any


class ServiceStore(ABC):
    """The interface that a service declares."""

    @abstractmethod
    async def load_compiled(self) -> list[OwnRule]: ...

    @abstractmethod
    async def get_state(self, rule_id: str) -> OwnState: ...

    @abstractmethod
    async def set_state(self, rule_id: str, state: OwnState, set_by: str) -> None: ...

    @abstractmethod
    def subscribe_changes(self) -> AsyncIterator[OwnChange]: ...


@ServiceStore.register
class HostStore(RuleStoreAdapter):
    rule_type = OwnRule
    state_type = OwnState
    change_type = OwnChange


class DerivedStore(RuleStoreAdapter, ServiceStore):
    rule_type = OwnRule
    state_type = OwnState
    change_type = OwnChange


async def test_a_service_gets_its_own_records(store: Store, swarm: Swarm) -> None:
    own = RuleStore(
        swarm.socket, rule_type=OwnRule, state_type=OwnState, change_type=OwnChange, command=PROGRAM
    )
    assert_type(own, RuleStore[OwnRule, OwnState, OwnChange])
    async with own:
        changes = own.subscribe_changes()
        rules = await own.load_compiled(DEADLINE)
        assert {type(rule) for rule in rules} == {OwnRule}
        assert {type(rule.state) for rule in rules} == {OwnState}
        assert await own.get_state("unknown") == OwnState()
        stored = await own.set_state("R1", OwnState("disabled"), "alice")
        assert stored == OwnState("disabled", set_by="alice", set_at=stored.set_at)
        assert await anext(changes) == OwnChange("state", "R1", stored)
        assert own.states == {"R1": stored}
        # A rule that the service's own type refuses is the service's error, once, and the next one follows.
        swarm.save("R2", 13)
        with pytest.raises(ValueError, match="13"):
            await asyncio.wait_for(anext(changes), DEADLINE)
        swarm.save("R2", 14)
        change = await asyncio.wait_for(anext(changes), DEADLINE)
        assert (type(change), type(change.new_value)) == (OwnChange, OwnRule)
    assert (await store.get_state("R1")).set_by == "alice"


@pytest.mark.parametrize("adapter", [HostStore, DerivedStore])
async def test_an_adapter_is_the_services_store(
    adapter: type[RuleStoreAdapter], store: Store, swarm: Swarm
) -> None:
    del store
    own = adapter(swarm.socket, command=PROGRAM)
    assert isinstance(own, ServiceStore)
    assert issubclass(adapter, ServiceStore)
    try:
        # Nobody starts it.
        assert {type(rule) for rule in await own.load_compiled()} == {OwnRule}
        changes = own.subscribe_changes()
        await own.set_state("R1", OwnState("disabled"), "alice")
        change = await asyncio.wait_for(anext(changes), DEADLINE)
        assert change == OwnChange("state", "R1", await own.get_state("R1"))
    finally:
        await own.stop()


async def test_every_part_may_be_replaced_alone(store: Store, swarm: Swarm) -> None:
    async with RuleStore(swarm.socket, change_type=dict) as own:
        changes = own.subscribe_changes()
        await own.load_compiled(DEADLINE)
        witness = store.subscribe_changes()
        swarm.save("R1", 2)
        (change,) = await take(witness, 1)
        assert await anext(changes) == change._asdict()
