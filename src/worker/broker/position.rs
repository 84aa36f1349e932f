//! What subscribers read from the broker, and their positions in the journal.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Broker, DatabaseState};
use crate::clock::Timestamp;
use crate::rule::{Catalogue, CatalogueDigest, QuarantineEntry, RuleState};
use crate::wire::{Cursor, Health, SnapshotReason};
use crate::worker::journal::{EncodedChange, Journal};
use crate::worker::snapshot::{Filter, Snapshot};

/// A subscriber's position in the journal.
///
/// The lag rule: when a subscriber resumes or catches up, `target` becomes the number of the newest change of that
/// moment. Until the subscriber has read the changes up to its target, its lag is `newest - target`: the changes that
/// came meanwhile. If the lag exceeds `max_lag`, the subscriber gets a snapshot instead of the changes. A subscriber
/// that has everything and waits has no lag, however many changes the next poll brings.
///
/// For example, with a `max_lag` of 100 a subscriber that resumes 5,000 changes behind gets all of them, if no more than
/// 100 others come while it reads.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Position {
    /// The number of the last change that the subscriber has.
    pub(in crate::worker) cursor: u64,
    /// The number of the newest change when the subscriber last caught up or resumed.
    target: u64,
    /// Whether the subscriber has everything and waits for the next change.
    waiting: bool,
}

impl Position {
    const fn new(cursor: u64, newest: u64) -> Self {
        Self { cursor, target: newest, waiting: false }
    }

    /// Marks that the subscriber has output left to read, so that every further change counts as lag.
    pub(in crate::worker) const fn keep_busy(&mut self) {
        self.waiting = false;
    }
}

/// Where a subscription begins.
#[derive(Debug)]
pub(in crate::worker) enum Start {
    Resume(Position),
    Snapshot(Arc<Snapshot>, SnapshotReason),
}

/// What a subscriber gets next.
#[derive(Debug)]
pub(in crate::worker) enum Next {
    Changes(Vec<Arc<EncodedChange>>),
    CaughtUp,
    Lagged,
}

/// The newest change and the state of the database, for a heartbeat.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct HeadStatus {
    pub(in crate::worker) seq: u64,
    pub(in crate::worker) digest: Option<CatalogueDigest>,
    pub(in crate::worker) database: Health,
    pub(in crate::worker) stale_for: Duration,
}

impl HeadStatus {
    /// How long ago the rules were last current, in milliseconds, rounded up: 0 only while they are.
    pub(in crate::worker) fn stale_for_ms(&self) -> u64 {
        u64::try_from(self.stale_for.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

impl Broker {
    /// Where a subscription with this cursor begins; `None` while nothing is loaded. `exact` asks for a
    /// snapshot of this moment and never for a slightly older one.
    pub(in crate::worker) fn start(&self, cursor: Option<&Cursor>, exact: bool) -> Option<Start> {
        let mut inner = self.lock();
        if !inner.loaded {
            return None;
        }
        let newest = inner.journal.newest();
        let reason = match cursor.filter(|_| !exact) {
            None => SnapshotReason::Initial,
            Some(cursor) if cursor.epoch != self.epoch || cursor.seq > newest => SnapshotReason::EpochChanged,
            Some(cursor) if cursor.seq < inner.journal.reaches_back_to() => SnapshotReason::Compacted,
            Some(cursor) => return Some(Start::Resume(Position::new(cursor.seq, newest))),
        };
        let reuse = if exact { 0 } else { self.max_lag / 4 };
        Some(Start::Snapshot(inner.snapshot(reuse), reason))
    }

    /// The position of a subscriber that has read the snapshot after change `seq`.
    pub(in crate::worker) fn position_after(&self, seq: u64) -> Position {
        Position::new(seq, self.lock().journal.newest())
    }

    /// Whether a subscriber may go on reading the snapshot after change `seq`: at most `max_lag` changes came
    /// since `progress`, the newest change when it last read something.
    pub(in crate::worker) fn snapshot_holds(&self, seq: u64, progress: u64) -> bool {
        let inner = self.lock();
        let oldest = inner.snapshots.front().and_then(Weak::upgrade).map_or(0, |snapshot| snapshot.seq);
        inner.journal.newest() - progress <= self.max_lag
            && seq >= inner.journal.reaches_back_to()
            && seq >= oldest
    }

    /// Whether the subscriber at `position`, which has output left to read, lags too far behind to go on.
    pub(in crate::worker) fn is_overtaken(&self, position: &Position) -> bool {
        let inner = self.lock();
        inner.journal.newest() - position.target > self.max_lag
            || position.cursor < inner.journal.reaches_back_to()
    }

    /// The next changes that pass the filter, at most `count` and about `bytes`.
    pub(in crate::worker) fn next(
        &self,
        position: &mut Position,
        filter: &Filter,
        count: usize,
        bytes: usize,
    ) -> Next {
        let inner = self.lock();
        let newest = inner.journal.newest();
        let lagged = !position.waiting && newest - position.target > self.max_lag;
        let Some(waiting) = inner.journal.after(position.cursor).filter(|_| !lagged) else {
            return Next::Lagged;
        };
        if position.waiting || position.cursor >= position.target {
            position.target = newest;
        }
        let (mut changes, mut size) = (Vec::new(), 0);
        for change in waiting {
            if changes.len() >= count || size >= bytes {
                break;
            }
            position.cursor = change.seq;
            if filter.wants(change) {
                size += change.line.bytes().len();
                changes.push(Arc::clone(change));
            }
        }
        position.waiting = changes.is_empty();
        if position.waiting { Next::CaughtUp } else { Next::Changes(changes) }
    }

    pub(in crate::worker) fn head_status(&self) -> HeadStatus {
        let inner = self.lock();
        HeadStatus {
            seq: inner.journal.newest(),
            digest: inner.loaded.then(|| inner.catalogue.digest()),
            database: if inner.state.up { Health::Up } else { Health::Down },
            stale_for: inner.state.stale_for(self.clock.now()),
        }
    }

    /// The effective state of a rule; `None` while nothing is loaded.
    pub(in crate::worker) fn get_state(&self, rule_id: &str) -> Option<RuleState> {
        let inner = self.lock();
        inner.loaded.then(|| inner.catalogue.state(rule_id))
    }

    /// Calls `read` under the lock, so `read` must be quick.
    pub(in crate::worker) fn inspect<T>(
        &self,
        read: impl FnOnce(&Catalogue, &Journal, &DatabaseState) -> T,
    ) -> T {
        let inner = self.lock();
        read(&inner.catalogue, &inner.journal, &inner.state)
    }

    /// The first `most` of the rules whose deletion is held back, how many there are, and since when.
    pub(in crate::worker) fn held_back(&self, most: usize) -> (Vec<String>, usize, Option<Timestamp>) {
        let inner = self.lock();
        let held = inner.catalogue.held_back();
        let first = held.iter().take(most).map(ToString::to_string).collect();
        (first, held.len(), inner.guard.since.map(|(_, since)| since))
    }

    /// A snapshot for a subscriber that did not keep up.
    pub(in crate::worker) fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot(self.max_lag / 4)
    }

    /// The first `most` of the rows that are quarantined, and how many there are.
    pub(in crate::worker) fn some_quarantined(&self, most: usize) -> (Vec<QuarantineEntry>, usize) {
        let inner = self.lock();
        let table = inner.table();
        (table.quarantined().take(most).collect(), table.quarantined_count())
    }

    /// Why this rule, whose state was the default after the last poll, is enabled. Not every way to that is an operator
    /// who cleared a state.
    pub(in crate::worker) fn why_enabled(&self, rule_id: &str) -> String {
        let inner = self.lock();
        if let Some(reason) = inner.table().quarantined_state(rule_id) {
            return format!("the row of its state is quarantined: {reason}");
        }
        match inner.gate.as_ref().and_then(|keeper| keeper.gate.without_effect(rule_id)) {
            Some(reason) => format!("its state has no effect any more: {reason}"),
            None => "its state was cleared".to_owned(),
        }
    }

    /// The rows that are quarantined.
    pub(in crate::worker) fn quarantined(&self) -> Vec<QuarantineEntry> {
        self.lock().table().quarantined().collect()
    }
}
