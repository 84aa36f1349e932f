//! Databases for tests, and another program's hand in them.

use std::sync::Arc;
use std::time::Duration;

use rulesyncd::clock::{SharedClock, SystemClock};
use rulesyncd::config::DatabaseConfig;
use rulesyncd::store::{Address, Database};

/// How tests reach `address`.
pub(crate) fn config(address: &str) -> DatabaseConfig {
    DatabaseConfig {
        address: address.parse::<Address>().unwrap(),
        max_connections: 8,
        connect_timeout: Duration::from_secs(5),
        allow_plaintext: false,
    }
}

pub(crate) fn system_clock() -> SharedClock {
    Arc::new(SystemClock)
}

/// A database at `address` with its tables made.
pub(crate) async fn made(address: &str, clock: SharedClock) -> Database {
    let database = Database::open(&config(address), clock).await.unwrap();
    database.ensure_tables().await.unwrap();
    database
}
