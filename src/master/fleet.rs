//! Logs which hosts are silent or stay behind, and which are back, and deletes the reports of those that are gone.

use std::time::Duration;

use tokio::time::Instant;

use super::{Master, log};
use crate::fleet::HostState;
use crate::store::{MasterSession, StoreError};
use crate::telemetry::metrics;

/// How often the master reads the reports: less often than workers report changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl Master {
    /// Registers the gauges of the fleet; a standby, and a master that cannot read the reports, has no values.
    pub(super) fn register_fleet_metrics(&self) {
        for (index, state) in HostState::WORDS.into_iter().enumerate() {
            let seen = self.fleet_seen.subscribe();
            let read = move || seen.borrow().as_ref().map(|news| news.summary.hosts[index] as f64);
            metrics::optional_gauge(
                "rulesyncd.fleet.workers",
                "Workers that report, by state",
                &[("mode", "master"), ("state", state)],
                read,
            );
        }
        let seen = self.fleet_seen.subscribe();
        metrics::optional_gauge(
            "rulesyncd.fleet.oldest_report_seconds",
            "Age of the oldest report of a worker",
            &[("mode", "master")],
            move || Some(seen.borrow().as_ref()?.oldest_report?.as_secs_f64()),
        );
    }

    /// Deletes the reports of workers that are gone. A failure delays no rule.
    pub(super) async fn forget_workers(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        match session.forget_workers(self.config.forget_workers_after).await {
            Ok(_) => Ok(()),
            Err(error @ StoreError::LockLost { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the reports of workers that are gone stay");
                Ok(())
            }
        }
    }

    /// Reads the reports if that is due. A failure delays no rule, and is tried again at the next rescan: each try is an
    /// error in the server's log.
    pub(super) async fn watch_fleet(&mut self, session: &mut MasterSession) -> Result<(), StoreError> {
        if !self.database.has_reports() || Instant::now() < self.fleet_at {
            return Ok(());
        }
        self.fleet_at = Instant::now() + LOOK_INTERVAL;
        match session.reports().await {
            Ok(look) => {
                let news = self.fleet.update(look);
                log::fleet(&news);
                if let Some(took) = news.arrived_after {
                    metrics::arrived_everywhere(took);
                }
                self.fleet_seen.send_replace(Some(news));
            }
            Err(error @ StoreError::LockLost { .. }) => return Err(error),
            Err(error) => {
                self.fleet_seen.send_replace(None);
                self.fleet_at = Instant::now() + self.config.rescan_interval;
                tracing::debug!(%error, "the reports of the workers are not read");
            }
        }
        Ok(())
    }
}
