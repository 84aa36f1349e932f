//! The order of a transaction that writes, without a database. Masters, commands and the simulation carry it out through
//! a [`WriteSession`] each.
//!
//! A transaction reads the rows that must not have changed, writes, raises the version, and at last makes sure that its
//! master still has the lease: the fence. It is committed; or the error says what else happened:
//!
//! * [`StoreError::RowRejected`], [`StoreError::RowLocked`]: one of its rows cannot be written. It is rolled back.
//! * [`StoreError::Conflict`], [`StoreError::Unavailable`]: other transactions were in its way at every try. It is rolled
//!   back.
//! * [`StoreError::LockLost`]: the lease is lost, or the session. A COMMIT without an answer may still be carried out, so
//!   that nothing more is written under this lease. A command, which has none, gets [`StoreError::Unavailable`].
//! * [`StoreError::RowsChanged`] and those of a statement. It is rolled back.

use std::time::Duration;

use super::StoreError;
use super::lease::{Lead, LeaseRow};
use crate::backoff::Backoff;

/// How often a transaction is repeated because another one was in the way.
const REPEATS: u32 = 5;

/// One of the last statements of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Raises the version.
    Raise {
        /// Whether the transaction deleted rows.
        deletes: bool,
    },
    /// Wakes the workers at the COMMIT.
    Notify,
    /// A beat of the lease.
    Fence,
}

/// How many rows a transaction changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) changed: u64,
    /// How many of them were deletions.
    pub(super) deleted: u64,
}

/// What a transaction reads and writes.
pub(super) trait Transaction<S>: Sync {
    /// What it did.
    type Done: Send;

    /// Locks the rows that must not have changed, and compares them.
    ///
    /// # Errors
    /// [`StoreError::RowsChanged`], or that of a statement.
    fn compare(&self, _session: &mut S) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// Writes.
    ///
    /// # Errors
    /// That of a statement.
    fn write(&self, session: &mut S) -> impl Future<Output = Result<(Self::Done, Rows), StoreError>> + Send;
}

/// A connection that writes. That of a command has no lease.
pub(super) trait WriteSession: Send {
    fn begin(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Carries out the last statements in this order, in one round trip where the server takes several. Returns how many
    /// rows the last of them matched.
    fn finish(&mut self, last: &[Last]) -> impl Future<Output = Result<u64, StoreError>> + Send;

    fn commit(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn roll_back(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether it raises the version.
    fn raises(&self) -> bool;

    /// The last statements failed, and the transaction was rolled back: whether they are carried out without the version
    /// from now on, because it cannot be raised.
    fn goes_without_version(&mut self, error: &StoreError) -> impl Future<Output = bool> + Send;

    /// Lets the lease decide, with the time now; `None` without a lease.
    fn lead<T>(&self, _decide: impl FnOnce(&mut Lead, Duration) -> T) -> Option<T> {
        None
    }

    /// The row of the lease.
    fn lease_row(&mut self) -> impl Future<Output = Result<Option<LeaseRow>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Makes sure that the session lasts, and that it holds the lock which it has besides the lease, or instead of it.
    fn ensure_locked(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// Whether the session has ended, and with it the right to write.
    fn is_lost(&self) -> bool {
        false
    }

    fn sleep(&mut self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }
}

/// Why a transaction is not committed.
enum Failed {
    /// At the version or the lease: rows that every transaction writes.
    AtLast(StoreError),
    Otherwise(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Otherwise(error)
    }
}

/// Carries out a transaction. If another one was in the way, the whole of it is repeated while the lease is ours.
///
/// # Errors
/// As [the module](self) says.
pub(super) async fn transact<S: WriteSession, T: Transaction<S>>(
    session: &mut S,
    transaction: &T,
) -> Result<T::Done, StoreError> {
    let (mut repeats, mut backoff) = (0, Backoff::default());
    loop {
        let failed = match attempt(session, transaction).await {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        session.roll_back().await;
        let (error, is_last) = match failed {
            Failed::AtLast(error) => (lost(session, error), true),
            Failed::Otherwise(error) => (lost(session, error), false),
        };
        match error {
            error if is_last && session.goes_without_version(&error).await => {}
            StoreError::Conflict { .. } if repeats < REPEATS => repeats += 1,
            StoreError::RowLocked { .. } if is_last && repeats < REPEATS => repeats += 1,
            // No other row can be written instead.
            StoreError::RowLocked { what, detail } if is_last => {
                return Err(StoreError::Unavailable { what, detail });
            }
            // It is not about the rules: the row of the lease takes no beat, and the lease is taken anew.
            StoreError::RowRejected { detail, .. } if is_last && session.lead(|_, _| ()).is_some() => {
                session.lead(|lead, _| lead.lose(&detail));
                return Err(StoreError::LockLost { detail });
            }
            error => return Err(error),
        }
        session.sleep(backoff.wait()).await;
        ensure_ours(session).await.map_err(|error| lost(session, error))?;
    }
}

async fn attempt<S: WriteSession, T: Transaction<S>>(
    session: &mut S,
    transaction: &T,
) -> Result<T::Done, Failed> {
    session.begin().await?;
    ensure_held(session).await?;
    transaction.compare(session).await?;
    let (done, rows) = transaction.write(session).await?;
    let raise = (rows.changed > 0 && session.raises()).then_some(Last::Raise { deletes: rows.deleted > 0 });
    let sent = session.lead(|_, now| now);
    // The fence comes last, because it holds off every standby until the transaction ends.
    let last = [raise, Some(Last::Notify), sent.and(Some(Last::Fence))];
    let last: Vec<Last> = last.into_iter().flatten().collect();
    let matched = session.finish(&last).await.map_err(Failed::AtLast)?;
    session.lead(|lead, now| lead.fenced(matched, sent.unwrap_or(now))).transpose()?;
    session.commit().await?;
    session.lead(|lead, _| lead.committed());
    Ok(done)
}

/// Makes sure that nobody can have taken the lease over, and reads its row if that is not certain.
///
/// # Errors
/// [`StoreError::LockLost`] if the right to write is lost, or that of a statement.
pub(super) async fn ensure_held<S: WriteSession>(session: &mut S) -> Result<(), StoreError> {
    session.ensure_locked().await?;
    match session.lead(|lead, now| lead.is_confirmed(now)).transpose()? {
        Some(false) => ensure_ours(session).await,
        _ => Ok(()),
    }
}

/// Reads the row of the lease, and makes sure that it is still ours.
async fn ensure_ours<S: WriteSession>(session: &mut S) -> Result<(), StoreError> {
    if session.lead(|_, _| ()).is_none() {
        return session.ensure_locked().await;
    }
    let row = session.lease_row().await?;
    session.lead(|lead, _| lead.found(row.as_ref())).unwrap_or(Ok(()))
}

/// `error`, or [`StoreError::LockLost`] if the session has ended, and the lease with it.
pub(super) fn lost<S: WriteSession>(session: &S, error: StoreError) -> StoreError {
    match error {
        lost @ StoreError::LockLost { .. } => lost,
        error if session.is_lost() => {
            let detail = error.to_string();
            session.lead(|lead, _| lead.lose(&detail));
            StoreError::LockLost { detail }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests;
