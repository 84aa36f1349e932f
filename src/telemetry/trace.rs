//! Spans. Each is created once its work is done, with times that were recorded before, so that a transaction of a
//! thousand rules is a span of each of them.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};

use super::otlp::sdk_tracer;
use crate::clock::{Clock as _, SystemClock, Timestamp};

/// The time by this host's clock; `None`, which makes no span, while none are recorded.
pub(crate) fn now() -> Option<Timestamp> {
    sdk_tracer().map(|_| SystemClock.now())
}

/// A span, or nothing while none are recorded.
#[derive(Debug, Default)]
pub(crate) struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Span {
    /// A span that begins a trace; nothing without `start`.
    pub(crate) fn root(name: &'static str, start: Option<Timestamp>) -> Self {
        Self::start(name, start, &Context::new())
    }

    /// A span within the span that `origin` names, which may be another process's.
    pub(crate) fn within(name: &'static str, start: Option<Timestamp>, origin: &Traceparent) -> Self {
        Self::start(name, start, &Context::new().with_remote_span_context(origin.0.clone()))
    }

    /// Links to the span of another trace that caused this work.
    pub(crate) fn link(&mut self, origin: &Traceparent) {
        if let Some(span) = &mut self.0 {
            span.add_link(origin.0.clone(), Vec::new());
        }
    }

    /// A span within this one; nothing if this is nothing.
    pub(crate) fn child(&self, name: &'static str, start: Option<Timestamp>) -> Self {
        let Some(span) = &self.0 else { return Self(None) };
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        Self::start(name, start, &parent)
    }

    fn start(name: &'static str, start: Option<Timestamp>, parent: &Context) -> Self {
        let (Some(tracer), Some(start)) = (sdk_tracer(), start) else { return Self(None) };
        let mut builder = SpanBuilder::from_name(name).with_start_time(system_time(start));
        builder.span_kind = Some(SpanKind::Internal);
        Self(Some(tracer.build_with_context(builder, parent)))
    }

    /// Sets an attribute: an id or a count, never a text that others wrote.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the work as failed.
    pub(crate) fn fail(&mut self) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(""));
        }
    }

    /// Ends the span.
    pub(crate) fn end(mut self, end: Option<Timestamp>) {
        if let (Some(span), Some(end)) = (&mut self.0, end) {
            span.end_with_timestamp(system_time(end));
        }
    }

    /// The trace's id for the log; `None` if the trace is not recorded.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.traceparent().map(|context| context.0.trace_id().to_string())
    }

    /// The trace context for others that continue this trace; `None` if it is not recorded.
    pub(crate) fn traceparent(&self) -> Option<Traceparent> {
        let context = self.0.as_ref()?.span_context();
        context.is_sampled().then(|| Traceparent(context.clone()))
    }
}

/// A position in a trace, as it is passed to other programs (<https://www.w3.org/TR/trace-context/>).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Traceparent(SpanContext);

impl Traceparent {
    /// Parses the value of the header; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let [version, trace, span, flags] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if version != "00" || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let context = SpanContext::new(
            TraceId::from_hex(trace).ok()?,
            SpanId::from_hex(span).ok()?,
            TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
            true,
            TraceState::default(),
        );
        context.is_valid().then_some(Self(context))
    }
}

impl std::fmt::Display for Traceparent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let context = &self.0;
        write!(f, "00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_reads_its_own_text_back_and_nothing_else() {
        // The example of the recommendation.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Traceparent::parse(text).unwrap().to_string(), text);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_an_export_there_is_no_span_and_no_time_is_taken() {
        assert_eq!(now(), None);
        let mut span = Span::root("ttp.rule.ingest", Some(Timestamp::from_micros(1)));
        span.set("rule_id", "R1");
        assert_eq!((span.trace_id(), span.child("ttp.rule.parse", now()).traceparent()), (None, None));
    }
}
