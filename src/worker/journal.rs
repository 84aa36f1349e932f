//! The numbered ring of changes from which subscribers are served.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::rule::{ChangeKind, RuleChange, RuleId};
use crate::telemetry::trace::Traceparent;
use crate::wire::encode;

/// About how many bytes of lines stand together.
const BLOCK: usize = 64 * 1024;

/// One change as the line that every subscriber gets: written once, shared by all.
#[derive(Debug)]
pub(super) struct EncodedChange {
    /// Its number.
    pub seq: u64,
    /// What changed, for filters.
    pub kind: ChangeKind,
    /// Whose, for filters.
    pub rule_id: RuleId,
    /// Its line with its LF.
    pub line: Piece,
}

/// Lines as they go out. Those of changes that came together stand together in memory, so that
/// they can go out in one piece.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    block: Arc<[u8]>,
    range: Range<usize>,
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }

    /// These bytes, by themselves where they are a small part of what is held for them.
    pub(super) fn alone(self) -> Self {
        if self.range.len() >= self.block.len() / 2 {
            return self;
        }
        Self { range: 0..self.range.len(), block: self.bytes().into() }
    }

    /// Takes in the line that stands right behind; `false` where another one does.
    pub(super) fn join(&mut self, next: &Self) -> bool {
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

    /// Numbers changes and keeps them; `traceparent` tells of each by its position.
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
                    let line = Piece { block: Arc::clone(&block), range: line };
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

    /// The changes after `cursor` in their order; `None` when the journal does not reach back to
    /// it, or has not come to it.
    pub(super) fn after(&self, cursor: u64) -> Option<impl Iterator<Item = &Arc<EncodedChange>>> {
        let first = cursor.checked_sub(self.reaches_back_to()).filter(|_| cursor <= self.newest)?;
        Some(self.changes.range(usize::try_from(first).ok()?..))
    }
}
