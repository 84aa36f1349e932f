//! How a lease ends that nobody has taken: with the session, and with its beats.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::super::connection::Connection;
use super::super::lease::held::HeldState;
use super::super::sql::Purpose;
use super::super::tests::database_at;
use super::*;
use crate::rule::{ChangeKind, ContentDigest};
use crate::store::lease::{LEASE, LeaseRow, ServerLock, Standby};
use crate::store::leasing::{keep_beating, lock};
use crate::telemetry::trace::Traceparent;

async fn database() -> Database {
    database_at("sqlite::memory:", Duration::from_secs(60)).await
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

#[tokio::test]
async fn trace_contexts_that_cannot_be_written_now_are_written_later() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/rules.db", directory.path().display());
    let database = database_at(&address, Duration::from_millis(100)).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let context = |rule_id: &str| TraceContextRow {
        rule_id: rule_id.to_owned(),
        change_kind: ChangeKind::Definition,
        content: ContentDigest::of(rule_id),
        traceparent: Traceparent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap(),
    };
    let mut other = Connection::open(&database.connector, Purpose::Write).await.unwrap();
    other.run("locking", "BEGIN IMMEDIATE").await.unwrap();
    session.write_trace_contexts(vec![context("R1")]).await;
    other.run("unlocking", "ROLLBACK").await.unwrap();
    session.write_trace_contexts(vec![context("R2")]).await;
    let query = other.query("SELECT group_concat(rule_id) FROM rulesyncd_trace");
    assert_eq!(other.cell("reading", query).await.unwrap().shown(), "R2");
}
