//! Follows a database for one reader.

mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::task::{Memory, PollResult, PollTask, Readable};
use super::bell::Doorbell;
use super::connection::Connection;
use super::sql::Purpose;
use super::wakeups::Wakeups;
use super::{Database, manifest, workers};
use crate::address::SessionAttrs;
use crate::backoff;
use crate::fleet::WorkerReport;
use crate::rule::TableDelta;
use crate::store::poll::Watermarks;
use crate::store::{Follow, READING, RowIndex, StoreError, TraceContextRow};

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
    /// [`Connection::notified`]; `None` as there, and where there is no connection.
    notified: Option<watch::Receiver<()>>,
    /// Whether a wake-up came since the last poll.
    woken: bool,
    doorbell: Doorbell,
    /// Whether the server of the last poll takes no writes.
    reports_elsewhere: bool,
    /// Until when the follower may wait on its connection; `None` if it is not to wait.
    idle_until: Option<tokio::time::Instant>,
}

impl DatabaseFollower {
    pub(super) fn new(database: Database) -> Self {
        let wakeups = Wakeups::new(&database);
        let memory = Memory {
            watermarks: None,
            version: None,
            manifest: None,
            has_trace_table: true,
            version_row: Readable::Unknown,
            lease_row: Readable::Unknown,
        };
        let (doorbell, trace_contexts) = (Doorbell::default(), Vec::new());
        Self {
            database,
            wakeups,
            connection: None,
            memory,
            trace_contexts,
            notified: None,
            woken: false,
            doorbell,
            reports_elsewhere: false,
            idle_until: None,
        }
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
        self.database.on_thread(READING, limit, task.poll()).await
    }
}

impl DatabaseFollower {
    /// Waits until the doorbell returns the connection, at most as long as its statements may take.
    async fn end_wait(&mut self) {
        if self.doorbell.is_waiting() {
            let limit = 2 * self.database.connector.limit();
            self.woken |= self.doorbell.end_within(limit, &mut self.connection).await;
        }
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
                () = notified(&mut self.notified) => break,
                () = backoff::until(due.map(Into::into)) => break,
                () = backoff::until(self.doorbell.due()) => {}
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
        self.notified = None;
        let (is_reused, begun) = (self.connection.is_some(), Instant::now());
        let mut polled = self.poll_once(index).await;
        // A connection that was cut since the last poll fails at once; one that does not answer is an outage.
        let is_quick = begun.elapsed() < self.database.connector.timeout();
        if is_reused && is_quick && matches!(polled, Err(StoreError::Unavailable { .. })) {
            polled = self.poll_once(index).await;
        }
        for retry in 0..ALTERED_RETRIES {
            let may_pass = match &polled {
                Err(StoreError::TablesAltered { .. }) => true,
                // A standby ends a read whose rows the primary has vacuumed, and the next one reads others.
                Err(StoreError::Conflict { .. }) => retry == 0,
                // `rulesyncd_version` or `rulesyncd_lease` may be gone: a new connection finds out. So may
                // `rulesyncd_manifest`, which is then asked for outside of the transaction.
                Err(StoreError::NoTables { .. } | StoreError::Refused { .. }) => {
                    let memory = &mut self.memory;
                    let asked_for_manifest = memory.manifest.take().is_some();
                    retry == 0
                        && memory.watermarks.is_some()
                        && (memory.version_row.is_yes() || memory.lease_row.is_yes() || asked_for_manifest)
                }
                _ => false,
            };
            if !may_pass {
                break;
            }
            polled = self.poll_once(index).await;
        }
        if matches!(polled, Err(StoreError::Driver { .. })) {
            // The thread may be abandoned, and with it the task that waits for wake-ups.
            self.wakeups = Wakeups::new(&self.database);
        }
        let PollResult { delta, connection, memory, trace_contexts, notified } = polled?;
        self.reports_elsewhere = !SessionAttrs::ReadWrite.accepts(connection.role());
        self.connection = Some(connection);
        self.notified = notified;
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
        (!matches!(self.memory.version_row, Readable::No(_))).then_some(version.version)
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
        match &self.memory.version_row {
            Readable::No(why) => why.as_deref(),
            Readable::Yes | Readable::Unknown => None,
        }
    }
}

/// Waits for the next notification, or for the end of the connection, which the next poll finds out. Cancel safe.
async fn notified(notified: &mut Option<watch::Receiver<()>>) {
    let Some(receiver) = notified else { return std::future::pending().await };
    if receiver.changed().await.is_err() {
        *notified = None;
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
