"""Sets states through the operator's command, which finds the database by itself."""

import asyncio
import json
import os

from .errors import ConnectionLostError, RuleStoreError
from .records import RuleState
from .times import format_time
from .wire import get, read_state


class StateCommand:
    """``rulesyncd state``, on the database of the worker that listens on ``socket``."""

    def __init__(self, command: str, socket: str, database_url: str | None) -> None:
        """Name the program; ``database_url`` is for where it cannot find the database."""
        self._command, self._socket, self._database_url = command, socket, database_url

    async def set(self, rule_id: str, state: RuleState) -> RuleState:
        """Set a state, and return it as the database has it."""
        options = {
            "--confidence-max": None if state.confidence_max is None else repr(state.confidence_max),
            "--expires-at": None if state.expires_at is None else format_time(state.expires_at),
            "--reason": state.reason,
            "--set-by": state.set_by,
        }
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        answer = await self._run("set", "--json", "--force", *given, "--", rule_id, state.state)
        try:
            return read_state(get({"state": json.loads(answer)}, "state", dict))
        except (ValueError, ConnectionLostError):
            raise RuleStoreError(
                f"{self._command} does not say which state {rule_id} has: it is no rulesyncd, or not the one "
                "that this package came with"
            ) from None

    async def clear(self, rule_id: str) -> None:
        """Remove the state of a rule, if it has one."""
        await self._run("clear", "--json", "--", rule_id)

    async def _run(self, *arguments: str) -> bytes:
        environment = {**os.environ, "RULESYNCD_SOCKET": self._socket}
        if self._database_url is not None:
            # Not as an argument: every user of the host can read those.
            environment["RULESYNCD_DATABASE_URL"] = self._database_url
        try:
            process = await asyncio.create_subprocess_exec(
                self._command,
                "state",
                *arguments,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise RuleStoreError(
                f"{self._command} cannot be run to set a state ({error.strerror}): install rulesyncd, "
                "or give `command` or `database_url`"
            ) from error
        except ValueError as error:
            raise RuleStoreError(f"the state cannot be passed to {self._command}: {error}") from error
        try:
            out, complaint = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode != 0:
            raise RuleStoreError(complaint.decode(errors="replace").strip())
        return out
