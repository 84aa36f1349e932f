"""One connection to the worker's socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .errors import ConnectionLostError, RuleStoreError
from .wire import MAX_LINE, PROTOCOL, Line, get, parse_line

#: How long the worker may take for its first line, in seconds.
HELLO_TIMEOUT = 30.0

#: So much may wait to be sent to a worker that does not read, in bytes.
_MAX_UNSENT = 64 << 10

#: After so many lines in a row, other tasks of the loop have their turn.
_LINES_AT_ONCE = 64

#: Errors after which another connection ends in the same way.
_FINAL = frozenset(
    ("bad_json", "line_too_long", "unknown_op", "bad_request", "already_subscribed", "not_allowed")
)


class Connection:
    """A connection, after the worker's ``hello``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over an open stream."""
        self._reader, self._writer = reader, writer
        self._lines = 0

    @staticmethod
    @asynccontextmanager
    async def open(socket: str) -> AsyncIterator[tuple["Connection", Line]]:
        """Connect, and wait for ``hello``; closes the connection at the end.

        Raises ``OSError`` or ``ConnectionLostError`` if another try may succeed, and ``RuleStoreError`` if
        the worker refuses this client.
        """
        reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_LINE)
        try:
            connection = Connection(reader, writer)
            # Before anything is sent: a client that is refused learns the reason here.
            try:
                async with asyncio.timeout(HELLO_TIMEOUT):
                    hello = await connection.next_line()
            except TimeoutError:
                raise ConnectionLostError("the worker did not say hello") from None
            if hello.kind != "hello":
                raise ConnectionLostError("what listens on the socket is not a rulesyncd worker")
            if (version := get(hello.fields, "protocol", int)) != PROTOCOL:
                raise RuleStoreError(
                    f"the worker speaks version {version} of the protocol, and this package version "
                    f"{PROTOCOL}: install the package that came with the worker"
                )
            yield connection, hello
        finally:
            writer.close()

    def send(self, **request: Any) -> None:
        """Send one request; drops it if the worker does not read."""
        if self._writer.transport.get_write_buffer_size() < _MAX_UNSENT:
            self._writer.write(json.dumps(request).encode() + b"\n")

    async def next_line(self) -> Line:
        """Wait for the next line; raises as ``open`` does."""
        self._lines += 1
        if self._lines % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
        try:
            raw = await self._reader.readline()
        except ValueError:
            raise ConnectionLostError("the worker sent a line without end") from None
        if not raw.endswith(b"\n"):
            raise ConnectionLostError("the worker closed the connection")
        line = parse_line(raw)
        if line.kind == "error" and (code := get(line.fields, "code", str)) != "not_ready":
            message = get(line.fields, "message", str)
            raise (RuleStoreError if code in _FINAL else ConnectionLostError)(message)
        return line
