//! The numbered ring of changes from which subscribers are served.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::rule::{ChangeKind, RuleChange, RuleId};
use crate::telemetry::trace::Traceparent;
use crate::wire::encode;

/// One change as the line that every subscriber gets: written once, shared by all.
#[derive(Debug)]
pub(super) struct EncodedChange {
    /// Its number.
    pub seq: u64,
    /// What changed, for filters.
    pub kind: ChangeKind,
    /// Whose, for filters.
    pub rule_id: RuleId,
    /// The line with its LF.
    pub line: Box<[u8]>,
}

/// The newest changes of an epoch, bounded in number and in bytes.
#[derive(Debug)]
pub(super) struct Journal {
    changes: VecDeque<Arc<EncodedChange>>,
    newest: u64,
    bytes: usize,
    max_length: usize,
    max_bytes: usize,
}

impl Journal {
    /// An empty journal that keeps at most `max_length` changes of together `max_bytes` bytes, and
    /// the newest one whatever its size.
    pub(super) const fn new(max_length: usize, max_bytes: usize) -> Self {
        Self { changes: VecDeque::new(), newest: 0, bytes: 0, max_length, max_bytes }
    }

    /// The number of the newest change; 0 before the first.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// The smallest cursor that can be resumed.
    pub(super) fn reaches_back_to(&self) -> u64 {
        self.newest - self.changes.len() as u64
    }

    /// What the lines take together, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Numbers a change and keeps it.
    pub(super) fn append(
        &mut self,
        change: &RuleChange,
        emitted_at: Timestamp,
        traceparent: Option<&Traceparent>,
    ) -> &Arc<EncodedChange> {
        self.newest += 1;
        let line = encode::change_line(self.newest, change, emitted_at, traceparent);
        self.bytes += line.len();
        while self.changes.len() >= self.max_length.max(1)
            || (self.bytes > self.max_bytes && !self.changes.is_empty())
        {
            self.bytes -= self.changes.pop_front().map_or(0, |old| old.line.len());
        }
        let encoded =
            EncodedChange { seq: self.newest, kind: change.kind(), rule_id: change.rule_id().clone(), line };
        self.changes.push_back(Arc::new(encoded));
        &self.changes[self.changes.len() - 1]
    }

    /// The changes after `cursor` in their order; `None` when the journal does not reach back to
    /// it, or has not come to it.
    pub(super) fn after(&self, cursor: u64) -> Option<impl Iterator<Item = &Arc<EncodedChange>>> {
        let first = cursor.checked_sub(self.reaches_back_to()).filter(|_| cursor <= self.newest)?;
        Some(self.changes.range(usize::try_from(first).ok()?..))
    }
}
