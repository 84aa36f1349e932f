//! Failures that pass, at the tables of the daemon's own: nothing is given up because of them.

use std::time::Duration;

use rulesyncd::store::{Database, StoreError};

use crate::support::databases::{TestDatabase, config, system_clock};
use crate::support::servers::{Kind, Server};

/// A server that has no room, or is about to restart, at the first try to create them.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_failure_that_passes_does_not_leave_a_master_without_a_lease() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let address = server.create("passing").await;
    let mut external = TestDatabase::server(&address).await.external().await;
    external.run("DROP TABLE rulesyncd_lease, rulesyncd_version, rulesyncd_worker").await;
    external
        .run(
            "CREATE FUNCTION no_room() RETURNS event_trigger LANGUAGE plpgsql AS \
             $$BEGIN RAISE 'no space left' USING ERRCODE = '53100'; END$$; \
             CREATE EVENT TRIGGER no_room ON ddl_command_start WHEN TAG IN ('CREATE TABLE') \
             EXECUTE FUNCTION no_room()",
        )
        .await;
    let database = Database::open(&config(&address), system_clock()).await.unwrap();
    database.ensure_tables().await.unwrap();
    external.run("DROP EVENT TRIGGER no_room").await;
    database.ensure_tables().await.unwrap();
    let session = database.try_lock().await.unwrap().expect("the lease");
    assert_eq!((session.lease_problem(), session.version_problem()), (None, None));
    let reports = "SELECT CAST(count(*) AS text) FROM rulesyncd_worker";
    assert_eq!(external.text(reports).await.as_deref(), Some("0"));
    session.close().await;
}

/// The reports of workers that are gone are deleted although another session had one of them locked.
async fn a_locked_report_is_deleted_later(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let field = TestDatabase::server(&server.create("reports").await).await;
    let (mut external, mut other) = (field.external().await, field.external().await);
    external
        .run(
            "INSERT INTO rulesyncd_worker (epoch, worker_id, host, program, started_at, reported_at, interval_ms, seq, \
             rules, states, quarantined, quarantined_ids, subscribers, acknowledging, acknowledged, server, stale_ms) \
             VALUES ('e', 'w', 'h', '0.1.0', '2026-05-01', '2026-05-01', 30000, 0, 1, 0, 0, '', 0, 0, 0, 's', 0)",
        )
        .await;
    let mut master = field.session().await;
    other.begin().await;
    other.run("UPDATE rulesyncd_worker SET seq = 1").await;
    let day = Duration::from_secs(86_400);
    let locked = master.forget_workers(day).await;
    assert!(matches!(locked, Err(StoreError::RowLocked { .. })), "{locked:?}");
    other.commit().await;
    assert_eq!(master.forget_workers(day).await.unwrap(), 1);
    master.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_locked_report_is_deleted_later_on_postgres() {
    a_locked_report_is_deleted_later(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_locked_report_is_deleted_later_on_mariadb() {
    a_locked_report_is_deleted_later(Kind::MariaDb).await;
}
