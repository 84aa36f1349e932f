//! Logs which hosts are silent or stay behind, and which are back.

use std::time::Duration;

use tokio::time::Instant;

use super::{Master, log};
use crate::store::{MasterSession, StoreError};

/// How often the master reads the reports: less often than workers report changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl Master {
    /// Reads the reports if that is due. A failure delays no rule, and is tried again at the next rescan: each try is an
    /// error in the server's log.
    pub(super) async fn watch_fleet(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        if !self.database.has_reports() || Instant::now() < self.fleet_at {
            return Ok(());
        }
        self.fleet_at = Instant::now() + LOOK_INTERVAL;
        match session.reports().await {
            Ok(look) => log::fleet(&self.fleet.see(look)),
            Err(error @ StoreError::LockLost { .. }) => return Err(error),
            Err(error) => {
                self.fleet_at = Instant::now() + self.config.rescan_interval;
                tracing::debug!(%error, "the reports of the workers are not read");
            }
        }
        Ok(())
    }
}
