"""The rules of this host, as its worker has them."""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, Self, overload

from .command import StateCommand
from .database import open_state_table
from .errors import RuleStoreError
from .follower import Counters, Follower
from .records import (
    ChangeT,
    CompiledRule,
    RecordTypes,
    RuleChange,
    RuleState,
    RuleT,
    StateFields,
    StateT,
)
from .replica import DEFAULT_STATE
from .states import checked_state, shows
from .subscription import Subscription
from .wire import Cursor

log = logging.getLogger("rulesyncd")

#: Where Debian's package puts the worker's socket.
DEFAULT_SOCKET = "/run/rulesyncd/events.sock"

#: How long ``start`` waits for a worker that accepts connections and says nothing, in seconds.
START_TIMEOUT = 5.0


class _StateWriter(Protocol):
    async def set(self, rule_id: str, state: RuleState) -> RuleState: ...

    async def clear(self, rule_id: str) -> None: ...


class RuleStore(Generic[RuleT, StateT, ChangeT]):
    """Follows the worker on ``socket``, while it is started: ``async with``, or ``start`` and ``stop``.

    It reconnects, resumes where it was, and compares its copy with the worker's at each heartbeat. All of
    its methods belong to the thread of the loop in which it was started.

    ``command`` is the program that sets states. Where ``database_url`` is given and Python has a driver
    for it (``sqlite3``, ``psycopg`` or ``pymysql``), the store sets states by its own connection.

    ``rule_type``, ``state_type`` and ``change_type`` are called with the fields of ``CompiledRule``,
    ``RuleState`` and ``RuleChange`` as keyword arguments, and what they return is what the store returns.

    A subscription holds ``max_backlog`` changes for a consumer that is behind. If more come, the last
    change of each rule is kept.

    >>> import asyncio
    >>> async def main() -> None:
    ...     async with RuleStore(SOCKET) as store:
    ...         print([rule.rule_id for rule in await store.load_compiled()])
    >>> asyncio.run(main())
    ['R1', 'R2']
    """

    @overload
    def __init__(
        self: "RuleStore[CompiledRule, RuleState, RuleChange]",
        socket: str = ...,
        *,
        command: str = ...,
        database_url: str | None = ...,
        max_backlog: int = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        socket: str = ...,
        *,
        rule_type: Callable[..., RuleT],
        state_type: Callable[..., StateT],
        change_type: Callable[..., ChangeT],
        command: str = ...,
        database_url: str | None = ...,
        max_backlog: int = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: "RuleStore[Any, Any, Any]",
        socket: str = ...,
        *,
        rule_type: Callable[..., Any] = ...,
        state_type: Callable[..., Any] = ...,
        change_type: Callable[..., Any] = ...,
        command: str = ...,
        database_url: str | None = ...,
        max_backlog: int = ...,
    ) -> None: ...

    def __init__(
        self,
        socket: str = DEFAULT_SOCKET,
        *,
        rule_type: Callable[..., Any] = CompiledRule,
        state_type: Callable[..., Any] = RuleState,
        change_type: Callable[..., Any] = RuleChange,
        command: str = "rulesyncd",
        database_url: str | None = None,
        max_backlog: int = 65_536,
    ) -> None:
        """Make a store that is not started yet."""
        self._types: RecordTypes[RuleT, StateT, ChangeT]
        self._types = RecordTypes(rule_type, state_type, change_type)
        table = None if database_url is None else open_state_table(database_url)
        self._writer: _StateWriter = table or StateCommand(command, socket, database_url)
        self._follower = Follower(socket, max_backlog)
        self._task: asyncio.Task[None] | None = None
        self._callbacks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to follow the worker. Does nothing if that began already.

        Returns when the rules are loaded, or when it is clear that no worker answers: the store then goes
        on trying. It is no error that no worker runs yet.
        """
        self.begin()
        follower = self._follower
        await follower.until(
            lambda: follower.is_loaded or follower.has_tried or follower.failure is not None,
            START_TIMEOUT,
        )

    def begin(self) -> None:
        """Begin to follow the worker, and return at once; for who cannot await ``start``."""
        if self._task is not None:
            return
        self._follower.failure, self._follower.has_tried = None, False
        self._task = asyncio.get_running_loop().create_task(self._follower.run(), name="rulesyncd")
        self._task.add_done_callback(self._report)

    async def stop(self) -> None:
        """End every subscription, after the changes that it has, and close the connection."""
        tasks = [*self._callbacks] if self._task is None else [self._task, *self._callbacks]
        self._task = None
        self._follower.refuse(RuleStoreError("the store was stopped"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._follower.end_feeds()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def load_compiled(self, timeout: float | None = 30.0) -> list[RuleT]:
        """Return every rule with its effective state, as the worker has them now.

        Waits for a worker, and until it has read its database, for at most ``timeout`` seconds.

        >>> import asyncio
        >>> async def main() -> None:
        ...     async with RuleStore(SOCKET) as rules:
        ...         print(len(await rules.load_compiled(timeout=10)))
        >>> asyncio.run(main())
        2
        """
        self._ensure_started()
        await self._until(lambda: self._follower.is_current, timeout)
        return [self._types.rule(rule) for rule in self._follower.replica.rules.values()]

    async def get_state(self, rule_id: str, timeout: float | None = 30.0) -> StateT:
        """Return the effective state of a rule; the default if nothing is known of it.

        Waits only until the rules were loaded once, for at most ``timeout`` seconds.

        >>> import asyncio
        >>> async def main() -> None:
        ...     async with RuleStore(SOCKET) as rules:
        ...         print((await rules.get_state("unknown")).state)
        >>> asyncio.run(main())
        enabled
        """
        self._ensure_started()
        await self._until(lambda: self._follower.is_loaded, timeout)
        return self._types.state(self._follower.replica.state_of(rule_id))

    async def set_state(
        self,
        rule_id: str,
        state: StateFields,
        set_by: str | None = None,
        *,
        wait: bool = True,
        timeout: float | None = 30.0,
    ) -> StateT:
        """Set the state of a rule, known or not, and return it as the database has it.

        Returns when this worker shows it: ``get_state`` then returns it, and every subscription has the
        change. ``wait=False`` returns when it is written. ``set_by`` takes precedence over the one of the
        state; without both it is the login name. The default state without ``set_by`` removes the one
        that was set. A state whose end is past is the default at once.

        Raises ``RuleStoreError`` if the state is not valid or not written within ``timeout`` seconds, or
        not shown by then; the message says which. Who cancels it cannot know whether it was written.

        >>> import asyncio
        >>> async def main() -> None:
        ...     async with RuleStore(SOCKET) as rules:
        ...         await rules.set_state("R2", RuleState("clipped", confidence_max=0.5), "alice")
        ...         print((await rules.get_state("R2")).confidence_max)
        >>> asyncio.run(main())
        0.5
        """
        self._ensure_started()
        wanted, follower = checked_state(rule_id, state, set_by), self._follower
        before = follower.replica.state_of(rule_id)
        written = None
        try:
            async with asyncio.timeout(timeout):
                if wanted == DEFAULT_STATE:
                    await self._writer.clear(rule_id)
                    written = DEFAULT_STATE
                else:
                    written = await self._writer.set(rule_id, wanted)
                if wait:
                    await follower.until(
                        lambda: shows(follower.replica.state_of(rule_id), before, written), None
                    )
        except TimeoutError:
            raise RuleStoreError(
                f"the state of {rule_id} was not written within {timeout} s: does the database answer?"
                if written is None
                else f"the state of {rule_id} is written, but the worker on {follower.socket} did not show "
                f"it within {timeout} s: does it follow the same database, and does that answer?"
            ) from None
        return self._types.state(written)

    def subscribe_changes(self) -> Subscription[ChangeT]:
        """Subscribe, at this call: the subscription has every change from now on.

        Each call is a subscription of its own, which hears every change; any number may be open. If an
        earlier one ended before it handed out all of its changes, the next begins with those. One that
        is opened before the rules were ever loaded begins with all of them.

        >>> import asyncio
        >>> async def main() -> None:
        ...     async with RuleStore(SOCKET) as rules:
        ...         changes = rules.subscribe_changes()
        ...         await rules.set_state("R2", RuleState("disabled"))
        ...         async for kind, rule_id, new_value in changes:
        ...             print(kind, rule_id, new_value.state)
        ...             break
        >>> asyncio.run(main())
        state R2 disabled
        """
        self._ensure_started()
        return Subscription(self._follower, self._types)

    def on_change(self, callback: Callable[[ChangeT], Awaitable[None] | None]) -> Callable[[], None]:
        """Call ``callback`` with each change from now on, one after the other; returns what ends that.

        ``callback`` may be a coroutine function. What it raises is logged, and the next change follows.

        >>> import asyncio
        >>> async def main() -> None:
        ...     async with RuleStore(SOCKET) as rules:
        ...         heard = asyncio.Queue()
        ...         end = rules.on_change(heard.put_nowait)
        ...         await rules.set_state("R1", RuleState("disabled"))
        ...         print((await heard.get()).rule_id)
        ...         end()
        >>> asyncio.run(main())
        R1
        """
        task = asyncio.get_running_loop().create_task(_call(callback, self.subscribe_changes()))
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

        def end() -> None:
            task.cancel()

        return end

    @property
    def rules(self) -> Mapping[str, RuleT]:
        """The rules by id: a copy of what the store has at this moment, without waiting."""
        return {rule_id: self._types.rule(rule) for rule_id, rule in self._follower.replica.rules.items()}

    @property
    def states(self) -> Mapping[str, StateT]:
        """The effective states that are not the default, by rule id, also of rules that do not exist."""
        states = self._follower.replica.states
        return {rule_id: self._types.state(state) for rule_id, state in states.items()}

    @property
    def cursor(self) -> Cursor | None:
        """The last change in the copy; ``None`` before there is one."""
        return self._follower.cursor

    @property
    def stale_for(self) -> float | None:
        """How long ago the copy was last known to be what the database has, in seconds.

        The worker confirms it at each heartbeat (``worker.heartbeat_interval``, 15 s), so less than that
        is as fresh as can be. ``None`` before the first time.
        """
        current_at = self._follower.current_at
        return None if current_at is None else time.monotonic() - current_at

    @property
    def counters(self) -> Counters:
        """How often the store connected, found its copy wrong, and merged changes."""
        return replace(self._follower.counters)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the store stops by an error of its own", exc_info=error)
            self._follower.refuse(RuleStoreError(f"the store stopped by an error of its own: {error!r}"))
            self._follower.end_feeds()

    def _ensure_started(self) -> None:
        if self._task is None:
            raise RuleStoreError("the store is not started: use `async with store:` or `await store.start()`")

    async def _until(self, is_reached: Callable[[], bool], timeout: float | None) -> None:
        if not await self._follower.until(is_reached, timeout):
            last = self._follower.last_error
            why = "" if last is None else f": {last}"
            raise RuleStoreError(
                f"no worker answered on {self._follower.socket} within {timeout} s{why}; is rulesyncd-worker "
                "running, and may this program open its socket?"
            )


async def _call(
    callback: Callable[[ChangeT], Awaitable[None] | None], changes: Subscription[ChangeT]
) -> None:
    while True:
        try:
            change = await anext(changes)
        except StopAsyncIteration:
            return
        except RuleStoreError:
            # The follower has logged it, and goes on trying.
            continue
        try:
            result = callback(change)
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("%r failed on a change; the next change follows", callback)
