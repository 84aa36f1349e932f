//! The state of a [`super::MasterSession`], on the database's thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connection::Connection;
use super::lease::row;
use super::lock::Lock;
use super::row::Cell;
use super::version::{self, VersionWriter};
use super::writes::{Scope, WRITING};
use super::{Database, tables, trace_context, workers};
use crate::clock::{RisingStamp, since_boot};
use crate::rule::{FoundStateRow, RuleHeader, Table};
use crate::store::lease::{Lead, LeaseRow};
use crate::store::transaction::{self, Last, WriteSession};
use crate::store::{StoreError, TraceContextRow};

/// Everything goes through the connection that holds the lock.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) database: Database,
    pub(super) connection: Connection,
    pub(super) lock: Lock,
    /// When the last call ended.
    pub(super) used: Duration,
    /// Why there is only the server's lock, and no lease; `None` if there is one, and on SQLite.
    pub(super) lease_problem: Option<String>,
    /// The last stamp of each owner's rows.
    pub(super) stamps: HashMap<String, RisingStamp>,
    /// Whether `updated_at` has only whole seconds.
    pub(super) whole_seconds: bool,
    /// Whether `rulesyncd_trace` can be written; `None` before the first try.
    has_trace_table: Option<bool>,
    /// Whether `rulesyncd_manifest` exists.
    pub(super) has_manifest_table: bool,
    pub(super) version: VersionWriter,
    /// Whether the reports of workers that are gone can be deleted.
    cleans_workers: bool,
    /// The number of the session in this process.
    number: u64,
}

impl Session {
    pub(super) async fn new(
        database: Database,
        mut connection: Connection,
        lock: Lock,
        lease_problem: Option<String>,
    ) -> Result<Self, StoreError> {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let whole_seconds = tables::has_whole_seconds(&mut connection, Table::Rules).await?;
        let version = VersionWriter::of_master(&mut connection).await?;
        let cleans_workers = connection.dialect().create_workers.is_some();
        Ok(Self {
            database,
            connection,
            lock,
            used: since_boot(),
            lease_problem,
            version,
            stamps: HashMap::new(),
            whole_seconds,
            has_trace_table: None,
            has_manifest_table: false,
            cleans_workers,
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
        })
    }

    pub(super) async fn rows(&mut self, scope: Scope<'_>) -> Result<Vec<RuleHeader>, StoreError> {
        let rows = tables::summaries(&mut self.connection, scope).await;
        rows.map_err(|error| self.map_lock_lost(error))
    }

    /// Creates the tables of the daemon's own that were dropped, and finds out again whether the version can be raised.
    pub(super) async fn mend_own_tables(&mut self) -> Result<(), StoreError> {
        if self.database.connector.create_tables {
            self.database.create_own_tables(&mut self.connection).await;
        }
        let checked = self.version.check(&mut self.connection, true).await;
        checked.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) async fn version(&mut self) -> Result<Option<String>, StoreError> {
        let version = self.connection.data_version().await.map_err(|error| self.map_lock_lost(error))?;
        Ok(version.map(|version| format!("{} {version}", self.number)))
    }

    pub(super) async fn owned(&mut self, updated_by: &str) -> Result<u64, StoreError> {
        let (count, by) = (self.text("count(*)"), (self.connection.dialect().exact)("updated_by"));
        let query =
            self.connection.query(format!("SELECT {count} FROM ttp_rule WHERE {by} = ")).text(updated_by);
        let owned = self.connection.cell("counting the rules", query).await;
        Ok(owned.map_err(|error| self.map_lock_lost(error))?.shown().parse().unwrap_or(0))
    }

    pub(super) async fn states_since(
        &mut self,
        mark: Option<String>,
    ) -> Result<Option<(String, Vec<FoundStateRow>)>, StoreError> {
        let what = "reading the states";
        let (count, newest) = (self.text("count(*)"), self.text("max(set_at)"));
        let query = self.connection.query(format!("SELECT {count}, {newest} FROM ttp_rule_state"));
        let row = self.connection.row(what, query).await.map_err(|error| self.map_lock_lost(error))?;
        let now = row.iter().flat_map(|row| &row.0).map(Cell::shown).collect::<Vec<_>>().join(" ");
        if mark.as_ref() == Some(&now) {
            return Ok(None);
        }
        let query = tables::select(self.connection.dialect(), Table::States);
        let rows = self.connection.fetch(what, query.into_query()).await;
        let rows = rows.map_err(|error| self.map_lock_lost(error))?;
        let states = rows.into_iter().map(tables::found_state_row).collect();
        Ok(Some((now, states)))
    }

    pub(super) async fn write_trace_contexts(&mut self, contexts: &[TraceContextRow]) {
        if self.has_trace_table == Some(false) {
            return;
        }
        let mut written = Ok(());
        if self.has_trace_table.is_none() {
            written = trace_context::prepare(&mut self.connection).await;
        }
        if written.is_ok() {
            written = trace_context::write(&mut self.connection, contexts).await;
        }
        match &written {
            Ok(()) => self.has_trace_table = Some(true),
            Err(why) if why.is_lasting() => {
                tracing::info!("trace contexts cannot be passed on: {why}; workers begin their own traces");
                self.has_trace_table = Some(false);
            }
            Err(why) => tracing::debug!("trace contexts are not passed on now: {why}"),
        }
    }

    /// Deletes the reports of workers that are gone. What the server refuses is not repeated in this session: without the
    /// right to it, each try is an error in the server's log.
    pub(super) async fn forget_workers(&mut self, after: Duration) -> Result<u64, StoreError> {
        if !self.cleans_workers {
            return Ok(0);
        }
        let now = self.database.now_on(&mut self.connection).await;
        let now = now.map_err(|error| self.map_lock_lost(error))?;
        let cleaned = workers::clean(&mut self.connection, now, after).await;
        self.cleans_workers = !cleaned.as_ref().is_err_and(StoreError::is_lasting);
        cleaned.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) async fn ping(&mut self) -> Result<(), StoreError> {
        transaction::ensure_held(self).await.map_err(|error| self.map_lock_lost(error))?;
        let what = "asking for a sign of life";
        let role = self.connection.role_probe().unwrap_or("'1'");
        let query = self.connection.query(format!("SELECT {role}"));
        let answer = self.connection.cell(what, query).await.map_err(|error| self.map_lock_lost(error))?;
        // A server that was made read-only is no longer the one to write to.
        let noted = self.connection.note_role(what, answer.shown());
        noted.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) fn lease(&self) -> Option<(u64, Duration)> {
        self.lead(|lead, now| (lead.term, lead.age(now)))
    }

    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    pub(super) fn text(&self, expression: &str) -> String {
        (self.connection.dialect().text)(expression)
    }

    /// `error`, or [`StoreError::LockLost`] if the connection is lost, and the lock with it.
    pub(super) fn map_lock_lost(&self, error: StoreError) -> StoreError {
        transaction::lost(self, error)
    }
}

impl WriteSession for Session {
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.connection.run(WRITING, self.connection.dialect().begin_write).await
    }

    async fn finish(&mut self, last: &[Last]) -> Result<u64, StoreError> {
        let fence = self.lead(|lead, _| row::beat(self.connection.dialect(), lead));
        version::finish(&mut self.connection, last, fence).await
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        self.connection.run(WRITING, "COMMIT").await?;
        self.database.wake_followers();
        Ok(())
    }

    async fn roll_back(&mut self) {
        self.connection.run(WRITING, "ROLLBACK").await.ok();
    }

    fn raises(&self) -> bool {
        self.version.problem().is_none()
    }

    async fn goes_without_version(&mut self, error: &StoreError) -> bool {
        self.version.gives_up(&mut self.connection, error).await
    }

    fn lead<T>(&self, decide: impl FnOnce(&mut Lead, Duration) -> T) -> Option<T> {
        self.lock.lease().map(|lease| lease.lead(decide))
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        row::read(&mut self.connection).await
    }

    async fn ensure_locked(&mut self) -> Result<(), StoreError> {
        self.lock.ensure_held(&mut self.connection).await
    }

    fn is_lost(&self) -> bool {
        self.connection.is_broken()
    }
}
