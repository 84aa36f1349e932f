"""Print this host's rules, and then each change: ``python3 -m rulesyncd [SOCKET]``."""

import asyncio
import contextlib
import logging
import sys

from . import RuleStore


async def _main(*arguments: str) -> None:
    async with RuleStore(*arguments) as store:
        changes = store.subscribe_changes()
        print(len(await store.load_compiled(timeout=None)), "rules", flush=True)
        async for change in changes:
            print(change, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(*sys.argv[1:]))
