"""Keeps a copy of the worker's rules and states up to date, and feeds what changes to the consumers."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .connection import Connection
from .errors import ConnectionLostError, RuleStoreError
from .feed import Feed
from .replica import Replica, Update
from .tracing import change_span
from .wire import Cursor, Line, get, get_optional, read_cursor, read_rule, read_state

log = logging.getLogger("rulesyncd")

FIRST_WAIT, LONGEST_WAIT = 0.05, 10.0

#: The most feeds of ended subscriptions that wait for their next consumer.
MAX_LEFT = 64


@dataclass
class Counters:
    """What happened since the store was made.

    >>> Counters().digest_mismatches
    0
    """

    #: Connections that were opened.
    connections: int = 0
    #: Times that the copy was not the worker's, so that a snapshot was asked for.
    digest_mismatches: int = 0
    #: Times that changes were merged because a consumer was far behind.
    merges: int = 0


class Follower:
    """Follows one worker in one task of the running loop.

    All of its methods belong to the loop's thread.
    """

    def __init__(self, socket: str, max_backlog: int) -> None:
        """Begin without a copy and without a connection."""
        self.socket = socket
        self.counters = Counters()
        self.replica = Replica()
        #: ``None`` before the first snapshot, and while it is not known where the copy is in the stream.
        self.cursor: Cursor | None = None
        #: Whether there was a snapshot.
        self.is_loaded = False
        #: When the copy was last known to be the database's, by the monotonic clock.
        self.current_at: float | None = None
        #: Why the worker refuses this program, while it does.
        self.failure: RuleStoreError | None = None
        #: Why the last connection ended.
        self.last_error: Exception | None = None
        #: Whether a connection was tried.
        self.has_tried = False

        self._max_backlog = max_backlog
        self._feeds: set[Feed] = set()
        self._left: deque[Feed] = deque()
        self._wait, self._longest_wait = FIRST_WAIT, LONGEST_WAIT
        self._news = asyncio.Event()
        #: The newest change when this connection began: the copy is up to date from there on.
        self._goal: Cursor | None = None
        #: The snapshot that is being received.
        self._snapshot: Replica | None = None

    @property
    def is_current(self) -> bool:
        """Whether the copy has every change that the worker had when the connection began."""
        cursor, goal = self.cursor, self._goal
        if cursor is None or goal is None:
            return False
        return cursor.epoch == goal.epoch and cursor.seq >= goal.seq

    def open_feed(self) -> Feed:
        """Begin a feed here and now, or go on with one whose consumer is gone."""
        if self._left:
            return self._left.popleft()
        feed = Feed(self._max_backlog)
        self._feeds.add(feed)
        return feed

    def leave_feed(self, feed: Feed) -> None:
        """Keep a feed, with what was not taken from it, for its next consumer."""
        if feed not in self._feeds:
            return
        self._left.append(feed)
        if len(self._left) > MAX_LEFT:
            forgotten = self._left.popleft()
            self._feeds.discard(forgotten)
            log.warning(
                "more than %d subscriptions ended without a successor: the changes that the "
                "first one did not take are dropped",
                MAX_LEFT,
            )

    def refuse(self, error: RuleStoreError) -> None:
        """Fail whoever waits for the copy, until the next connection is well."""
        self.failure = error
        self._announce()

    def end_feeds(self) -> None:
        """End every feed after the changes that it has."""
        for feed in tuple(self._feeds):
            feed.end()
        self._feeds.clear()
        self._left.clear()

    async def until(self, is_reached: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until the copy is as wanted; return whether it is.

        Raises why the worker refuses this program, if it does.
        """
        try:
            async with asyncio.timeout(timeout):
                while not is_reached():
                    if self.failure is not None:
                        # Its own, for an exception collects the traces of all who raise it.
                        raise RuleStoreError(str(self.failure))
                    await self._news.wait()
        except TimeoutError:
            return is_reached()
        return True

    async def run(self) -> None:
        """Connect, follow, and connect again; ends only when it is cancelled."""
        try:
            while True:
                await self._follow_once()
                # Up to twice as long each time; at random, so that not all programs of a host come at once.
                await asyncio.sleep(self._wait * random.uniform(0.5, 1.0))  # noqa: S311
                self._wait = min(self._wait * 2, self._longest_wait)
        finally:
            self._goal = self._snapshot = None

    async def _follow_once(self) -> None:
        try:
            async with Connection.open(self.socket) as (connection, hello):
                await self._follow(connection, hello)
        except RuleStoreError as refusal:
            log.error("the worker on %s cannot be followed: %s", self.socket, refusal)  # noqa: TRY400
            self.failure = self.last_error = refusal
            for feed in tuple(self._feeds):
                feed.fail(RuleStoreError(str(refusal)))
        except (OSError, ConnectionLostError) as error:
            is_news = self._goal is not None or self.last_error is None
            level = logging.WARNING if is_news else logging.DEBUG
            log.log(level, "%s: %s; connecting again", self.socket, error)
            self.last_error = error
        self.has_tried = True
        self._goal = self._snapshot = None
        self._announce()

    async def _follow(self, connection: Connection, hello: Line) -> None:
        self.counters.connections += 1
        goal = self._goal = read_cursor(hello.fields)
        if self.cursor is None:
            connection.send(op="subscribe")
        else:
            connection.send(op="subscribe", cursor=self.cursor._asdict())
        # What a resumed copy has is acknowledged, too: of a new connection the worker does not know it.
        acknowledged: Cursor | None = None
        has_asked = False
        while True:
            if self.is_current and not has_asked:
                # How old the rules are: the first heartbeat may be a while away.
                connection.send(op="status", id=0)
                has_asked = True
            line = await connection.next_line()
            self._take(line)
            cursor = self.cursor
            if cursor is not None and cursor.epoch == goal.epoch and cursor != acknowledged:
                acknowledged = cursor
                connection.send(op="ack", seq=acknowledged.seq)

    def _take(self, line: Line) -> None:
        """Apply one line."""
        fields = line.fields
        match line.kind:
            case "change":
                self._take_change(line)
            case "heartbeat":
                self._take_heartbeat(line)
            case "response":
                self._take_status(get(fields, "result", dict))
            case "snapshot_begin":
                self._snapshot = Replica()
            case "rule":
                self._loading().put_rule(*read_rule(fields))
            case "state":
                state = read_state(get(fields, "new_value", dict))
                self._loading().put_state(get(fields, "rule_id", str), state)
            case "snapshot_end":
                self._take_snapshot(self._loading(), line)
            case _:
                # A newer worker may say more.
                return
        self._announce()

    def _loading(self) -> Replica:
        if self._snapshot is None:
            raise ConnectionLostError("the worker sent a part of a snapshot outside of one")
        return self._snapshot

    def _take_snapshot(self, snapshot: Replica, line: Line) -> None:
        cursor, digest = read_cursor(line.fields), get(line.fields, "digest", str)
        if snapshot.digest != digest:
            self._mismatch("a snapshot is not what the worker says it is")
        for update in self.replica.updates_to(snapshot):
            # What a rule takes is not known here; its part of the lines is a fair guess.
            self._feed(update, 1024)
        self.replica, self.cursor, self._snapshot = snapshot, cursor, None
        self.is_loaded = True
        self._is_well()
        log.info("following %s: %d rules at %s:%d", self.socket, len(snapshot.rules), *cursor)

    def _take_change(self, line: Line) -> None:
        fields, seq, cursor = line.fields, get(line.fields, "seq", int), self.cursor
        if self._snapshot is not None or cursor is None or seq != cursor.seq + 1:
            self.cursor = None
            raise ConnectionLostError(f"change {seq} does not follow the one before")
        rule_id = get(fields, "rule_id", str)
        kind = get(fields, "change_kind", str)
        value = get_optional(fields, "new_value", dict)
        with change_span(rule_id, kind, seq, get_optional(fields, "traceparent", str)):
            match kind, value:
                case "definition", None:
                    update = self.replica.delete_rule(rule_id)
                case "definition", _:
                    update = self.replica.put_rule(*read_rule(fields))
                case "state", dict():
                    update = self.replica.put_state(rule_id, read_state(value))
                case _:
                    raise ConnectionLostError("the worker sent a change of an unknown kind")
            self.cursor = cursor._replace(seq=seq)
            self._feed(update, line.size)
        self._is_well()

    def _take_heartbeat(self, line: Line) -> None:
        cursor, digest = read_cursor(line.fields), get_optional(line.fields, "digest", str)
        if self._snapshot is not None or self.cursor is None or cursor.epoch != self.cursor.epoch:
            # A worker that has just started has nothing to compare yet: its snapshot follows.
            return
        self._is_as_old_as(get(line.fields, "stale_for_ms", int))
        if cursor != self.cursor:
            self._mismatch("the worker counts other changes than it sent")
        if digest is not None and digest != self.replica.digest:
            self._mismatch("the copy is not what the worker has")
        self._is_well()

    def _take_status(self, status: dict[str, object]) -> None:
        self._is_as_old_as(get(get(status, "database", dict), "stale_for_ms", int))
        self._is_well()

    def _is_as_old_as(self, milliseconds: int) -> None:
        self.current_at = time.monotonic() - milliseconds / 1000

    def _is_well(self) -> None:
        self.failure, self.last_error, self._wait = None, None, FIRST_WAIT

    def _mismatch(self, what: str) -> None:
        self.counters.digest_mismatches += 1
        self.cursor = None
        raise ConnectionLostError(what)

    def _feed(self, update: Update, size: int) -> None:
        # A copy: a subscription that is collected meanwhile may take its feed out.
        for feed in tuple(self._feeds):
            merges = feed.merges
            feed.push(update, size)
            if feed.merges > merges:
                self.counters.merges += 1
                log.info("a consumer is far behind: of its changes of one rule, the last is kept")

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
