"""A span for each change, in the trace of the edit."""

import pytest

from rulesyncd.tracing import change_span
from swarm import Store, Swarm, take

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed here")
export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_each_change_is_a_span_that_continues_the_lines_trace(
    store: Store, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415

    exporter = export.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
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
    with change_span("R1", "state", 7, f"00-{TRACE}-{PARENT}-01"):
        pass
    last = exporter.get_finished_spans()[-1]
    assert (f"{last.context.trace_id:032x}", f"{last.parent.span_id:016x}") == (TRACE, PARENT)
    with change_span("R1", "state", 8, "not a trace context"):
        pass
    assert exporter.get_finished_spans()[-1].parent is None
