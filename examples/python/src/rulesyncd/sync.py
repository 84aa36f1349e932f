"""The same store for programs without asyncio: it runs a loop in a thread of its own."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Self, TypeVar

from . import store as _asyncio
from .errors import RuleStoreError
from .feed import Feed
from .records import RuleChange, StateFields
from .store import DEFAULT_SOCKET
from .wire import Cursor

log = logging.getLogger("rulesyncd")

T = TypeVar("T")


class RuleStore:
    """Follows the worker on ``socket``, within ``with`` or between ``start`` and ``stop``.

    The calls, arguments and records are those of ``rulesyncd.RuleStore``; any thread may call them.

    >>> with RuleStore(SOCKET) as rules:
    ...     changes = rules.subscribe_changes()
    ...     state = rules.set_state("R1", RuleState("disabled"))
    ...     print(next(changes).new_value.state)
    disabled
    """

    def __init__(self, socket: str = DEFAULT_SOCKET, **options: Any) -> None:
        """Take the arguments of ``rulesyncd.RuleStore``."""
        self._store: _asyncio.RuleStore[Any, Any, Any] = _asyncio.RuleStore(socket, **options)
        #: Held while a call is given to the loop, so that none is given to one that has ended.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow the worker; returns as ``rulesyncd.RuleStore.start`` does."""
        with self._lock:
            if self._loop is not None:
                return
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rulesyncd", daemon=True)
            self._thread.start()
        self._await(self._store.start())

    def stop(self) -> None:
        """End every subscription and every call that waits, and the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _end(self) -> None:
        await self._store.stop()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def load_compiled(self, timeout: float | None = 30.0) -> list[Any]:
        """Return every rule; see ``rulesyncd.RuleStore.load_compiled``."""
        return self._await(self._store.load_compiled(timeout))

    def get_state(self, rule_id: str, timeout: float | None = 30.0) -> Any:
        """Return the effective state of a rule; see ``rulesyncd.RuleStore.get_state``."""
        return self._await(self._store.get_state(rule_id, timeout))

    def set_state(
        self,
        rule_id: str,
        state: StateFields,
        set_by: str | None = None,
        *,
        wait: bool = True,
        timeout: float | None = 30.0,
    ) -> Any:
        """Set the state of a rule; see ``rulesyncd.RuleStore.set_state``."""
        return self._await(self._store.set_state(rule_id, state, set_by, wait=wait, timeout=timeout))

    def subscribe_changes(self) -> "Subscription":
        """Subscribe at this call; see ``rulesyncd.RuleStore.subscribe_changes``."""
        # The two belong to one package, and the feed may be taken from in any thread.
        follower, types = self._store._follower, self._store._types  # noqa: SLF001

        def leave(feed: Feed) -> None:
            with self._lock:
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(follower.leave_feed, feed)

        return Subscription(self._call(follower.open_feed), types.change, leave)

    def on_change(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``callback`` with each change from now on, in a thread of its own; returns what ends that.

        What it raises is logged, and the next change follows.
        """
        changes = self.subscribe_changes()

        def call() -> None:
            while True:
                try:
                    change = next(changes)
                except StopIteration:
                    return
                except RuleStoreError:
                    # The follower has logged it, and goes on trying.
                    continue
                try:
                    callback(change)
                except Exception:
                    log.exception("%r failed on a change; the next change follows", callback)

        threading.Thread(target=call, name="rulesyncd callback", daemon=True).start()
        return changes.close

    @property
    def rules(self) -> Mapping[str, Any]:
        """The rules by id, as they are at this moment."""
        return self._call(lambda: self._store.rules)

    @property
    def states(self) -> Mapping[str, Any]:
        """The effective states that are not the default, by rule id."""
        return self._call(lambda: self._store.states)

    @property
    def cursor(self) -> Cursor | None:
        """The last change in the copy."""
        return self._store.cursor

    @property
    def stale_for(self) -> float | None:
        """How long ago the copy was last known to be what the database has, in seconds."""
        return self._store.stale_for

    def _await(self, call: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                call.close()
                raise RuleStoreError("the store is not started: use `with store:` or `store.start()`")
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuleStoreError("the store was stopped") from None
        except BaseException:
            future.cancel()
            raise

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._await(call())


class Subscription:
    """One consumer's changes, as an iterator: each change once, in order.

    An exception in the consumer, or a timeout of ``get``, loses nothing. It ends after the last change
    before the store was stopped.

    >>> with RuleStore(SOCKET) as rules:
    ...     changes = rules.subscribe_changes()
    ...     print(changes.get(timeout=0.01))
    None
    """

    def __init__(
        self, feed: Feed, convert: Callable[[RuleChange], Any], leave: Callable[[Feed], None]
    ) -> None:
        """Begin to take from a feed; ``RuleStore.subscribe_changes`` does this."""
        self._feed, self._convert, self._leave = feed, convert, leave
        self._changed = threading.Condition()
        self._is_closed = False
        # Not a method of this object, which the feed would then keep from its end.
        feed.wake = partial(_notify, self._changed)

    def __iter__(self) -> "Subscription":
        """Return this subscription."""
        return self

    def __next__(self) -> Any:
        """Wait for the next change."""
        change = self.get()
        if change is None:
            raise StopIteration
        return change

    def get(self, timeout: float | None = None) -> Any:
        """Return the next change; ``None`` if none came within ``timeout`` seconds, or after the end.

        Raises ``RuleStoreError`` once each time that the worker refuses this program.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                if self._is_closed:
                    return None
                change = self._feed.take()
                if change is None and (error := self._feed.take_error()) is not None:
                    raise error
                if change is None:
                    remaining = None if deadline is None else deadline - time.monotonic()
                    if self._feed.is_ended or (remaining is not None and remaining <= 0):
                        return None
                    self._changed.wait(remaining)
                    continue
            return self._convert(change)

    def close(self) -> None:
        """End the subscription; the next one begins with what this one did not hand out."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._leave(self._feed)

    def __del__(self) -> None:
        """End the subscription."""
        self.close()


def _notify(condition: threading.Condition) -> None:
    with condition:
        condition.notify_all()
