"""Rules, states and changes, as values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from .times import as_utc

ChangeKind: TypeAlias = Literal["definition", "state"]


@dataclass(frozen=True, slots=True)
class RuleState:
    """What an operator decided about a rule; without arguments, the default of every rule.

    A naive ``expires_at`` or ``set_at`` is UTC; every other time is converted to UTC.

    >>> clipped = RuleState("clipped", confidence_max=0.3, reason="noisy")
    >>> clipped.replace(reason=None)
    RuleState(state='clipped', confidence_max=0.3, expires_at=None, reason=None, set_by=None, set_at=None)
    >>> RuleState(expires_at=datetime(2026, 5, 1)).expires_at
    datetime.datetime(2026, 5, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """

    #: ``"enabled"``, ``"disabled"`` or ``"clipped"``.
    state: str = "enabled"
    #: The ceiling of the rule's confidence while it is clipped; ``None`` is no ceiling.
    confidence_max: float | None = None
    #: When the default is effective again; ``None`` is never.
    expires_at: datetime | None = None
    reason: str | None = None
    set_by: str | None = None
    #: When it was set, by the database; ``None`` for the default.
    set_at: datetime | None = None

    def __post_init__(self) -> None:
        """Convert the times to UTC."""
        for name in ("expires_at", "set_at"):
            time = getattr(self, name)
            if time is not None:
                object.__setattr__(self, name, as_utc(time))

    def replace(self, **changes: Any) -> "RuleState":
        """Return a copy with other values in these fields."""
        return replace(self, **changes)


class Emit(NamedTuple):
    """One technique of MITRE ATT&CK that a match of the rule is evidence of.

    >>> Emit("T1548", "T1548.001", "TA0004", 0.9).tactic
    'TA0004'
    """

    technique_id: str
    sub_technique_id: str | None
    tactic: str
    confidence: float


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its effective state.

    Two rules are equal if all of their fields are. ``match_spec`` is shared with every other holder
    of the rule: do not change it.

    >>> rule = CompiledRule("R1", 1, "find suid", "", frozenset({"command"}), {"field": "command_text"},
    ...                     (Emit("T1548", None, "TA0004", 0.9),))
    >>> rule.state.state
    'enabled'
    """

    rule_id: str
    rule_version: int
    name: str
    #: The empty text if the rule has none.
    description: str
    applies_to: frozenset[str]
    match_spec: Mapping[str, Any] = field(hash=False)
    #: In the order of the file, as ``evidence_fields``.
    emits: tuple[Emit, ...]
    evidence_fields: tuple[str, ...] = ()
    state: RuleState = RuleState()


class RuleChange(NamedTuple):
    """One change of one rule.

    ``("definition", rule_id, rule)`` is a rule that was written, ``("definition", rule_id, None)`` one
    that was deleted, and ``("state", rule_id, state)`` a state that became effective.

    >>> kind, rule_id, new_value = RuleChange("definition", "R1", None)
    >>> new_value is None
    True
    """

    change_kind: ChangeKind
    rule_id: str
    new_value: CompiledRule | RuleState | None


class StateFields(Protocol):
    """What ``set_state`` reads of a state, whatever its type."""

    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def confidence_max(self) -> float | None: ...  # noqa: D102
    @property
    def expires_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102
    @property
    def set_by(self) -> str | None: ...  # noqa: D102


RuleT = TypeVar("RuleT")
StateT = TypeVar("StateT", bound=StateFields)
ChangeT = TypeVar("ChangeT")


@dataclass(frozen=True, slots=True)
class RecordTypes(Generic[RuleT, StateT, ChangeT]):
    """Builds a service's own records: each type is called with the fields as keyword arguments."""

    rule_type: Callable[..., RuleT]
    state_type: Callable[..., StateT]
    change_type: Callable[..., ChangeT]

    def state(self, state: RuleState) -> StateT:
        """Build a state."""
        if self.state_type is RuleState:
            return cast("StateT", state)
        return self.state_type(**_fields(state))

    def rule(self, rule: CompiledRule) -> RuleT:
        """Build a rule, with a state of ``state_type`` in it."""
        if self.rule_type is CompiledRule and self.state_type is RuleState:
            return cast("RuleT", rule)
        return self.rule_type(**{**_fields(rule), "state": self.state(rule.state)})

    def change(self, change: RuleChange) -> ChangeT:
        """Build a change, with a value of ``rule_type`` or ``state_type`` in it."""
        value: RuleT | StateT | None
        match change.new_value:
            case CompiledRule() as rule:
                value = self.rule(rule)
            case RuleState() as state:
                value = self.state(state)
            case None:
                value = None
        return self.change_type(change_kind=change.change_kind, rule_id=change.rule_id, new_value=value)


def _fields(record: CompiledRule | RuleState) -> dict[str, Any]:
    # Not dataclasses.asdict, which would copy and convert what is inside.
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
