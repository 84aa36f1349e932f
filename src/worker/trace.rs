//! The spans of a look that found something.

use crate::clock::Timestamp;
use crate::rule::{Look, RuleChange};
use crate::telemetry::trace::{self, Span, Traceparent};

/// One look on its way to the stream: `ttp.rule.tail`, and in it `ttp.rule.publish` for each
/// change. Empty where no spans are recorded.
#[derive(Debug, Default)]
pub(super) struct TailTrace {
    begun: Option<Timestamp>,
    rows: u64,
    tail: Span,
    changes: Vec<Published>,
}

#[derive(Debug)]
struct Published {
    span: Span,
    traceparent: Option<Traceparent>,
}

impl TailTrace {
    /// A look begins.
    pub(super) fn begin() -> Self {
        Self { begun: trace::now(), ..Self::default() }
    }

    /// The look has ended.
    pub(super) fn found(&mut self, look: &Look) {
        self.rows = look.rows;
    }

    /// These changes are about to be numbered.
    pub(super) fn publish(&mut self, changes: &[RuleChange], first_seq: u64) {
        if self.begun.is_none() || changes.is_empty() {
            return;
        }
        self.tail = Span::root("ttp.rule.tail", self.begun);
        self.tail.set("rows", i64::try_from(self.rows).unwrap_or(i64::MAX));
        self.tail.set("changes", i64::try_from(changes.len()).unwrap_or(i64::MAX));
        let now = trace::now();
        self.changes = (first_seq..)
            .zip(changes)
            .map(|(seq, change)| {
                let mut span = self.tail.child("ttp.rule.publish", now);
                span.set("rule_id", change.rule_id().to_string());
                span.set("change_kind", change.kind().as_str());
                span.set("seq", i64::try_from(seq).unwrap_or(i64::MAX));
                let traceparent = span.traceparent();
                Published { span, traceparent }
            })
            .collect();
    }

    /// What the stream tells of the change at `index`.
    pub(super) fn traceparent(&self, index: usize) -> Option<&Traceparent> {
        self.changes.get(index)?.traceparent.as_ref()
    }

    /// The trace's id for the log.
    pub(super) fn trace_id(&self) -> Option<String> {
        self.tail.trace_id()
    }

    /// Subscribers can hear of every change.
    pub(super) fn end(self) {
        let now = trace::now();
        self.changes.into_iter().for_each(|change| change.span.end(now));
        self.tail.end(now);
    }
}
