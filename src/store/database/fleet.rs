//! Reads what `rulesyncd fleet` compares, in one snapshot: tables, version and reports.

use std::sync::Arc;
use std::time::Instant;

use super::connection::Connection;
use super::fleet_rows::{FleetRows, WHAT};
use super::session::Session;
use super::snapshot::Snapshot;
use super::sql::Purpose;
use super::version::{self, VersionWriter};
use super::{Database, lease, workers};
use crate::fleet::Look;
use crate::rule::{Catalogue, TableDelta};
use crate::store::StoreError;
use crate::store::poll::{Poll, TableReader as _};

/// The tables and the reports, in one snapshot.
#[derive(Debug)]
pub(crate) struct FleetTables {
    /// Every row.
    pub(crate) delta: TableDelta,
    /// The version and the reports.
    pub(crate) look: Look,
}

impl Session {
    pub(super) async fn reports(&mut self) -> Result<Look, StoreError> {
        let read = async {
            let now = self.database.now_on(&mut self.connection).await?;
            Ok(FleetRows::read(&mut self.connection).await?.look(now))
        };
        let read = read.await;
        read.map_err(|error| self.map_lock_lost(error))
    }
}

impl Database {
    /// The tables, the version and the reports.
    ///
    /// # Errors
    /// The database does not answer, or does not allow it.
    pub(crate) async fn fleet(&self) -> Result<FleetTables, StoreError> {
        self.ask(WHAT, |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let has_version = version::why_not_readable(&mut connection).await?.is_none();
            let clock = Arc::clone(&database.clock);
            let fleet = Some(FleetRows::default());
            let mut tables = Snapshot {
                connection,
                clock,
                realm: None,
                has_version,
                has_lease: false,
                has_beats: false,
                last_beat: None,
                hint: None,
                found_hint: None,
                begun: None,
                fleet,
            };
            let index = Catalogue::default();
            let poll = Poll::new(&mut tables, &database.follow, &index, None, Instant::now());
            let (delta, _) = poll.run().await?;
            let rows = tables.fleet.take().unwrap_or_default();
            let (leader, no_master_since) = lease::leader(&mut tables.connection).await;
            tables.connection.close().await;
            Ok(FleetTables { look: Look { leader, no_master_since, ..rows.look(delta.now) }, delta })
        })
        .await
    }

    /// Reads the version and the reports again and again, on one connection.
    pub(crate) fn fleet_reader(&self) -> FleetReader {
        FleetReader { database: self.clone(), connection: None }
    }

    /// Why this user cannot raise the version of the tables, with what to do; `None` if it can.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn why_no_version(&self) -> Result<Option<String>, StoreError> {
        self.ask(WHAT, |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Write).await?;
            let writer = VersionWriter::of_operator(&mut connection).await?;
            connection.close().await;
            Ok(writer.problem().map(str::to_owned))
        })
        .await
    }
}

/// Reads the version and the reports, on one connection that stays open.
#[derive(Debug)]
pub(crate) struct FleetReader {
    database: Database,
    /// `None` before the first look, and after one that failed.
    connection: Option<Connection>,
}

impl FleetReader {
    /// The version and the reports, in one snapshot.
    ///
    /// # Errors
    /// As [`Database::fleet`]. The next look opens another connection.
    pub(crate) async fn look(&mut self) -> Result<Look, StoreError> {
        self.ask(|database, connection| async move {
            let clock = Arc::clone(&database.clock);
            let mut tables = Snapshot {
                connection,
                clock,
                realm: None,
                has_version: false,
                has_lease: false,
                has_beats: false,
                last_beat: None,
                hint: None,
                found_hint: None,
                begun: None,
                fleet: Some(FleetRows::default()),
            };
            tables.begin().await?;
            let now = database.now_on(&mut tables.connection).await?;
            tables.end().await?;
            let rows = tables.fleet.take().unwrap_or_default();
            let (leader, no_master_since) = lease::leader(&mut tables.connection).await;
            Ok((Look { leader, no_master_since, ..rows.look(now) }, tables.connection))
        })
        .await
    }

    /// How many reports lack this version, or, with `acknowledged`, an acknowledgement: one cheap statement.
    ///
    /// # Errors
    /// As [`FleetReader::look`].
    pub(crate) async fn lacking(&mut self, version: u64, acknowledged: bool) -> Result<usize, StoreError> {
        self.ask(move |_, mut connection| async move {
            let cell = connection.cell(WHAT, workers::lacking(connection.dialect(), version, acknowledged));
            let lacking = cell.await?.shown().parse().unwrap_or_default();
            Ok((lacking, connection))
        })
        .await
    }

    async fn ask<T: Send + 'static, W>(
        &mut self,
        work: impl FnOnce(Database, Connection) -> W + Send + 'static,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = Result<(T, Connection), StoreError>> + Send + 'static,
    {
        let kept = self.connection.take();
        let asking = |database: Database| async move {
            let connection = match kept {
                Some(connection) if !connection.is_broken() && !connection.is_elsewhere() => connection,
                _ => Connection::open(&database.connector, Purpose::Read).await?,
            };
            work(database, connection).await
        };
        let (answer, connection) = self.database.ask(WHAT, asking).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}
