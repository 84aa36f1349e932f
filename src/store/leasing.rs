//! How a process takes the lease, keeps it and releases it, without a database. Masters and the simulation do it through
//! a [`LeaseSession`] each; [`lease`](super::lease) decides.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::StoreError;
use super::lease::{BEAT_INTERVAL, Lead, LeaseRow, ServerLock, Standby};
use crate::clock::since_boot;

/// A connection that asks for the lease, and beats.
pub(super) trait LeaseSession: Send {
    /// Asks for the server's lock, with its mark. Returns what names the server, and who holds the lock then.
    fn server_lock(&mut self) -> impl Future<Output = Result<(String, ServerLock), StoreError>> + Send;

    /// Takes the mark away from the server's lock of this session: it has no lease.
    fn unmark_lock(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The row; `None` if there is none, or it cannot be read.
    fn lease_row(&mut self) -> impl Future<Output = Result<Option<LeaseRow>, StoreError>> + Send;

    /// Inserts a lease that nobody has taken yet, unless there is a row; a row that cannot be read counts as none.
    fn insert_lease(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes the lease if the row is still `seen`, and writes there which server's lock is held. Returns how many rows
    /// that matched.
    fn take_lease(
        &mut self,
        seen: &LeaseRow,
        lead: &Lead,
        server: &str,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes the row if it is still this lease, and no master without one has the server's lock. Returns how many rows
    /// that matched.
    fn beat(&mut self, lead: &Lead) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes into the row which server's lock is held, if it is still this lease. Like every change of the row it counts as
    /// a beat: two servers that show the same beat show the same row.
    fn claim_lock(
        &mut self,
        lead: &Lead,
        server: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Releases the lease if the row is still this one: a late release must not end the next lease of the same process.
    fn release_lease(&mut self, lead: &Lead) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether the session has ended.
    fn is_lost(&self) -> bool;

    /// The time by a clock that never goes back.
    fn now(&self) -> Duration {
        since_boot()
    }

    fn sleep(&mut self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }
}

/// What a process has got that asked for the lease.
#[derive(Debug)]
pub(super) enum Taken {
    Lease(Lead),
    /// The server's lock alone, as version 0.1 has it, and why.
    Lock(StoreError),
    Nothing,
}

/// Takes the server's lock where it can, and the lease, for as long as `me` says, if it can be taken now.
///
/// # Errors
/// The session is lost, or the server does not answer. The lease may have been taken all the same.
pub(super) async fn take<S: LeaseSession>(
    session: &mut S,
    me: (&str, Duration),
    standby: &Mutex<Standby>,
) -> Result<Taken, StoreError> {
    let (server, server_lock) = session.server_lock().await?;
    match try_lease(session, me, standby, (&server, server_lock)).await {
        Ok(taken) => Ok(taken.map_or(Taken::Nothing, Taken::Lease)),
        Err(error) if session.is_lost() => Err(error),
        // The owner's transaction is under way, even if it hangs: the server ends that. Or another process was faster.
        Err(StoreError::RowLocked { .. } | StoreError::Conflict { .. }) => Ok(Taken::Nothing),
        // The table, its row or the right to it is missing, or somebody's own trigger refuses the lease.
        Err(error) if error.is_lasting() || matches!(error, StoreError::RowRejected { .. }) => {
            match server_lock {
                ServerLock::Ours => session.unmark_lock().await.map(|()| Taken::Lock(error)),
                ServerLock::Leased | ServerLock::Unleased => Ok(Taken::Nothing),
                // Nobody can lead.
                ServerLock::Missing => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

async fn try_lease<S: LeaseSession>(
    session: &mut S,
    me: (&str, Duration),
    standby: &Mutex<Standby>,
    (server, server_lock): (&str, ServerLock),
) -> Result<Option<Lead>, StoreError> {
    let mut row = session.lease_row().await?;
    // The session that has the lock may be frozen, and the server not notice. A row leads nobody: who takes it minds a
    // master without a lease, and so do beat and fence.
    if row.is_none() && server_lock != ServerLock::Unleased {
        session.insert_lease().await?;
        row = session.lease_row().await?;
    }
    let Some(row) = row else { return Ok(None) };
    let sent = session.now();
    let Some(lead) = lock(standby).look(&row, me, (server, server_lock), sent) else { return Ok(None) };
    let matched = session.take_lease(&row, &lead, &lead.session(server)).await?;
    if matched == 0 {
        return Ok(None);
    }
    lock(standby).took(&lead);
    Ok(Some(lead))
}

/// However its beats end, the lease is lost with them: a driver that panics, or hangs, sends none any more.
struct Beats(Weak<Mutex<Lead>>);

impl Drop for Beats {
    fn drop(&mut self) {
        if let Some(held) = self.0.upgrade() {
            lock(&held).lose("its beats have ended");
        }
    }
}

/// Confirms the lease while `is_alive`, until it is lost.
pub(super) async fn keep_beating<S: LeaseSession>(
    mut session: S,
    held: Weak<Mutex<Lead>>,
    mut is_alive: impl FnMut() -> bool,
) {
    let beats = Beats(held);
    loop {
        session.sleep(BEAT_INTERVAL).await;
        if !is_alive() {
            continue;
        }
        let Some(lead) = beats.0.upgrade().map(|held| lock(&held).clone()) else { return };
        let sent = session.now();
        let beaten = session.beat(&lead).await;
        let Some(held) = beats.0.upgrade() else { return };
        let recorded = match beaten {
            Ok(matched) => lock(&held).beaten(matched, sent),
            Err(error) if session.is_lost() => {
                lock(&held).lose(&error.to_string());
                return;
            }
            // Our own transaction is about to end, or the next beat says more.
            Err(_) => continue,
        };
        if recorded.is_err() {
            return;
        }
        let unlocked = Some(lock(&held).clone()).filter(Lead::wants_lock);
        if let Some(lead) = unlocked
            && let Ok(now) = ask_for_lock(&mut session, lead).await
        {
            lock(&held).asked_for_lock(now);
        }
    }
}

/// Asks for the server's lock for a lease that was taken without, and says in the row that it is held.
async fn ask_for_lock<S: LeaseSession>(session: &mut S, mut lead: Lead) -> Result<ServerLock, StoreError> {
    let (server, server_lock) = session.server_lock().await?;
    lead.asked_for_lock(server_lock);
    let server = lead.session(&server);
    if !server.is_empty() {
        session.claim_lock(&lead, &server).await?;
    }
    Ok(server_lock)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
