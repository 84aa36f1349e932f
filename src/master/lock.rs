//! Takes the lock, or stands by for it.

use std::time::Duration;

use tokio::time::Instant;

use super::{LOCK_INTERVAL, LockStatus, Master, log};
use crate::backoff::jittered;
use crate::lifecycle::hangs_after;
use crate::store::{MasterSession, StoreError};

/// How long a master that lost its lock asks who leads, before it reports an outage.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

impl Master {
    /// The master that has taken over from this one, if that is why it lost the lock: then the database is not
    /// unavailable, even if it ended the connection meanwhile.
    pub(super) async fn who_leads_instead(&self, error: &StoreError) -> Option<String> {
        match error {
            StoreError::LockLost { .. } => {
                tokio::time::timeout(LEADER_LIMIT, self.database.other_leader()).await.ok().flatten()
            }
            _ => None,
        }
    }

    /// Waits for the lock, as a standby while another master holds it; `stands_by_since` if that was logged.
    pub(super) async fn acquire(
        &mut self,
        mut stands_by_since: Option<Instant>,
    ) -> Result<MasterSession, StoreError> {
        loop {
            self.liveness.beat();
            self.database.ensure_tables().await?;
            if let Some(session) = self.database.try_lock_while(self.liveness.within(hangs_after())).await? {
                match stands_by_since {
                    Some(since) => log::took_over(Instant::now() - since),
                    // As on a full disk: each try takes the lock, and nothing else can be done.
                    None if self.lock_logged && self.database_outage.is_ongoing() => {}
                    None => log::lock_taken(),
                }
                self.lock_logged = self.database_outage.is_ongoing();
                self.set_lock(LockStatus::Held);
                self.note_lease(session.lease_problem(), session.lease());
                if !self.looked_for_manifest
                    && let Ok(has_manifest) = self.database.has_manifest().await
                {
                    self.looked_for_manifest = true;
                    if has_manifest {
                        log::edits_are_not_signed();
                    }
                }
                return Ok(session);
            }
            if stands_by_since.is_none() {
                stands_by_since = Some(Instant::now());
                self.database_back();
                log::standing_by(self.database.lock_holder().await.ok().flatten().as_deref());
                self.set_lock(LockStatus::Standby);
            }
            self.idle(jittered(LOCK_INTERVAL)).await;
        }
    }
}
