//! What tells sooner than the poll that a poll may find a change: a commit through this process,
//! PostgreSQL's notifications, SQLite's files. The poll stays the truth.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher};
use sqlx::postgres::{PgListener, PgPoolOptions, PgQueryResult};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::Database;
use super::connector::Connector;
use super::postgres;
use super::thread::caught;
use crate::backoff::Backoff;
use crate::store::StoreError;

/// The file is written a moment before its commit can be seen: after how many milliseconds there is
/// another hint.
const COMMIT_DELAYS: [u64; 5] = [1, 2, 4, 8, 16];

/// A transaction that makes more writes than these is not looked after at each of them.
const FEW_WRITES: usize = 8;

/// After so long without a notification the server is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);

/// Where a follower hears that something may have changed.
#[derive(Debug)]
pub(super) struct Wakeups {
    committed: watch::Receiver<()>,
    /// What others commit; told by a task that lives as long as this.
    heard: watch::Receiver<()>,
    tell: Option<watch::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Wakeups {
    pub(super) fn new(database: &Database) -> Self {
        let tell = watch::Sender::new(());
        Self {
            committed: database.shared.committed.subscribe(),
            heard: tell.subscribe(),
            tell: Some(tell),
            task: None,
        }
    }

    /// Begins to listen on the database's thread, if it did not yet.
    pub(super) fn start(&mut self, database: &Database) {
        let Some(tell) = self.tell.take() else { return };
        let (thread, connector) = (&database.shared.thread, Arc::clone(&database.connector));
        self.task = if connector.is_postgres() {
            thread.spawn(retried(tell, connector, listen))
        } else if connector.place().is_some_and(|place| place.file().is_some()) {
            thread.spawn(retried(tell, connector, watch_files))
        } else {
            None
        };
    }

    /// Waits for the next hint. Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            Ok(()) = self.committed.changed() => {}
            Ok(()) = self.heard.changed() => {}
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

/// Listens again and again, with backoff. What it heard nothing of meanwhile may be anything, so
/// each new beginning is a hint. Why it cannot listen is not told: the poll tells of the database.
async fn retried<F>(tell: watch::Sender<()>, connector: Arc<Connector>, listen: F)
where
    F: AsyncFn(&watch::Sender<()>, &Arc<Connector>, &mut Backoff) -> Result<(), StoreError>,
{
    let mut backoff = Backoff::default();
    loop {
        // The driver may panic here, too.
        caught("listening for notifications", Box::pin(listen(&tell, &connector, &mut backoff))).await.ok();
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// PostgreSQL: waits for notifications of writing transactions, on a connection that
/// `database.max_connections` does not count: it would be kept for good from those that ask.
async fn listen(
    tell: &watch::Sender<()>,
    connector: &Arc<Connector>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let what = "listening for notifications";
    let Some((options, relay)) = connector.postgres().map_err(|error| connector.judge(what, error))? else {
        return Ok(());
    };
    let judge = |error| connector.judge(what, relay.explain(error));
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.acquire_timeout(connector.timeout()).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await.map_err(judge)?;
    listener.eager_reconnect(false);
    listener.listen(postgres::CHANNEL).await.map_err(judge)?;
    backoff.reset();
    tell.send_replace(());
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(heard) => {
                let is_connected = heard.map_err(judge)?.is_some();
                // What a burst notified meanwhile is heard by the same poll.
                while listener.next_buffered().is_some() {}
                tell.send_replace(());
                if !is_connected {
                    return Ok(());
                }
            }
            // A link that was cut makes no sound: only an answer tells it from a quiet one.
            Err(_) => {
                let asked =
                    tokio::time::timeout(connector.timeout(), sqlx::query("SELECT 1").execute(&mut listener));
                let _: PgQueryResult =
                    asked.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(judge)?;
            }
        }
    }
}

/// SQLite: wakeups at each write to the files, and a few times soon after, whether or not there was a commit:
/// a poll begins with that question.
async fn watch_files(
    tell: &watch::Sender<()>,
    connector: &Arc<Connector>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let Some(place) = connector.place() else { return Ok(()) };
    let written = Arc::new(Notify::new());
    let Some(_watcher) = place.file().and_then(|path| watcher(path, Arc::clone(&written))) else {
        return Ok(());
    };
    let watched = place.identity(false);
    backoff.reset();
    tell.send_replace(());
    // Another file in the place may be reached by other links: the watch is to follow them.
    while place.identity(false) == watched {
        written.notified().await;
        tell.send_replace(());
        let (mut delays, mut writes) = (COMMIT_DELAYS.into_iter(), 0);
        while let Some(delay) = delays.next() {
            // Of a commit's writes the last comes just before it can be seen.
            let next = tokio::time::timeout(Duration::from_millis(delay), written.notified());
            writes = if next.await.is_ok() { writes + 1 } else { 0 };
            if writes > 0 {
                delays = COMMIT_DELAYS.into_iter();
            }
            if writes > FEW_WRITES {
                tokio::time::sleep(Duration::from_millis(COMMIT_DELAYS[0])).await;
            }
            tell.send_replace(());
        }
    }
    Ok(())
}

/// Watches the database's directory for its file, by whatever links that is reached, and the files that
/// SQLite puts beside it.
/// `None` when there can be no watch (too many of them, no directory): then the poll alone finds.
fn watcher(path: &Path, written: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name()?.to_string_lossy().into_owned();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let is_ours = move |event: &notify::Event| {
        // Reading makes events too.
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
