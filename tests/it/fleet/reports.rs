//! When and how workers report: at once when it matters, and never in the way of a change.

use std::time::{Duration, Instant};

use super::{fleet, subscribe, until_in_sync, worker, worker_with};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, wait_for};

/// An acknowledgement is reported when it comes, and not only at the next poll.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn an_acknowledgement_is_reported_before_the_next_poll() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let rarely = [("REPORT_SPREAD", "100ms"), ("REPORT_INTERVAL", "10m"), ("POLL_INTERVAL", "10m")];
    let _worker = worker_with(&swarm, "w1", "w1", &rarely);
    until_in_sync(&swarm, &["w1"]);
    let mut subscriber = subscribe(&swarm, "w1");
    // A wake-up begins the poll that finds it.
    swarm.succeed(&["state", "set", "R1", "disabled", "--wait=20s"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "disabled");
    subscriber.send(r#"{"op":"ack","seq":1}"#);
    wait_for("the acknowledgement", || {
        let host = &fleet(&swarm).0["hosts"][0];
        (host["acknowledging"] == 1 && host["acknowledged"] == 1).then_some(())
    });
    swarm.succeed(&["state", "clear", "R1", "--wait=20s"]);
    assert_eq!(fleet(&swarm).0["hosts"][0]["acknowledged"], 0);
    subscriber.send(r#"{"op":"ack","seq":2}"#);
    swarm.succeed(&["fleet", "--wait=20s", "--acknowledged"]);
}

/// Otherwise each report of a thousand workers costs the server a write to its disk, and an edit that comes meanwhile waits.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_report_waits_for_no_disk_and_a_rule_does() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    server
        .run(
            "fleet",
            "CREATE TABLE committed (name text, durability text); \
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO committed VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NEW; END $$; \
             CREATE TRIGGER note AFTER INSERT OR UPDATE ON ttp_rule FOR EACH ROW EXECUTE FUNCTION note(); \
             CREATE TRIGGER note AFTER INSERT OR UPDATE ON rulesyncd_worker FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await
        .unwrap();
    let _worker = worker(&swarm, "w1", "w1");
    until_in_sync(&swarm, &["w1"]);
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.succeed(&["sync", "--wait=30s"]);
    let mut sql = server.client("fleet").await;
    let committed =
        sql.text("SELECT string_agg(DISTINCT name || ' ' || durability, ', ') FROM committed").await;
    assert_eq!(committed.unwrap(), "rulesyncd_worker off, ttp_rule on");
}

/// While another session has locked the table of reports, every change arrives within the second after which a report is
/// given up, and the database does not count as unavailable.
async fn a_report_that_waits_for_a_lock_delays_no_change(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let worker = worker(&swarm, "w1", "w1");
    until_in_sync(&swarm, &["w1"]);
    let mut subscriber = subscribe(&swarm, "w1");
    let mut blocking = server.client("fleet").await;
    let (lock, unlock) = match kind {
        Kind::MariaDb => ("LOCK TABLES rulesyncd_worker WRITE", "UNLOCK TABLES"),
        Kind::Postgres => ("BEGIN; LOCK TABLE rulesyncd_worker IN ACCESS EXCLUSIVE MODE", "COMMIT"),
    };
    blocking.run(lock).await;
    worker.wait_for_log("is unknown to `rulesyncd fleet`");
    let mut delays = Vec::new();
    for round in 0..9 {
        let state = if round % 2 == 0 { "disabled" } else { "enabled" };
        swarm.succeed(&["state", "set", "R1", state]);
        let written = Instant::now();
        assert_eq!(subscriber.change()["new_value"]["state"], state);
        delays.push(written.elapsed());
    }
    delays.sort();
    // A poll every second, and a report that gives up after one: the limit of other statements is 5 s.
    assert!(delays[delays.len() / 2] < Duration::from_secs(3), "{delays:?}");
    let status = swarm.path("w1.sock");
    let status = swarm.succeed(&["status", "--json", "--socket", status.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["database"]["stale_for_ms"], 0, "{status}");
    blocking.run(unlock).await;
    until_in_sync(&swarm, &["w1"]);
    assert_eq!(worker.count_in_log("is unknown to `rulesyncd fleet`"), 1, "{}", worker.log());
    assert_eq!(worker.count_in_log("unavailable"), 0, "{}", worker.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_report_that_waits_for_a_lock_delays_no_change_on_postgres() {
    a_report_that_waits_for_a_lock_delays_no_change(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_report_that_waits_for_a_lock_delays_no_change_on_mariadb() {
    a_report_that_waits_for_a_lock_delays_no_change(Kind::MariaDb).await;
}
