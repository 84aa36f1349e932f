//! The spans of a changed file on its way to the table.

use crate::clock::Timestamp;
use crate::directory::{ScannedFile, Steps};
use crate::rule::plan::Write;
use crate::rule::{ChangeKind, RuleHeader};
use crate::store::TraceContextRow;
use crate::telemetry::trace::{self, Span};

/// `ttp.rule.ingest` of one file, and what is inside it. Empty where no spans are recorded.
#[derive(Debug)]
pub(super) struct Ingest(Span);

/// When a transaction's parts began and ended; `None` where no spans are recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    pub(super) begun: Option<Timestamp>,
    /// The rows were written; what follows makes them known.
    pub(super) written: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
}

impl Ingest {
    /// A file that was read.
    pub(super) fn of(source_path: &str, scanned: Option<&ScannedFile>) -> Self {
        let steps = scanned.and_then(|scanned| scanned.steps);
        let ingest = Self::begin(source_path, steps.map(|steps| steps.begun).or_else(trace::now));
        if let Some(Steps { begun, parsed, ended }) = steps {
            let mut parse = ingest.0.child("ttp.rule.parse", Some(begun));
            if parsed.is_none() {
                parse.fail();
            }
            parse.end(parsed.or(Some(ended)));
            if let Some(parsed) = parsed {
                let mut validate = ingest.0.child("ttp.rule.validate", Some(parsed));
                if scanned.is_some_and(|scanned| scanned.outcome.is_err()) {
                    validate.fail();
                }
                validate.end(Some(ended));
            }
        }
        ingest
    }

    /// A file whose row the plan writes.
    pub(super) fn of_write(write: &Write, scanned: Option<&ScannedFile>) -> Self {
        let mut ingest = Self::of(&write.rule.source_path, scanned);
        ingest.0.set("rule_id", write.rule.rule_id.to_string());
        ingest.0.set("rule_version", write.rule.rule_version);
        ingest
    }

    /// A file that was removed.
    pub(super) fn of_delete(delete: &RuleHeader) -> Self {
        let mut ingest = Self::begin(&delete.source_path, trace::now());
        ingest.0.set("rule_id", delete.rule_id.clone());
        ingest
    }

    fn begin(source_path: &str, begun: Option<Timestamp>) -> Self {
        let mut span = Span::root("ttp.rule.ingest", begun);
        span.set("source_path", source_path.to_owned());
        Self(span)
    }

    /// The trace context that the workers continue.
    pub(super) fn trace_context(&self, write: &Write) -> Option<TraceContextRow> {
        Some(TraceContextRow {
            rule_id: write.rule.rule_id.to_string(),
            change_kind: ChangeKind::Definition,
            content: write.rule.content_sha256,
            traceparent: self.0.traceparent()?,
        })
    }

    /// The trace's id for the log.
    pub(super) fn trace_id(&self) -> Option<String> {
        self.0.trace_id()
    }

    /// The file is invalid.
    pub(super) fn rejected(mut self) {
        self.0.set("outcome", "rejected");
        self.0.fail();
        self.0.end(trace::now());
    }

    /// The row was written or deleted, in a transaction that it may share with others.
    pub(super) fn done(mut self, outcome: &'static str, transaction: Transaction) {
        let Transaction { begun, written, ended } = transaction;
        self.0.child("ttp.store.write_rule", begun).end(written);
        self.0.child("ttp.rule.publish", written).end(ended);
        self.0.set("outcome", outcome);
        self.0.end(ended);
    }

    /// The database rejected the row, or the transaction failed.
    pub(super) fn failed(mut self, outcome: &'static str, transaction: Transaction) {
        let mut write = self.0.child("ttp.store.write_rule", transaction.begun);
        write.fail();
        write.end(transaction.ended);
        self.0.set("outcome", outcome);
        self.0.fail();
        self.0.end(transaction.ended);
    }
}
