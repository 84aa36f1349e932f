//! Creates the tables, or checks that they exist.

use std::sync::atomic::Ordering;

use super::connection::Connection;
use super::sql::Purpose;
use super::{Database, create, lease, tables, version, workers};
use crate::rule::Table;
use crate::store::StoreError;

impl Database {
    /// Creates the missing tables, and leaves existing ones unchanged, except that it tries to add missing indexes.
    /// It tries that once; a table of the daemon's own until the server refuses it.
    /// Creates a missing SQLite file. Without `create_tables` it only checks that the tables exist.
    ///
    /// # Errors
    /// The database does not answer, or does not allow it; [`StoreError::NoTables`] if the tables do not exist and
    /// must not be created.
    pub async fn ensure_tables(&self) -> Result<(), StoreError> {
        if !self.connector.create_tables {
            return self.expect_tables().await;
        }
        // An index on a large table takes long.
        let database = self.clone();
        self.on_thread("making the tables", None, async move {
            let mut connection = Connection::open(&database.connector, Purpose::Create).await?;
            // They come first, because workers wait only for the others.
            database.create_own_tables(&mut connection).await;
            let mut is_new = false;
            for table in [Table::Rules, Table::States] {
                is_new |= tables::ensure(&mut connection, table).await?;
            }
            if !database.shared.indexed.swap(true, Ordering::Relaxed) || is_new {
                for table in [Table::Rules, Table::States] {
                    // Without it, everything works more slowly.
                    tables::index(&mut connection, table).await.ok();
                }
            }
            connection.close().await;
            Ok(())
        })
        .await
    }

    /// Creates the missing tables of the daemon's own.
    pub(super) async fn create_own_tables(&self, connection: &mut Connection) {
        let shared = &self.shared;
        create::unless_refused(&shared.has_refused_version, version::create(connection)).await;
        create::unless_refused(&shared.lease.has_refused, lease::row::create(connection)).await;
        create::unless_refused(&shared.has_refused_workers, workers::create(connection)).await;
    }

    async fn expect_tables(&self) -> Result<(), StoreError> {
        self.ask("looking for the tables", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            for table in [Table::Rules, Table::States] {
                tables::expect(&mut connection, table).await?;
            }
            connection.close().await;
            Ok(())
        })
        .await
    }
}
