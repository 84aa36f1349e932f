"""One consumer's changes, as an asynchronous iterator."""

import asyncio
from typing import Any, Generic

from .feed import Feed
from .follower import Follower
from .records import ChangeT, RecordTypes


class Subscription(Generic[ChangeT]):
    """Every change since the subscription began, one at a time and each once.

    ``anext`` may be cancelled, as ``asyncio.wait_for`` does, and a consumer may raise and go on with the
    same iterator: neither loses a change, and neither ends the subscription. Where a subscription ends,
    by ``aclose`` or because nobody holds it any more, the next subscription begins with the changes that
    this one did not hand out.

    >>> import asyncio
    >>> async def main() -> None:
    ...     async with RuleStore(SOCKET) as rules:
    ...         changes = rules.subscribe_changes()
    ...         await rules.set_state("R1", RuleState("disabled"))
    ...         print((await anext(changes)).new_value.state)
    >>> asyncio.run(main())
    disabled
    """

    def __init__(self, follower: Follower, types: RecordTypes[Any, Any, ChangeT]) -> None:
        """Subscribe here and now; ``RuleStore.subscribe_changes`` does this."""
        self._follower, self._types = follower, types
        self._feed: Feed | None = follower.open_feed()
        self._ready = asyncio.Event()
        self._feed.wake = self._ready.set

    def __aiter__(self) -> "Subscription[ChangeT]":
        """Return this subscription."""
        return self

    async def __anext__(self) -> ChangeT:
        """Wait for the next change.

        Raises ``RuleStoreError`` once each time that the worker refuses this program, and
        ``StopAsyncIteration`` after the last change before the store was stopped.
        """
        while (feed := self._feed) is not None:
            # Nothing is awaited between taking a change and handing it out.
            if (change := feed.take()) is not None:
                return self._types.change(change)
            if (error := feed.take_error()) is not None:
                raise error
            if feed.is_ended:
                break
            self._ready.clear()
            await self._ready.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the subscription: whoever waits for its next change gets ``StopAsyncIteration``."""
        self._end()

    def __del__(self) -> None:
        """End the subscription: who leaves a loop by ``break`` or by an exception closes nothing."""
        self._end()

    def _end(self) -> None:
        feed, self._feed = getattr(self, "_feed", None), None
        if feed is not None:
            self._follower.leave_feed(feed)
            self._ready.set()
