//! A master's connection that a server or a proxy cut while it was idle, as during a long scan.

use std::time::Duration;

use super::connection::Connection;
use super::lock::Lock;
use super::session::Session;
use crate::clock::since_boot;

/// After so long without a statement a connection may have been cut.
const IDLE: Duration = Duration::from_secs(2);

impl Session {
    /// Replaces a connection to the same host that was cut while it was idle. No transaction was under way on it, and the
    /// beats have a connection of their own, so the lease and its term stay.
    pub(super) async fn revive(&mut self) {
        let idle = since_boot().saturating_sub(self.used);
        if idle < IDLE || self.connection.is_broken() || !matches!(self.lock, Lock::Lease(_)) {
            return;
        }
        let probe = self.connection.query("SELECT '1'");
        if self.connection.cell("asking for a sign of life", probe).await.is_ok()
            || !self.connection.is_broken()
        {
            return;
        }
        let opened = Connection::open(&self.database.connector, self.database.purpose_of_master()).await;
        if let Some(connection) = opened.ok().filter(|opened| opened.host() == self.connection.host()) {
            self.connection = connection;
        }
    }
}
