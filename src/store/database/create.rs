//! Creates tables that are missing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::connection::Connection;
use crate::store::StoreError;

/// Creates a table of the daemon's own, unless the server refused that before: without the right to it, each try is an
/// error in the server's log. Any other failure passes, and everything else works without the table.
pub(super) async fn unless_refused(
    has_refused: &AtomicBool,
    create: impl Future<Output = Result<(), StoreError>>,
) {
    if !has_refused.load(Ordering::Relaxed) {
        let is_refused = matches!(create.await, Err(StoreError::Refused { .. }));
        has_refused.store(is_refused, Ordering::Relaxed);
    }
}

/// Creates a table if it is missing, and returns whether it did.
///
/// Not with IF NOT EXISTS, which needs a right even if the table exists, and of which PostgreSQL fails, too, where two
/// sessions create a table at the same time.
pub(super) async fn if_missing(
    connection: &mut Connection,
    what: &'static str,
    table: &str,
    create: &str,
) -> Result<bool, StoreError> {
    match probe(connection, what, table).await {
        Ok(()) => return Ok(false),
        Err(error) if !error.is_lasting() => return Err(error),
        Err(_) => {}
    }
    match connection.run(what, create).await {
        Ok(()) => Ok(true),
        // Another session was faster.
        Err(_) if probe(connection, what, table).await.is_ok() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn probe(connection: &mut Connection, what: &'static str, table: &str) -> Result<(), StoreError> {
    let probe = connection.query(format!("SELECT 1 FROM {table} WHERE 1 = 0"));
    connection.row(what, probe).await.map(drop)
}
