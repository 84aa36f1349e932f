//! A failover that loses the last commits: the replica that is promoted had not got them.

use super::hosts::{pair, until_it_has_rules};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text, wait_for};

/// A worker says what it loses, the master writes it again, and a subscriber hears each once.
async fn a_failover_that_loses_commits(kind: Kind) {
    let (mut primary, replica) = pair(kind).await;
    let both = Server::address_of(&[&primary, &replica], "rules");
    let swarm = Swarm::on(format!("{both}?target_session_attrs=read-write"));
    for id in ["R1", "R2"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 2).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    until_it_has_rules(&replica, 2).await;
    replica.cut_off().await;
    swarm.save("R1.yaml", rule_text("R1", 2));
    assert_eq!(subscriber.nothing_before("R1")["rule_version"], 2);
    swarm.save("R3.yaml", rule_text("R3", 1));
    assert_eq!(subscriber.nothing_before("R3")["rule_version"], 1);

    // The master must not write before the worker has seen what the new primary lacks.
    master.freeze();
    primary.stop();
    replica.promote().await;
    let mut lost = [subscriber.change(), subscriber.change()];
    lost.sort_by_key(|change| change["rule_id"].to_string());
    assert_eq!((&lost[0]["rule_id"], &lost[0]["rule_version"]), (&"R1".into(), &1.into()), "{lost:?}");
    assert_eq!((&lost[1]["rule_id"], &lost[1]["new_value"]), (&"R3".into(), &serde_json::Value::Null));
    worker.wait_for_log("rolled back: 2 rows");
    assert_eq!(worker.count_in_log("that the watermark had missed"), 0, "{}", worker.log());

    master.thaw();
    let mut again = [subscriber.change(), subscriber.change()];
    again.sort_by_key(|change| change["rule_id"].to_string());
    let versions = again.each_ref().map(|change| (change["rule_id"].clone(), change["rule_version"].clone()));
    assert_eq!(versions, [("R1".into(), 2.into()), ("R3".into(), 1.into())]);
    until_it_has_rules(&replica, 3).await;
    swarm.save("R4.yaml", rule_text("R4", 1));
    subscriber.nothing_before("R4");
    assert_eq!(worker.count_in_log("rolled back"), 1, "{}", worker.log());

    // Without a master the rules of a server that takes writes are current all the same.
    let fleet = swarm.run(&["fleet"]);
    let leads = "SELECT CONCAT(' ago by master ', host, ' (term ', term, ')') FROM rulesyncd_lease";
    let leads = replica.client("rules").await.text(leads).await.unwrap();
    assert!(text(&fleet.stdout).contains(&leads), "no `{leads}` in {}", text(&fleet.stdout));
    master.kill();
    let status = wait_for("the silence of the master", || {
        let output = swarm.run(&["status", "--json", "--socket", swarm.socket().to_str().unwrap()]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["database"]["master_silent_for_ms"].as_u64()? > 6_000).then_some(status)
    });
    assert_eq!(status["database"]["state"], "up", "{status}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_a_failover_lost_is_written_again_on_postgres() {
    a_failover_that_loses_commits(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn what_a_failover_lost_is_written_again_on_mariadb() {
    a_failover_that_loses_commits(Kind::MariaDb).await;
}
