//! Traces and metrics, as a collector gets them.

mod collector;
mod outages;
mod prometheus;
mod receiver;
mod secrets;
mod trace_context;
mod traces;

use std::collections::BTreeSet;

use serde_json::Value;

use self::receiver::{Manner, Receiver};
use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Subscriber, Swarm};

/// A master and a worker that export to a receiver, and a subscriber that has the first rule.
struct Observed {
    receiver: Receiver,
    swarm: Swarm,
    master: Daemon,
    worker: Daemon,
    subscriber: Subscriber,
}

impl Observed {
    fn new() -> Self {
        Self::around(Swarm::on_sqlite(), Receiver::new(Manner::Takes))
    }

    fn around(swarm: Swarm, receiver: Receiver) -> Self {
        swarm.save("r1.yaml", rule_text("R1", 1));
        let daemon = |mode| {
            swarm.daemon(mode, |command| {
                receiver.collect(command);
                command.env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json");
            })
        };
        let master = daemon("master");
        // So that the rule is in the worker's first load, and no change.
        master.wait_for_log("R1 added");
        let worker = daemon("worker");
        let mut subscriber = swarm.subscribe();
        assert_eq!(subscriber.snapshot().len(), 1);
        Self { receiver, swarm, master, worker, subscriber }
    }
}

#[test]
fn each_metric_has_its_labels_and_values() {
    let Observed { receiver, swarm, mut subscriber, master: _master, worker: _worker } = Observed::new();
    swarm.save("r1.yaml", rule_text("R1", 2));
    subscriber.change();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    subscriber.change();
    swarm.save("r2.yaml", "rule_id: R2\n");
    swarm.save("r3.yaml", rule_text("R1", 1));
    swarm.sql("insert into ttp_rule select 'ODD', 1, 'o.yaml', 'no: rule', updated_at, 'git' from ttp_rule");

    for (metric, value) in [
        ("ttp.rule.compiled{store_backend=sqlite}", 2.0),
        ("ttp.rule.rejected{reason=missing-field}", 1.0),
        ("ttp.rule.rejected{reason=conflict}", 1.0),
        ("ttp.rule.rejected{reason=rule_row}", 1.0),
        ("ttp.rule.state.changed{new_state=disabled}", 1.0),
        ("ttp.rule.changes{change_kind=definition}", 1.0),
        ("ttp.rule.changes{change_kind=state}", 1.0),
        // Both were written, and the first was in the worker's first load.
        ("ttp.rule.propagation{change_kind=definition,leg=save_to_write}", 2.0),
        ("ttp.rule.propagation{change_kind=definition,leg=write_to_stream}", 1.0),
        ("ttp.rule.propagation{change_kind=state,leg=write_to_stream}", 1.0),
        ("rulesyncd.rules{mode=master}", 2.0),
        ("rulesyncd.rules{mode=worker}", 1.0),
        ("rulesyncd.quarantined{mode=master}", 2.0),
        ("rulesyncd.quarantined{mode=worker}", 1.0),
        ("rulesyncd.held_back{mode=master}", 0.0),
        ("rulesyncd.held_back{mode=worker}", 0.0),
        ("rulesyncd.unwatched{mode=master}", 0.0),
        ("rulesyncd.untrusted{mode=worker}", 0.0),
        ("rulesyncd.subscribers{mode=worker}", 1.0),
        ("rulesyncd.stale_seconds{mode=worker}", 0.0),
        ("rulesyncd.lag{mode=worker}", 0.0),
    ] {
        receiver.metric(metric, |is| is == value);
    }
    for operation in ["read_rows", "write_rules", "poll", "remove_expired_states"] {
        receiver.metric(&format!("ttp.store.latency{{operation={operation}}}"), |count| count >= 1.0);
    }
    for histogram in ["ttp.rule.propagation", "ttp.store.latency"] {
        assert_eq!(receiver.unit(histogram).as_deref(), Some("s"));
    }
    let named: Vec<_> = receiver.metrics();
    assert_eq!(named.iter().filter(|name| name.starts_with("rulesyncd.")).count(), 11, "{named:?}");
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/observability/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let Observed { receiver, swarm, mut subscriber, master: _master, worker: _worker } = Observed::new();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    swarm.save("r2.yaml", "rule_id: R2\n");
    subscriber.change();
    receiver.metric("ttp.rule.rejected{reason=missing-field}", |count| count == 1.0);
    receiver.metric("ttp.rule.state.changed{new_state=disabled}", |count| count == 1.0);

    let known = receiver.prometheus_names();
    let queries =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut asked = BTreeSet::new();
    for query in queries {
        let query = query["expr"].as_str().unwrap();
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        asked.extend(words.filter(|word| word.starts_with("ttp_") || word.starts_with("rulesyncd_")));
    }
    // SQLite has no reports: the test of the fleet's metrics asks a server.
    let (fleet, asked): (BTreeSet<&str>, BTreeSet<&str>) =
        asked.into_iter().partition(|name| name.starts_with("rulesyncd_fleet_"));
    assert_eq!(fleet.len(), 3, "{fleet:?}");
    let names: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    assert_eq!(asked, names, "what is asked, and what there is");
}

#[test]
fn without_a_collector_no_thread_and_no_key_of_the_stream_is_there() {
    let swarm = Swarm::on_sqlite();
    let threads = |daemon: &Daemon| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap();
        tasks.map(|task| name(task.unwrap()).trim().to_owned()).collect::<Vec<_>>()
    };
    let is_exporters = |name: &String| name.starts_with("OpenTelemetry");
    let exports = Observed::new();
    assert_eq!(threads(&exports.worker).iter().filter(|name| is_exporters(name)).count(), 2);

    swarm.save("r1.yaml", rule_text("R1", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = swarm.subscribe();
    }
    swarm.save("r1.yaml", rule_text("R1", 2));
    assert_eq!(subscriber.change().get("traceparent"), None);
    for daemon in [&master, &worker] {
        assert!(!threads(daemon).iter().any(is_exporters), "{:?}", threads(daemon));
        assert_eq!(daemon.count_in_log("trace_id"), 0);
    }
}
