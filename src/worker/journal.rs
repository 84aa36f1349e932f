//! The numbered ring of changes from which subscribers are served.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::rule::{ChangeKind, RuleChange, RuleId};
use crate::telemetry::trace::Traceparent;
use crate::wire::encode;

/// The size of a block of lines in bytes, about.
const BLOCK: usize = 64 * 1024;

/// One change as the line that every subscriber gets: encoded once, shared by all.
#[derive(Debug)]
pub(super) struct EncodedChange {
    pub(crate) seq: u64,
    /// For filters.
    pub(crate) kind: ChangeKind,
    /// For filters.
    pub(crate) rule_id: RuleId,
    /// The encoded line with its LF.
    pub(crate) line: SharedLines,
}

/// Consecutive lines in a block of memory that all subscribers share. The lines of changes that came together
/// are next to each other, so that one write can send them.
#[derive(Debug, Clone)]
pub(super) struct SharedLines {
    block: Arc<[u8]>,
    range: Range<usize>,
}

impl SharedLines {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }

    /// A copy of these lines if they are a small part of their block, so that the block can be freed.
    pub(super) fn detach_if_small(self) -> Self {
        if self.range.len() >= self.block.len() / 2 {
            return self;
        }
        Self { range: 0..self.range.len(), block: self.bytes().into() }
    }

    /// Appends `next` if it directly follows these lines in their block. Returns whether it does.
    pub(super) fn try_extend(&mut self, next: &Self) -> bool {
        let follows = Arc::ptr_eq(&self.block, &next.block) && self.range.end == next.range.start;
        if follows {
            self.range.end = next.range.end;
        }
        follows
    }
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
    /// An empty journal that keeps at most `max_length` changes and `max_bytes` bytes, but always the newest
    /// change.
    pub(super) const fn new(max_length: usize, max_bytes: usize) -> Self {
        Self { changes: VecDeque::new(), newest: 0, bytes: 0, max_length, max_bytes }
    }

    /// The number of the newest change; 0 before the first.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// The smallest cursor from which a subscriber can resume.
    pub(super) fn reaches_back_to(&self) -> u64 {
        self.newest - self.changes.len() as u64
    }

    /// The size of all lines in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Numbers the changes and keeps their lines; `traceparent` gives the trace context of the change at an
    /// index.
    pub(super) fn append<'t>(
        &mut self,
        changes: &[RuleChange],
        emitted_at: Timestamp,
        traceparent: impl Fn(usize) -> Option<&'t Traceparent>,
    ) {
        let (mut block, mut lines) = (Vec::new(), Vec::new());
        for (index, change) in changes.iter().enumerate() {
            self.newest += 1;
            let start = block.len();
            encode::change_line(&mut block, self.newest, change, emitted_at, traceparent(index));
            lines.push((self.newest, change, start..block.len()));
            if block.len() >= BLOCK || index + 1 == changes.len() {
                let block: Arc<[u8]> = std::mem::take(&mut block).into();
                for (seq, change, line) in lines.drain(..) {
                    let (kind, rule_id) = (change.kind(), change.rule_id().clone());
                    let line = SharedLines { block: Arc::clone(&block), range: line };
                    self.keep(EncodedChange { seq, kind, rule_id, line });
                }
            }
        }
    }

    fn keep(&mut self, change: EncodedChange) {
        self.bytes += change.line.bytes().len();
        while self.changes.len() >= self.max_length.max(1)
            || (self.bytes > self.max_bytes && !self.changes.is_empty())
        {
            self.bytes -= self.changes.pop_front().map_or(0, |old| old.line.bytes().len());
        }
        self.changes.push_back(Arc::new(change));
    }

    /// The changes after `cursor`, in order; `None` if the journal no longer reaches back to it, or `cursor` is
    /// newer than the newest change.
    pub(super) fn after(&self, cursor: u64) -> Option<impl Iterator<Item = &Arc<EncodedChange>>> {
        let first = cursor.checked_sub(self.reaches_back_to()).filter(|_| cursor <= self.newest)?;
        Some(self.changes.range(usize::try_from(first).ok()?..))
    }
}
