//! How a lease ends that nobody has taken: with the session, and with its beats.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::super::connection::Connection;
use super::super::lease::held::{HeldState, keep_beating};
use super::super::lease::lock;
use super::super::sql::Purpose;
use super::*;
use crate::address::DatabaseConfig;
use crate::clock::SystemClock;
use crate::store::lease::{LEASE, LeaseRow, ServerLock, Standby};

async fn database() -> Database {
    let config = DatabaseConfig {
        url_file: None,
        address: "sqlite::memory:".parse().unwrap(),
        max_connections: 8,
        connect_timeout: Duration::from_secs(60),
        create_tables: true,
        allow_plaintext: false,
    };
    let database = Database::open(&config, Arc::new(SystemClock)).await.unwrap();
    database.ensure_tables().await.unwrap();
    database
}

/// The lease in the hands of this process.
fn held(database: &Database) -> Arc<HeldState> {
    let (row, asked) = (LeaseRow::default(), ("", ServerLock::Missing));
    let lead = Standby::default().look(&row, ("me", LEASE), asked, since_boot()).unwrap();
    let held = Arc::new(Mutex::new(lead));
    *lock(&database.shared.lease.held) = Arc::downgrade(&held);
    held
}

#[tokio::test]
async fn a_session_that_is_lost_in_a_call_does_not_keep_the_lease() {
    let database = database().await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let held = held(&database);
    let malformed = |_| std::future::poll_fn(|_| -> Poll<(_, Result<(), _>)> { panic!("a malformed reply") });
    let lost = session.call("asking", None, malformed).await;
    assert!(matches!(lost, Err(StoreError::LockLost { .. })), "{lost:?}");
    assert!(lock(&held).is_lost());
}

#[tokio::test]
async fn a_driver_that_panics_in_a_beat_loses_the_lease() {
    let database = database().await;
    let connection = Connection::open(&database.connector, Purpose::Write).await.unwrap();
    let held = held(&database);
    let beats = keep_beating(connection, Arc::downgrade(&held), || panic!("a malformed reply"));
    assert!(database.shared.thread.spawn(beats).unwrap().await.unwrap_err().is_panic());
    assert!(lock(&held).is_lost());
}
