//! Follows a database for one reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::Doorbell;
use super::connection::Connection;
use super::row::Cell;
use super::snapshot::{ManifestHint, Snapshot};
use super::sql::Purpose;
use super::wakeups::Wakeups;
use super::{Database, lease, manifest, trace_context, version, workers};
use crate::address::SessionAttrs;
use crate::fleet::WorkerReport;
use crate::rule::{FoundManifest, ManifestWish, TableDelta};
use crate::store::poll::{Poll, WHAT, Watermarks};
use crate::store::{Follow, RowIndex, StoreError, TraceContextRow};
use crate::telemetry::trace;

/// How often a poll is repeated at once if the tables were altered during it.
const ALTERED_RETRIES: usize = 3;

/// How long a report may take: it delays the next poll.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// Polls a database for one reader, with a connection of its own.
#[derive(Debug)]
pub struct DatabaseFollower {
    database: Database,
    wakeups: Wakeups,
    /// `None` before the first poll, and after one that failed or was cancelled.
    connection: Option<Connection>,
    memory: Memory,
    trace_contexts: Vec<TraceContextRow>,
    /// Whether a wake-up came since the last poll.
    woken: bool,
    doorbell: Doorbell,
    /// Whether the server of the last poll takes no writes.
    reports_elsewhere: bool,
    /// Until when the follower may wait on its connection; `None` if it is not to wait.
    idle_until: Option<tokio::time::Instant>,
}

/// What a follower remembers from one poll to the next.
#[derive(Debug, Clone)]
struct Memory {
    watermarks: Option<Watermarks>,
    /// SQLite's [`data_version`] before the last poll.
    version: Option<String>,
    /// The manifest's hint when it was last read; `None` if the table could not be read.
    manifest: Option<String>,
    /// Whether `rulesyncd_trace` can be read; tried again at each full poll.
    has_trace_table: bool,
    /// Why `rulesyncd_version` cannot be read; tried again at each full poll and in each connection.
    version_problem: Option<String>,
    /// Whether `rulesyncd_lease` can be read; tried again as that is.
    has_lease: bool,
}

/// A poll on the database's thread.
struct PollTask<K> {
    database: Database,
    connection: Option<Connection>,
    memory: Memory,
    woken: bool,
    index: Arc<K>,
}

/// The result of a poll.
struct PollResult {
    delta: TableDelta,
    connection: Connection,
    memory: Memory,
    trace_contexts: Vec<TraceContextRow>,
}

impl DatabaseFollower {
    pub(super) fn new(database: Database) -> Self {
        let wakeups = Wakeups::new(&database);
        let memory = Memory {
            watermarks: None,
            version: None,
            manifest: None,
            has_trace_table: true,
            version_problem: None,
            has_lease: false,
        };
        let (doorbell, trace_contexts) = (Doorbell::default(), Vec::new());
        Self {
            database,
            wakeups,
            connection: None,
            memory,
            trace_contexts,
            woken: false,
            doorbell,
            reports_elsewhere: false,
            idle_until: None,
        }
    }
}

impl<K: RowIndex + Send + Sync> PollTask<K> {
    async fn poll(mut self) -> Result<PollResult, StoreError> {
        // Kept only if the poll ends: a cancelled poll leaves the connection in an unknown state.
        let mut connection = self.connection().await?;
        let (at, interval) = (Instant::now(), self.database.follow.full_scan_interval);
        let known = self.memory.watermarks.as_ref();
        let full = known.is_none_or(|known| known.is_full_due(at, interval));
        let now = self.database.clock.now();
        let version = data_version(&mut connection).await?;
        let wish = self.index.manifest_wish();
        if !full && version.is_some() && version == self.memory.version && wish != ManifestWish::Now {
            let watermarks = self.memory.watermarks.map(|watermarks| watermarks.idle(now));
            let memory = Memory { watermarks, ..self.memory };
            let delta = TableDelta { now, ..TableDelta::default() };
            return Ok(PollResult { delta, connection, memory, trace_contexts: Vec::new() });
        }
        if full {
            self.memory.version_problem = version::why_not_readable(&mut connection).await;
            self.memory.has_lease = lease::is_readable(&mut connection).await;
        }
        let (has_version, has_lease) = (self.memory.version_problem.is_none(), self.memory.has_lease);
        let hint = if full || version.is_some() { None } else { self.counted_hint(wish) };
        let (realm, missing) = match hint {
            Some(_) => (None, None),
            None => self.manifest(&mut connection, full, wish).await?,
        };
        let reads_manifest = realm.is_some();
        let clock = Arc::clone(&self.database.clock);
        let fleet = None;
        let mut tables = Snapshot {
            connection,
            clock,
            realm,
            has_version,
            has_lease,
            hint,
            found_hint: None,
            has_begun: false,
            fleet,
        };
        let watermarks = self.memory.watermarks.clone();
        let mut poll = Poll::new(&mut tables, &self.database.follow, &*self.index, watermarks, at);
        poll.woken = self.woken || version.is_some() || reads_manifest;
        // A signed release is read as a whole.
        poll.hurried = self.woken && self.database.realm.is_none();
        let (mut delta, watermarks) = poll.run().await?;
        delta.manifest = delta.manifest.or(missing);
        match tables.found_hint {
            Some(Ok(hint)) => self.memory.manifest = Some(hint),
            Some(Err(missing)) => (self.memory.manifest, delta.manifest) = (None, Some(missing)),
            None => {}
        }
        let mut connection = tables.connection;
        let trace_contexts = self.trace_contexts(&mut connection, &delta).await;
        if connection.is_elsewhere() {
            let detail = "the file was replaced while it was read".into();
            return Err(StoreError::Unavailable { what: WHAT, detail });
        }
        // A manifest that is read later, or a deletion that is counted later, must not be missed for want of another
        // commit.
        let is_whole = watermarks.is_counted && watermarks.window_due().is_none();
        let version = version.filter(|_| wish != ManifestWish::NotYet && is_whole);
        let memory = Memory { watermarks: Some(watermarks), version, ..self.memory };
        Ok(PollResult { delta, connection, memory, trace_contexts })
    }

    /// The connection of the last poll, if it still leads to the same database.
    async fn connection(&mut self) -> Result<Connection, StoreError> {
        match self.connection.take() {
            Some(connection) if !connection.is_broken() && !connection.is_elsewhere() => Ok(connection),
            _ => {
                self.memory.version = None;
                self.memory.watermarks = self.memory.watermarks.take().map(Watermarks::reconnected);
                Connection::open(&self.database.connector, Purpose::Read).await
            }
        }
    }

    /// What the first statement of the poll asks of the manifest, so that the poll makes no statement for it; `None` if the
    /// manifest is asked for in another way.
    fn counted_hint(&self, wish: ManifestWish) -> Option<ManifestHint> {
        let realm = self.database.realm.clone()?;
        let known = self.memory.manifest.clone()?;
        let is_known = self.memory.watermarks.is_some() && wish == ManifestWish::IfChanged;
        is_known.then_some(ManifestHint { realm, known })
    }

    /// Whether the poll reads a manifest, and of which realm; or why there is none. Asked outside of the transaction: a
    /// table that is missing, or may not be read, must not end the poll.
    async fn manifest(
        &mut self,
        connection: &mut Connection,
        full: bool,
        wish: ManifestWish,
    ) -> Result<(Option<Arc<str>>, Option<FoundManifest>), StoreError> {
        let Some(realm) = self.database.realm.clone() else { return Ok((None, None)) };
        if wish == ManifestWish::NotYet {
            return Ok((None, None));
        }
        match manifest::hint(connection, &realm).await {
            Ok(hint) => {
                let has_changed = self.memory.manifest.as_ref() != Some(&hint);
                self.memory.manifest = Some(hint);
                Ok((Some(realm).filter(|_| has_changed || full || wish == ManifestWish::Now), None))
            }
            Err(error) if connection.is_broken() => Err(error),
            Err(error) => {
                self.memory.manifest = None;
                Ok((None, Some(manifest::missing(&error))))
            }
        }
    }

    /// The trace contexts of the changes that the poll found; none at the first poll, which finds no changes.
    async fn trace_contexts(
        &mut self,
        connection: &mut Connection,
        delta: &TableDelta,
    ) -> Vec<TraceContextRow> {
        self.memory.has_trace_table |= delta.full;
        let rules = delta.rules.iter().flatten().map(|rule| rule.rule_id().to_string());
        let states = delta.states.iter().flatten().map(|(rule_id, _)| rule_id.to_string());
        let rule_ids: Vec<String> = rules.chain(states).collect();
        let is_first = self.memory.watermarks.is_none();
        if trace::now().is_none() || !self.memory.has_trace_table || rule_ids.is_empty() || is_first {
            return Vec::new();
        }
        let found = trace_context::read(connection, &rule_ids).await;
        self.memory.has_trace_table = found.is_ok();
        found.unwrap_or_default()
    }
}

impl DatabaseFollower {
    async fn poll_once<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> Result<PollResult, StoreError> {
        let task = PollTask {
            database: self.database.clone(),
            connection: self.connection.take(),
            memory: self.memory.clone(),
            woken: self.woken,
            index: Arc::clone(index),
        };
        let limit = self.database.poll_limit();
        self.database.on_thread(WHAT, limit, task.poll()).await
    }
}

impl DatabaseFollower {
    /// Waits until the doorbell returns the connection.
    async fn end_wait(&mut self) {
        if self.doorbell.is_waiting() {
            self.woken |= self.doorbell.end(&mut self.connection).await;
        }
    }
}

async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Follow for DatabaseFollower {
    async fn woken(&mut self) {
        // Reading the windows is due although nothing may wake the follower.
        let due = self.memory.watermarks.as_ref().and_then(Watermarks::window_due);
        loop {
            let until = [due.map(Into::into), self.idle_until].into_iter().flatten().min();
            if let Some(until) = until {
                self.doorbell.begin(&mut self.connection, &self.database.shared.thread, until);
            }
            tokio::select! {
                () = self.wakeups.next() => break,
                () = sleep_until(due.map(Into::into)) => break,
                () = sleep_until(self.doorbell.due()) => {}
                rang = self.doorbell.end(&mut self.connection) => if rang { break },
            }
        }
        self.woken = true;
    }

    fn idle_until(&mut self, poll: tokio::time::Instant) {
        self.idle_until = Some(poll);
    }

    async fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> Result<TableDelta, StoreError> {
        self.wakeups.start(&self.database);
        self.end_wait().await;
        let (is_reused, begun) = (self.connection.is_some(), Instant::now());
        let mut polled = self.poll_once(index).await;
        // A connection that was cut since the last poll fails at once; one that does not answer is an outage.
        let is_quick = begun.elapsed() < self.database.connector.timeout();
        if is_reused && is_quick && matches!(polled, Err(StoreError::Unavailable { .. })) {
            polled = self.poll_once(index).await;
        }
        for retry in 0..ALTERED_RETRIES {
            let is_altered = match &polled {
                Err(StoreError::TablesAltered { .. }) => true,
                // `rulesyncd_version` or `rulesyncd_lease` may be gone: a new connection finds out. So may
                // `rulesyncd_manifest`, which is then asked for outside of the transaction.
                Err(StoreError::NoTables { .. } | StoreError::Refused { .. }) => {
                    let memory = &mut self.memory;
                    let asked_for_manifest = memory.manifest.take().is_some();
                    retry == 0
                        && memory.watermarks.is_some()
                        && (memory.version_problem.is_none() || memory.has_lease || asked_for_manifest)
                }
                _ => false,
            };
            if !is_altered {
                break;
            }
            polled = self.poll_once(index).await;
        }
        if matches!(polled, Err(StoreError::Driver { .. })) {
            // The thread may be abandoned, and with it the task that waits for wake-ups.
            self.wakeups = Wakeups::new(&self.database);
        }
        let PollResult { delta, connection, memory, trace_contexts } = polled?;
        self.reports_elsewhere = !SessionAttrs::ReadWrite.accepts(connection.role());
        self.connection = Some(connection);
        self.memory = memory;
        self.trace_contexts.extend(trace_contexts);
        self.woken = false;
        Ok(delta)
    }

    async fn release_list(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(realm) = self.database.realm.clone() else { return Ok(None) };
        self.end_wait().await;
        let (database, connection) = (self.database.clone(), self.connection.take());
        let reading = async move {
            let mut reused = connection;
            loop {
                let (mut connection, is_reused) = reused_or_new(&database, reused.take()).await?;
                match manifest::read_list(&mut connection, &realm, bytes).await {
                    Err(_) if is_reused && connection.is_broken() => {}
                    list => return Ok((list?, connection)),
                }
            }
        };
        let limit = self.database.poll_limit();
        let (list, connection) = self.database.on_thread("reading the list of rules", limit, reading).await?;
        self.connection = Some(connection);
        Ok(list)
    }

    fn trace_contexts(&mut self) -> Vec<TraceContextRow> {
        std::mem::take(&mut self.trace_contexts)
    }

    fn tables_version(&self) -> Option<u64> {
        let version = self.memory.watermarks.as_ref()?.version?;
        self.memory.version_problem.is_none().then_some(version.version)
    }

    fn takes_reports(&self) -> bool {
        self.database.has_reports()
    }

    fn reports_elsewhere(&self) -> bool {
        self.reports_elsewhere
    }

    async fn report(&mut self, report: WorkerReport) -> Result<(), String> {
        if self.reports_elsewhere {
            let what = workers::REPORTING;
            let writing = workers::write_elsewhere(self.database.clone(), report);
            let written = self.database.on_thread(what, Some(2 * REPORT_LIMIT), writing).await;
            return written.unwrap_or_else(|error| Err(error.to_string()));
        }
        if tokio::time::timeout(2 * REPORT_LIMIT, self.end_wait()).await.is_err() {
            return Err("the server does not answer".to_owned());
        }
        let (database, connection) = (self.database.clone(), self.connection.take());
        let dialect = database.connector.dialect();
        let reporting = async move {
            let mut reused = connection;
            loop {
                let (mut connection, is_reused) = reused_or_new(&database, reused.take()).await?;
                match workers::write(&mut connection, &report).await {
                    Err(_) if is_reused && connection.is_broken() => {}
                    written => return Ok((written, connection)),
                }
            }
        };
        match self.database.on_thread(workers::REPORTING, Some(REPORT_LIMIT), reporting).await {
            Ok((written, connection)) => {
                self.connection = Some(connection);
                written.map_err(|error| workers::why_not_written(dialect, &error))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn version_problem(&self) -> Option<&str> {
        self.memory.version_problem.as_deref()
    }
}

/// The connection of the last poll, or a new one where there is none; and whether it is that of the last poll, which may
/// have been cut meanwhile.
async fn reused_or_new(
    database: &Database,
    connection: Option<Connection>,
) -> Result<(Connection, bool), StoreError> {
    match connection {
        Some(connection) => Ok((connection, true)),
        None => Ok((Connection::open(&database.connector, Purpose::Read).await?, false)),
    }
}

/// A value that changes when another connection commits; `None` if the database has none.
pub(super) async fn data_version(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let Some(question) = connection.dialect().commits else { return Ok(None) };
    let query = connection.query(question);
    match connection.cell("asking for changes", query).await? {
        Cell::Text(version) => Ok(Some(version)),
        _ => Ok(None),
    }
}
