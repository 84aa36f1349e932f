//! What wakes idle workers: on MySQL and MariaDB user locks of the master, on PostgreSQL notifications.

use super::hosts::{pair, until_it_has_rules};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, wait_for};

/// A worker that polls so seldom that it hears nothing in time unless it is woken.
fn worker(swarm: &Swarm, name: &str) -> (Daemon, Subscriber) {
    let socket = swarm.path(&format!("{name}.sock"));
    let daemon = swarm.daemon("worker", |command| {
        command
            .env("RULESYNCD_WORKER_POLL_INTERVAL", "1h")
            .env("RULESYNCD_SOCKET", &socket)
            .env("RULESYNCD_WORKER_CACHE", swarm.path(&format!("{name}.ndjson")));
    });
    let mut subscriber = Subscriber::connect(&socket);
    subscriber.send(r#"{"op":"subscribe"}"#);
    subscriber.snapshot();
    (daemon, subscriber)
}

/// Waits for this version; the first one may come as a change, too, if the worker began before the master.
fn hear(subscriber: &mut Subscriber, version: i32) {
    while subscriber.change()["rule_version"] != version {}
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_master_wakes_its_workers_and_a_frozen_one_holds_up_no_other() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let swarm = Swarm::on(server.create("bells").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    let master = swarm.master();
    let (frozen, mut late) = worker(&swarm, "frozen");
    let mut workers = [worker(&swarm, "one"), worker(&swarm, "two")];

    // In a burst, too: a commit during a poll wakes the worker again.
    for version in 2..=6 {
        swarm.save_atomically("R1.yaml", rule_text("R1", version));
        for (_, subscriber) in &mut workers {
            hear(subscriber, version);
        }
    }
    // Frozen while it waits for the bell, or polls.
    frozen.freeze();
    for version in 7..=12 {
        swarm.save_atomically("R1.yaml", rule_text("R1", version));
        for (_, subscriber) in &mut workers {
            hear(subscriber, version);
        }
    }
    frozen.thaw();
    hear(&mut late, 12);

    // The bells are those of another session.
    master.kill();
    let _master = swarm.master();
    swarm.save_atomically("R1.yaml", rule_text("R1", 13));
    for (_, subscriber) in &mut workers {
        hear(subscriber, 13);
    }
}

/// Another program has the names of the bells: workers are not woken, and hear by their polls.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn bells_that_another_session_holds_only_cost_the_wake_up() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let swarm = Swarm::on(server.create("bells").await);
    let mut stranger = server.client("bells").await;
    for name in std::iter::once(String::new()).chain((0..16).map(|bell| format!(":{bell}"))) {
        let lock = format!("CONCAT('rulesyncd:', LEFT(SHA2(DATABASE(), 256), 32), ':bell{name}')");
        let taken = stranger.text(&format!("SELECT CAST(GET_LOCK({lock}, 0) AS CHAR)")).await;
        assert_eq!(taken.as_deref(), Some("1"));
    }
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _master = swarm.master();
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_POLL_INTERVAL", "1s");
    });
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    for version in 2..=3 {
        swarm.save_atomically("R1.yaml", rule_text("R1", version));
        hear(&mut subscriber, version);
    }
    assert!(!worker.log().contains("unavailable"), "{}", worker.log());
}

/// The command ends at once and holds no bell: the master rings for it.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_state_that_a_command_sets_or_clears_wakes_the_workers() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let swarm = Swarm::on(server.create("bells").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _master = swarm.master();
    let (_worker, mut subscriber) = worker(&swarm, "one");
    // It waits for the bell.
    swarm.save_atomically("R1.yaml", rule_text("R1", 2));
    hear(&mut subscriber, 2);
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "disabled");
    swarm.succeed(&["state", "clear", "R1"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "enabled");
}

/// Of this many sessions, one for each worker and two for the master.
async fn until_there_are_sessions(server: &Server, sessions: &str) {
    let mut client = server.client("rules").await;
    let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'rulesyncd'";
    while client.text(count).await.as_deref() != Some(sessions) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The notifications come on the connection that polls, also in a burst and on the next connection: the end of one wakes,
/// too.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres_a_worker_is_notified_on_its_only_connection() {
    let mut server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("rules").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _master = swarm.master();
    let mut workers = [worker(&swarm, "one"), worker(&swarm, "two")];
    for version in 2..=6 {
        swarm.save_atomically("R1.yaml", rule_text("R1", version));
        for (_, subscriber) in &mut workers {
            hear(subscriber, version);
        }
    }
    until_there_are_sessions(&server, "4").await;

    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'rulesyncd'";
    server.run("rules", end).await.unwrap();
    until_there_are_sessions(&server, "4").await;
    swarm.save_atomically("R1.yaml", rule_text("R1", 7));
    for (_, subscriber) in &mut workers {
        hear(subscriber, 7);
    }
    server.stop();
    server.go_on().await;
    until_there_are_sessions(&server, "4").await;
    swarm.save_atomically("R1.yaml", rule_text("R1", 8));
    for (_, subscriber) in &mut workers {
        hear(subscriber, 8);
    }
}

/// A standby refuses listeners, and after its promotion it has them: judged by its log of statements.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_worker_at_a_standby_listens_once_that_is_promoted() {
    let (primary, standby) = pair(Kind::Postgres).await;
    let swarm = Swarm::on(Server::address_of(&[&primary], "rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    until_it_has_rules(&standby, 1).await;
    for statement in ["ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()"] {
        standby.run("rules", statement).await.unwrap();
    }
    let at_the_standby = Swarm::on(Server::address_of(&[&standby], "rules"));
    let _worker = at_the_standby.worker();
    let mut subscriber = at_the_standby.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.succeed(&["sync"]);
    hear(&mut subscriber, 2);
    let log = || std::fs::read_to_string(standby.path().join("log")).unwrap();
    assert!(log().contains("ttp_rule") && !log().contains("LISTEN rulesyncd"), "{}", log());
    standby.promote().await;
    wait_for("a listener", || log().contains("LISTEN rulesyncd").then_some(()));
}
