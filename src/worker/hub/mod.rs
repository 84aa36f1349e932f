//! The one place where the tail writes and subscribers read.
//!
//! A look is taken in and numbered under one lock, so no subscriber sees half of it. The lock is
//! held for moments and never across a wait. The tail alone writes.

mod guard;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::guard::Guard;
pub(in crate::worker) use self::reading::{Next, Place, Start};
use crate::clock::{SharedClock, Timestamp};
use crate::rule::{Catalogue, Delta, Look, Rejected, RuleChange, RuleId, Seen, Table};
use crate::store::{Known, TextSink};
use crate::wire::Epoch;
use crate::worker::journal::Journal;
use crate::worker::snapshot::Snapshot;
use crate::worker::texts::Texts;
use crate::worker::trace::TailTrace;

/// What the journal's lines may take together, whatever `journal_length` says.
const JOURNAL_BYTES: usize = 64 * 1024 * 1024;

/// How long a look may take that is not told as staleness.
const LATE: Duration = Duration::from_millis(500);

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
    /// How old the last look that ended may be and what is served is not stale.
    fresh_for: Duration,
    /// Where the texts of rules go; `None` where there is no cache.
    texts: Option<Arc<Texts>>,
}

/// What subscribers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct News {
    /// Whether there is anything to serve.
    pub(in crate::worker) loaded: bool,
    /// The newest change.
    pub(in crate::worker) seq: u64,
    /// Whether the database answers.
    pub(in crate::worker) up: bool,
    /// Whether what is served is not the database's of now, as far as is known.
    pub(in crate::worker) stale: bool,
}

#[derive(Debug)]
struct Inner {
    catalogue: Catalogue,
    guard: Guard,
    journal: Journal,
    loaded: bool,
    /// Whether the catalogue was compared with the database. What the cache says was not.
    compared: bool,
    /// Whether everything is to be read again.
    reread: bool,
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
    /// Why it is unavailable, and when it last was; `None` while it is available.
    pub(in crate::worker) last_error: Option<(String, Timestamp)>,
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
    /// How many deletions are held back, where it was none before, or is none any more.
    pub(in crate::worker) held_back: Option<usize>,
    /// Rules whose version fell, with the version before and after.
    pub(in crate::worker) fallen: Vec<(RuleId, i64, i64)>,
}

impl Hub {
    pub(in crate::worker) fn new(clock: SharedClock, journal_length: usize, queue: usize) -> Self {
        let now = clock.now();
        let inner = Inner {
            catalogue: Catalogue::default(),
            guard: Guard::none(),
            journal: Journal::new(journal_length, JOURNAL_BYTES),
            loaded: false,
            compared: false,
            reread: false,
            state: DatabaseState { up: false, since: now, last_error: None, fresh: None },
            snapshots: VecDeque::new(),
        };
        Self {
            epoch: Epoch::starting(now),
            clock,
            inner: Mutex::new(inner),
            news: watch::Sender::new(News { loaded: false, seq: 0, up: false, stale: true }),
            queue: queue.max(1) as u64,
            fresh_for: Duration::MAX,
            texts: None,
        }
    }

    /// The same, over a database that is looked at so often: what is served is stale once a look is due that
    /// has not ended, be it that the database is silent or that it sends on and on.
    pub(in crate::worker) fn polled_every(mut self, poll_interval: Duration) -> Self {
        self.fresh_for = poll_interval.mul_f64(1.1).saturating_add(LATE);
        self
    }

    /// The same, whose texts are kept for a cache.
    pub(in crate::worker) fn with_texts(mut self, texts: Arc<Texts>) -> Self {
        self.texts = Some(texts);
        self
    }

    /// Where the texts of rules are kept for the cache.
    pub(in crate::worker) const fn texts(&self) -> Option<&Arc<Texts>> {
        self.texts.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every change from now on.
    pub(in crate::worker) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Takes in what was known before this run, unless the database was quicker; `age` is how old it is. It
    /// is served, and counts for nothing when the database is read.
    pub(in crate::worker) fn restore(&self, look: Look, age: Duration) {
        let mut inner = self.lock();
        if inner.loaded {
            return;
        }
        if let Some(texts) = &self.texts {
            texts.remember(look.rules.iter().flatten());
        }
        inner.catalogue.apply(look);
        inner.loaded = true;
        inner.state.fresh = Some((Instant::now(), age));
        drop(inner);
        self.announce();
    }

    /// Takes in a look and numbers what it changed.
    pub(in crate::worker) fn apply(&self, mut look: Look, trace: &mut TailTrace) -> Heard {
        let now = self.clock.now();
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.compared, true) {
            // The look knew of nothing, and so found all there is.
            look.rule_keys.get_or_insert_with(|| found_keys(&look.rules, |rule| &rule.rule_id));
            look.state_keys.get_or_insert_with(|| found_keys(&look.states, |(rule_id, _)| rule_id));
        }
        let is_too_many = inner.guard.judge();
        let Delta { changes, fallen } = inner.catalogue.apply_guarded(look, is_too_many);
        let held = inner.catalogue.held_back().len();
        let turned = inner.guard.note(&changes, held, now);
        let first_load = !std::mem::replace(&mut inner.loaded, true);
        let mut heard = if first_load {
            Heard { changes, first_seq: 0, first_load, held_back: None, fallen: Vec::new() }
        } else {
            trace.publish(&changes, inner.journal.newest() + 1);
            inner.number(changes, now, trace)
        };
        heard.held_back = turned.then_some(held);
        heard.fallen = fallen;
        inner.state.fresh = Some((Instant::now(), Duration::ZERO));
        drop(inner);
        if let Some(texts) = &self.texts {
            texts.taken_in();
        }
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

    /// Notes whether the database answers.
    pub(in crate::worker) fn database(&self, result: Result<(), String>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = &mut inner.state;
        if state.up != result.is_ok() {
            state.up = result.is_ok();
            state.since = now;
        }
        state.last_error = result.err().map(|error| (error, now));
        drop(inner);
        self.announce();
    }

    /// Asks the tail to read everything again, as if nothing were known.
    pub(in crate::worker) fn ask_to_reread(&self) {
        self.lock().reread = true;
    }

    /// Whether that was asked. From here on nothing counts as known, up to the next look, which must be a
    /// follower's first: only the tail may ask this, and only between two looks.
    pub(in crate::worker) fn begin_to_reread(&self) -> bool {
        let mut inner = self.lock();
        let reread = std::mem::take(&mut inner.reread);
        inner.compared &= !reread;
        reread
    }

    /// Tells whoever waits of what is new, were it only that what is served has become stale.
    pub(in crate::worker) fn announce(&self) {
        let inner = self.lock();
        let stale = !inner.state.stale_for(self.clock.now(), self.fresh_for).is_zero();
        let news = News { loaded: inner.loaded, seq: inner.journal.newest(), up: inner.state.up, stale };
        drop(inner);
        self.news.send_if_modified(|old| std::mem::replace(old, news) != news);
    }
}

impl Inner {
    fn number(&mut self, changes: Vec<RuleChange>, now: Timestamp, trace: &TailTrace) -> Heard {
        let first_seq = self.journal.newest() + 1;
        self.journal.append(&changes, now, |index| trace.traceparent(index));
        Heard { changes, first_seq, first_load: false, held_back: None, fallen: Vec::new() }
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
    /// The time since the last look that ended; zero where that is not longer ago than `fresh_for`, and
    /// the one after it did not fail.
    fn stale_for(&self, now: Timestamp, fresh_for: Duration) -> Duration {
        match self.fresh {
            Some((at, _)) if self.up && at.elapsed() <= fresh_for => Duration::ZERO,
            Some((at, age)) => at.elapsed() + age,
            None => now.since(self.since),
        }
    }
}

/// The keys of all rows that a look found.
fn found_keys<T>(rows: &[Result<T, Box<Rejected>>], id: impl Fn(&T) -> &RuleId) -> Vec<String> {
    rows.iter()
        .map(|row| row.as_ref().map_or_else(|rejected| rejected.key.clone(), |row| id(row).to_string()))
        .collect()
}

/// The tail asks what is known while it looks; nobody else writes meanwhile.
impl Known for Hub {
    fn count(&self, table: Table) -> u64 {
        let inner = self.lock();
        if inner.compared { inner.catalogue.count(table) } else { 0 }
    }

    fn seen(&self, table: Table, key: &str) -> Option<Seen> {
        let inner = self.lock();
        inner.catalogue.seen(table, key).filter(|_| inner.compared)
    }

    fn memory(&self) -> usize {
        let inner = self.lock();
        if inner.compared { inner.catalogue.memory() } else { 0 }
    }

    fn memory_of(&self, table: Table, key: &str) -> usize {
        let inner = self.lock();
        if inner.compared { inner.catalogue.memory_of(table, key) } else { 0 }
    }

    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        self.texts.clone().map(|texts| texts as _)
    }
}
