//! How a process comes to lead a database, and how it stops: it takes the lease and the server's lock, and releases the
//! lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::lease::held::HeldLease;
use super::lease::row;
use super::lock::Lock;
use super::session::Session;
use super::sql::Purpose;
use super::{Database, version};
use crate::store::StoreError;
use crate::store::leasing::{self, LeaseSession as _, Taken, lock};

/// The rights of a master.
const RIGHTS: &str = "SELECT, INSERT, UPDATE";

impl Database {
    /// Sets how long a master's lease lasts without a sign of life.
    #[must_use]
    pub fn leasing(self, lasts: Duration) -> Self {
        *lock(&self.shared.lease.lasts) = lasts;
        self
    }

    /// The purpose of a master's connections: a frozen one keeps no row for longer than its lease.
    pub(super) fn purpose_of_master(&self) -> Purpose {
        Purpose::Master(*lock(&self.shared.lease.lasts))
    }

    /// Takes the lease and, where it can, the server's lock. Its beats are sent while `is_alive`.
    pub(super) async fn lead(
        self,
        is_alive: impl FnMut() -> bool + Send + 'static,
    ) -> Result<Option<Session>, StoreError> {
        let held = lock(&self.shared.lease.held).upgrade();
        if held.is_some_and(|held| !lock(&held).is_lost()) {
            return Ok(None);
        }
        let mut connection = Connection::open(&self.connector, self.purpose_of_master()).await?;
        let (owner, lasts) = (&*self.shared.lease.owner, *lock(&self.shared.lease.lasts));
        match leasing::take(&mut connection, (owner, lasts), &self.shared.lease.standby).await? {
            Taken::Lease(lead) => {
                *lock(&self.shared.lease.taken) = Some(lead.clone());
                let state = Arc::new(Mutex::new(lead));
                // It keeps the server's lock.
                let beats = leasing::keep_beating(connection, Arc::downgrade(&state), is_alive);
                let beats = self.shared.thread.spawn(beats).map(AbortOnDropHandle::new);
                let no_thread = || StoreError::Unavailable { what: row::TAKING, detail: "no thread".into() };
                *lock(&self.shared.lease.held) = Arc::downgrade(&state);
                let held = HeldLease::new(state, beats.ok_or_else(no_thread)?);
                let connection = Connection::open(&self.connector, self.purpose_of_master()).await?;
                Session::new(self, connection, Lock::Lease(held), None).await.map(Some)
            }
            Taken::Lock(error) => {
                let problem = version::with_grant(connection.dialect(), "rulesyncd_lease", &error, RIGHTS);
                Session::new(self, connection, Lock::Session, Some(problem)).await.map(Some)
            }
            Taken::Nothing => {
                connection.close().await;
                Ok(None)
            }
        }
    }

    /// The session of the lease's owner is lost. A driver that hangs keeps it on its thread: the process may take the lease
    /// again, and nothing is written under the old term.
    pub(super) fn lose_lease(&self, detail: &str) {
        if let Some(held) = lock(&self.shared.lease.held).upgrade() {
            lock(&held).lose(detail);
        }
    }

    /// Releases the lease if this process holds it, so that a standby takes over at once. A failure only lets the
    /// standby wait longer.
    pub(crate) async fn release_lease(&self) {
        let Some(lead) = lock(&self.shared.lease.taken).take() else { return };
        let released = self.ask("releasing the lease", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Write).await?;
            let released = connection.release_lease(&lead).await;
            connection.close().await;
            released
        });
        if let Err(error) = released.await {
            tracing::debug!(%error, "the lease was not released");
        }
    }

    /// Which other master leads, in words; `None` if none does, or it is not known.
    pub(crate) async fn other_leader(&self) -> Option<String> {
        self.connector.dialect().create_lease?;
        let asked = self.ask("asking who leads", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let (_, unleased) = row::lock_holder(&mut connection).await;
            let row = row::read(&mut connection).await.ok().flatten();
            connection.close().await;
            let other = row.filter(|row| row.owner != database.shared.lease.owner);
            Ok(unleased.or_else(|| other.and_then(|row| row.leader())))
        });
        asked.await.ok().flatten()
    }
}
