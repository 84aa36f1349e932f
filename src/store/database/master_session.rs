//! The one writer of the rules, as the master has it: what it is asked goes to the database's thread.

use std::time::Duration;

use super::session::Session;
use super::writes::{Applied, OwnedScope, RuleWrite, Scope};
use super::{Database, trace_context};
use crate::rule::{RuleHeader, StateRow};
use crate::store::{StoreError, TraceContextRow};

/// The one writer of a database's rules, for as long as its connection and its lock stand.
///
/// Everything goes through the connection that holds the lock. After [`StoreError::LockLost`]
/// nothing is written any more: drop the session and ask for another. It is lost, too, where the
/// driver fails, and where a call is given up before it has ended.
///
/// Every statement is bounded by `database.connect_timeout`, and every call but
/// [`MasterSession::apply`] by the time that a whole poll may take.
#[derive(Debug)]
pub struct MasterSession {
    database: Database,
    /// `None` while a call has it, and after one that did not bring it back.
    session: Option<Box<Session>>,
}

impl MasterSession {
    pub(super) fn new(database: Database, session: Session) -> Self {
        Self { database, session: Some(Box::new(session)) }
    }

    /// The rows of `ttp_rule` in `scope`. A row that cannot be read as one (its stamp is no time)
    /// is nobody's and like no file, so that a file of its id mends it.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] when the connection is gone.
    pub async fn rows(&mut self, scope: Scope<'_>) -> Result<Vec<RuleHeader>, StoreError> {
        let (scope, limit) = (OwnedScope::from(scope), self.database.poll_limit());
        self.call("reading the rules", limit, |mut session| async move {
            let rows = session.rows(scope.borrowed()).await;
            (session, rows)
        })
        .await
    }

    /// A value that is another once someone else has committed, and in every session; `None` where the
    /// database cannot tell. It tells nothing of what this session writes.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn version(&mut self) -> Result<Option<String>, StoreError> {
        self.call("asking for changes", self.database.poll_limit(), |mut session| async move {
            let version = session.version().await;
            (session, version)
        })
        .await
    }

    /// How many rows `updated_by` owns; what the guard against mass deletion compares with.
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

    /// Writes rules in one transaction, in their order, stamped by the database's clock with
    /// `updated_at` rising strictly above every stamp that its owner's rows have and a clock can have
    /// given.
    ///
    /// A row that the database does not take (a text too long for its column), or that another session
    /// holds, is left out and reported; the others are written then each in a transaction of its own.
    ///
    /// # Errors
    /// [`StoreError::RowLocked`] where so many rows are held that it is the table: some may have been
    /// written.
    /// [`StoreError::LockLost`]: nothing was written. Any other: nothing was written, or it is not
    /// known whether all was (the connection was lost in the commit); compare again.
    pub async fn apply(&mut self, writes: impl Into<Vec<RuleWrite>>) -> Result<Applied, StoreError> {
        let writes = writes.into();
        let _writing = self.database.writing();
        self.call("writing the rules", None, |mut session| async move {
            let applied = session.apply(&writes).await;
            (session, applied)
        })
        .await
    }

    /// Writes the trace contexts of changes that [`MasterSession::apply`] writes next. A failure is only logged.
    pub async fn write_trace_contexts(&mut self, contexts: Vec<TraceContextRow>) {
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

    /// Deletes the states that have expired by the database's clock, each only if it still has the
    /// `expires_at` that was read, and returns them.
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

    /// Every row of `ttp_rule_state` that can be read, with a mark of them all; `None` where the mark is still
    /// `mark`. Two changes of one rule within what the column's stamp can tell apart may have one mark: ask
    /// without a mark from time to time.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn states_since(
        &mut self,
        mark: Option<String>,
    ) -> Result<Option<(String, Vec<StateRow>)>, StoreError> {
        self.call("reading the states", self.database.poll_limit(), |mut session| async move {
            let states = session.states_since(mark).await;
            (session, states)
        })
        .await
    }

    /// Tells whether the lock is still held, and keeps the connection awake: call it every few
    /// seconds (a server takes the lock of a session that is silent for 15 s).
    ///
    /// # Errors
    /// [`StoreError::LockLost`] when it is not.
    pub async fn ping(&mut self) -> Result<(), StoreError> {
        self.call("asking for a sign of life", self.database.poll_limit(), |mut session| async move {
            let ping = session.ping().await;
            (session, ping)
        })
        .await
    }

    /// Gives the lock back, so that a standby takes over at once.
    pub async fn close(mut self) {
        let Some(session) = self.session.take() else { return };
        let closing = async move {
            session.close().await;
            Ok(())
        };
        // A connection that is not closed in good order ends all the same.
        self.database.on_thread("closing the connection", self.database.poll_limit(), closing).await.ok();
    }

    /// Has `work` done on the database's thread, within `limit` where there is one.
    async fn call<T: Send + 'static, W>(
        &mut self,
        what: &'static str,
        limit: Option<Duration>,
        work: impl FnOnce(Box<Session>) -> W,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = (Box<Session>, Result<T, StoreError>)> + Send + 'static,
    {
        let lost = |detail| StoreError::LockLost { detail };
        let session = self.session.take().ok_or_else(|| lost("an earlier call did not end".to_owned()))?;
        let work = work(session);
        let done = self.database.on_thread(what, limit, async move { Ok(work.await) }).await;
        let (session, done) = done.map_err(|error| lost(error.to_string()))?;
        self.session = Some(session);
        done
    }
}
