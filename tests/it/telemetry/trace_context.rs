//! One trace from a file on the master's host to the stream of a worker.

use super::Observed;
use super::receiver::{Manner, Receiver, Span};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::Swarm;

/// The worker's spans of the change with this number: the poll, and the publishing in it.
fn arrival(receiver: &Receiver, seq: &str) -> (Span, Span) {
    let publish = receiver.named("ttp.rule.publish", "seq", seq);
    (receiver.span("its ttp.rule.tail", |span| span.id == publish.parent), publish)
}

fn a_trace_crosses(swarm: Swarm) {
    let Observed { receiver, swarm, mut subscriber, master: _master, worker: _worker } =
        Observed::around(swarm, Receiver::new(Manner::Takes));
    swarm.save("r1.yaml", rule_text("R1", 2));
    let change = subscriber.change();
    let edit = receiver.named("ttp.rule.ingest", "rule_version", "2");
    let (tail, publish) = arrival(&receiver, "1");
    assert_eq!((&tail.trace, &tail.parent), (&edit.trace, &edit.id));
    assert_eq!((&publish.trace, publish.links), (&edit.trace, vec![edit.id]));
    assert!(change["traceparent"].as_str().unwrap().contains(&edit.trace));

    let mut state = swarm.command(&["state", "set", "R1", "clipped", "--confidence-max", "0.85"]);
    state.args(["--expires-in", "1h", "--reason", "noisy"]);
    receiver.collect(&mut state);
    assert!(state.status().unwrap().success());
    subscriber.change();
    let set = receiver.named("ttp.rule.state.change", "state", "clipped");
    let (tail, _) = arrival(&receiver, "2");
    assert_eq!((&tail.trace, &tail.parent), (&set.trace, &set.id));
}

#[test]
fn on_sqlite() {
    a_trace_crosses(Swarm::on_sqlite());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgresql() {
    let server = Server::start(Kind::Postgres, &[]).await;
    a_trace_crosses(Swarm::on(server.create("traces").await));
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    a_trace_crosses(Swarm::on(server.create("traces").await));
}

#[test]
fn what_several_edits_did_at_once_points_to_each_of_them() {
    let Observed { receiver, swarm, mut subscriber, master: _master, worker } = Observed::new();
    // One poll finds all of them: the worker is paused while they are written.
    worker.freeze();
    swarm.save("r2.yaml", rule_text("R2", 1));
    swarm.save("r3.yaml", rule_text("R3", 1));
    let edits = ["R2", "R3"].map(|id| receiver.named("ttp.rule.ingest", "rule_id", id));
    worker.thaw();
    subscriber.change();
    subscriber.change();
    let arrivals = ["1", "2"].map(|seq| arrival(&receiver, seq));
    assert_eq!(arrivals[0].0, arrivals[1].0, "one poll");
    assert!(arrivals[0].0.parent.is_empty());
    for edit in &edits {
        let (_, publish) = arrivals
            .iter()
            .find(|(_, span)| span.attributes["rule_id"] == edit.attributes["rule_id"])
            .unwrap();
        assert_eq!(publish.links, std::slice::from_ref(&edit.id));
    }
}

#[test]
fn rules_are_synced_although_the_trace_contexts_cannot_be_written() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    swarm.sql("create view rulesyncd_trace as select 1 as rule_id");
    let Observed { receiver, swarm, master, mut subscriber, worker: _worker } =
        Observed::around(swarm, Receiver::new(Manner::Takes));
    for version in 2..5 {
        swarm.save("r1.yaml", rule_text("R1", version));
        assert_eq!(subscriber.change()["rule_version"], version);
    }
    assert_eq!(master.count_in_log("trace contexts cannot be passed on"), 1);
    let (tail, publish) = arrival(&receiver, "3");
    assert!(tail.parent.is_empty() && publish.links.is_empty());
}

/// Whether the table is in the database or in its write-ahead log.
fn has_table(swarm: &Swarm) -> bool {
    ["rules.db", "rules.db-wal"].iter().any(|name| {
        let bytes = std::fs::read(swarm.path(name)).unwrap_or_default();
        bytes.windows(15).any(|part| part == b"rulesyncd_trace")
    })
}

#[test]
fn without_a_collector_the_table_is_not_created() {
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    assert!(!has_table(&swarm));
    let receiver = Receiver::new(Manner::Takes);
    let mut command = swarm.command(&["sync"]);
    receiver.collect(&mut command);
    swarm.save("r1.yaml", rule_text("R1", 2));
    assert!(command.status().unwrap().success());
    assert!(has_table(&swarm));
}
