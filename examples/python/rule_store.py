"""Follow the rules of this host's rulesyncd worker from Python, with the standard library alone.

    store = RuleStore("/run/rulesyncd/events.sock")
    rules = await store.load_compiled()
    async for change_kind, rule_id, new_value in store.subscribe_changes():
        ...

``load_compiled`` gives every rule with the state in force for it. ``subscribe_changes`` goes on from
exactly there: a change that falls between the two is not lost. It outlives its connection: it
connects again, resumes after the last change that it gave out, and where the worker cannot resume
it takes a snapshot and gives out what differs. So the caller hears of each change once, in order,
and what it has built from them is the database's rules and states. Each subscription is its own:
of two tasks that iterate, each hears every change. A consumer that leaves the loop, by ``break`` or
by an exception, loses nothing: the next subscription goes on after the last change that was handed
out. At every heartbeat it compares
the digest of what it has given out with the worker's, and begins anew should they ever differ.

Run as a program it prints the changes: ``python3 rule_store.py /run/rulesyncd/events.sock``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import struct
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Deque, Dict, List, Mapping, Optional, Tuple, Union

__all__ = ["CompiledRule", "Change", "Emit", "RuleState", "RuleStore", "RuleStoreError"]

log = logging.getLogger("rule_store")

PROTOCOL = 1
LONGEST_LINE = 64 * 1024 * 1024
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0

#: Refusals that connecting again cannot mend.
FINAL = {"bad_json", "line_too_long", "unknown_op", "bad_request", "already_subscribed", "not_allowed"}


class RuleStoreError(Exception):
    """What trying again cannot mend: the worker refused, or the command failed."""


class _Lost(Exception):
    """The connection is gone, or did not keep the protocol's promises; another is made."""


@dataclass(frozen=True)
class RuleState:
    """The operator's word on a rule. The default is what holds where none was set."""

    state: str = "enabled"
    confidence_max: Optional[float] = None
    expires_at: Optional[datetime] = None
    reason: Optional[str] = None
    set_by: Optional[str] = None
    set_at: Optional[datetime] = None

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "RuleState":
        return RuleState(
            state=value["state"],
            confidence_max=value["confidence_max"],
            expires_at=_time(value["expires_at"]),
            reason=value["reason"],
            set_by=value["set_by"],
            set_at=_time(value["set_at"]),
        )


@dataclass(frozen=True)
class Emit:
    """One technique that a rule's match is evidence of."""

    technique_id: str
    sub_technique_id: Optional[str]
    tactic: str
    confidence: float


@dataclass(frozen=True)
class CompiledRule:
    """A rule with the state in force for it."""

    rule_id: str
    rule_version: int
    name: str
    description: Optional[str]
    applies_to: Tuple[str, ...]
    match_spec: Dict[str, Any]
    emits: Tuple[Emit, ...]
    evidence_fields: Tuple[str, ...]
    state: RuleState

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "CompiledRule":
        return CompiledRule(
            rule_id=value["rule_id"],
            rule_version=value["rule_version"],
            name=value["name"],
            description=value["description"],
            applies_to=tuple(value["applies_to"]),
            match_spec=value["match_spec"],
            emits=tuple(Emit(**emit) for emit in value["emits"]),
            evidence_fields=tuple(value["evidence_fields"]),
            state=RuleState.from_json(value["state"]),
        )


#: ``("definition", rule_id, rule or None)`` or ``("state", rule_id, state)``. ``None`` is a deletion.
Change = Tuple[str, str, Union[CompiledRule, RuleState, None]]


@dataclass
class _Known:
    """What the caller has been given, as far as it takes to compare it with the worker's."""

    #: By id: version, digest of the text, path. Two that are equal here say the same.
    rules: Dict[str, Tuple[int, str, str]] = field(default_factory=dict)
    #: By id, the states that are not the default.
    states: Dict[str, RuleState] = field(default_factory=dict)

    def put_rule(self, line: Mapping[str, Any]) -> CompiledRule:
        rule = CompiledRule.from_json(line["new_value"])
        self.rules[rule.rule_id] = (line["rule_version"], line["content_sha256"], line["source_path"])
        self.put_state(rule.rule_id, rule.state)
        return rule

    def put_state(self, rule_id: str, state: RuleState) -> None:
        if state == RuleState():
            self.states.pop(rule_id, None)
        else:
            self.states[rule_id] = state

    def digest(self) -> str:
        """The worker's digest of the same rules and states, as the protocol defines it."""
        total = 0
        for rule_id, (version, content, path) in self.rules.items():
            total ^= _item("rule", rule_id, str(version), content, path)
        for rule_id, state in self.states.items():
            ceiling = state.confidence_max
            total ^= _item(
                "state",
                rule_id,
                state.state,
                None if ceiling is None else struct.pack(">d", ceiling).hex(),
                _text(state.expires_at),
                state.reason,
                state.set_by,
                _text(state.set_at),
            )
        return f"{total:064x}"


class RuleStore:
    """The rules of this host, as its rulesyncd worker knows them.

    ``socket`` is the worker's. States are set by ``command``, the rulesyncd program, which finds the
    database by its own configuration, or by ``database_url`` where that is given.
    """

    def __init__(
        self,
        socket: str = "/run/rulesyncd/events.sock",
        *,
        command: str = "rulesyncd",
        database_url: Optional[str] = None,
    ) -> None:
        self._socket = socket
        self._command = command
        self._database_url = database_url
        #: What ``load_compiled`` gave; each subscription begins there.
        self._loaded = _Position()
        #: What a subscription that ended had handed out; the next one goes on from there.
        self._left: Optional[_Position] = None

    async def load_compiled(self) -> List[CompiledRule]:
        """Every rule with the state in force for it.

        Waits for a worker that is not there yet, and for one that has not heard from its database.
        """
        wait = FIRST_WAIT
        while True:
            try:
                async with _Connection(self._socket) as connection:
                    connection.send({"op": "subscribe", "follow": False})
                    await connection.line("snapshot_begin")
                    known, rules, cursor = await connection.snapshot()
                    self._loaded, self._left = _Position(known, cursor), None
                    return list(rules.values())
            except (OSError, _Lost) as error:
                wait = await _pause(error, wait)

    async def get_state(self, rule_id: str) -> RuleState:
        """The state in force; the default for a rule that has none or is not known."""
        wait = FIRST_WAIT
        while True:
            try:
                async with _Connection(self._socket) as connection:
                    connection.send({"op": "get_state", "id": 1, "rule_id": rule_id})
                    return RuleState.from_json((await connection.line("response"))["result"])
            except (OSError, _Lost) as error:
                wait = await _pause(error, wait)

    async def set_state(self, rule_id: str, state: RuleState, *, force: bool = False) -> RuleState:
        """Sets a rule's state in place of the one that stands, and returns it as it now stands.

        The default state takes away what was set. Every worker hears of it, this one too, in its
        own time: ``subscribe_changes`` tells when. ``set_at`` is the database's to say.
        ``force`` sets the state of a rule that does not exist yet.

        Raises ``RuleStoreError`` with the command's words when the state is not valid, there is no such
        rule, the database cannot be written, or it is not the one that the daemons of this host use.
        """
        if state == RuleState():
            await self._run("clear", rule_id)
            return state
        options = {
            "--confidence-max": state.confidence_max,
            "--expires-at": _text(state.expires_at),
            "--reason": state.reason,
            "--set-by": state.set_by,
        }
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        if force:
            given.append("--force")
        return RuleState.from_json(await self._run("set", rule_id, state.state, *given))

    def subscribe_changes(self) -> "_Changes":
        """Every change, one at a time: what happened since ``load_compiled``, then what happens.

        Each call is a subscription of its own. Where one has ended (its iterator is closed or gone),
        the next goes on after the last change that it handed out. A change is acknowledged to the
        worker when the next one is asked for. ``anext`` may be cancelled, as ``asyncio.wait_for`` does.
        """
        position, self._left = self._left or self._loaded.copy(), None
        return _Changes(self, position)

    async def _run(self, *arguments: str) -> Dict[str, Any]:
        # The database must be the one that this worker follows.
        environment = {**os.environ, "RULESYNCD_SOCKET": self._socket}
        if self._database_url is not None:
            # Not as an argument: every user of the host can read those.
            environment["RULESYNCD_DATABASE_URL"] = self._database_url
        process = await asyncio.create_subprocess_exec(
            self._command,
            "state",
            "--json",
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, complaint = await process.communicate()
        if process.returncode != 0:
            raise RuleStoreError(complaint.decode(errors="replace").strip())
        answer: Dict[str, Any] = json.loads(out)
        return answer


@dataclass
class _Position:
    """What was handed out: as a copy, and as the place in the stream, where that is known."""

    known: Optional[_Known] = None
    cursor: Optional[Dict[str, Any]] = None

    def copy(self) -> "_Position":
        if self.known is None:
            return _Position()
        return _Position(_Known(dict(self.known.rules), dict(self.known.states)), self.cursor)


class _Changes:
    """One subscription: an asynchronous iterator."""

    def __init__(self, store: RuleStore, position: _Position) -> None:
        self._store = store
        self._position = position
        self._connection: Optional[_Connection] = None
        #: Differences of a snapshot that are not handed out yet, and where they lead.
        self._differences: Deque[Change] = deque()
        self._after: Optional[_Position] = None
        self._acknowledge = False
        self._wait = FIRST_WAIT
        self._ended = False

    def __aiter__(self) -> "_Changes":
        return self

    async def __anext__(self) -> Change:
        if self._ended:
            raise StopAsyncIteration
        while True:
            if self._differences:
                return self._hand_out_difference()
            try:
                change = await self._next()
            except (OSError, _Lost) as error:
                self._disconnect()
                self._wait = await _pause(error, self._wait)
            else:
                if change is not None:
                    return change

    async def aclose(self) -> None:
        """Ends the subscription; the next one goes on after the last change that was handed out."""
        self._end()

    def __del__(self) -> None:
        # Whoever leaves the loop by ``break`` or by an exception closes nothing.
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._store._left = self._position
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            # The loop may be closed already.
            with contextlib.suppress(RuntimeError):
                self._connection.close()
            self._connection = None

    async def _next(self) -> Optional[Change]:
        """Takes in one line; the change that it is, if it is one."""
        if self._connection is None:
            self._connection = await _Connection(self._store._socket).__aenter__()
            request: Dict[str, Any] = {"op": "subscribe"}
            if self._position.cursor is not None:
                request["cursor"] = self._position.cursor
            self._connection.send(request)
        elif self._acknowledge and self._position.cursor is not None:
            self._connection.send({"op": "ack", "seq": self._position.cursor["seq"]})
        self._acknowledge = False
        line = await self._connection.line()
        kind = line["type"]
        if kind == "snapshot_begin":
            try:
                known, rules, cursor = await self._connection.snapshot()
            except BaseException:
                # Who is cancelled here has read a part of it.
                self._disconnect()
                raise
            self._take_in_snapshot(_Position(known, cursor), rules)
        elif kind == "change":
            return self._take_in_change(line)
        elif kind == "heartbeat":
            self._compare(line)
        return None

    def _take_in_snapshot(self, after: _Position, rules: Dict[str, CompiledRule]) -> None:
        self._wait = FIRST_WAIT
        if self._position.known is None:
            # Whoever has nothing yet has asked for changes alone.
            self._position, self._acknowledge = after, True
            return
        assert after.known is not None
        # Until all of them are handed out there is no place in the stream that says what was.
        self._position.cursor = None
        self._after = after
        self._differences.extend(_differences(self._position.known, after.known, rules))
        if not self._differences:
            self._position, self._after, self._acknowledge = after, None, True

    def _hand_out_difference(self) -> Change:
        """Notes a difference as handed out, and hands it out."""
        change = self._differences.popleft()
        kind, rule_id, value = change
        assert self._position.known is not None and self._after is not None and self._after.known is not None
        if isinstance(value, RuleState):
            self._position.known.put_state(rule_id, value)
        elif value is None:
            self._position.known.rules.pop(rule_id, None)
        else:
            self._position.known.rules[rule_id] = self._after.known.rules[rule_id]
        if not self._differences:
            self._position, self._after, self._acknowledge = self._after, None, True
        return change

    def _take_in_change(self, line: Dict[str, Any]) -> Change:
        known, cursor = self._position.known, self._position.cursor
        if known is None or cursor is None or line["seq"] != cursor["seq"] + 1:
            self._position.cursor = None
            raise _Lost(f"change {line['seq']} does not follow what came before")
        self._wait = FIRST_WAIT
        change = _change(known, line)
        self._position.cursor, self._acknowledge = {"epoch": cursor["epoch"], "seq": line["seq"]}, True
        return change

    def _compare(self, line: Dict[str, Any]) -> None:
        known, cursor = self._position.known, self._position.cursor
        if known is None or cursor is None or line.get("digest") is None or line["seq"] != cursor["seq"]:
            return
        if line["digest"] != known.digest():
            self._position.cursor = None
            raise _Lost("what was heard is not what the worker has")


def _change(known: _Known, line: Dict[str, Any]) -> Change:
    rule_id = line["rule_id"]
    if line["change_kind"] == "state":
        state = RuleState.from_json(line["new_value"])
        known.put_state(rule_id, state)
        return "state", rule_id, state
    if line["new_value"] is None:
        known.rules.pop(rule_id, None)
        return "definition", rule_id, None
    return "definition", rule_id, known.put_rule(line)


def _differences(before: _Known, after: _Known, rules: Dict[str, CompiledRule]) -> List[Change]:
    """What a snapshot says otherwise than what the caller was given before."""
    changes: List[Change] = []
    for rule_id, rule in rules.items():
        if before.rules.get(rule_id) != after.rules[rule_id]:
            changes.append(("definition", rule_id, rule))
    changes.extend(("definition", rule_id, None) for rule_id in before.rules if rule_id not in after.rules)
    for rule_id in {**before.states, **after.states}:
        state = after.states.get(rule_id, RuleState())
        if before.states.get(rule_id, RuleState()) != state:
            changes.append(("state", rule_id, state))
    return changes


class _Connection:
    """One connection to the worker."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def __aenter__(self) -> "_Connection":
        self._reader, self._writer = await asyncio.open_unix_connection(self._socket, limit=LONGEST_LINE)
        try:
            # First of all: who is turned away is told why here, and can say nothing any more.
            await self.line("hello")
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()

    def send(self, request: Dict[str, Any]) -> None:
        self._writer.write(json.dumps(request).encode() + b"\n")

    async def line(self, wanted: Optional[str] = None) -> Dict[str, Any]:
        """The next line, or the next of the wanted type. Half a line at the end is none."""
        while True:
            try:
                raw = await self._reader.readline()
                if not raw.endswith(b"\n"):
                    raise _Lost("the worker closed the connection")
                line: Dict[str, Any] = json.loads(raw)
                kind = line["type"]
            except (ValueError, KeyError, TypeError):
                raise _Lost("what came is not the stream's protocol") from None
            if kind == "error":
                raise (RuleStoreError if line["code"] in FINAL else _Lost)(line["message"])
            if kind == "hello" and line["protocol"] != PROTOCOL:
                raise RuleStoreError(f"the worker speaks version {line['protocol']}, this program {PROTOCOL}")
            if wanted in (None, kind):
                return line

    async def snapshot(self) -> Tuple[_Known, Dict[str, CompiledRule], Dict[str, Any]]:
        """Reads a snapshot that has begun to its end; one that begins inside of it takes its place."""
        known = _Known()
        rules: Dict[str, CompiledRule] = {}
        while True:
            line = await self.line()
            kind = line["type"]
            if kind == "snapshot_begin":
                known, rules = _Known(), {}
            elif kind == "rule":
                rule = known.put_rule(line)
                rules[rule.rule_id] = rule
            elif kind == "state":
                known.put_state(line["rule_id"], RuleState.from_json(line["new_value"]))
            elif kind == "snapshot_end":
                if line["digest"] != known.digest():
                    raise _Lost("the snapshot is not what the worker has")
                return known, rules, {"epoch": line["epoch"], "seq": line["seq"]}


async def _pause(error: Exception, wait: float) -> float:
    """Waits before the next connection, and returns how long to wait after that one."""
    log.log(logging.WARNING if wait == FIRST_WAIT else logging.DEBUG, "%s; connecting again", error)
    await asyncio.sleep(wait * random.uniform(0.5, 1.0))
    return min(wait * 2, LONGEST_WAIT)


def _item(*fields: Optional[str]) -> int:
    written = b""
    for text in fields:
        raw = b"" if text is None else text.encode()
        written += b"~" if text is None else b"%d:%s," % (len(raw), raw)
    return int.from_bytes(hashlib.sha256(written).digest(), "big")


def _time(text: Optional[str]) -> Optional[datetime]:
    if text is None:
        return None
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


def _text(time: Optional[datetime]) -> Optional[str]:
    if time is None:
        return None
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _main(socket: str) -> None:
    store = RuleStore(socket)
    print(f"{len(await store.load_compiled())} rules", flush=True)
    async for change_kind, rule_id, new_value in store.subscribe_changes():
        print(change_kind, rule_id, new_value, flush=True)


if __name__ == "__main__":
    import sys

    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(*sys.argv[1:]))
