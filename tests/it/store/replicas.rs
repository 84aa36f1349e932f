//! Workers at a replica: what it shows late is delivered, and a replica that stands still is not called current.

use std::time::{Duration, Instant};

use rulesyncd::clock::{Clock as _, SystemClock};
use serde_json::Value;

use super::hosts::{pair, until_it_has_rules};
use crate::support::databases::TestDatabase;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, wait_for};

pub(crate) async fn pause(replica: &Server) {
    let pause = match replica.kind() {
        Kind::Postgres => "SELECT pg_wal_replay_pause()",
        Kind::MariaDb => "STOP SLAVE SQL_THREAD",
    };
    replica.run("rules", pause).await.unwrap();
}

pub(crate) async fn resume(replica: &Server) {
    let resume = match replica.kind() {
        Kind::Postgres => "SELECT pg_wal_replay_resume()",
        Kind::MariaDb => "START SLAVE SQL_THREAD",
    };
    replica.run("rules", resume).await.unwrap();
}

fn stale_for_ms(worker: &Swarm) -> u64 {
    let output = worker.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["database"]["stale_for_ms"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// A replica is paused for longer than a watermark reaches back. Meanwhile another program commits rows at the primary,
/// the older stamp last.
async fn a_paused_replica(kind: Kind) {
    let (primary, replica) = pair(kind).await;
    let master = Swarm::on(Server::address_of(&[&primary], "rules"));
    master.save("R1.yaml", rule_text("R1", 1));
    let _master = master.master();
    until_it_has_rules(&replica, 1).await;
    let worker = Swarm::on(Server::address_of(&[&replica], "rules"));
    let _worker = worker.worker();
    let mut subscriber = worker.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);
    wait_for("current rules", || (stale_for_ms(&worker) == 0).then_some(()));

    pause(&replica).await;
    let mut external = primary.client("rules").await;
    let now = SystemClock.now();
    external.put("F2", 1, now).await;
    external.put("F1", 1, now.before(Duration::from_secs(3))).await;
    let stale = wait_for("stale rules", || Some(stale_for_ms(&worker)).filter(|age| *age > 0));
    assert!(stale > 6_000, "{stale}");
    // Longer than the overlap: by the replica's own clock the rows would be too old to be looked for.
    wait_for("older rules", || Some(stale_for_ms(&worker)).filter(|age| *age > 12_000));

    resume(&replica).await;
    let mut heard = [subscriber.change(), subscriber.change()].map(|change| change["rule_id"].to_string());
    heard.sort();
    assert_eq!(heard, [r#""F1""#, r#""F2""#]);
    wait_for("current rules", || (stale_for_ms(&worker) == 0).then_some(()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_a_paused_replica_shows_late_is_delivered_on_postgres() {
    a_paused_replica(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn what_a_paused_replica_shows_late_is_delivered_on_mariadb() {
    a_paused_replica(Kind::MariaDb).await;
}

/// No master has had the lease yet, so nothing says how late a replica is: a worker there misses no row, whatever its stamp,
/// and calls the rules stale. Once there is a beat, it knows.
async fn a_replica_without_a_beat(kind: Kind) {
    let (primary, replica) = pair(kind).await;
    let tables = TestDatabase::server(&primary.address("rules")).await;
    let mut external = tables.external().await;
    external.put("R1", 1, SystemClock.now()).await;
    until_it_has_rules(&replica, 1).await;
    let worker = Swarm::on(Server::address_of(&[&replica], "rules"));
    let _worker = worker.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1h");
    });
    let mut subscriber = worker.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);
    external.put("R1", 2, SystemClock.now().before(Duration::from_secs(3_600))).await;
    assert_eq!(subscriber.change()["rule_version"], 2);
    let stale = wait_for("stale rules", || Some(stale_for_ms(&worker)).filter(|age| *age > 0));
    assert!(stale > 6_000, "{stale}");

    // The first beat, of a master that wrote it a minute before it arrives.
    let (now, interval) = match kind {
        Kind::Postgres => ("clock_timestamp() AT TIME ZONE 'UTC'", "INTERVAL '60 seconds'"),
        Kind::MariaDb => ("UTC_TIMESTAMP(6)", "INTERVAL 60 SECOND"),
    };
    let written = Instant::now();
    let beat = format!("('master', 'another', 'h', '', 0, 1, {now}, 1, {now} - {interval})");
    external.run(&format!("INSERT INTO rulesyncd_lease VALUES {beat}")).await;
    let stale = wait_for("older rules", || Some(stale_for_ms(&worker)).filter(|age| *age > 60_000));
    let most = 61_000 + written.elapsed().as_millis();
    assert!(u128::from(stale) < most, "{stale} is above {most}");

    let master = Swarm::on(primary.address("rules"));
    let _master = master.master();
    wait_for("current rules", || (stale_for_ms(&worker) == 0).then_some(()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_worker_at_a_replica_without_a_beat_misses_nothing_and_says_so_on_postgres() {
    a_replica_without_a_beat(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_worker_at_a_replica_without_a_beat_misses_nothing_and_says_so_on_mariadb() {
    a_replica_without_a_beat(Kind::MariaDb).await;
}
