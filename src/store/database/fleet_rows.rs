//! Reads the version and the reports of the workers in a transaction of the caller.

use super::connection::Connection;
use super::workers;
use crate::clock::Timestamp;
use crate::fleet::{Look, ReportedWorker};
use crate::store::StoreError;

/// The operation, in errors.
pub(super) const WHAT: &str = "reading the fleet";

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
        let columns = ["max(version)", "max(changed_at)"].map(dialect.text).join(", ");
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
            Some(_) => {
                let rows = workers::fetch(connection).await.map_err(|error| needs(connection, error))?;
                workers::within_bounds(rows)?
            }
            None => Vec::new(),
        };
        Ok(Self { version, changed_at, workers })
    }

    /// The rows as the fleet's look, which lacks what other tables say.
    pub(super) fn look(self, now: Timestamp) -> Look {
        let Self { version, changed_at, workers } = self;
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
}

/// The error, with the rights that the command needs.
fn needs(connection: &Connection, error: StoreError) -> StoreError {
    match error {
        StoreError::NoTables { .. } | StoreError::Refused { .. } => StoreError::Refused {
            what: WHAT,
            detail: error.cause().into_owned(),
            remedy: match connection.dialect().now {
                Some(_) => "let `rulesyncd sync` create the tables as their owner, and \
                            `GRANT SELECT ON rulesyncd_version` and `GRANT SELECT ON rulesyncd_worker` to this user"
                    .to_owned(),
                None => "let `rulesyncd sync` create the table".to_owned(),
            },
        },
        error => error,
    }
}
