//! Workers at a replica: what it shows late is delivered, and a replica that stands still is not called current.

use std::time::Duration;

use rulesyncd::clock::{Clock as _, SystemClock};
use serde_json::Value;

use super::hosts::{pair, until_it_has_rules};
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
