//! The lease in the hands of this process, and its beats.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::super::connection::Connection;
use super::lock;
use super::row;
use crate::clock::since_boot;
use crate::store::lease::{BEAT_INTERVAL, Lead};

const BEATING: &str = "confirming the lease";

/// The lease while it is held. Its beats end when it is dropped.
#[derive(Debug)]
pub(in super::super) struct HeldLease {
    state: Arc<HeldState>,
    _beats: AbortOnDropHandle<()>,
}

/// What a session and its beats share.
pub(in super::super) type HeldState = Mutex<Lead>;

impl HeldLease {
    pub(in super::super) const fn new(state: Arc<HeldState>, beats: AbortOnDropHandle<()>) -> Self {
        Self { state, _beats: beats }
    }

    /// Lets the lease decide, with the time now.
    pub(in super::super) fn lead<T>(&self, decide: impl FnOnce(&mut Lead, Duration) -> T) -> T {
        decide(&mut lock(&self.state), since_boot())
    }
}

/// However its beats end, the lease is lost with them: a driver that panics, or hangs, sends none any more.
struct Beats(Weak<HeldState>);

impl Drop for Beats {
    fn drop(&mut self) {
        if let Some(held) = self.0.upgrade() {
            lock(&held).lose("its beats have ended");
        }
    }
}

/// Confirms the lease until it is lost.
pub(in super::super) async fn keep_beating(
    mut connection: Connection,
    state: Weak<HeldState>,
    mut is_alive: impl FnMut() -> bool,
) {
    let beats = Beats(state);
    loop {
        tokio::time::sleep(BEAT_INTERVAL).await;
        if !is_alive() {
            continue;
        }
        let Some(beat) = beats.0.upgrade().map(|state| row::beat(connection.dialect(), &lock(&state))) else {
            return;
        };
        let (sent, query) = (since_boot(), connection.query(beat));
        let beaten = connection.execute(BEATING, query).await;
        let Some(held) = beats.0.upgrade() else { return };
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
            && let Ok(now) = row::claim_lock(&mut connection, lead).await
        {
            lock(&held).asked_for_lock(now);
        }
    }
}
