//! What operators order, followed by the master: it writes no state, and the journal of its host is where
//! people look for who switched a rule off.

use super::{Master, log};
use crate::store::{MasterSession, StoreError};
use crate::telemetry::metrics;

impl Master {
    /// Removes expired states. A failure is logged once and stops nothing: readers treat an expired state as the
    /// default anyway.
    pub(super) async fn remove_expired_states(
        &mut self,
        session: &mut MasterSession,
    ) -> Result<(), StoreError> {
        match metrics::timed("remove_expired_states", session.remove_expired_states()).await {
            Ok(expired) => {
                for row in &expired {
                    log::expired(row);
                    self.audit.forget(&row.rule_id);
                }
                self.states_stay = false;
            }
            Err(error @ StoreError::LockLost { .. }) => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut self.states_stay, true) {
                    tracing::warn!(
                        "expired states cannot be removed: {error}; they have no effect in any case"
                    );
                }
            }
        }
        Ok(())
    }

    /// Logs the states that operators changed since the last call. A failure delays no rule.
    pub(super) async fn audit_states(
        &mut self,
        session: &mut MasterSession,
        mark: Option<String>,
    ) -> Result<(), StoreError> {
        match session.states_since(mark).await {
            Ok(Some((mark, rows))) => self.audit.read(mark, rows).iter().for_each(log::state_changed),
            Ok(None) => {}
            Err(error @ StoreError::LockLost { .. }) => return Err(error),
            Err(error) => tracing::debug!(%error, "the states are not read"),
        }
        Ok(())
    }
}
