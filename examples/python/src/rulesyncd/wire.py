"""Reads the lines of the stream. Nothing that comes from a socket is believed before it is checked."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

from .errors import ConnectionLostError
from .records import CompiledRule, Emit, RuleState
from .replica import Fingerprint
from .times import parse_time

PROTOCOL = 1

#: The longest line that is read, in bytes: far above the longest rule.
MAX_LINE = 64 << 20

T = TypeVar("T")
Fields = Mapping[str, Any]


class Cursor(NamedTuple):
    """A place in the stream: the last change that was applied, and the run of the worker that numbered it.

    >>> Cursor("0198c0de", 41).seq
    41
    """

    epoch: str
    seq: int


class Line(NamedTuple):
    """One line: its ``type``, its fields, and its length in bytes."""

    kind: str
    fields: Fields
    size: int


def parse_line(raw: bytes) -> Line:
    """Read a line with its LF; raises ``ConnectionLostError`` if it is not one JSON object with a type."""
    try:
        fields = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ConnectionLostError("the worker sent a line that is not JSON") from None
    if not isinstance(fields, dict):
        raise ConnectionLostError("the worker sent a line that is not an object")
    return Line(get(fields, "type", str), fields, len(raw))


def get(fields: Fields, name: str, kind: type[T]) -> T:
    """Return a field that must be of this type; raises ``ConnectionLostError`` if it is not."""
    value = fields.get(name)
    # True is an int for Python, and not for the protocol.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConnectionLostError(f"the worker sent a line whose `{name}` is not as the protocol says")
    if isinstance(value, str) and not _is_utf8(value):
        raise ConnectionLostError(f"the worker sent a line whose `{name}` is not UTF-8")
    return value


def get_optional(fields: Fields, name: str, kind: type[T]) -> T | None:
    """Return a field that may be null or absent."""
    return None if fields.get(name) is None else get(fields, name, kind)


def read_cursor(fields: Fields) -> Cursor:
    """Read the cursor of a ``hello``, ``heartbeat``, ``snapshot_begin`` or ``snapshot_end``."""
    return Cursor(get(fields, "epoch", str), get(fields, "seq", int))


def read_state(fields: Fields) -> RuleState:
    """Read a ``RuleState``."""
    word = get(fields, "state", str)
    if word not in ("enabled", "disabled", "clipped"):
        raise ConnectionLostError("the worker sent a state that the protocol does not have")
    return RuleState(
        state=word,
        confidence_max=_number(fields, "confidence_max"),
        expires_at=_time(fields, "expires_at"),
        reason=get_optional(fields, "reason", str),
        set_by=get_optional(fields, "set_by", str),
        set_at=_time(fields, "set_at"),
    )


def read_rule(line: Fields) -> tuple[CompiledRule, Fingerprint]:
    """Read the rule of a ``rule`` line, or of a ``change`` line that writes a definition."""
    value: Fields = get(line, "new_value", dict)
    rule = CompiledRule(
        rule_id=get(value, "rule_id", str),
        rule_version=get(value, "rule_version", int),
        name=get(value, "name", str),
        description=get_optional(value, "description", str) or "",
        applies_to=frozenset(_list(value, "applies_to", str)),
        match_spec=get(value, "match_spec", dict),
        emits=tuple(_emit(emit) for emit in _list(value, "emits", dict)),
        evidence_fields=tuple(_list(value, "evidence_fields", str)),
        state=read_state(get(value, "state", dict)),
    )
    fingerprint = Fingerprint(
        get(line, "rule_version", int),
        get(line, "content_sha256", str),
        get(line, "source_path", str),
    )
    if rule.rule_id != get(line, "rule_id", str):
        raise ConnectionLostError("the worker sent a rule under the id of another")
    return rule, fingerprint


def _emit(fields: Fields) -> Emit:
    confidence = _number(fields, "confidence")
    if confidence is None:
        raise ConnectionLostError("the worker sent a rule without a confidence")
    return Emit(
        get(fields, "technique_id", str),
        get_optional(fields, "sub_technique_id", str),
        get(fields, "tactic", str),
        confidence,
    )


def _list(fields: Fields, name: str, kind: type[T]) -> list[T]:
    return [get({name: item}, name, kind) for item in get(fields, name, list)]


def _number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return float(value)
    number = get(fields, name, float)
    if not math.isfinite(number):
        raise ConnectionLostError(f"the worker sent a line whose `{name}` is infinite")
    return number


def _time(fields: Fields, name: str) -> Any:
    text = get_optional(fields, name, str)
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise ConnectionLostError(f"the worker sent a line whose `{name}` is not a time") from None


def _is_utf8(text: str) -> bool:
    """Return whether the text has no half of a surrogate pair, which JSON can spell."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
