"""What can go wrong."""


class RuleStoreError(Exception):
    """A call failed, and its message says why and what to do.

    >>> import asyncio
    >>> from rulesyncd import RuleStore
    >>> async def main() -> None:
    ...     async with RuleStore("/run/nobody-listens-here.sock") as store:
    ...         await store.load_compiled(timeout=0.1)
    >>> asyncio.run(main())
    Traceback (most recent call last):
        ...
    rulesyncd.errors.RuleStoreError: no worker answered on /run/nobody-listens-here.sock within 0.1 s...
    """


class ConnectionLostError(Exception):
    """The connection broke, or the peer does not keep to the protocol: another one may work."""
