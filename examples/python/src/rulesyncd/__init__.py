"""Follow the detection rules of this host's rulesyncd worker, and set their states.

>>> import asyncio
>>> from rulesyncd import RuleState, RuleStore
>>> async def main() -> None:
...     async with RuleStore(SOCKET) as store:
...         changes = store.subscribe_changes()
...         rules = {rule.rule_id: rule for rule in await store.load_compiled(timeout=60)}
...         await store.set_state("R1", RuleState("disabled", reason="noisy"))
...         async for kind, rule_id, new_value in changes:
...             print(kind, rule_id, new_value.state, f"one of {len(rules)} rules")
...             break
>>> asyncio.run(main())
state R1 disabled one of 2 rules

Every record goes to the logger ``rulesyncd``. Programs without asyncio use ``rulesyncd.sync``, and
services with records of their own ``RuleStoreAdapter``.
"""

from .adapter import RuleStoreAdapter
from .errors import RuleStoreError
from .follower import Counters
from .records import ChangeKind, CompiledRule, Emit, RuleChange, RuleState
from .store import RuleStore
from .subscription import Subscription
from .wire import Cursor

__all__ = [
    "ChangeKind",
    "CompiledRule",
    "Counters",
    "Cursor",
    "Emit",
    "RuleChange",
    "RuleState",
    "RuleStore",
    "RuleStoreAdapter",
    "RuleStoreError",
    "Subscription",
]
