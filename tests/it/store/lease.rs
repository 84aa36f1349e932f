//! One writer by a lease: masters that freeze, are killed, stopped and robbed, on every server.

mod audit;
mod bulk;
mod failover;
mod faults;
mod locks;
mod watched;

use std::time::Duration;

use rulesyncd::store::{RuleWrite, Scope, StoreError};
use serde_json::Value;

use super::assert_lock_lost;
use crate::support::clock;
use crate::support::databases::{ExternalClient, TestDatabase};
use crate::support::galera;
use crate::support::rules::{rule_row, rule_text};
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Daemon, Swarm, text, wait_for};

/// A master whose lease is as short as it may be.
fn master(swarm: &Swarm) -> Daemon {
    let file = swarm.path("rulesyncd.yaml");
    std::fs::write(&file, "master:\n  lease: 5s\n").unwrap();
    swarm.daemon("master", |command| {
        command.env("RULESYNCD_CONFIG", &file);
    })
}

async fn cell(external: &mut ExternalClient, column: &str) -> String {
    let text = external.text(&format!("SELECT CAST({column} AS CHAR(99)) FROM rulesyncd_lease")).await;
    text.expect("the lease").trim().to_owned()
}

async fn version_of(external: &mut ExternalClient, rule_id: &str) -> Option<String> {
    let found =
        external.rows(&format!("SELECT yaml_content FROM ttp_rule WHERE rule_id = '{rule_id}'")).await;
    found.into_iter().next()?.into_iter().next()?
}

fn lease_of(swarm: &Swarm) -> Value {
    let output = swarm.run(&["status", "--json", "--socket", swarm.path("master.sock").to_str().unwrap()]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    status.get("master").unwrap_or(&status).clone()
}

const TOOK_OVER: &str = "this master holds the lock: it took over from the other one";

/// Two masters with different directories: through each fault the table is one master's, and there are as many takeovers
/// as faults.
async fn one_writer_through_faults([address, others]: [&str; 2]) {
    let (one, other) = (Swarm::on(address), Swarm::on(others));
    one.save("A.yaml", rule_text("A", 1));
    other.save("A.yaml", rule_text("A", 2));
    let first = master(&one);
    first.wait_for_log("A added from A.yaml");
    let mut external = TestDatabase::server(address).await.external().await;
    if address != others {
        // This node waits until it has applied what the other one committed.
        external.run("SET SESSION wsrep_sync_wait = 15").await;
    }
    let second = master(&other);
    second.wait_for_log("standing by");
    assert_eq!(cell(&mut external, "term").await, "1");
    let status = lease_of(&one);
    assert_eq!((&status["lock"], &status["lease"]["term"]), (&Value::from("held"), &Value::from(1)));

    // It beats, and a standby only reads.
    let beat = cell(&mut external, "beat").await;
    let mut now = beat.clone();
    while now == beat {
        tokio::time::sleep(Duration::from_millis(50)).await;
        now = cell(&mut external, "beat").await;
    }
    assert_eq!(cell(&mut external, "term").await, "1");

    // Frozen: its sessions stay, and so does the server's lock.
    first.freeze();
    second.wait_for_log(TOOK_OVER);
    wait_for("the second's rule", || second.log().contains("A updated").then_some(()));
    // It stays frozen, and who took over dies.
    second.kill();
    let second = master(&other);
    second.wait_for_log("this master holds the lock");
    assert_eq!(cell(&mut external, "term").await, "3");
    one.save("A.yaml", rule_text("A", 3));
    first.thaw();
    first.wait_for_log("has taken over from this one");
    let log = first.log();
    let told = log.lines().find(|line| line.contains("has taken over from this one")).unwrap();
    assert!(told.contains(", since ") && told.contains("term 3"), "{told}");
    assert_eq!(version_of(&mut external, "A").await, Some(rule_text("A", 2)));
    assert_eq!(first.count_in_log("A updated"), 0, "{}", first.log());
    assert_eq!(cell(&mut external, "term").await, "3");
    // The database was never away, and one record says who leads.
    assert_eq!(lease_of(&one)["lock"], "standby");
    for text in ["lock was lost", "answers again", "holds the lock; standing by"] {
        assert_eq!(first.count_in_log(text), 0, "{text}: {}", first.log());
    }

    // Now that the first's session has ended, the second gets the server's lock, and its death is noticed at once; at
    // another node of a cluster, when its lease has passed.
    while cell(&mut external, "session").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.kill();
    first.wait_for_log(TOOK_OVER);
    wait_for("the first's rule", || first.log().contains("A updated").then_some(()));
    assert_eq!(version_of(&mut external, "A").await, Some(rule_text("A", 3)));
    assert_eq!(cell(&mut external, "term").await, "4");

    // Stopped: the lease is released.
    first.stop();
    assert_eq!(cell(&mut external, "owner").await, "");
    let third = master(&other);
    third.wait_for_log("this master holds the lock");
    assert_eq!(third.count_in_log(TOOK_OVER), 0, "{}", third.log());
    assert_eq!(cell(&mut external, "term").await, "5");
}

/// A transaction of a master that was robbed a moment ago fails at its last statement.
async fn a_robbed_master_commits_nothing(server: &Server) {
    let field = TestDatabase::server(&server.create("robbed").await).await;
    let (mut master, mut external) = (field.session().await, field.external().await);
    let write = [RuleWrite::Upsert(rule_row("R1", 1))];
    master.apply(&write).await.unwrap();
    external.run("UPDATE rulesyncd_lease SET owner = 'another', term = term + 1").await;
    let write = [RuleWrite::Upsert(rule_row("R1", 2)), RuleWrite::Upsert(rule_row("R2", 1))];
    assert_lock_lost(master.apply(&write).await, "another master has taken the lease");
    let rows = field.database.rows(Scope::All).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.rule_id.as_str(), row.rule_version)).collect();
    assert_eq!(rows, [("R1", 1)]);
    assert_lock_lost(master.apply(&write).await, "another master has taken the lease");
}

/// Lets the first tries to write the rule R2 fail, as if another transaction were in the way: as many as `most` says. The
/// sequence `tries` counts what is rolled back, too.
async fn be_in_the_way(external: &mut ExternalClient, kind: Kind, most: u32) {
    let trigger = match kind {
        Kind::Postgres => {
            "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.rule_id = 'R2' AND nextval('tries') <= (SELECT n FROM most) THEN \
             RAISE EXCEPTION 'another transaction is in the way' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER conflict BEFORE INSERT ON ttp_rule FOR EACH ROW EXECUTE FUNCTION conflict()"
        }
        Kind::MariaDb => {
            "CREATE TRIGGER conflict BEFORE INSERT ON ttp_rule FOR EACH ROW BEGIN \
             IF NEW.rule_id = 'R2' AND NEXT VALUE FOR tries <= (SELECT n FROM most) THEN \
             SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213; END IF; END"
        }
    };
    for statement in ["CREATE SEQUENCE tries", "CREATE TABLE most (n BIGINT)"] {
        external.run(statement).await;
    }
    external.run(&format!("INSERT INTO most VALUES ({most})")).await;
    external.run(trigger).await;
}

/// A master whose transactions fail one after the other keeps its lease: a standby would meet the same.
async fn a_conflict_that_goes_on_ends_no_lease(server: &Server) {
    let swarm = Swarm::on(server.create("conflict_goes_on").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    let master = master(&swarm);
    master.wait_for_log("R1 added from R1.yaml");
    let mut external = TestDatabase::server(swarm.url()).await.external().await;
    be_in_the_way(&mut external, server.kind(), 1_000_000).await;
    let term = cell(&mut external, "term").await;
    swarm.save("R2.yaml", rule_text("R2", 1));
    master.wait_for_log("1 row cannot be written, other transactions are in the way");
    external.run("UPDATE most SET n = 0").await;
    master.wait_for_log("R2 added from R2.yaml");
    assert_eq!(cell(&mut external, "term").await, term, "{}", master.log());
    assert_eq!(master.count_in_log("ERROR"), 0, "{}", master.log());
}

/// What was in the way of a transaction: the first tries fail. The whole transaction is repeated, and never in parts.
async fn a_conflict_repeats_the_whole_transaction(server: &Server) {
    let field = TestDatabase::server(&server.create("conflicts").await).await;
    let (mut master, mut external) = (field.session().await, field.external().await);
    be_in_the_way(&mut external, server.kind(), 3).await;
    let rules: Vec<RuleWrite> = ["R1", "R2", "R3"].map(|id| RuleWrite::Upsert(rule_row(id, 1))).into();
    let version = "SELECT CONCAT(version, '') FROM rulesyncd_version";
    let before: u64 = external.text(version).await.unwrap().parse().unwrap();
    let applied = master.apply(rules.clone()).await.unwrap();
    assert_eq!((applied.rows, applied.rejected.len()), (3, 0), "{applied:?}");
    let after: u64 = external.text(version).await.unwrap().parse().unwrap();
    assert_eq!(after, before + 1, "one transaction");

    // One that goes on being in the way: no row is written without the others.
    external.run("DELETE FROM ttp_rule").await;
    external.run("UPDATE most SET n = 1000").await;
    let refused = master.apply(rules.clone()).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(external.text("SELECT CONCAT(COUNT(*), '') FROM ttp_rule").await.as_deref(), Some("0"));
    let next = match server.kind() {
        Kind::Postgres => "nextval('tries')",
        Kind::MariaDb => "NEXT VALUE FOR tries",
    };
    let tries = external.text(&format!("SELECT CAST({next} AS CHAR(9))")).await.unwrap();
    assert_eq!(tries.trim(), "11", "four tries, and six");
    external.run("UPDATE most SET n = 0").await;
    let applied = master.apply(rules).await.unwrap();
    assert_eq!((applied.rows, applied.rejected.len()), (3, 0), "{applied:?}");
}

/// After a master that stopped there is none, which is not the same as one that hangs.
async fn a_released_lease_says_since_when_there_is_no_master(server: &Server) {
    let swarm = Swarm::on(server.create("released").await);
    swarm.save("A.yaml", rule_text("A", 1));
    let (master, _worker) = (master(&swarm), swarm.worker());
    master.wait_for_log("A added from A.yaml");
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    assert!(!swarm.succeed(&["fleet"]).contains("no master"));
    master.stop();
    let at = "SELECT CONCAT(LEFT(CONCAT(beat_at, ''), 19), '') FROM rulesyncd_lease";
    let mut external = TestDatabase::server(swarm.url()).await.external().await;
    let since = external.text(at).await.unwrap().replace(' ', "T");
    let wanted = format!("no master has held the lease since {since}");
    let fleet = text(&swarm.run(&["fleet"]).stdout);
    assert!(fleet.contains(&wanted), "no `{wanted}` in {fleet}");
    wait_for("the worker to say so", || {
        let status = swarm.succeed(&["status", "--socket", swarm.socket().to_str().unwrap()]);
        status.contains(&wanted).then_some(())
    });
}

async fn all(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    a_conflict_repeats_the_whole_transaction(&server).await;
    a_conflict_that_goes_on_ends_no_lease(&server).await;
    a_released_lease_says_since_when_there_is_no_master(&server).await;
    a_robbed_master_commits_nothing(&server).await;
    locks::all(&server).await;
    let address = server.create("one_writer").await;
    one_writer_through_faults([&address, &address]).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres() {
    all(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    all(Kind::MariaDb).await;
}

/// An old master whose node has not yet applied the takeover commits nothing: Galera compares which rows two transactions
/// changed. A fence that changes nothing lets it write.
async fn a_late_node_commits_nothing(nodes: &[Server]) {
    let field = TestDatabase::server(&nodes[0].create("late").await).await;
    let mut master = field.session().await;
    master.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let (mut here, mut there) = (nodes[0].client("late").await, nodes[1].client("late").await);
    let mut blocking = nodes[0].client("late").await;
    for client in [&mut there, &mut blocking] {
        // A read sees what was committed at every node before it.
        client.run("SET SESSION wsrep_sync_wait = 15").await;
    }
    there.run("CREATE TABLE slow (a INT PRIMARY KEY)").await;
    assert_eq!(blocking.text("SELECT CAST(COUNT(*) AS CHAR) FROM slow").await.as_deref(), Some("0"));
    // What other nodes commit from here on waits at this node for the table.
    blocking.run("LOCK TABLES slow WRITE").await;
    there.run("INSERT INTO slow VALUES (1)").await;
    let take = "UPDATE rulesyncd_lease SET owner = 'another', term = term + 1, beat = beat + 1";
    // A beat of the same moment may be in the way.
    while there.try_run(take).await.is_err() {}
    assert_eq!(cell(&mut here, "term").await, "1", "the node is not late");

    let write = vec![RuleWrite::Upsert(rule_row("R1", 2)), RuleWrite::Upsert(rule_row("R2", 1))];
    match tokio::time::timeout(DEADLINE, master.apply(write)).await.expect("an answer of the late node") {
        Err(_) => {}
        Ok(applied) => assert_eq!((applied.rows, applied.rejected.len()), (0, 2), "{applied:?}"),
    }
    assert_eq!(cell(&mut here, "term").await, "1", "the node is not late any more");
    blocking.run("UNLOCK TABLES").await;
    here.run("SET SESSION wsrep_sync_wait = 15").await;
    for client in [&mut here, &mut there] {
        assert_eq!(cell(client, "owner").await, "another");
        let rules = client.rows("SELECT CONCAT(rule_id, ' ', rule_version) FROM ttp_rule").await;
        assert_eq!(rules, [[Some("R1 1".to_owned())]]);
    }
}

/// Two masters at two nodes of a cluster, of which one has a clock that is 20 seconds ahead.
#[tokio::test]
#[ignore = "needs MariaDB, Galera and libfaketime"]
async fn on_galera() {
    let nodes = galera::start(vec![Vec::new(), clock::ahead(), Vec::new()]).await;
    a_late_node_commits_nothing(&nodes).await;
    let address = nodes[0].create("one_writer").await;
    one_writer_through_faults([&address, &nodes[1].address("one_writer")]).await;
    clock::clear_up();
}
