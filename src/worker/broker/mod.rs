//! Holds the catalogue and the journal: the tail writes them, subscribers read them.
//!
//! A poll's result is applied and its changes are numbered under one lock, so no subscriber sees half of it.
//! The lock is held briefly and never across an `await`. Only the tail writes.

mod database;
mod guard;
mod index;
mod position;
mod release;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub(in crate::worker) use self::database::DatabaseState;
use self::database::Fresh;
use self::guard::Guard;
pub(in crate::worker) use self::position::{Next, Position, Start};
use self::release::Gatekeeper;
use crate::clock::{SharedClock, Timestamp};
use crate::rule::{Catalogue, CatalogueDelta, MasterSilence, RuleChange, RuleId, TableDelta};
use crate::telemetry::trace::Traceparent;
use crate::wire::Epoch;
use crate::worker::cached::CachedManifest;
use crate::worker::journal::Journal;
use crate::worker::snapshot::Snapshot;
use crate::worker::texts::Texts;

/// The most bytes that all lines of the journal take, whatever `journal_length` says.
const JOURNAL_BYTES: usize = 64 * 1024 * 1024;

/// How much later than its interval a poll may end before what is served counts as stale.
const LATE: Duration = Duration::from_millis(500);

/// The most snapshots that subscribers read at once. A reader of an older one starts again with a new one.
const SNAPSHOTS: usize = 16;

/// The catalogue, the journal of its changes, and the state of the database.
#[derive(Debug)]
pub(in crate::worker) struct Broker {
    pub(in crate::worker) epoch: Epoch,
    pub(in crate::worker) clock: SharedClock,
    inner: Mutex<Inner>,
    head: watch::Sender<Head>,
    /// How many changes a subscriber may be behind.
    max_lag: u64,
    /// Where the server takes the writes, what is served becomes stale once the last successful poll ended longer ago than
    /// this.
    fresh_for: Duration,
    /// Where the texts of rules go; `None` without a cache.
    texts: Option<Arc<Texts>>,
    /// Wakes who reports that a subscriber has acknowledged the newest change.
    newest_acknowledged: Notify,
}

/// What wakes up a waiting subscriber when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Head {
    /// Whether rules were loaded, from the database or from the cache.
    pub(in crate::worker) loaded: bool,
    /// The number of the newest change.
    pub(in crate::worker) seq: u64,
    /// Whether the database answers.
    pub(in crate::worker) up: bool,
    /// Whether what is served may differ from the database.
    pub(in crate::worker) stale: bool,
    /// A hash of what is trusted; 0 without trust.
    pub(in crate::worker) trust: u64,
}

#[derive(Debug)]
struct Inner {
    catalogue: Catalogue,
    guard: Guard,
    journal: Journal,
    loaded: bool,
    /// Whether the first rules came from the cache.
    restored: bool,
    /// Whether the catalogue was compared with the database: a catalogue from the cache was not.
    compared: bool,
    /// Whether the next poll reads all rows again.
    reread: bool,
    state: DatabaseState,
    /// Decides what is served; `None` without trust.
    gate: Option<Gatekeeper>,
    /// Every snapshot that a subscriber may still read, oldest first.
    snapshots: VecDeque<Weak<Snapshot>>,
}

/// The changes that the broker made and numbered.
#[derive(Debug)]
pub(in crate::worker) struct AppliedChanges {
    /// Numbered from `first_seq` on, unless this is the first load.
    pub(in crate::worker) changes: Vec<RuleChange>,
    pub(in crate::worker) first_seq: u64,
    /// Whether nothing was loaded before: then no subscriber has seen an earlier state, and the changes are
    /// not in the journal.
    pub(in crate::worker) first_load: bool,
    /// How many deletions are now held back; `None` unless holding back began or ended, or more joined them.
    pub(in crate::worker) held_back: Option<usize>,
    /// Rules whose version fell, with the version before and after.
    pub(in crate::worker) fallen: Vec<(RuleId, i64, i64)>,
}

impl Broker {
    pub(in crate::worker) fn new(clock: SharedClock, journal_length: usize, max_lag: usize) -> Self {
        let now = clock.now();
        let inner = Inner {
            catalogue: Catalogue::default(),
            guard: Guard::none(),
            journal: Journal::new(journal_length, JOURNAL_BYTES),
            loaded: false,
            restored: false,
            compared: false,
            reread: false,
            state: DatabaseState {
                up: false,
                since: now,
                last_error: None,
                version_problem: None,
                report_problem: None,
                master_silent: MasterSilence::default(),
                applied: None,
                fresh: None,
            },
            gate: None,
            snapshots: VecDeque::new(),
        };
        Self {
            epoch: Epoch::starting(now),
            clock,
            inner: Mutex::new(inner),
            head: watch::Sender::new(Head { loaded: false, seq: 0, up: false, stale: true, trust: 0 }),
            max_lag: max_lag.max(1) as u64,
            fresh_for: Duration::MAX,
            texts: None,
            newest_acknowledged: Notify::new(),
        }
    }

    /// Sets how often the database is polled: where the server takes the writes, what is served is stale once a poll is due
    /// and has not ended, whether the database is silent or sends without end.
    pub(in crate::worker) fn polled_every(mut self, poll_interval: Duration) -> Self {
        self.fresh_for = poll_interval.mul_f64(1.1).saturating_add(LATE);
        self
    }

    /// Keeps the texts of rules for a cache.
    pub(in crate::worker) fn with_texts(mut self, texts: Arc<Texts>) -> Self {
        self.texts = Some(texts);
        self
    }

    pub(in crate::worker) const fn texts(&self) -> Option<&Arc<Texts>> {
        self.texts.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that is notified of every later change of the [`Head`].
    pub(in crate::worker) fn watch_head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Serves the catalogue of an earlier run, whose content is `age` old, and returns true, unless the database was read
    /// first. The next poll still reads every row.
    ///
    /// # Errors
    /// A sentence: under trust, it is not exactly a release that verifies.
    pub(in crate::worker) fn restore(
        &self,
        delta: TableDelta,
        manifest: Option<&CachedManifest>,
        age: Duration,
    ) -> Result<bool, String> {
        let mut inner = self.lock();
        if inner.loaded || inner.compared {
            return Ok(false);
        }
        let delta = inner.verify_cached(delta, manifest)?;
        if let Some(texts) = &self.texts {
            texts.remember(delta.rules.iter().flatten());
        }
        inner.catalogue.apply(delta);
        (inner.loaded, inner.restored) = (true, true);
        inner.state.fresh = Some(Fresh::now(age, Duration::ZERO));
        drop(inner);
        self.announce();
        Ok(true)
    }

    /// Whether the first rules came from the cache, so that the first changes may be those of an earlier run.
    pub(in crate::worker) fn is_restored(&self) -> bool {
        self.lock().restored
    }

    /// Applies a poll's result to the catalogue and numbers the changes. `traceparents` gets the changes and the number
    /// of the first, and returns the trace context of each that has one.
    pub(in crate::worker) fn apply(
        &self,
        mut delta: TableDelta,
        traceparents: impl FnOnce(&[RuleChange], u64) -> Vec<Option<Traceparent>>,
    ) -> AppliedChanges {
        let (now, behind) = (self.clock.now(), delta.behind);
        let lasts = self.fresh_for.max(delta.current_for);
        let fresh = || Fresh::now(behind, lasts);
        let mut inner = self.lock();
        if let Some(keeper) = &mut inner.gate {
            keeper.is_served();
        }
        inner.complete(&mut delta);
        if inner.gate.as_ref().is_some_and(|keeper| !keeper.gate.is_open()) {
            // Nothing is verified yet, so nothing is loaded.
            let first_seq = inner.journal.newest() + 1;
            inner.state.fresh = Some(fresh());
            drop(inner);
            self.announce();
            let (changes, fallen) = (Vec::new(), Vec::new());
            return AppliedChanges { changes, first_seq, first_load: false, held_back: None, fallen };
        }
        let (is_signed, limit) = (inner.gate.is_some(), inner.guard.limit());
        // The signed list says what is gone.
        let is_too_many = move |deletions, rows| !is_signed && limit(deletions, rows);
        let CatalogueDelta { changes, fallen, holds_more } =
            inner.catalogue.apply_guarded(delta, is_too_many);
        let held = inner.catalogue.held_back().len();
        let turned = inner.guard.record(&changes, held, holds_more, now);
        let first_load = !std::mem::replace(&mut inner.loaded, true);
        let mut applied = if first_load {
            AppliedChanges { changes, first_seq: 0, first_load, held_back: None, fallen: Vec::new() }
        } else {
            let traceparents = traceparents(&changes, inner.journal.newest() + 1);
            inner.number(changes, now, &traceparents)
        };
        applied.held_back = turned.then_some(held);
        applied.fallen = fallen;
        inner.state.fresh = Some(fresh());
        drop(inner);
        if let Some(texts) = &self.texts {
            texts.poll_applied();
        }
        self.announce();
        applied
    }

    /// Ends the states that expire at or before `now`, which is a time of the database's clock.
    pub(in crate::worker) fn expire(&self, now: Timestamp) -> AppliedChanges {
        let mut inner = self.lock();
        let changes = inner.expire(now);
        let applied = inner.number(changes, self.clock.now(), &[]);
        drop(inner);
        self.announce();
        applied
    }

    /// A subscriber has acknowledged every change up to this one.
    pub(in crate::worker) fn acknowledged(&self, seq: u64) {
        if seq >= self.head.borrow().seq {
            self.newest_acknowledged.notify_one();
        }
    }

    /// Waits until a subscriber acknowledges the newest change.
    pub(in crate::worker) async fn newest_acknowledged(&self) {
        self.newest_acknowledged.notified().await;
    }

    /// Notifies the waiting subscribers if the [`Head`] changed; time alone can make it stale.
    pub(in crate::worker) fn announce(&self) {
        let inner = self.lock();
        let stale = !inner.state.stale_for(self.clock.now()).is_zero();
        let trust = inner.gate.as_ref().map_or(0, |keeper| keeper.mark(self.clock.now()));
        let head =
            Head { loaded: inner.loaded, seq: inner.journal.newest(), up: inner.state.up, stale, trust };
        drop(inner);
        self.head.send_if_modified(|old| std::mem::replace(old, head) != head);
    }
}

impl Inner {
    /// The rows of the tables, which are what is served only without trust.
    fn table(&self) -> &Catalogue {
        self.gate.as_ref().map_or(&self.catalogue, |keeper| keeper.gate.table())
    }

    fn number(
        &mut self,
        changes: Vec<RuleChange>,
        now: Timestamp,
        traceparents: &[Option<Traceparent>],
    ) -> AppliedChanges {
        let first_seq = self.journal.newest() + 1;
        self.journal.append(&changes, now, |index| traceparents.get(index)?.as_ref());
        AppliedChanges { changes, first_seq, first_load: false, held_back: None, fallen: Vec::new() }
    }

    /// A snapshot that is at most `reuse` changes old, so that subscribers that connect shortly one after the
    /// other share it.
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
