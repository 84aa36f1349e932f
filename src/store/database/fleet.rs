//! Reads what `rulesyncd fleet` compares, in one snapshot: tables, version and reports.

use std::sync::Arc;
use std::time::Instant;

use super::connection::Connection;
use super::session::Session;
use super::snapshot::Snapshot;
use super::sql::Purpose;
use super::version::{self, VersionWriter};
use super::{Database, lease, workers};
use crate::clock::Timestamp;
use crate::fleet::{Look, ReportedWorker};
use crate::rule::{Catalogue, TableDelta};
use crate::store::StoreError;
use crate::store::poll::{Poll, TableReader as _};

const WHAT: &str = "reading the fleet";

/// The rows of the daemon's own tables.
#[derive(Debug, Default)]
pub(super) struct FleetRows {
    version: Option<u64>,
    changed_at: Option<Timestamp>,
    workers: Vec<ReportedWorker>,
}

impl FleetRows {
    /// Reads in the transaction of the caller.
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, StoreError> {
        let dialect = connection.dialect();
        let columns = ["version", "changed_at"].map(dialect.text).join(", ");
        let query =
            connection.query(format!("SELECT {columns} FROM rulesyncd_version WHERE name = 'tables'"));
        let row = connection.row(WHAT, query).await.map_err(|error| needs(connection, error))?;
        let (version, changed_at) = match row {
            Some(mut row) => {
                let version = row.int(0, "version").ok().and_then(|version| u64::try_from(version).ok());
                (version, row.time(1, "changed_at").ok())
            }
            None => (None, None),
        };
        let workers = match dialect.create_workers {
            Some(_) => workers::read(connection).await.map_err(|error| needs(connection, error))?,
            None => Vec::new(),
        };
        Ok(Self { version, changed_at, workers })
    }
}

/// The error, with the rights that the command needs.
fn needs(connection: &Connection, error: StoreError) -> StoreError {
    match error {
        StoreError::NoTables { .. } | StoreError::Refused { .. } => StoreError::Refused {
            what: WHAT,
            detail: error.cause().into_owned(),
            remedy: match connection.dialect().now {
                Some(_) => "let `rulesyncd sync` create the tables as their owner, and \
                            `GRANT SELECT ON rulesyncd_version, rulesyncd_worker` to this user"
                    .to_owned(),
                None => "let `rulesyncd sync` create the table".to_owned(),
            },
        },
        error => error,
    }
}

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
            Ok(look(FleetRows::read(&mut self.connection).await?, now))
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
            let has_version = version::why_not_readable(&mut connection).await.is_none();
            let clock = Arc::clone(&database.clock);
            let fleet = Some(FleetRows::default());
            let mut tables = Snapshot {
                connection,
                clock,
                realm: None,
                has_version,
                has_lease: false,
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
            Ok(FleetTables { look: Look { leader, no_master_since, ..look(rows, delta.now) }, delta })
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
            Ok((Look { leader, no_master_since, ..look(rows, now) }, tables.connection))
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

fn look(rows: FleetRows, now: Timestamp) -> Look {
    let FleetRows { version, changed_at, workers } = rows;
    Look {
        now,
        version,
        changed_at,
        leader: None,
        no_master_since: None,
        expected: None,
        release: None,
        workers,
    }
}
