//! The state of a [`super::MasterSession`], on the database's thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connection::Connection;
use super::follower::data_version;
use super::lock::Lock;
use super::manifest::{self, ManifestWrite};
use super::row::Cell;
use super::version::VersionWriter;
use super::writes::{Applied, RowsAsRead, RuleWrite, Scope, batches, take_too_large, transactions};
use super::{Database, tables, trace_context, workers};
use crate::backoff::Backoff;
use crate::clock::{RisingStamp, Timestamp, since_boot};
use crate::rule::{RuleHeader, StateRow, Table};
use crate::store::{StoreError, TraceContextRow};
use crate::telemetry::trace;

pub(super) const WRITING: &str = "writing the rules";

/// The most locked rows for which the session waits.
const FEW_LOCKED: usize = 8;

/// What a transaction does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction<'a> {
    pub(super) writes: &'a [RuleWrite],
    /// What must not have changed; `None` if nothing was read.
    pub(super) read: Option<&'a RowsAsRead>,
    /// The manifest to write, if any.
    pub(super) manifest: Option<&'a ManifestWrite>,
}

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
    stamps: HashMap<String, RisingStamp>,
    /// Whether `updated_at` has only whole seconds.
    whole_seconds: bool,
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

    /// Finds out again whether the version can be raised.
    pub(super) async fn check_version(&mut self) -> Result<(), StoreError> {
        let checked = self.version.check(&mut self.connection, true).await;
        checked.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) async fn version(&mut self) -> Result<Option<String>, StoreError> {
        let version = data_version(&mut self.connection).await.map_err(|error| self.map_lock_lost(error))?;
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
    ) -> Result<Option<(String, Vec<StateRow>)>, StoreError> {
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
        let states = rows.into_iter().filter_map(|mut row| tables::state_row(&mut row).ok()).collect();
        Ok(Some((now, states)))
    }

    pub(super) async fn apply(
        &mut self,
        mut writes: Vec<RuleWrite>,
        read: Option<&RowsAsRead>,
    ) -> Result<Applied, StoreError> {
        let rejected = take_too_large(&mut writes, self.connection.longest_statement());
        let mut applied = Applied { rejected, ..Applied::default() };
        if writes.is_empty() {
            return Ok(applied);
        }
        let (mut locked, transactions) = (0, transactions(&writes));
        for writes in &transactions {
            // A transaction of several sees what those before it wrote.
            let read = read.map(|read| if transactions.len() > 1 { read.of(writes) } else { read.clone() });
            self.apply_together(writes, read.as_ref(), &mut applied, &mut locked).await?;
        }
        Ok(applied)
    }

    /// Writes in one transaction; if the database rejects a row of it, each row in its own.
    async fn apply_together(
        &mut self,
        writes: &[RuleWrite],
        read: Option<&RowsAsRead>,
        applied: &mut Applied,
        locked: &mut usize,
    ) -> Result<(), StoreError> {
        match self.transact(Transaction { writes, read, manifest: None }).await {
            Err(
                StoreError::RowRejected { .. } | StoreError::RowLocked { .. } | StoreError::Conflict { .. },
            ) => {}
            done => {
                applied.add(done?);
                return Ok(());
            }
        }
        for write in writes {
            let single = std::slice::from_ref(write);
            let read = read.map(|read| read.of(single));
            match self.transact(Transaction { writes: single, read: read.as_ref(), manifest: None }).await {
                Ok(done) => applied.add(done),
                Err(error @ (StoreError::RowLocked { .. } | StoreError::Conflict { .. }))
                    if *locked < FEW_LOCKED =>
                {
                    *locked += 1;
                    applied.rejected.push((write.rule_id().to_owned(), error));
                }
                Err(error @ StoreError::RowRejected { .. }) => {
                    applied.rejected.push((write.rule_id().to_owned(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
        if let Err(why) = &written {
            tracing::info!("trace contexts cannot be passed on: {why}; workers begin their own traces");
        }
        self.has_trace_table = Some(written.is_ok());
    }

    /// Returns how many rows were written, and when the last was, as [`Applied`] has them.
    pub(super) async fn transact(
        &mut self,
        transaction: Transaction<'_>,
    ) -> Result<(u64, Option<Timestamp>), StoreError> {
        let mut backoff = Backoff::default();
        loop {
            self.begin().await?;
            let written = self.write(transaction).await;
            match self.end(written).await {
                Err(error) => self.before_repeat(error, &mut backoff).await?,
                done => return done,
            }
        }
    }

    /// Waits until a transaction that failed and was rolled back can be repeated.
    ///
    /// # Errors
    /// `error`, if a repetition cannot help; [`StoreError::LockLost`] if the lease is not ours any more.
    pub(super) async fn before_repeat(
        &mut self,
        error: StoreError,
        backoff: &mut Backoff,
    ) -> Result<(), StoreError> {
        self.version.retry(self.connection.dialect(), error)?;
        tokio::time::sleep(backoff.wait()).await;
        let held = self.lock.ensure_ours(&mut self.connection).await;
        held.map_err(|error| self.map_lock_lost(error))
    }

    async fn write(
        &mut self,
        Transaction { writes, read, manifest }: Transaction<'_>,
    ) -> Result<(u64, Option<Timestamp>), StoreError> {
        if let Some(read) = read {
            self.ensure_as_read(read).await?;
        }
        if let Some(manifest) = manifest {
            let now = self.database.now_on(&mut self.connection).await?;
            manifest::write(&mut self.connection, manifest, now).await?;
        }
        let (rows, deleted) = self.write_rows(writes).await?;
        let written = trace::now();
        self.announce(rows + u64::from(manifest.is_some()), deleted).await?;
        Ok((rows, written))
    }

    async fn ensure_as_read(&mut self, read: &RowsAsRead) -> Result<(), StoreError> {
        let keys: Vec<String> = read.keys.iter().cloned().collect();
        let mut now = tables::locked_summaries(&mut self.connection, &keys).await?;
        let mut then = read.rows.clone();
        for rows in [&mut now, &mut then] {
            rows.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        }
        if now == then { Ok(()) } else { Err(StoreError::RowsChanged { what: WRITING }) }
    }

    /// The last statements of a transaction that changed so many rows, and deleted so many of them.
    pub(super) async fn announce(&mut self, changed: u64, deleted: u64) -> Result<(), StoreError> {
        let Self { version, connection, lock, .. } = self;
        version.publish(connection, (changed, deleted), lock.lease()).await
    }

    /// Begins a transaction, and checks in it that the lock is still held.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        let begin = self.connection.dialect().begin_write;
        self.connection.run(WRITING, begin).await.map_err(|error| self.map_lock_lost(error))?;
        let held = self.lock.ensure_held(&mut self.connection).await;
        if let Err(StoreError::LockLost { .. }) = held {
            self.connection.run(WRITING, "ROLLBACK").await.ok();
        }
        held.map_err(|error| self.map_lock_lost(error))
    }

    /// Commits a success, and rolls back an error.
    pub(super) async fn end<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        match done {
            Ok(done) => {
                if let Err(error) = self.connection.run(WRITING, "COMMIT").await {
                    self.connection.run(WRITING, "ROLLBACK").await.ok();
                    return Err(error);
                }
                self.version.committed();
                if let Some(lease) = self.lock.lease() {
                    lease.committed();
                }
                self.database.wake_followers();
                Ok(done)
            }
            Err(error) => {
                self.connection.run(WRITING, "ROLLBACK").await.ok();
                Err(self.map_lock_lost(error))
            }
        }
    }

    /// Writes in the transaction of the caller, and returns how many rows were changed, and how many of them deleted.
    pub(super) async fn write_rows(&mut self, writes: &[RuleWrite]) -> Result<(u64, u64), StoreError> {
        let now = self.database.now_on(&mut self.connection).await?;
        let (mut rows, mut deleted) = (0, 0);
        let alike = |a: &RuleWrite, b: &RuleWrite| match (a, b) {
            (RuleWrite::Upsert(_), RuleWrite::Upsert(_)) => true,
            (RuleWrite::Delete { updated_by: a, .. }, RuleWrite::Delete { updated_by: b, .. }) => a == b,
            _ => false,
        };
        let longest = self.connection.longest_statement();
        for batch in writes.chunk_by(alike).flat_map(|alike| batches(alike, longest)) {
            rows += match &batch[0] {
                RuleWrite::Upsert(_) => self.upsert(batch, now).await?,
                RuleWrite::Delete { updated_by, .. } => {
                    let gone = self.delete(batch, updated_by).await?;
                    deleted += gone;
                    gone
                }
            };
        }
        Ok((rows, deleted))
    }

    async fn upsert(&mut self, batch: &[RuleWrite], now: Timestamp) -> Result<u64, StoreError> {
        let mut rows = Vec::with_capacity(batch.len());
        for write in batch {
            if let RuleWrite::Upsert(row) = write {
                let stamp = self.stamp(&row.header.updated_by, now).await?;
                rows.push((row, stamp));
            }
        }
        let query = tables::upsert(self.connection.dialect(), Table::Rules, &rows, |query, &(row, stamp)| {
            query
                .text(&*row.header.rule_id)
                .push(", ")
                .int(row.header.rule_version)
                .push(", ")
                .text(&*row.header.source_path)
                .push(", ")
                .text(&*row.yaml_content)
                .push(", ")
                .time(Some(stamp))
                .push(", ")
                .text(&*row.header.updated_by)
        });
        self.connection.execute(WRITING, query).await?;
        Ok(rows.len() as u64)
    }

    async fn delete(&mut self, batch: &[RuleWrite], updated_by: &str) -> Result<u64, StoreError> {
        let keys: Vec<String> = batch.iter().map(|write| write.rule_id().to_owned()).collect();
        let exact = self.connection.dialect().exact;
        // The first comparison uses the index, the second respects case.
        let query = self
            .connection
            .query("DELETE FROM ttp_rule WHERE rule_id IN ")
            .texts(&keys)
            .push(&format!(" AND {} IN ", exact("rule_id")))
            .texts(&keys)
            .push(&format!(" AND {} = ", exact("updated_by")))
            .text(updated_by);
        self.connection.execute(WRITING, query).await
    }

    /// The next stamp for an owner's row: it rises above the owner's stamps that are within [`RisingStamp::REACH`] of
    /// `now`.
    async fn stamp(&mut self, owner: &str, now: Timestamp) -> Result<Timestamp, StoreError> {
        if !self.stamps.contains_key(owner) {
            let (latest, by) =
                (self.text("max(updated_at)"), (self.connection.dialect().exact)("updated_by"));
            // A stamp beyond the reach would hide those within it.
            let query = self
                .connection
                .query(format!("SELECT {latest} FROM ttp_rule WHERE {by} = "))
                .text(owner)
                .push(" AND updated_at <= ")
                .time(Some(now.after(RisingStamp::REACH)));
            let latest = self.connection.cell("reading the latest stamp", query).await?;
            let mut stamp = RisingStamp::default();
            stamp.rise_above(Timestamp::parse(latest.shown()).unwrap_or(Timestamp::MIN), now);
            self.stamps.insert(owner.to_owned(), stamp);
        }
        let stamp = self.stamps.entry(owner.to_owned()).or_default().next(now);
        // Truncated here, because a server may round up to a time in the future.
        Ok(if self.whole_seconds { stamp.whole_second() } else { stamp })
    }

    /// Deletes the reports of workers that are gone. A failure is not repeated in this session: without the right to it,
    /// each try is an error in the server's log.
    pub(super) async fn forget_workers(&mut self, after: Duration) -> Result<u64, StoreError> {
        if !self.cleans_workers {
            return Ok(0);
        }
        let now = self.database.now_on(&mut self.connection).await;
        let now = now.map_err(|error| self.map_lock_lost(error))?;
        let cleaned = workers::clean(&mut self.connection, now, after).await;
        self.cleans_workers = cleaned.is_ok();
        cleaned.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) async fn ping(&mut self) -> Result<(), StoreError> {
        let held = self.lock.ensure_held(&mut self.connection).await;
        held.map_err(|error| self.map_lock_lost(error))?;
        let what = "asking for a sign of life";
        let role = self.connection.role_probe().unwrap_or("'1'");
        let query = self.connection.query(format!("SELECT {role}"));
        let answer = self.connection.cell(what, query).await.map_err(|error| self.map_lock_lost(error))?;
        // A server that was made read-only is no longer the one to write to.
        let noted = self.connection.note_role(what, answer.shown());
        noted.map_err(|error| self.map_lock_lost(error))
    }

    pub(super) fn lease(&self) -> Option<(u64, Duration)> {
        self.lock.lease().map(|lease| (lease.term(), lease.age()))
    }

    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    fn text(&self, expression: &str) -> String {
        (self.connection.dialect().text)(expression)
    }

    /// `error`, or [`StoreError::LockLost`] if the connection is lost, and the lock with it.
    pub(super) fn map_lock_lost(&self, error: StoreError) -> StoreError {
        match error {
            lost @ StoreError::LockLost { .. } => lost,
            error if self.connection.is_broken() => {
                let detail = error.to_string();
                if let Some(lease) = self.lock.lease() {
                    lease.lose(&detail);
                }
                StoreError::LockLost { detail }
            }
            error => error,
        }
    }
}
