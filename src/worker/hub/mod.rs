//! The one place where the tail writes and subscribers read.
//!
//! A look is taken in and numbered under one lock, so no subscriber sees half of it. The lock is
//! held for moments and never across a wait. The tail alone writes.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{SharedClock, Timestamp};
use crate::rule::{Catalogue, CatalogueDigest, Look, Quarantined, RuleChange, RuleState, Seen, Table};
use crate::store::Known;
use crate::wire::{Cursor, Epoch, Health, SnapshotReason};
use crate::worker::journal::{EncodedChange, Journal};
use crate::worker::snapshot::{Filter, Snapshot};
use crate::worker::trace::TailTrace;

/// What the journal's lines may take together, whatever `journal_length` says.
const JOURNAL_BYTES: usize = 64 * 1024 * 1024;

/// How many snapshots may be read at once; who still reads an older one begins anew.
const SNAPSHOTS: usize = 16;

/// What is known, what was told of it, and how the database is.
#[derive(Debug)]
pub(in crate::worker) struct Hub {
    pub(in crate::worker) epoch: Epoch,
    pub(in crate::worker) clock: SharedClock,
    inner: Mutex<Inner>,
    news: watch::Sender<News>,
    /// How many changes a subscriber may be behind.
    queue: u64,
}

/// What subscribers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct News {
    /// Whether there is anything to serve.
    pub(in crate::worker) loaded: bool,
    /// The newest change.
    pub(in crate::worker) seq: u64,
}

#[derive(Debug)]
struct Inner {
    catalogue: Catalogue,
    journal: Journal,
    loaded: bool,
    state: DatabaseState,
    /// Every snapshot that someone may still read, oldest first.
    snapshots: VecDeque<Weak<Snapshot>>,
}

/// How the database is, as far as the tail knows.
#[derive(Debug, Clone)]
pub(in crate::worker) struct DatabaseState {
    pub(in crate::worker) up: bool,
    /// Since when it is up or down.
    pub(in crate::worker) since: Timestamp,
    pub(in crate::worker) last_error: Option<String>,
    /// The last moment at which the catalogue was the database's: by the clock, and how long it
    /// was already over then.
    fresh: Option<(Instant, Duration)>,
}

/// What a look brought.
#[derive(Debug)]
pub(in crate::worker) struct Heard {
    /// The changes; numbered from `first_seq` unless `first_load`.
    pub(in crate::worker) changes: Vec<RuleChange>,
    pub(in crate::worker) first_seq: u64,
    /// Whether there was nothing to serve before: the changes are then no changes to anyone.
    pub(in crate::worker) first_load: bool,
}

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
    pub(in crate::worker) fn new(clock: SharedClock, journal_length: usize, queue: usize) -> Self {
        let now = clock.now();
        let inner = Inner {
            catalogue: Catalogue::default(),
            journal: Journal::new(journal_length, JOURNAL_BYTES),
            loaded: false,
            state: DatabaseState { up: false, since: now, last_error: None, fresh: None },
            snapshots: VecDeque::new(),
        };
        Self {
            epoch: Epoch::starting(now),
            clock,
            inner: Mutex::new(inner),
            news: watch::Sender::new(News { loaded: false, seq: 0 }),
            queue: queue.max(1) as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every change from now on.
    pub(in crate::worker) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    // What the tail writes.

    /// Takes in what was known before this run; `age` is how old it is.
    pub(in crate::worker) fn restore(&self, look: Look, age: Duration) {
        let mut inner = self.lock();
        inner.catalogue.apply(look);
        inner.loaded = true;
        inner.state.fresh = Some((Instant::now(), age));
        drop(inner);
        self.announce();
    }

    /// Takes in a look and numbers what it changed.
    pub(in crate::worker) fn apply(&self, look: Look, trace: &mut TailTrace) -> Heard {
        let now = self.clock.now();
        let mut inner = self.lock();
        let changes = inner.catalogue.apply(look);
        let first_load = !std::mem::replace(&mut inner.loaded, true);
        let heard = if first_load {
            Heard { changes, first_seq: 0, first_load }
        } else {
            trace.publish(&changes, inner.journal.newest() + 1);
            inner.number(changes, now, trace)
        };
        inner.state.fresh = Some((Instant::now(), Duration::ZERO));
        drop(inner);
        self.announce();
        heard
    }

    /// Ends states whose end has come at `now`, by the database's clock.
    pub(in crate::worker) fn expire(&self, now: Timestamp) -> Heard {
        let mut inner = self.lock();
        let changes = inner.catalogue.expire(now);
        let heard = inner.number(changes, self.clock.now(), &TailTrace::default());
        drop(inner);
        self.announce();
        heard
    }

    /// Notes whether the database answers. Returns since when it had been the other way, where
    /// this is a turn.
    pub(in crate::worker) fn database(&self, result: Result<(), String>) -> Option<Timestamp> {
        let now = self.clock.now();
        let state = &mut self.lock().state;
        let turned = (state.up != result.is_ok()).then_some(state.since);
        if turned.is_some() {
            state.up = result.is_ok();
            state.since = now;
        }
        if let Err(error) = result {
            state.last_error = Some(error);
        }
        turned
    }

    fn announce(&self) {
        let inner = self.lock();
        let news = News { loaded: inner.loaded, seq: inner.journal.newest() };
        drop(inner);
        self.news.send_if_modified(|old| std::mem::replace(old, news) != news);
    }

    // What subscribers read.

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
            stale_for: inner.state.stale_for(self.clock.now()),
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

    /// A snapshot for a subscriber that did not keep up.
    pub(in crate::worker) fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot(self.queue / 4)
    }

    /// The rows that take no part.
    pub(in crate::worker) fn quarantined(&self) -> Vec<Quarantined> {
        self.lock().catalogue.quarantined().collect()
    }
}

impl Inner {
    fn number(&mut self, changes: Vec<RuleChange>, now: Timestamp, trace: &TailTrace) -> Heard {
        let first_seq = self.journal.newest() + 1;
        self.journal.append(&changes, now, |index| trace.traceparent(index));
        Heard { changes, first_seq, first_load: false }
    }

    /// A snapshot that is at most `reuse` changes old, so that many who come one after the other
    /// share one.
    fn snapshot(&mut self, reuse: u64) -> Arc<Snapshot> {
        let newest = self.journal.newest();
        let oldest = newest.saturating_sub(reuse).max(self.journal.reaches_back_to());
        let last = self.snapshots.back().and_then(Weak::upgrade);
        if let Some(snapshot) = last.filter(|snapshot| snapshot.seq >= oldest) {
            return snapshot;
        }
        let snapshot = Arc::new(Snapshot::of(&self.catalogue, newest));
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        self.snapshots.push_back(Arc::downgrade(&snapshot));
        while self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
        snapshot
    }
}

impl DatabaseState {
    fn stale_for(&self, now: Timestamp) -> Duration {
        match self.fresh {
            _ if self.up => Duration::ZERO,
            Some((at, age)) => at.elapsed() + age,
            None => now.since(self.since),
        }
    }
}

/// The tail asks what is known while it looks; nobody else writes meanwhile.
impl Known for Hub {
    fn count(&self, table: Table) -> u64 {
        self.lock().catalogue.count(table)
    }

    fn seen(&self, table: Table, key: &str) -> Option<Seen> {
        self.lock().catalogue.seen(table, key)
    }
}
