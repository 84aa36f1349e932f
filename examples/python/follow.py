"""Keep a matcher's patterns equal to this host's rules: ``python3 follow.py [SOCKET]``.

Needs the package: ``pip install ./examples/python``.
"""

import asyncio
import contextlib
import logging
import sys

from rulesyncd import CompiledRule, RuleStore


class Matcher:
    """Stands for what a service does with the rules."""

    def __init__(self) -> None:
        """Begin without rules."""
        self.rules: dict[str, CompiledRule] = {}

    def use(self, rule: CompiledRule) -> None:
        """Take a rule in, in place of its predecessor; leave it out while it is disabled."""
        self.rules.pop(rule.rule_id, None)
        if rule.state.state != "disabled":
            self.rules[rule.rule_id] = rule


async def main(*arguments: str) -> None:
    """Follow the rules until the program is interrupted."""
    matcher = Matcher()
    async with RuleStore(*arguments) as store:
        # First subscribe, then load: so no change falls between the two.
        changes = store.subscribe_changes()
        for rule in await store.load_compiled(timeout=60):
            matcher.use(rule)
        print("matching", ", ".join(sorted(matcher.rules)) or "nothing", flush=True)
        async for change_kind, rule_id, _ in changes:
            # The copy has the change already, and with it the rule and its state together.
            current = store.rules.get(rule_id)
            if current is None:
                matcher.rules.pop(rule_id, None)
            else:
                matcher.use(current)
            state = "none" if current is None else current.state.state
            print(f"{change_kind} {rule_id}: {state}, {len(matcher.rules)} rules match", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
