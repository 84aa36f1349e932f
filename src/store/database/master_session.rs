//! The only writer of the rules, as the master uses it: its calls run on the database's thread.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bell::Ringer;
use super::session::Session;
use super::writes::{Applied, OwnedScope, Premise, RowsAsRead, RuleWrite, Scope};
use super::{Database, ManifestWrite, trace_context};
use crate::clock::since_boot;
use crate::fleet::Look;
use crate::rule::{FoundManifest, FoundStateRow, RuleHeader, StateRow};
use crate::store::{StoreError, TraceContextRow};

/// The only writer of a database's rules, as long as its connection and its lock last.
///
/// Every statement goes through the connection that holds the lock. After [`StoreError::LockLost`] the session writes
/// nothing more: drop it and take the lock again. The lock also counts as lost when the driver fails, and when a call
/// is cancelled.
///
/// `database.connect_timeout` limits every statement, and the time limit of a poll every call except
/// [`MasterSession::apply`].
#[derive(Debug)]
pub struct MasterSession {
    database: Database,
    /// `None` during a call, and after a call that was cancelled.
    session: Option<Box<Session>>,
    _ringer: Ringer,
}

impl MasterSession {
    pub(super) fn new(database: Database, session: Session) -> Self {
        let shared = &database.shared;
        let _ringer = Ringer::start(&database.connector, &shared.thread, shared.committed.subscribe());
        Self { database, session: Some(Box::new(session)), _ringer }
    }

    /// The headers of the rows in `scope`. A row that cannot be read (for example, if its stamp is not a time) has no
    /// owner and differs from every file, so that a file with its id overwrites it.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if the connection is lost.
    pub async fn rows(&mut self, scope: Scope<'_>) -> Result<Vec<RuleHeader>, StoreError> {
        let (scope, limit) = (OwnedScope::from(scope), self.database.poll_limit());
        self.call("reading the rules", limit, |mut session| async move {
            let rows = session.rows(scope.borrowed()).await;
            (session, rows)
        })
        .await
    }

    /// A value that changes when another session commits, and in every new session; `None` if the database has none.
    /// Writes of this session need not change it.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub(crate) async fn version(&mut self) -> Result<Option<String>, StoreError> {
        self.call("asking for changes", self.database.poll_limit(), |mut session| async move {
            let version = session.version().await;
            (session, version)
        })
        .await
    }

    /// Why the session does not raise the version in `rulesyncd_version`; `None` if it does, and during a call.
    pub fn version_problem(&self) -> Option<&str> {
        self.session.as_ref().and_then(|session| session.version.problem())
    }

    /// Why the session has only the server's lock, and no lease; `None` if it has one, and during a call.
    pub fn lease_problem(&self) -> Option<&str> {
        self.session.as_ref().and_then(|session| session.lease_problem.as_deref())
    }

    /// The term of the lease, and how long ago it was confirmed; `None` without a lease, and during a call.
    pub(crate) fn lease(&self) -> Option<(u64, Duration)> {
        self.session.as_ref().and_then(|session| session.lease())
    }

    /// How many rows `updated_by` owns, for the guard against mass deletion.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn owned(&mut self, updated_by: &str) -> Result<u64, StoreError> {
        let (updated_by, limit) = (updated_by.to_owned(), self.database.poll_limit());
        self.call("counting the rules", limit, |mut session| async move {
            let owned = session.owned(&updated_by).await;
            (session, owned)
        })
        .await
    }

    /// Writes rules in order, in one transaction or several of at most 10,000 rows and 16 MiB, with stamps of the database's
    /// clock that rise strictly above every stamp of the owner's rows, except stamps too far in the future to come from a
    /// clock.
    ///
    /// Leaves out and reports a row that the database rejects (a text too long for its column) or that another
    /// session has locked; then each other row of that transaction is written in its own.
    ///
    /// # Errors
    /// [`StoreError::RowLocked`] if so many rows are locked that the whole table may be: some rows may have been
    /// written. [`StoreError::Conflict`] if other transactions go on being in the way of one. [`StoreError::LockLost`]: no
    /// more was written. After an error, transactions before it are committed, and
    /// if the connection was lost in a commit, it is not known whether that one is: compare again.
    pub async fn apply(&mut self, writes: impl Into<Vec<RuleWrite>>) -> Result<Applied, StoreError> {
        self.apply_on(writes.into(), None).await
    }

    /// As [`MasterSession::apply`], but only if the rows of the keys that were read are still as they were.
    ///
    /// # Errors
    /// [`StoreError::RowsChanged`] if they are not; all others as [`MasterSession::apply`].
    pub async fn apply_if_as_read(
        &mut self,
        writes: impl Into<Vec<RuleWrite>>,
        read: RowsAsRead,
    ) -> Result<Applied, StoreError> {
        self.apply_on(writes.into(), Some(Premise::AsRead(read))).await
    }

    /// As [`MasterSession::apply`], but nothing more once `gone` is cancelled.
    ///
    /// # Errors
    /// [`StoreError::Withdrawn`] if it was; all others as [`MasterSession::apply`].
    pub(crate) async fn apply_unless(
        &mut self,
        writes: Vec<RuleWrite>,
        gone: CancellationToken,
    ) -> Result<Applied, StoreError> {
        self.apply_on(writes, Some(Premise::AskedFor(gone))).await
    }

    async fn apply_on(
        &mut self,
        writes: Vec<RuleWrite>,
        premise: Option<Premise>,
    ) -> Result<Applied, StoreError> {
        let _writing = self.database.writing();
        self.call("writing the rules", None, |mut session| async move {
            let applied = session.apply(writes, premise.as_ref()).await;
            (session, applied)
        })
        .await
    }

    /// The manifest that is published for `realm`, of which nothing is verified. Creates a missing
    /// `rulesyncd_manifest`.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn published(&mut self, realm: String) -> Result<FoundManifest, StoreError> {
        self.call("reading the manifest", self.database.poll_limit(), |mut session| async move {
            let found = session.published(&realm).await;
            (session, found)
        })
        .await
    }

    /// The published list, whose signed length is `bytes`; `None` if a part is missing or too long.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub(crate) async fn published_list(
        &mut self,
        realm: String,
        bytes: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.call("reading the manifest", self.database.poll_limit(), move |mut session| async move {
            let list = session.published_list(&realm, bytes).await;
            (session, list)
        })
        .await
    }

    /// As [`MasterSession::apply`], but all or nothing: writes the rules and, if there is one, the manifest in one
    /// transaction. If any row is rejected or locked, nothing is written, and the result names such rows.
    ///
    /// # Errors
    /// As [`MasterSession::apply`].
    pub async fn publish(
        &mut self,
        writes: Vec<RuleWrite>,
        manifest: Option<ManifestWrite>,
    ) -> Result<Applied, StoreError> {
        let _writing = self.database.writing();
        self.call("writing the rules", None, |mut session| async move {
            let applied = session.publish(&writes, manifest.as_ref()).await;
            (session, applied)
        })
        .await
    }

    /// Writes the trace contexts of changes that [`MasterSession::apply`] writes next. A failure is only logged.
    pub(crate) async fn write_trace_contexts(&mut self, contexts: Vec<TraceContextRow>) {
        if contexts.is_empty() {
            return;
        }
        let written = self.call(trace_context::WHAT, self.database.poll_limit(), |mut session| async move {
            session.write_trace_contexts(&contexts).await;
            (session, Ok(()))
        });
        if let Err(error) = written.await {
            tracing::debug!(error = %error, "the trace contexts were not written");
        }
    }

    /// Deletes the states that have expired by the database's clock, each only if it still has the `expires_at` that
    /// was read, and returns them.
    ///
    /// # Errors
    /// As [`MasterSession::apply`].
    pub async fn remove_expired_states(&mut self) -> Result<Vec<StateRow>, StoreError> {
        let _writing = self.database.writing();
        self.call("removing expired states", self.database.poll_limit(), |mut session| async move {
            let removed = session.remove_expired_states().await;
            (session, removed)
        })
        .await
    }

    /// Deletes the reports of workers that were silent for so long, and of those that another run replaced. Returns how
    /// many.
    ///
    /// # Errors
    /// As [`MasterSession::apply`]; or the right to it is missing.
    pub async fn forget_workers(&mut self, after: Duration) -> Result<u64, StoreError> {
        let limit = self.database.poll_limit();
        self.call("deleting the reports of workers that are gone", limit, move |mut session| async move {
            let forgotten = session.forget_workers(after).await;
            (session, forgotten)
        })
        .await
    }

    /// What the workers report, with the version of the tables.
    ///
    /// # Errors
    /// As [`MasterSession::rows`]; or the right to it is missing.
    pub(crate) async fn reports(&mut self) -> Result<Look, StoreError> {
        self.call("reading the reports", self.database.poll_limit(), |mut session| async move {
            let look = session.reports().await;
            (session, look)
        })
        .await
    }

    /// Every row of `ttp_rule_state`, readable or not, with a mark of the whole table; `None` if the mark still is `mark`.
    /// Two changes within the resolution of the stamp may have the same mark: call this without a mark from time to
    /// time.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub(crate) async fn states_since(
        &mut self,
        mark: Option<String>,
    ) -> Result<Option<(String, Vec<FoundStateRow>)>, StoreError> {
        self.call("reading the states", self.database.poll_limit(), |mut session| async move {
            let states = session.states_since(mark).await;
            (session, states)
        })
        .await
    }

    /// Checks that the lock is still held, and keeps the connection alive. Call it every few seconds: a server
    /// releases the lock of a session that is silent for 15 s.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if it is not.
    pub async fn ping(&mut self) -> Result<(), StoreError> {
        self.call("asking for a sign of life", self.database.poll_limit(), |mut session| async move {
            let ping = session.ping().await;
            (session, ping)
        })
        .await
    }

    /// Releases the lock, so that a standby takes over at once.
    pub async fn close(mut self) {
        let Some(session) = self.session.take() else { return };
        let closing = async move {
            session.close().await;
            Ok(())
        };
        // A connection that cannot be closed properly ends, too.
        self.database.on_thread("closing the connection", self.database.poll_limit(), closing).await.ok();
        self.database.release_lease().await;
    }

    /// Runs `work` on the database's thread, within `limit` if there is one.
    async fn call<T: Send + 'static, W>(
        &mut self,
        what: &'static str,
        limit: Option<Duration>,
        work: impl FnOnce(Box<Session>) -> W + Send + 'static,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = (Box<Session>, Result<T, StoreError>)> + Send + 'static,
    {
        let lost = |detail| StoreError::LockLost { detail };
        let mut session =
            self.session.take().ok_or_else(|| lost("an earlier call did not end".to_owned()))?;
        let calling = async move {
            session.revive().await;
            let (mut session, done) = work(session).await;
            session.used = since_boot();
            Ok((session, done))
        };
        let done = self.database.on_thread(what, limit, calling).await;
        let (session, done) = done.map_err(|error| {
            let detail = error.to_string();
            self.database.lose_lease(&detail);
            lost(detail)
        })?;
        self.session = Some(session);
        done
    }
}

#[cfg(test)]
mod tests;
