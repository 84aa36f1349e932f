//! What subscribers read of the hub.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{DatabaseState, Hub};
use crate::clock::Timestamp;
use crate::rule::{Catalogue, CatalogueDigest, Quarantined, RuleState};
use crate::wire::{Cursor, Health, SnapshotReason};
use crate::worker::journal::{EncodedChange, Journal};
use crate::worker::snapshot::{Filter, Snapshot};

/// A subscriber's place among the changes.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Place {
    /// The last change that it has.
    pub(in crate::worker) cursor: u64,
    /// The newest change when it had last caught up, or resumed. What came after that, while it
    /// was busy with what came before, is how far it is behind.
    target: u64,
    /// It waits for a change: however many come at once, it is not behind.
    waiting: bool,
}

impl Place {
    const fn new(cursor: u64, newest: u64) -> Self {
        Self { cursor, target: newest, waiting: false }
    }

    /// The subscriber is being sent something, of the stream or not: it is behind by what comes now.
    pub(in crate::worker) const fn keep_busy(&mut self) {
        self.waiting = false;
    }
}

/// Where a subscription begins.
#[derive(Debug)]
pub(in crate::worker) enum Start {
    Resume(Place),
    Snapshot(Arc<Snapshot>, SnapshotReason),
}

/// What a subscriber gets next.
#[derive(Debug)]
pub(in crate::worker) enum Next {
    Changes(Vec<Arc<EncodedChange>>),
    CaughtUp,
    Lagged,
}

/// How things stand, for a heartbeat.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Standing {
    pub(in crate::worker) seq: u64,
    pub(in crate::worker) digest: Option<CatalogueDigest>,
    pub(in crate::worker) database: Health,
    pub(in crate::worker) stale_for: Duration,
}

impl Hub {
    /// Where a subscription with this cursor begins; `None` while there is nothing to serve.
    /// `exact` asks for a snapshot after the newest change, not for one of a moment ago.
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
            Some(cursor) => return Some(Start::Resume(Place::new(cursor.seq, newest))),
        };
        let reuse = if exact { 0 } else { self.queue / 4 };
        Some(Start::Snapshot(inner.snapshot(reuse), reason))
    }

    /// The place of a subscriber that has read the snapshot after change `seq`.
    pub(in crate::worker) fn place_after(&self, seq: u64) -> Place {
        Place::new(seq, self.lock().journal.newest())
    }

    /// Whether a reader of the snapshot after change `seq` may go on with it: it was not
    /// overtaken by too many changes since `progress`, the newest change when it last got on.
    pub(in crate::worker) fn snapshot_holds(&self, seq: u64, progress: u64) -> bool {
        let inner = self.lock();
        let oldest = inner.snapshots.front().and_then(Weak::upgrade).map_or(0, |snapshot| snapshot.seq);
        inner.journal.newest() - progress <= self.queue
            && seq >= inner.journal.reaches_back_to()
            && seq >= oldest
    }

    /// Whether the subscriber at `place`, which is being sent something, is too far behind to go on from there.
    pub(in crate::worker) fn is_overtaken(&self, place: &Place) -> bool {
        let inner = self.lock();
        inner.journal.newest() - place.target > self.queue || place.cursor < inner.journal.reaches_back_to()
    }

    /// The next changes that pass the filter, at most `count` and about `bytes`.
    pub(in crate::worker) fn next(
        &self,
        place: &mut Place,
        filter: &Filter,
        count: usize,
        bytes: usize,
    ) -> Next {
        let inner = self.lock();
        let newest = inner.journal.newest();
        let lagged = !place.waiting && newest - place.target > self.queue;
        let Some(waiting) = inner.journal.after(place.cursor).filter(|_| !lagged) else {
            return Next::Lagged;
        };
        if place.waiting || place.cursor >= place.target {
            place.target = newest;
        }
        let (mut changes, mut size) = (Vec::new(), 0);
        for change in waiting {
            if changes.len() >= count || size >= bytes {
                break;
            }
            place.cursor = change.seq;
            if filter.wants(change) {
                size += change.line.bytes().len();
                changes.push(Arc::clone(change));
            }
        }
        place.waiting = changes.is_empty();
        if place.waiting { Next::CaughtUp } else { Next::Changes(changes) }
    }

    /// How things stand.
    pub(in crate::worker) fn standing(&self) -> Standing {
        let inner = self.lock();
        Standing {
            seq: inner.journal.newest(),
            digest: inner.loaded.then(|| inner.catalogue.digest()),
            database: if inner.state.up { Health::Up } else { Health::Down },
            stale_for: inner.state.stale_for(self.clock.now(), self.fresh_for),
        }
    }

    /// The state in force; `None` while nothing is loaded.
    pub(in crate::worker) fn get_state(&self, rule_id: &str) -> Option<RuleState> {
        let inner = self.lock();
        inner.loaded.then(|| inner.catalogue.state(rule_id))
    }

    /// Reads what is known under the lock; to be quick.
    pub(in crate::worker) fn inspect<T>(
        &self,
        read: impl FnOnce(&Catalogue, &Journal, &DatabaseState) -> T,
    ) -> T {
        let inner = self.lock();
        read(&inner.catalogue, &inner.journal, &inner.state)
    }

    /// The rules whose deletion is held back, and since when.
    pub(in crate::worker) fn held_back(&self) -> (Vec<String>, Option<Timestamp>) {
        let inner = self.lock();
        let held = inner.catalogue.held_back().iter().map(ToString::to_string).collect();
        (held, inner.guard.since.map(|(_, since)| since))
    }

    /// A snapshot for a subscriber that did not keep up.
    pub(in crate::worker) fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot(self.queue / 4)
    }

    /// The rows that take no part.
    pub(in crate::worker) fn quarantined(&self) -> Vec<Quarantined> {
        self.lock().catalogue.quarantined().collect()
    }
}
