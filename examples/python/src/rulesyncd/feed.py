"""The changes on their way to one consumer: in order, each once, in bounded memory."""

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from .errors import RuleStoreError
from .records import ChangeKind, RuleChange
from .replica import Update

#: The most bytes of lines that a feed holds before it merges.
MAX_BYTES = 64 << 20


class _Pending(NamedTuple):
    update: Update
    size: int


class Feed:
    """The changes that one consumer has not taken yet.

    A consumer that falls more than ``max_changes`` changes behind does not lose the last state of any
    rule: of several changes of one rule the last is kept, and none if the rule is again as the
    consumer has it. So a feed holds at most ``max_changes`` changes, or two for each rule.

    Safe for one thread that pushes and another that takes.
    """

    def __init__(self, max_changes: int) -> None:
        """Begin without a change."""
        self._lock = threading.Lock()
        self._pending: deque[_Pending] = deque()
        self._size = 0
        self._limit = max_changes
        self._max_changes, self._max_bytes = max_changes, MAX_BYTES
        #: How often changes were merged because the consumer was behind.
        self.merges = 0
        self._error: RuleStoreError | None = None
        #: Whether no change follows those that wait.
        self.is_ended = False
        #: Called after each push, failure and end, by the thread that pushes.
        self.wake: Callable[[], None] = _nothing

    def __len__(self) -> int:
        """Return how many changes wait."""
        return len(self._pending)

    def push(self, update: Update, size: int) -> None:
        """Add a change; ``size`` is the length of its line in bytes."""
        with self._lock:
            self._pending.append(_Pending(update, size))
            self._size += size
            if len(self._pending) > self._max_changes or self._size > self._max_bytes:
                self._merge()
        self.wake()

    def fail(self, error: RuleStoreError) -> None:
        """Let the consumer know, once, that there can be no change at the moment."""
        self._error = error
        self.wake()

    def end(self) -> None:
        """End the feed after the changes that wait."""
        self.is_ended = True
        self.wake()

    def take_error(self) -> RuleStoreError | None:
        """Take the failure that the consumer does not know yet."""
        error, self._error = self._error, None
        return error

    def take(self) -> RuleChange | None:
        """Take the oldest change; ``None`` if none waits."""
        with self._lock:
            if not self._pending:
                return None
            (change, *_), size = self._pending.popleft()
            self._size -= size
            if not self._pending:
                self._max_changes, self._max_bytes = self._limit, MAX_BYTES
            return change

    def _merge(self) -> None:
        merged: dict[tuple[ChangeKind, str], _Pending] = {}
        for pending in self._pending:
            update = pending.update
            key = (update.change.change_kind, update.change.rule_id)
            if (earlier := merged.pop(key, None)) is not None:
                update = update._replace(before=earlier.update.before)
            merged[key] = pending._replace(update=update)
        kept = [item for item in merged.values() if item.update.before != item.update.after]
        self._pending = deque(kept)
        self._size = sum(item.size for item in kept)
        # Twice what is left, so that merging costs a constant time for each change.
        self._max_changes = max(self._limit, 2 * len(kept))
        self._max_bytes = max(MAX_BYTES, 2 * self._size)
        self.merges += 1


def _nothing() -> None:
    """Wake nobody: the feed waits for its next consumer."""
