//! Failures that pass, at the tables of the daemon's own: nothing is given up because of them.

use std::sync::Arc;
use std::time::Duration;

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, Follow, FollowConfig, RuleStore as _, RuleWrite, StoreError};

use crate::support::databases::{ExternalClient, TestDatabase, config, system_clock};
use crate::support::rules::rule_row;
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

/// Locks tables as one does who changes their columns.
async fn lock(other: &mut ExternalClient, tables: &str) {
    other.begin().await;
    other.run(&format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")).await;
}

/// A follower that cannot read beat and version now goes on with the last ones, and reads them at the next poll.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn beat_and_version_are_read_again_once_their_tables_are_no_longer_locked() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("locked").await).await;
    field.save(&[("R1", 1)]).await;
    let (mut external, mut other) = (field.external().await, field.external().await);
    external.run("UPDATE rulesyncd_lease SET beat_at = beat_at - INTERVAL '1 hour'").await;
    let hour = Duration::from_secs(3_600);
    for full_scan_interval in [hour, Duration::ZERO] {
        let follow = FollowConfig { full_scan_interval, ..FollowConfig::default() };
        let mut follower = field.database.clone().following(follow).follow();
        let mut polled = async |is_known: bool, which: &str| {
            let delta = follower.poll(&Arc::<Catalogue>::default()).await.unwrap();
            let (silent, version) = (delta.master_silent.lasts, follower.tables_version());
            assert_eq!((silent >= hour, version.is_some()), (is_known, is_known), "{which}: {follow:?}");
            assert_eq!(follower.version_problem(), None, "{which}: {follow:?}");
        };
        lock(&mut other, "rulesyncd_lease, rulesyncd_version").await;
        polled(false, "the first poll").await;
        other.commit().await;
        polled(true, "the second poll").await;
        if full_scan_interval.is_zero() {
            lock(&mut other, "rulesyncd_lease, rulesyncd_version").await;
            polled(true, "a later poll").await;
            other.commit().await;
        }
        polled(true, "the last poll").await;
    }
}

/// A master begins while the table is locked, and raises the version all the same.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_version_that_is_locked_at_the_start_is_raised_later() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("begun").await).await;
    let (mut external, mut other) = (field.external().await, field.external().await);
    lock(&mut other, "rulesyncd_version").await;
    let mut session = field.session().await;
    other.commit().await;
    assert_eq!(session.version_problem(), None);
    session.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let version = "SELECT CAST(version AS text) FROM rulesyncd_version";
    assert_eq!(external.text(version).await.as_deref(), Some("1"));
    session.close().await;
}

/// A table that is locked is not taken for one that is missing, and then for another one.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_table_that_is_locked_is_awaited() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("awaited").await).await;
    let mut other = field.external().await;
    for table in ["ttp_rule", "ttp_rule_state"] {
        lock(&mut other, table).await;
        let error = field.database.ensure_tables().await.unwrap_err();
        assert!(matches!(error, StoreError::RowLocked { .. }), "{error}");
        other.commit().await;
        field.database.ensure_tables().await.unwrap();
    }
}

/// As at a standby, which ends a read that needs rows that the primary has vacuumed.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_poll_that_was_in_the_way_of_recovery_is_repeated_once_and_not_reported() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("conflict").await).await;
    let mut external = field.external().await;
    field.save(&[("R1", 1)]).await;
    let mark = server.path().join("conflict");
    // A view that fails once: a transaction that only reads can write a file, and nothing that is rolled back.
    external
        .run(&format!(
            "CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN \
             IF (pg_stat_file('{mark}', true)).size IS NOT NULL THEN RETURN true; END IF; \
             COPY (SELECT 1) TO '{mark}'; \
             RAISE 'canceling statement due to conflict with recovery' USING ERRCODE = '40001'; END$$; \
             ALTER TABLE ttp_rule RENAME TO kept; CREATE VIEW ttp_rule AS SELECT * FROM kept WHERE passes()",
            mark = mark.display()
        ))
        .await;
    let mut follower = field.database.follow();
    let polled = follower.poll(&Arc::new(Catalogue::default())).await;
    assert!(polled.is_ok() && mark.exists(), "{polled:?}");
}
