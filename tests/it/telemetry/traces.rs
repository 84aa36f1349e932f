//! The spans of each kind of event: names, parents, attributes.

use serde_json::Value;

use super::Observed;
use super::receiver::{Manner, Receiver, Span};
use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Swarm};

/// The record of a daemon's JSON log that has this field.
fn record(daemon: &Daemon, key: &str, value: &str) -> Value {
    let log = daemon.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.rfind(|line| line[key] == value).unwrap_or_else(|| panic!("no {key}={value} in {log}"))
}

fn lies_within(inner: &Span, outer: &Span) {
    assert!(outer.start <= inner.start && inner.end <= outer.end, "{inner:?} is not in {outer:?}");
    assert!(inner.start <= inner.end, "{inner:?}");
}

#[test]
fn a_files_edit_is_one_tree_from_the_master_to_the_worker() {
    let Observed { receiver, swarm, master, worker, mut subscriber } = Observed::new();
    swarm.save("r1.yaml", rule_text("R1", 2));
    let change = subscriber.change();

    let edit = receiver.named("ttp.rule.ingest", "rule_version", "2");
    for (key, value) in [("rule_id", "R1"), ("source_path", "r1.yaml"), ("outcome", "updated")] {
        assert_eq!(edit.attributes[key], value);
    }
    assert_eq!(edit.attributes.len(), 4, "{:?}", edit.attributes);
    let names =
        ["ttp.rule.parse", "ttp.rule.validate", "ttp.store.write_rule", "ttp.rule.publish", "ttp.rule.tail"];
    let [steps @ .., tail] = receiver.children(&edit, names);
    assert!(steps.is_sorted_by_key(|step| step.start), "{steps:?}");
    steps.iter().for_each(|step| lies_within(step, &edit));
    for (key, value) in [("service.name", "rulesyncd"), ("service.version", env!("CARGO_PKG_VERSION"))] {
        assert_eq!(edit.resource[key], value);
    }
    assert!(!edit.resource["host.name"].is_empty());
    assert_eq!(record(&master, "rule_id", "R1")["trace_id"], edit.trace.as_str());

    let publish = receiver.span("the worker's ttp.rule.publish", |span| {
        span.name == "ttp.rule.publish"
            && span.attributes.get("change_kind").is_some_and(|kind| kind == "definition")
    });
    assert_eq!((&*publish.attributes["rule_id"], &*publish.attributes["seq"]), ("R1", "1"));
    assert_eq!(tail.id, publish.parent);
    assert_eq!(
        (&*tail.name, &*tail.attributes["changes"], &*tail.attributes["rows"]),
        ("ttp.rule.tail", "1", "1")
    );
    receiver.children(&tail, ["ttp.rule.publish"]);
    lies_within(&publish, &tail);
    assert_eq!(record(&worker, "rule_id", "R1")["trace_id"], tail.trace.as_str());
    let id: String = publish.id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(change["traceparent"], format!("00-{}-{id}-01", publish.trace));
}

#[test]
fn what_else_can_become_of_a_file_is_its_outcome() {
    let Observed { receiver, swarm, mut subscriber, master, worker: _worker } = Observed::new();
    receiver.named("ttp.rule.ingest", "outcome", "inserted");

    swarm.save("r2.yaml", "rule_id: R2\nrule_version: 1\n");
    let rejected = receiver.named("ttp.rule.ingest", "source_path", "r2.yaml");
    assert!(rejected.failed && rejected.attributes["outcome"] == "rejected", "{rejected:?}");
    let [parse, validate] = receiver.children(&rejected, ["ttp.rule.parse", "ttp.rule.validate"]);
    assert!(!parse.failed && validate.failed);
    assert_eq!(record(&master, "source_path", "r2.yaml")["trace_id"], rejected.trace.as_str());

    swarm.save("r3.yaml", "rule_id: [");
    let unreadable = receiver.named("ttp.rule.ingest", "source_path", "r3.yaml");
    let [parse] = receiver.children(&unreadable, ["ttp.rule.parse"]);
    assert!(parse.failed);

    // The last rule would not be deleted without confirmation.
    swarm.save("r9.yaml", rule_text("R9", 1));
    subscriber.change();
    swarm.remove("r1.yaml");
    subscriber.change();
    let deleted = receiver.named("ttp.rule.ingest", "outcome", "deleted");
    assert_eq!(deleted.attributes["rule_id"], "R1");
    receiver.children(&deleted, ["ttp.store.write_rule", "ttp.rule.publish"]);
}

#[test]
fn a_state_that_is_set_is_a_tree_though_the_command_ends_at_once() {
    let receiver = Receiver::new(Manner::Takes);
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    let mut command = swarm.command(&[
        "state",
        "set",
        "R1",
        "clipped",
        "--confidence-max",
        "0.5",
        "--set-by",
        "ada",
        "--force",
    ]);
    receiver.collect(&mut command);
    // Long enough that only the end of the command can have sent it.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "60000").env("OTEL_SERVICE_NAME", "swarm-7");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue");
    assert!(command.status().unwrap().success());

    let change = receiver.named("ttp.rule.state.change", "rule_id", "R1");
    assert_eq!((&*change.attributes["state"], &*change.attributes["set_by"]), ("clipped", "ada"));
    assert_eq!(change.attributes.len(), 3, "{:?}", change.attributes);
    assert!(change.parent.is_empty());
    for step in receiver.children(&change, ["ttp.store.write_state", "ttp.rule.publish"]) {
        lies_within(&step, &change);
    }
    assert_eq!(change.resource["service.name"], "swarm-7");
    assert!(receiver.headers().contains("x-tenant: blue"));
    receiver.metric("ttp.store.latency{operation=set_state}", |count| count == 1.0);
}

#[test]
fn a_sync_hands_over_what_it_did_before_it_ends() {
    let receiver = Receiver::new(Manner::Takes);
    let swarm = Swarm::on_sqlite();
    for number in 0..20 {
        swarm.save(&format!("r{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    let mut command = swarm.command(&["sync"]);
    receiver.collect(&mut command);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "60000").env("OTEL_TRACES_SAMPLER", "always_on");
    assert!(command.status().unwrap().success());
    let count = |name: &str| receiver.spans().iter().filter(|span| span.name == name).count();
    assert_eq!((count("ttp.rule.ingest"), count("ttp.store.write_rule")), (20, 20));

    let none = Receiver::new(Manner::Takes);
    let mut command = swarm.command(&["sync"]);
    none.collect(&mut command);
    swarm.save("r0.yaml", rule_text("R0", 2));
    command.env("OTEL_TRACES_SAMPLER", "always_off");
    assert!(command.status().unwrap().success());
    assert!(none.requests() > 0 && none.spans().is_empty());
}
