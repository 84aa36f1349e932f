"""Fixtures, and what a worker on a directory cannot do."""

from collections.abc import AsyncIterator, Iterator

import pytest

from rulesyncd import RuleStoreError
from swarm import BACKEND, DEADLINE, Store, Swarm, database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect of a directory that it refuses states: a test that passes nevertheless is an error."""
    if BACKEND == "dir":
        refused = pytest.mark.xfail(
            raises=RuleStoreError, strict=True, reason="a directory has no operator states"
        )
        for item in items:
            if item.get_closest_marker("states"):
                item.add_marker(refused)


def pytest_report_header() -> str:
    """Say what the daemons follow."""
    return f"backend: {BACKEND}"


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    """Give daemons that do not run yet."""
    with database() as (path, url):
        swarm = Swarm(path, url)
        try:
            yield swarm
        finally:
            swarm.close()


@pytest.fixture
async def store(swarm: Swarm) -> AsyncIterator[Store]:
    """Give a started store over the rules ``R1`` and ``R2``."""
    swarm.save("R1", 1)
    swarm.save("R2", 1)
    if swarm.has_database:
        swarm.run("sync")
    swarm.start_all()
    async with swarm.store() as store:
        await store.load_compiled(DEADLINE)
        yield store
