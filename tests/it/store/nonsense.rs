//! Nonsense that another program wrote into the row of `rulesyncd_lease`, or made of the daemon's own tables.

use std::time::{Duration, Instant};

use rulesyncd::store::{Database, MasterSession, RuleWrite};

use crate::support::databases::{TestDatabase, config, system_clock};
use crate::support::rules::rule_row;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, text};

/// Each leaves a row that a master takes over.
const MENDED: [(&str, &str); 11] = [
    ("a row that is missing", "DELETE FROM rulesyncd_lease"),
    ("a negative term", "UPDATE rulesyncd_lease SET term = -5"),
    ("the greatest term", "UPDATE rulesyncd_lease SET term = 9223372036854775807"),
    ("a negative beat", "UPDATE rulesyncd_lease SET beat = -5"),
    ("the greatest beat", "UPDATE rulesyncd_lease SET beat = 9223372036854775807"),
    ("a negative lease", "UPDATE rulesyncd_lease SET lease_ms = -1"),
    ("an endless lease", "UPDATE rulesyncd_lease SET lease_ms = 9223372036854775807"),
    ("the last year", "UPDATE rulesyncd_lease SET beat_at = '9999-12-31', since = '9999-12-31'"),
    ("a stranger's owner", "UPDATE rulesyncd_lease SET owner = 'x\u{1b}[31m\n', host = '\u{1b}[31m\n'"),
    ("no numbers", "UPDATE rulesyncd_lease SET term = NULL, beat = NULL, lease_ms = NULL"),
    ("no texts", "UPDATE rulesyncd_lease SET owner = NULL, host = NULL, session = NULL"),
];

/// Each is not usable, so the server's lock alone makes a master the only writer.
const REFUSED: [(&str, &str); 2] = [
    ("two rows", "INSERT INTO rulesyncd_lease SELECT * FROM rulesyncd_lease"),
    (
        "a view",
        "CREATE TABLE lease_once AS SELECT * FROM rulesyncd_lease; DROP TABLE rulesyncd_lease; \
         CREATE VIEW rulesyncd_lease AS SELECT DISTINCT * FROM lease_once",
    ),
];

/// Writes a rule, as a master that takes the lock again whenever it is lost. Returns its session.
async fn written(database: &Database, version: i32, case: &str) -> MasterSession {
    let deadline = Instant::now() + DEADLINE;
    let mut last = String::new();
    loop {
        match database.try_lock().await {
            Ok(Some(mut session)) => {
                match session.apply([RuleWrite::Upsert(rule_row("R1", version))]).await {
                    Ok(applied) if applied.rows == 1 => return session,
                    applied => last = format!("{applied:?}"),
                }
            }
            Ok(None) => {}
            Err(error) => last = error.to_string(),
        }
        assert!(Instant::now() < deadline, "{case}: {last}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A table without a key and constraints, as made by hand, with a master that has led, and a reader.
async fn serves(server: &Server, (case, sql): (&str, &str), has_lease: bool) {
    let name = format!("n{}", case.replace([' ', '\''], "_"));
    let field = TestDatabase::server(&server.create(&name).await).await;
    let (mut external, mut watcher) = (field.external().await, field.watcher().await);
    written(&field.database, 1, case).await.close().await;
    for statement in [
        "CREATE TABLE by_hand AS SELECT * FROM rulesyncd_lease",
        "DROP TABLE rulesyncd_lease",
        "ALTER TABLE by_hand RENAME TO rulesyncd_lease",
    ] {
        external.run(statement).await;
    }
    if server.kind() == Kind::MariaDb {
        external
            .run("ALTER TABLE rulesyncd_lease MODIFY owner VARCHAR(64) NULL, MODIFY host TEXT NULL")
            .await;
        external
            .run(
                "ALTER TABLE rulesyncd_lease MODIFY session TEXT NULL, MODIFY term BIGINT NULL, \
                 MODIFY beat BIGINT NULL, MODIFY lease_ms BIGINT NULL",
            )
            .await;
    }
    let mut master = written(&field.database, 2, case).await;
    assert_eq!(watcher.poll().await, ["written R1 v2"], "{case}");
    external.run(sql).await;
    // The running master may lose the lease, and blames no rule.
    if let Ok(applied) = master.apply([RuleWrite::Upsert(rule_row("R1", 3))]).await {
        assert!(applied.rejected.is_empty(), "{case}: {applied:?}");
    }
    drop(master);
    let master = written(&field.database, 3, case).await;
    assert_eq!(watcher.poll().await, ["written R1 v3"], "{case}");
    assert_eq!(master.lease_problem().is_none(), has_lease, "{case}: {:?}", master.lease_problem());
    assert!(master.lease_problem().is_none_or(|problem| problem.contains("rulesyncd_lease")), "{case}");
    master.close().await;
    let other = Database::open(&config(&field.address), system_clock()).await.unwrap();
    // Another one finds it so from the start.
    if has_lease {
        external.run(sql).await;
    }
    written(&other, 4, case).await.close().await;
    assert_eq!(watcher.poll().await, ["written R1 v4"], "{case}");
}

async fn a_spoilt_lease_stops_no_write(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    for case in MENDED {
        serves(&server, case, true).await;
    }
    for case in REFUSED {
        serves(&server, case, false).await;
    }
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_spoilt_lease_stops_no_write_on_mariadb() {
    a_spoilt_lease_stops_no_write(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_spoilt_lease_stops_no_write_on_postgres() {
    a_spoilt_lease_stops_no_write(Kind::Postgres).await;
}

/// A table that was made by hand without a key: MariaDB adds a row at each report.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn the_fleet_says_that_a_worker_has_several_reports() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let swarm = Swarm::on(server.create("reports").await);
    swarm.succeed(&["sync"]);
    let mut external = server.client("reports").await;
    external.run("ALTER TABLE rulesyncd_worker DROP PRIMARY KEY").await;
    for _ in 0..2 {
        external
            .run(
                "INSERT INTO rulesyncd_worker (epoch, worker_id, host, program, started_at, reported_at, interval_ms, \
                 seq, rules, states, quarantined, quarantined_ids, subscribers, acknowledging, acknowledged, server, \
                 stale_ms) VALUES ('e', 'w', 'h', '0.1.0', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), 30000, 0, 1, 0, 0, '', \
                 0, 0, 0, 's', 0)",
            )
            .await;
    }
    let fleet = swarm.run(&["fleet"]);
    let said = text(&fleet.stderr);
    assert!(said.contains("several rows of one epoch") && said.contains("primary key"), "{said}");
    assert_eq!(fleet.status.code(), Some(3), "{said}");
}
