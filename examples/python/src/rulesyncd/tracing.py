"""A span for each change, where the program has OpenTelemetry."""

from contextlib import AbstractContextManager, nullcontext

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:

    def change_span(
        rule_id: str, change_kind: str, seq: int, traceparent: str | None
    ) -> AbstractContextManager[object]:
        """Record nothing."""
        del rule_id, change_kind, seq, traceparent
        return nullcontext()

else:
    _PROPAGATOR = TraceContextTextMapPropagator()

    def change_span(
        rule_id: str, change_kind: str, seq: int, traceparent: str | None
    ) -> AbstractContextManager[object]:
        """Record that a change was applied, in the trace in which it was written."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        return trace.get_tracer("rulesyncd").start_as_current_span(
            "ttp.rule.apply",
            context=_PROPAGATOR.extract(carrier),
            kind=trace.SpanKind.CONSUMER,
            attributes={"rule_id": rule_id, "change_kind": change_kind, "seq": seq},
        )
