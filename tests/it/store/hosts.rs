//! Addresses with several hosts: a primary and its replica, and what goes on after a failover.

use std::time::Instant;

use crate::support::rules::rule_text;
use crate::support::servers::{Kind, PRIMARY, Server};
use crate::support::swarm::{DEADLINE, Swarm, text, wait_for};

/// A primary with the database `rules`, and its replica.
pub(crate) async fn pair(kind: Kind) -> (Server, Server) {
    pair_in(kind, Vec::new()).await
}

/// With this in the environment of the replica.
pub(crate) async fn pair_in(kind: Kind, environment: Vec<(String, String)>) -> (Server, Server) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("--port={port}");
    let primary = match kind {
        Kind::MariaDb => Server::start(kind, &[&PRIMARY[..], &[&at]].concat()).await,
        Kind::Postgres => Server::start(kind, &[]).await,
    };
    let replica = Server::replica_of(&primary, port, environment).await;
    primary.create("rules").await;
    (primary, replica)
}

/// Waits until a query of a server has this answer; while a database or table is missing, it has none.
async fn until(server: &Server, query: &str, answer: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut found = None;
        if server.run("rules", query).await.is_ok() {
            found = server.client("rules").await.text(query).await;
            if found.as_deref() == Some(answer) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "{query} is {found:?} and not {answer}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) async fn until_it_has_rules(server: &Server, count: usize) {
    let query = "SELECT CAST(COUNT(*) AS CHAR(9)) FROM ttp_rule";
    let padded = match server.kind() {
        Kind::Postgres => format!("{count:<9}"),
        Kind::MariaDb => count.to_string(),
    };
    until(server, query, &padded).await;
}

/// The second host is the primary, then it fails and the first is promoted: a master and a worker go on, and the worker
/// keeps what it served.
async fn a_failover(kind: Kind) {
    let (mut primary, replica) = pair(kind).await;
    let swarm = Swarm::on(Server::address_of(&[&replica, &primary], "rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    until_it_has_rules(&replica, 1).await;

    primary.stop();
    replica.promote().await;
    swarm.save("R2.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
    until_it_has_rules(&replica, 2).await;
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.nothing_before("R1")["new_value"]["state"], "disabled");

    // What was cached before the failover is that of the same database.
    worker.stop();
    master.stop();
    let worker = swarm.worker();
    assert_eq!(swarm.subscribe().snapshot().len(), 2);
    assert!(!worker.log().contains("another database"), "{}", worker.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn daemons_go_on_at_the_promoted_host_on_postgres() {
    a_failover(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn daemons_go_on_at_the_promoted_host_on_mariadb() {
    a_failover(Kind::MariaDb).await;
}

/// A switchover leaves the old primary running and read-only, and a user with every right could go on writing to it.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_master_leaves_a_server_that_was_made_read_only() {
    let (primary, replica) = pair(Kind::MariaDb).await;
    let swarm = Swarm::on(Server::address_of(&[&primary, &replica], "rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let master = swarm.master();
    until_it_has_rules(&replica, 1).await;
    primary.run("", "SET GLOBAL read_only = ON").await.unwrap();
    master.wait_for_log("takes no writes");
    replica.promote().await;
    swarm.save("R2.yaml", rule_text("R2", 1));
    until_it_has_rules(&replica, 2).await;
    until_it_has_rules(&primary, 1).await;
}

/// What writes uses no replica, whatever the address says; a worker uses the one that it is told to.
async fn each_uses_its_host(kind: Kind) {
    let (primary, replica) = pair(kind).await;
    let both = Server::address_of(&[&replica, &primary], "rules");
    let swarm = Swarm::on(&both);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    until_it_has_rules(&replica, 1).await;

    // Only the replica: nothing is written, and the reason is the first that is said.
    let alone = Server::address_of(&[&replica], "rules");
    for command in [&["sync"][..], &["state", "set", "R1", "disabled"]] {
        let refused = swarm.run(&[command, &["--database-url", &alone]].concat());
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("takes no writes"), "{said}");
        assert!(said.contains("HOST,HOST/DATABASE"), "{said}");
    }
    let at_the_replica = Swarm::on(&alone);
    let master = at_the_replica.master();
    wait_for("the reason", || {
        let log = master.log();
        log.contains("takes no writes").then_some(())
    });
    assert!(!master.log().contains("holds the lock"), "{}", master.log());
    drop(master);
    // Two replicas, of which one is down: each with its reason.
    let gone =
        both.replace(&primary.path().display().to_string().replace('/', "%2F"), "%2Ftmp%2Fno-such-server");
    let refused = swarm.run(&["sync", "--database-url", &gone]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("no-such-server") && said.contains("No such file"), "{said}");
    assert!(said.contains("takes no writes"), "{said}");

    for attrs in ["any", "primary", "standby", "prefer-standby", "read-only"] {
        let told = format!("{both}?target_session_attrs={attrs}");
        for command in [&["sync"][..], &["state", "clear", "R1"], &["master"]] {
            let refused = swarm.run(&[command, &["--database-url", &told]].concat());
            let said = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("target_session_attrs={attrs}")), "{said}");
        }
    }
    let sessions = match kind {
        Kind::Postgres => {
            "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE application_name = 'rulesyncd' AND query LIKE '%ttp_rule%'"
        }
        Kind::MariaDb => {
            "SELECT CAST(COUNT(*) > 0 AS CHAR) FROM information_schema.processlist WHERE command = 'Sleep' AND db = 'rules'"
        }
    };
    let yes = if kind == Kind::Postgres { "true" } else { "1" };
    for (attrs, server) in [("read-write", &primary), ("standby", &replica), ("prefer-standby", &replica)] {
        let told = Swarm::on(format!("{both}?target_session_attrs={attrs}"));
        let worker = told.worker();
        assert_eq!(told.subscribe().snapshot().len(), 1);
        until(server, sessions, yes).await;
        drop(worker);
        let no = if kind == Kind::Postgres { "false" } else { "0" };
        until(server, sessions, no).await;
    }
    // Without a replica the next best.
    drop(replica);
    let told = Swarm::on(format!("{both}?target_session_attrs=prefer-standby"));
    let _worker = told.worker();
    assert_eq!(told.subscribe().snapshot().len(), 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn each_uses_its_host_on_postgres() {
    each_uses_its_host(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn each_uses_its_host_on_mariadb() {
    each_uses_its_host(Kind::MariaDb).await;
}
