//! When to scan what: events of one save come in bursts, and some of them before the file is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::scope::ScanScope;

/// A file that was created, removed or had its permissions changed is scanned after this long without another event,
/// so that an editor that saves in steps causes one scan.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// A file that its writer keeps open is scanned this long after the last write.
const WRITTEN_AT_MOST: Duration = Duration::from_secs(5);

/// Further events delay such a scan by at most this long.
pub(super) const QUIET_AT_MOST: Duration = Duration::from_millis(500);

/// So long the thread that receives events rests at a time while every file is read. Each file that is opened is an event, and
/// to wake the thread for every one costs a quarter of the reading. It is short beside the queue of the kernel, which holds
/// 16,384 events.
const REST: Duration = Duration::from_millis(2);

/// The pending scans, shared by the thread that receives events and the master.
#[derive(Debug, Default)]
pub(super) struct ScanRequests {
    pending: Mutex<Pending>,
    pub(super) arrived: Notify,
    /// Whether no rule file is a symbolic link, so that events of other names do not matter.
    pub(super) no_links: AtomicBool,
    /// Whether every file is being read.
    is_reread: AtomicBool,
    /// When the thread that receives events has last rested.
    rested: Mutex<Option<Instant>>,
}

/// Every file is read while this lives.
pub(crate) struct Reread(Arc<ScanRequests>);

impl Reread {
    pub(super) fn begin(requests: Arc<ScanRequests>) -> Self {
        requests.is_reread.store(true, Ordering::Relaxed);
        Self(requests)
    }
}

impl Drop for Reread {
    fn drop(&mut self) {
        self.0.is_reread.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// A scan of the whole directory.
    pub(super) all: Option<Deadline>,
    /// Files that are completely written: scanned at once.
    finished: BTreeSet<String>,
    /// Files that were created, removed or had their permissions changed.
    touched: BTreeSet<String>,
    touched_deadline: Option<Deadline>,
    /// Files that are being written, each with the time at which it is scanned anyway.
    pub(super) written: BTreeMap<String, Instant>,
    /// Files to scan again, each with the time.
    pub(super) later: BTreeMap<String, Instant>,
}

/// When to scan what still receives events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    at_most: Instant,
}

impl Deadline {
    fn later(deadline: Option<Self>, now: Instant) -> Option<Self> {
        let at_most = deadline.map_or(now + QUIET_AT_MOST, |deadline| deadline.at_most);
        Some(Self { at: (now + QUIET).min(at_most), at_most })
    }
}

impl ScanRequests {
    pub(super) fn lock(&self) -> MutexGuard<'_, Pending> {
        // A panic while the lock was held leaves a valid set of names.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets events come together, where they are the master's own.
    pub(super) fn rest_while_reread(&self) {
        if !self.is_reread.load(Ordering::Relaxed) {
            return;
        }
        let mut rested = self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        if rested.is_none_or(|rested| rested.elapsed() > REST / 4) {
            std::thread::sleep(REST);
            *rested = Some(Instant::now());
        }
    }

    pub(super) fn scan_all(&self, deadline: Option<Deadline>) {
        let now = Instant::now();
        self.lock().all = Some(deadline.unwrap_or(Deadline { at: now, at_most: now }));
        self.arrived.notify_one();
    }

    pub(super) fn finished(&self, name: String) {
        let mut pending = self.lock();
        pending.touched.remove(&name);
        pending.written.remove(&name);
        pending.finished.insert(name);
        drop(pending);
        self.arrived.notify_one();
    }

    pub(super) fn touched(&self, name: String) {
        let mut pending = self.lock();
        pending.touched_deadline = Deadline::later(pending.touched_deadline, Instant::now());
        pending.touched.insert(name);
        drop(pending);
        self.arrived.notify_one();
    }

    pub(super) fn written(&self, name: String) {
        let mut pending = self.lock();
        pending.touched.remove(&name);
        pending.finished.remove(&name);
        pending.written.insert(name, Instant::now() + WRITTEN_AT_MOST);
        drop(pending);
        self.arrived.notify_one();
    }

    pub(super) fn gone(&self, name: String) {
        self.lock().written.remove(&name);
        self.touched(name);
    }

    pub(super) fn schedule_full_scan(&self) {
        let deadline = Deadline::later(self.lock().all, Instant::now());
        self.scan_all(deadline);
    }

    /// The scan to begin at `now`, or the time of the next one; `None` when none is pending.
    pub(super) fn take(&self, now: Instant) -> Option<Result<ScanScope, Instant>> {
        let mut pending = self.lock();
        if pending.all.is_some_and(|deadline| deadline.at <= now) {
            let Pending { written, later, .. } = std::mem::take(&mut *pending);
            (pending.written, pending.later) = (written, later);
            return Some(Ok(ScanScope::All));
        }
        let mut names = std::mem::take(&mut pending.finished);
        let Pending { written, later, .. } = &mut *pending;
        for waiting in [written, later] {
            names.extend(waiting.extract_if(.., |_, at| *at <= now).map(|(name, _)| name));
        }
        if pending.touched_deadline.is_some_and(|deadline| deadline.at <= now) {
            pending.touched_deadline = None;
            names.append(&mut pending.touched);
        }
        if !names.is_empty() {
            return Some(Ok(ScanScope::Names(names)));
        }
        let deadlines =
            [pending.all, pending.touched_deadline].into_iter().flatten().map(|deadline| deadline.at);
        let waiting = pending.written.values().chain(pending.later.values()).copied();
        deadlines.chain(waiting).min().map(Err)
    }
}
