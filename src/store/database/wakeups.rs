//! Wakes a follower before its next poll is due: after a commit through this process, after a notification of
//! PostgreSQL, or when SQLite's files change. A missed wake-up only costs time, because the poll finds the change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher};
use sqlx::postgres::{PgListener, PgPoolOptions, PgQueryResult};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::Database;
use super::connector::{Connector, Endpoint};
use super::postgres;
use super::sql::Purpose;
use super::thread::caught;
use crate::backoff::Backoff;
use crate::store::StoreError;

/// SQLite writes the file shortly before the commit becomes visible, so further wake-ups follow after these times, in
/// milliseconds.
const COMMIT_DELAYS: [u64; 5] = [1, 2, 4, 8, 16];

/// A transaction with more writes than this does not restart the delays at each of them.
const FEW_WRITES: usize = 8;

/// After so long without a notification, the task checks the connection with a query.
const SILENCE: Duration = Duration::from_secs(15);

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
        self.task = if connector.is_postgres() {
            thread.spawn(repeat(wake, connector, listen))
        } else if connector.sqlite_location().is_some_and(|place| place.file().is_some()) {
            thread.spawn(repeat(wake, connector, watch_files))
        } else {
            None
        };
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

/// Runs `listen` again and again, with backoff. Each start is a wake-up, because notifications may have been missed.
/// Errors are not reported: the poll reports those of the database.
async fn repeat<F>(wake: watch::Sender<()>, connector: Arc<Connector>, listen: F)
where
    F: AsyncFn(&watch::Sender<()>, &Arc<Connector>, &mut Backoff) -> Result<(), StoreError>,
{
    let mut backoff = Backoff::default();
    loop {
        // The driver may panic here, too.
        caught("listening for notifications", Box::pin(listen(&wake, &connector, &mut backoff))).await.ok();
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// PostgreSQL: waits for the notifications of writing transactions, on a connection outside
/// `database.max_connections`, since it never becomes free.
async fn listen(
    wake: &watch::Sender<()>,
    connector: &Arc<Connector>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    if !connector.keeps_sessions() {
        // A poll finds out. Until then nothing may be set in a session, which may be another client's.
        return Ok(());
    }
    let mut tried = Err(StoreError::Closed);
    for host in connector.order(connector.wanted(Purpose::Read)) {
        tried = listen_to(host, wake, connector, backoff).await;
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// The same at one host of the address.
async fn listen_to(
    host: usize,
    wake: &watch::Sender<()>,
    connector: &Arc<Connector>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let what = "listening for notifications";
    let endpoint = connector.endpoint(host).map_err(|error| connector.classify_error(what, error))?;
    let Endpoint::Postgres(options, relay) = endpoint else { return Ok(()) };
    let classify_error = |error| connector.classify_error(what, relay.explain(error));
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let timeout = connector.timeout();
    let pool =
        pool.after_connect(move |connection, _| Box::pin(postgres::set(connection, Purpose::Read, timeout)));
    let pool = pool.acquire_timeout(connector.attempt_limit()).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await.map_err(classify_error)?;
    let is_standby =
        sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()").fetch_one(&mut listener).await;
    if is_standby.map_err(classify_error)? {
        // Nobody notifies there. It may be promoted.
        tokio::time::sleep(SILENCE).await;
        return Ok(());
    }
    listener.eager_reconnect(false);
    listener.listen(postgres::CHANNEL).await.map_err(classify_error)?;
    backoff.reset();
    wake.send_replace(());
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(notified) => {
                let is_connected = notified.map_err(classify_error)?.is_some();
                // One poll reads everything that a burst of notifications announces.
                while listener.next_buffered().is_some() {}
                wake.send_replace(());
                if !is_connected {
                    return Ok(());
                }
            }
            // A broken link looks like a quiet one until a query is not answered.
            Err(_) => {
                let asked =
                    tokio::time::timeout(connector.timeout(), sqlx::query("SELECT 1").execute(&mut listener));
                let _: PgQueryResult =
                    asked.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(classify_error)?;
            }
        }
    }
}

/// SQLite: wakes the follower at each write to the files and a few times soon after. The poll first checks whether
/// there was a commit.
async fn watch_files(
    wake: &watch::Sender<()>,
    connector: &Arc<Connector>,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let Some(place) = connector.sqlite_location() else { return Ok(()) };
    let written = Arc::new(Notify::new());
    let Some(_watcher) = place.file().and_then(|path| watcher(path, Arc::clone(&written))) else {
        return Ok(());
    };
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
    Ok(())
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
