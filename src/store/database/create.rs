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
    if exists(connection, what, table).await {
        return Ok(false);
    }
    match connection.run(what, create).await {
        Ok(()) => Ok(true),
        // Another session was faster.
        Err(_) if exists(connection, what, table).await => Ok(false),
        Err(error) => Err(error),
    }
}

async fn exists(connection: &mut Connection, what: &'static str, table: &str) -> bool {
    let probe = connection.query(format!("SELECT 1 FROM {table} WHERE 1 = 0"));
    connection.row(what, probe).await.is_ok()
}
