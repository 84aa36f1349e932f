//! The lease in the hands of this process, and its beats.

use std::sync::atomic::{AtomicBool, Ordering};
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
pub(super) type HeldState = Mutex<LeaseState>;

#[derive(Debug)]
pub(super) struct LeaseState {
    lead: Lead,
    /// How the loss of the lease was noticed.
    lost: Option<String>,
    was_robbed: Arc<AtomicBool>,
    has_lock: bool,
}

impl LeaseState {
    pub(super) const fn new(lead: Lead, has_lock: bool, was_robbed: Arc<AtomicBool>) -> Self {
        Self { lead, lost: None, was_robbed, has_lock }
    }

    pub(super) const fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// The row is not ours any more.
    fn robbed(&mut self) -> StoreError {
        if self.has_lock {
            self.was_robbed.store(true, Ordering::Relaxed);
        }
        let detail = "another master has taken the lease".to_owned();
        self.lost.get_or_insert_with(|| detail.clone());
        StoreError::LockLost { detail }
    }
}

impl HeldLease {
    pub(super) const fn new(state: Arc<HeldState>, beats: AbortOnDropHandle<()>) -> Self {
        Self { state, _beats: beats }
    }

    /// Checks that nobody can have taken the lease over, and reads the row if that is not certain.
    ///
    /// # Errors
    /// [`StoreError::LockLost`]; or the database does not answer.
    pub(in super::super) async fn ensure_held(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let sent = since_boot();
        {
            let state = lock(&self.state);
            if let Some(detail) = &state.lost {
                return Err(StoreError::LockLost { detail: detail.clone() });
            }
            if state.lead.is_confirmed(sent) {
                return Ok(());
            }
        }
        let row = row::read(connection).await?;
        let mut state = lock(&self.state);
        match row {
            Some(row) if state.lead.is(&row) => {
                state.lead.confirm(sent);
                Ok(())
            }
            _ => Err(state.robbed()),
        }
    }

    /// The last statement of a transaction: it matches one row while the lease is ours.
    pub(in super::super) fn fence(&self, dialect: &Dialect) -> String {
        row::beat(dialect, &lock(&self.state).lead)
    }

    /// What the fence, sent at `sent`, says by the number of rows that it matched.
    ///
    /// # Errors
    /// [`StoreError::LockLost`].
    pub(in super::super) fn fenced(&self, matched: u64, sent: Duration) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        match matched {
            0 => Err(state.robbed()),
            _ => {
                state.lead.confirm(sent);
                Ok(())
            }
        }
    }

    /// The session writes no more: a connection was lost, so its last transaction may be committed later. The lease is
    /// taken again, with a new term, before anything else is written.
    pub(in super::super) fn lose(&self, detail: &str) {
        lock(&self.state).lost.get_or_insert_with(|| detail.to_owned());
    }

    /// How long ago the lease was confirmed.
    pub(in super::super) fn age(&self) -> Duration {
        lock(&self.state).lead.age(since_boot())
    }

    pub(in super::super) fn term(&self) -> u64 {
        lock(&self.state).lead.term
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
        let Some(beat) = state.upgrade().map(|state| row::beat(connection.dialect(), &lock(&state).lead))
        else {
            return;
        };
        let (sent, query) = (since_boot(), connection.query(beat));
        let beaten = connection.execute(BEATING, query).await;
        let Some(held) = state.upgrade() else { return };
        let Some(unlocked) = note_beat(&held, &connection, beaten, sent) else { return };
        if let Some(lead) = unlocked
            && matches!(row::claim_lock(&mut connection, &lead).await, Ok(true))
        {
            lock(&held).has_lock = true;
        }
    }
}

/// Records the outcome of a beat that was sent at `sent`; `None` if the lease is lost. Returns the lease if it has no
/// server's lock yet, and may have.
pub(super) fn note_beat(
    held: &HeldState,
    connection: &Connection,
    beaten: Result<u64, StoreError>,
    sent: Duration,
) -> Option<Option<Lead>> {
    let mut state = lock(held);
    match beaten {
        Ok(0) => {
            state.robbed();
            None
        }
        Ok(_) => {
            state.lead.confirm(sent);
            let wants_lock = !state.has_lock && !state.was_robbed.load(Ordering::Relaxed);
            Some(wants_lock.then(|| state.lead.clone()))
        }
        Err(error) if connection.is_broken() => {
            state.lost.get_or_insert_with(|| error.to_string());
            None
        }
        // Our own transaction is about to end, or the next beat says more.
        Err(_) => Some(None),
    }
}
