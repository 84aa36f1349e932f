//! The lease in the hands of this process, and its beats.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::super::connection::Connection;
use super::super::sql::Dialect;
use super::lock;
use super::row;
use crate::clock::since_boot;
use crate::store::StoreError;
use crate::store::lease::{BEAT_INTERVAL, Lead};

const BEATING: &str = "confirming the lease";

/// The lease while it is held. Its beats end when it is dropped.
#[derive(Debug)]
pub(in super::super) struct HeldLease {
    state: Arc<HeldState>,
    _beats: AbortOnDropHandle<()>,
}

/// What a session and its beats share.
pub(super) type HeldState = Mutex<Lead>;

impl HeldLease {
    pub(super) const fn new(state: Arc<HeldState>, beats: AbortOnDropHandle<()>) -> Self {
        Self { state, _beats: beats }
    }

    /// Checks that nobody can have taken the lease over, and reads the row if that is not certain.
    ///
    /// # Errors
    /// [`StoreError::LockLost`]; or the database does not answer.
    pub(in super::super) async fn ensure_held(&self, connection: &mut Connection) -> Result<(), StoreError> {
        if lock(&self.state).is_confirmed(since_boot())? {
            return Ok(());
        }
        self.ensure_ours(connection).await
    }

    /// Reads the row, and checks that it is still ours.
    ///
    /// # Errors
    /// As [`HeldLease::ensure_held`].
    pub(in super::super) async fn ensure_ours(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let row = row::read(connection).await?;
        lock(&self.state).found(row.as_ref())
    }

    /// The last statement of a transaction: it matches one row while the lease is ours.
    pub(in super::super) fn fence(&self, dialect: &Dialect) -> String {
        row::beat(dialect, &lock(&self.state))
    }

    /// What the fence, sent at `sent`, says by the number of rows that it matched.
    ///
    /// # Errors
    /// [`StoreError::LockLost`].
    pub(in super::super) fn fenced(&self, matched: u64, sent: Duration) -> Result<(), StoreError> {
        lock(&self.state).fenced(matched, sent)
    }

    /// The transaction with the last fence was committed.
    pub(in super::super) fn committed(&self) {
        lock(&self.state).committed();
    }

    /// The session writes no more: a connection was lost, so its last transaction may be committed later. The lease is
    /// taken again, with a new term, before anything else is written.
    pub(in super::super) fn lose(&self, detail: &str) {
        lock(&self.state).lose(detail);
    }

    /// How long ago the lease was confirmed.
    pub(in super::super) fn age(&self) -> Duration {
        lock(&self.state).age(since_boot())
    }

    pub(in super::super) fn term(&self) -> u64 {
        lock(&self.state).term
    }
}

/// Confirms the lease until it is lost.
pub(super) async fn keep_beating(
    mut connection: Connection,
    state: Weak<HeldState>,
    mut is_alive: impl FnMut() -> bool,
) {
    loop {
        tokio::time::sleep(BEAT_INTERVAL).await;
        if !is_alive() {
            continue;
        }
        let Some(beat) = state.upgrade().map(|state| row::beat(connection.dialect(), &lock(&state))) else {
            return;
        };
        let (sent, query) = (since_boot(), connection.query(beat));
        let beaten = connection.execute(BEATING, query).await;
        let Some(held) = state.upgrade() else { return };
        let recorded = match beaten {
            Ok(matched) => lock(&held).beaten(matched, sent),
            Err(error) if connection.is_broken() => {
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
            && matches!(row::claim_lock(&mut connection, &lead).await, Ok(true))
        {
            lock(&held).got_lock();
        }
    }
}
