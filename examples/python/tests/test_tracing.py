"""A span for each change, in the trace of the edit."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rulesyncd.tracing import change_span
from swarm import DEADLINE, Store, Swarm, take, words

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed here")
export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give what receives the spans of this process."""
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415

    exporter = export.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_each_change_is_a_span(store: Store, swarm: Swarm, exporter: Any) -> None:
    changes = store.subscribe_changes()
    for version in (2, 3):
        swarm.save("R1", version)
        await take(changes, 1)
    first, second = exporter.get_finished_spans()
    assert first.name == "ttp.rule.apply"
    assert first.attributes == {
        "rule_id": "R1",
        "change_kind": "definition",
        "seq": second.attributes["seq"] - 1,
    }
    # These workers trace nothing, so each is a trace of its own.
    assert first.parent is None


async def test_a_span_continues_the_trace_of_the_worker_that_told_of_the_change(
    swarm: Swarm, exporter: Any
) -> None:
    # Nobody listens there: the spans get lost, and the lines have their trace contexts.
    swarm.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    swarm.save("R1", 1)
    swarm.start_all()
    async with swarm.store() as store, asyncio.timeout(DEADLINE):
        changes = store.subscribe_changes()
        await store.load_compiled()
        reader, writer = await asyncio.open_unix_connection(swarm.socket, limit=1 << 20)
        writer.write(b'{"op":"subscribe"}\n')
        while json.loads(await reader.readline())["type"] != "snapshot_end":
            pass
        swarm.save("R1", 2)
        # The first version may come as a change, too.
        while (line := json.loads(await reader.readline()))["type"] != "change" or line["rule_version"] != 2:
            pass
        writer.close()
        while words(await anext(changes)) != "R1 v2":
            pass
    _, trace_id, parent_id, _ = line["traceparent"].split("-")
    span = exporter.get_finished_spans()[-1]
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace_id, parent_id)


def test_what_is_no_trace_context_begins_a_trace(exporter: Any) -> None:
    with change_span("R1", "state", 7, f"00-{TRACE}-{PARENT}-01"):
        pass
    last = exporter.get_finished_spans()[-1]
    assert (f"{last.context.trace_id:032x}", f"{last.parent.span_id:016x}") == (TRACE, PARENT)
    with change_span("R1", "state", 8, "not a trace context"):
        pass
    assert exporter.get_finished_spans()[-1].parent is None
