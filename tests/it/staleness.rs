//! A worker reports how old its rules are, whether the database is frozen or sends without end.

use std::time::{Duration, Instant};

use crate::support::forged::{Forged, Says};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, wait_for};

/// Within two seconds a worker that polls every second must report that its rules are stale; a busy machine may take
/// as long again.
const TOLD_WITHIN: Duration = Duration::from_secs(4);

/// Rules that a slow server takes more than twelve seconds to send.
const RULES: usize = 60;

async fn swarm(forged: &Forged, timeout: &str) -> (Swarm, Daemon, Daemon) {
    let swarm = Swarm::on(forged.address("rules"));
    for number in 1..=20 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    let patient = |command: &mut std::process::Command| {
        // Every poll compares everything, so that the server has rows to send.
        command
            .env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", timeout)
            .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1s");
    };
    let (master, worker) = (swarm.daemon("master", patient), swarm.daemon("worker", patient));
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 20).then_some(()));
    (swarm, master, worker)
}

/// Waits for a heartbeat that says that the rules are stale; returns how long that took.
fn told(subscriber: &mut Subscriber, since: Instant) -> (Duration, String) {
    loop {
        let line = subscriber.line();
        assert_eq!(line["type"], "heartbeat", "{line}");
        if line["stale_for_ms"].as_u64().unwrap() > 0 {
            return (since.elapsed(), line["database"].as_str().unwrap().to_owned());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{line}");
    }
}

/// A subscriber receives nothing else before a heartbeat says that the rules are current again.
fn fresh_again(subscriber: &mut Subscriber) {
    let begun = Instant::now();
    loop {
        let line = subscriber.line();
        if line["type"] == "heartbeat" && line["stale_for_ms"] == 0 && line["database"] == "up" {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{line}");
    }
}

#[tokio::test]
#[ignore = "starts a server"]
async fn a_frozen_server_is_told_of_within_two_seconds() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let server = Server::start(kind, &[]).await;
        server.create("rules").await;
        let forged = Forged::before(&server);
        let (swarm, _master, _worker) = swarm(&forged, "5s").await;
        let mut subscriber = swarm.subscribe();
        subscriber.snapshot();
        server.freeze();
        let (after, _) = told(&mut subscriber, Instant::now());
        assert!(after < TOLD_WITHIN, "{kind:?}: after {after:?}");
        server.thaw();
        fresh_again(&mut subscriber);
        swarm.save("R1.yaml", rule_text("R1", 2));
        assert_eq!(subscriber.change()["rule_version"], 2);
    }
}

/// Each row arrives in time, but the last one never does.
#[tokio::test]
#[ignore = "starts a server"]
async fn a_server_that_sends_row_after_row_is_told_of_and_given_up() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("rules").await;
    let forged = Forged::before(&server);
    let (swarm, _master, _worker) = swarm(&forged, "1s").await;
    // So many that a poll does not end in time, although to connect takes a few rows, too.
    for number in 21..=RULES {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == RULES).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    forged.say(Says::Slowly(Duration::from_millis(300)));
    let (after, _) = told(&mut subscriber, Instant::now());
    assert!(after < TOLD_WITHIN, "after {after:?}");
    // Twelve times the timeout.
    wait_for("the end of the poll", || {
        let status = swarm.succeed(&["status", "--json"]);
        status.contains("not at its end after 12s").then_some(())
    });
    // The worker reports it all the time, and serves the rules.
    assert_eq!(swarm.subscribe().snapshot().len(), RULES);
    forged.say(Says::TheTruth);
    fresh_again(&mut subscriber);
    swarm.save("R1.yaml", rule_text("R1", 2));
    assert_eq!(subscriber.change()["rule_version"], 2);
}
