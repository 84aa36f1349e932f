//! The spans of a poll that found changes.

use crate::clock::Timestamp;
use crate::rule::{RuleChange, TableDelta};
use crate::store::TraceContextRow;
use crate::telemetry::trace::{self, Span, Traceparent};

/// The spans of one poll: `ttp.rule.tail`, and in it `ttp.rule.publish` for each change. Empty while no spans
/// are recorded.
#[derive(Debug, Default)]
pub(super) struct TailTrace {
    begun: Option<Timestamp>,
    rows: u64,
    /// The trace contexts in which the changes were written.
    contexts: Vec<TraceContextRow>,
    tail: Span,
    changes: Vec<Span>,
}

impl TailTrace {
    /// A poll begins.
    pub(super) fn begin() -> Self {
        Self { begun: trace::now(), ..Self::default() }
    }

    /// The poll has ended.
    pub(super) fn found(&mut self, delta: &TableDelta, contexts: Vec<TraceContextRow>) {
        self.rows = delta.rows;
        self.contexts = contexts;
    }

    /// These changes are about to be numbered. Returns the trace context that subscribers get with each; empty while no
    /// spans are recorded.
    pub(super) fn publish(&mut self, changes: &[RuleChange], first_seq: u64) -> Vec<Option<Traceparent>> {
        if self.begun.is_none() || changes.is_empty() {
            return Vec::new();
        }
        let contexts: Vec<_> = changes.iter().map(|change| self.origin(change)).collect();
        // A poll that found one edit continues its trace; one that found several links to each.
        self.tail = match *contexts {
            [Some(ref only)] => Span::within("ttp.rule.tail", self.begun, only),
            _ => Span::root("ttp.rule.tail", self.begun),
        };
        self.tail.set("rows", i64::try_from(self.rows).unwrap_or(i64::MAX));
        self.tail.set("changes", i64::try_from(changes.len()).unwrap_or(i64::MAX));
        let now = trace::now();
        self.changes = (first_seq..)
            .zip(changes.iter().zip(&contexts))
            .map(|(seq, (change, origin))| {
                let mut span = self.tail.child("ttp.rule.publish", now);
                span.set("rule_id", change.rule_id().to_string());
                span.set("change_kind", change.kind().as_str());
                span.set("seq", i64::try_from(seq).unwrap_or(i64::MAX));
                if let Some(origin) = origin {
                    span.link(origin);
                }
                span
            })
            .collect();
        self.changes.iter().map(Span::traceparent).collect()
    }

    /// The trace context in which the change was written.
    fn origin(&self, change: &RuleChange) -> Option<Traceparent> {
        let content = match change {
            RuleChange::Written { rule, .. } => rule.header.content_sha256,
            RuleChange::State { state, auto_revert: false, .. } => state.fingerprint(),
            RuleChange::Deleted { .. } | RuleChange::State { .. } => return None,
        };
        let is_it = |context: &&TraceContextRow| {
            context.content == content && context.rule_id == change.rule_id().as_str()
        };
        self.contexts.iter().find(is_it).map(|context| context.traceparent.clone())
    }

    /// The trace's id for the log.
    pub(super) fn trace_id(&self) -> Option<String> {
        self.tail.trace_id()
    }

    /// Ends the spans: subscribers can read every change.
    pub(super) fn end(self) {
        let now = trace::now();
        self.changes.into_iter().for_each(|span| span.end(now));
        self.tail.end(now);
    }
}
