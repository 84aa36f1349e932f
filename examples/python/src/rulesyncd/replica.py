"""A copy of the worker's rules and states, with the digest that tells whether it is one."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from .records import CompiledRule, RuleChange, RuleState
from .times import format_time

DEFAULT_STATE = RuleState()


class Fingerprint(NamedTuple):
    """Two definitions of a rule with equal fingerprints say the same."""

    rule_version: int
    content_sha256: str
    source_path: str


class Update(NamedTuple):
    """One change of the copy: what it had, what it has, and the change that says so."""

    change: RuleChange
    before: Fingerprint | RuleState | None
    after: Fingerprint | RuleState | None


class Replica:
    """Rules with their effective states, and the states that are not the default."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.rules: dict[str, CompiledRule] = {}
        self.states: dict[str, RuleState] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._digest = 0

    @property
    def digest(self) -> str:
        """The worker's digest of the same rules and states."""
        return f"{self._digest:064x}"

    def state_of(self, rule_id: str) -> RuleState:
        """Return the effective state; the default for an unknown rule."""
        return self.states.get(rule_id, DEFAULT_STATE)

    def put_rule(self, rule: CompiledRule, fingerprint: Fingerprint) -> Update:
        """Write a definition, and the effective state that comes with it."""
        before = self._put_fingerprint(rule.rule_id, fingerprint)
        self._put_state(rule.rule_id, rule.state)
        self.rules[rule.rule_id] = rule
        return Update(RuleChange("definition", rule.rule_id, rule), before, fingerprint)

    def delete_rule(self, rule_id: str) -> Update:
        """Delete a definition; a state of the rule stays."""
        self.rules.pop(rule_id, None)
        before = self._put_fingerprint(rule_id, None)
        return Update(RuleChange("definition", rule_id, None), before, None)

    def put_state(self, rule_id: str, state: RuleState) -> Update:
        """Write an effective state, into the rule, too."""
        before = self._put_state(rule_id, state)
        if (rule := self.rules.get(rule_id)) is not None:
            self.rules[rule_id] = replace(rule, state=state)
        return Update(RuleChange("state", rule_id, state), before, state)

    def updates_to(self, newer: "Replica") -> Iterator[Update]:
        """Return the updates that make this copy equal to a newer one: one for each difference."""
        for rule_id, rule in newer.rules.items():
            before, after = self._fingerprints.get(rule_id), newer._fingerprints[rule_id]  # noqa: SLF001
            if before != after:
                yield Update(RuleChange("definition", rule_id, rule), before, after)
        for rule_id in sorted(self.rules.keys() - newer.rules.keys()):
            change = RuleChange("definition", rule_id, None)
            yield Update(change, self._fingerprints[rule_id], None)
        for rule_id in sorted(self.states.keys() | newer.states.keys()):
            old, new = self.state_of(rule_id), newer.state_of(rule_id)
            if old != new:
                yield Update(RuleChange("state", rule_id, new), old, new)

    def _put_fingerprint(self, rule_id: str, new: Fingerprint | None) -> Fingerprint | None:
        old = self._fingerprints.pop(rule_id, None)
        for fingerprint in (old, new):
            if fingerprint is not None:
                version, content, path = fingerprint
                self._digest ^= _item("rule", rule_id, str(version), content, path)
        if new is not None:
            self._fingerprints[rule_id] = new
        return old

    def _put_state(self, rule_id: str, new: RuleState) -> RuleState:
        old = self.states.pop(rule_id, DEFAULT_STATE)
        for state in (old, new):
            if state != DEFAULT_STATE:
                self._digest ^= _state_item(rule_id, state)
        if new != DEFAULT_STATE:
            self.states[rule_id] = new
        return old


def _state_item(rule_id: str, state: RuleState) -> int:
    ceiling, end, set_at = state.confidence_max, state.expires_at, state.set_at
    return _item(
        "state",
        rule_id,
        state.state,
        None if ceiling is None else struct.pack(">d", ceiling).hex(),
        None if end is None else format_time(end),
        state.reason,
        state.set_by,
        None if set_at is None else format_time(set_at),
    )


def _item(*fields: str | None) -> int:
    """Return the digest of one item, as the protocol defines it."""
    written = bytearray()
    for text in fields:
        if text is None:
            written += b"~"
        else:
            raw = text.encode()
            written += b"%d:%b," % (len(raw), raw)
    return int.from_bytes(hashlib.sha256(written).digest())
