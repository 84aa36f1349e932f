//! Wakes a follower before its next poll is due: after a commit through this process, or when SQLite's files change. A
//! missed wake-up only costs time, because the poll finds the change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::Database;
use super::connector::Connector;
use crate::backoff::Backoff;

/// SQLite writes the file shortly before the commit becomes visible, so further wake-ups follow after these times, in
/// milliseconds.
const COMMIT_DELAYS: [u64; 5] = [1, 2, 4, 8, 16];

/// A transaction with more writes than this does not restart the delays at each of them.
const FEW_WRITES: usize = 8;

/// Receives the wake-ups of one follower.
#[derive(Debug)]
pub(super) struct Wakeups {
    committed: watch::Receiver<()>,
    /// Wake-ups for commits of other processes, from a task that ends with this value.
    others: watch::Receiver<()>,
    wake: Option<watch::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Wakeups {
    pub(super) fn new(database: &Database) -> Self {
        let wake = watch::Sender::new(());
        Self {
            committed: database.shared.committed.subscribe(),
            others: wake.subscribe(),
            wake: Some(wake),
            task: None,
        }
    }

    /// Starts the task on the database's thread, if it does not run yet.
    pub(super) fn start(&mut self, database: &Database) {
        let Some(wake) = self.wake.take() else { return };
        let (thread, connector) = (&database.shared.thread, Arc::clone(&database.connector));
        let is_file = connector.sqlite_location().is_some_and(|place| place.file().is_some());
        self.task = if is_file { thread.spawn(keep_watching(wake, connector)) } else { None };
    }

    /// Waits for the next wake-up. Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            Ok(()) = self.committed.changed() => {}
            Ok(()) = self.others.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Watches a SQLite database again and again, with backoff. Each start is a wake-up, because events may have been missed.
async fn keep_watching(wake: watch::Sender<()>, connector: Arc<Connector>) {
    let mut backoff = Backoff::default();
    loop {
        watch_files(&wake, &connector, &mut backoff).await;
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// Wakes the follower at each write to the files and a few times soon after. The poll first checks whether there was a
/// commit.
async fn watch_files(wake: &watch::Sender<()>, connector: &Connector, backoff: &mut Backoff) {
    let Some(place) = connector.sqlite_location() else { return };
    let written = Arc::new(Notify::new());
    let Some(_watcher) = place.file().and_then(|path| watcher(path, Arc::clone(&written))) else { return };
    let watched = place.identity(false);
    backoff.reset();
    wake.send_replace(());
    // If another file replaces the database, it may be reached through other links, which need a new watch.
    while place.identity(false) == watched {
        written.notified().await;
        wake.send_replace(());
        let (mut delays, mut writes) = (COMMIT_DELAYS.into_iter(), 0);
        while let Some(delay) = delays.next() {
            // The last write of a commit comes just before the commit becomes visible.
            let next = tokio::time::timeout(Duration::from_millis(delay), written.notified());
            writes = if next.await.is_ok() { writes + 1 } else { 0 };
            if writes > 0 {
                delays = COMMIT_DELAYS.into_iter();
            }
            if writes > FEW_WRITES {
                tokio::time::sleep(Duration::from_millis(COMMIT_DELAYS[0])).await;
            }
            wake.send_replace(());
        }
    }
}

/// Watches the directory of the database's file, and in it the file and those that SQLite creates for it. `None` if
/// there can be no watch (too many watches, no directory): the follower then depends on its polls.
fn watcher(path: &Path, written: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name()?.to_string_lossy().into_owned();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let is_ours = move |event: &notify::Event| {
        // Reading causes events, too.
        let is_write = match event.kind {
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
            EventKind::Modify(kind) => !matches!(kind, ModifyKind::Metadata(_)),
            EventKind::Access(_) => false,
        };
        let ends = ["", "-wal", "-journal"];
        let is_file = |path: &std::path::PathBuf| {
            let found = path.file_name().map(|found| found.to_string_lossy());
            found.is_some_and(|found| found.strip_prefix(&*name).is_some_and(|end| ends.contains(&end)))
        };
        is_write && (event.need_rescan() || event.paths.iter().any(is_file))
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_ours(&event)) {
            written.notify_one();
        }
    })
    .ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
