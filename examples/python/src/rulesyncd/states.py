"""Which states may be set, and when a worker shows one."""

import math
import re
from datetime import UTC, datetime

from .errors import RuleStoreError
from .records import RuleState, StateFields
from .replica import DEFAULT_STATE

#: The longest reason or name that workers serve, in bytes.
_LONGEST_TEXT = 4096

_RULE_ID = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)


def checked_state(rule_id: str, state: StateFields, set_by: str | None) -> RuleState:
    """Return a state as it is written; raises ``RuleStoreError`` if no worker would serve it."""
    if not _RULE_ID.fullmatch(rule_id):
        raise RuleStoreError(
            f"{rule_id!r:.60} is not a rule's id: expected letters, digits, `_` and `-`, at most 255"
        )
    if state.state not in ("enabled", "disabled", "clipped"):
        raise RuleStoreError(f"the state is {state.state!r}; expected enabled, disabled or clipped")
    ceiling = state.confidence_max
    if ceiling is not None and not (isinstance(ceiling, (int, float)) and 0 <= ceiling < math.inf):
        raise RuleStoreError(f"confidence_max is {ceiling!r:.60}; expected a number of at least 0, or None")
    set_by = set_by if set_by is not None else state.set_by
    for name, text in (("reason", state.reason), ("set_by", set_by)):
        if text is not None and ("\0" in text or len(text.encode(errors="surrogatepass")) > _LONGEST_TEXT):
            raise RuleStoreError(f"{name} has a NUL, or more than {_LONGEST_TEXT} bytes")
    return RuleState(
        state=state.state,
        confidence_max=state.confidence_max,
        expires_at=state.expires_at,
        reason=state.reason,
        set_by=set_by,
    )


def shows(current: RuleState, before: RuleState, written: RuleState) -> bool:
    """Return whether a worker that shows ``current`` has seen what was ``written``."""
    if current == written:
        return True
    if written == DEFAULT_STATE:
        return current != before
    if written.expires_at is not None and written.expires_at <= datetime.now(UTC):
        return current == DEFAULT_STATE
    if current.set_at is None or written.set_at is None:
        return False
    # Someone set it again, maybe within the same second, which is all that some columns hold.
    return current.set_at > written.set_at or (current.set_at == written.set_at and current != before)
