//! `status --format prometheus` and the alerts: parsed with Prometheus' own parser and promtool, and compared with
//! what a collector gets from the same daemons.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Observed;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text};

/// Reads the text format with the Python client of Prometheus: the types by family, and the values by sample.
fn parse(exposition: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    const SCRIPT: &str = "import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
label = lambda labels: ','.join(f'{name}={labels[name]}' for name in sorted(labels))
print(json.dumps([{family.name: family.type for family in families},
    {f'{sample.name}{{{label(sample.labels)}}}': sample.value for family in families for sample in family.samples}]))";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let output = pipe(Command::new(python).args(["-c", SCRIPT]), exposition);
    serde_json::from_str(&output).unwrap()
}

/// Runs a command that must succeed with this input, and returns what it printed.
fn pipe(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn promtool() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/promtool/usr/bin/promtool"))
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The names as a query has them: the buckets of a histogram.
fn names(samples: &BTreeMap<String, f64>) -> BTreeSet<String> {
    let names = samples.keys().map(|sample| sample.split('{').next().unwrap().to_owned());
    names.filter(|name| !name.ends_with("_sum") && !name.ends_with("_count")).collect()
}

#[test]
#[ignore = "needs the Python packages of tests/run"]
fn the_text_has_the_collectors_metrics_under_the_collectors_names() {
    let Observed { receiver, swarm, mut subscriber, master: _master, worker: _worker } = Observed::new();
    swarm.save("r1.yaml", rule_text("R1", 2));
    subscriber.change();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    subscriber.change();
    swarm.save("r2.yaml", "rule_id: R2\n");
    receiver.metric("ttp.rule.rejected{reason=missing-field}", |count| count == 1.0);
    receiver.metric("ttp.rule.state.changed{new_state=disabled}", |count| count == 1.0);

    let exposition = swarm.succeed(&["status", "--format", "prometheus"]);
    let (types, samples) = parse(&exposition);
    let mut expected = receiver.prometheus_names();
    expected.insert("rulesyncd_up".to_owned());
    assert_eq!(names(&samples), expected, "{exposition}");
    for (sample, value) in [
        ("rulesyncd_up{mode=master}", 1.0),
        ("rulesyncd_up{mode=worker}", 1.0),
        ("ttp_rule_compiled_total{mode=worker,store_backend=sqlite}", 2.0),
        ("ttp_rule_rejected_total{mode=master,reason=missing-field}", 1.0),
        ("ttp_rule_state_changed_total{mode=worker,new_state=disabled}", 1.0),
        ("ttp_rule_changes_total{change_kind=definition,mode=worker}", 1.0),
        ("ttp_rule_propagation_seconds_count{change_kind=definition,leg=save_to_write,mode=master}", 2.0),
        (
            "ttp_rule_propagation_seconds_bucket{change_kind=state,le=+Inf,leg=write_to_stream,mode=worker}",
            1.0,
        ),
        ("rulesyncd_rules{mode=master}", 1.0),
        ("rulesyncd_rules{mode=worker}", 1.0),
        ("rulesyncd_subscribers{mode=worker}", 1.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}: {exposition}");
    }
    for (family, kind) in [
        ("ttp_rule_changes", "counter"),
        ("rulesyncd_rules", "gauge"),
        ("ttp_store_latency_seconds", "histogram"),
    ] {
        assert_eq!(types[family], kind);
    }
    // A bucket includes all that are below it, and the last one includes everything.
    let operation = "mode=master,operation=write_rules}";
    let bucket = |bound: &str| samples[&format!("ttp_store_latency_seconds_bucket{{le={bound},{operation}")];
    let buckets: Vec<_> = ["0.001", "0.002", "0.5", "5", "60", "+Inf"].into_iter().map(bucket).collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets[5], samples[&format!("ttp_store_latency_seconds_count{{{operation}")]);
    assert!(samples[&format!("ttp_store_latency_seconds_sum{{{operation}")] > 0.0);
}

#[test]
#[ignore = "needs promtool, as tests/run gets it"]
fn promtool_takes_the_text_of_daemons_that_answer_and_of_ones_that_do_not() {
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", rule_text("R1", 1));
    let (_master, worker) = (swarm.master(), swarm.worker());
    swarm.subscribe().snapshot();
    pipe(promtool().args(["check", "metrics"]), &swarm.succeed(&["status", "--format", "prometheus"]));
    worker.kill();
    let exposition = swarm.succeed(&["status", "--format", "prometheus"]);
    pipe(promtool().args(["check", "metrics"]), &exposition);
    let down: Vec<_> = exposition.lines().filter(|line| line.starts_with("rulesyncd_up{")).collect();
    assert_eq!(down, ["rulesyncd_up{mode=\"master\"} 1", "rulesyncd_up{mode=\"worker\"} 0"]);
}

#[test]
#[ignore = "needs promtool, as tests/run gets it"]
fn each_alert_fires_on_what_it_is_for_and_asks_for_metrics_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    for path in ["config/observability/alerts.yaml", "tests/it/telemetry/alerts_test.yaml"] {
        std::fs::copy(file(path), directory.path().join(file(path).file_name().unwrap())).unwrap();
    }
    pipe(promtool().args(["check", "rules", "alerts.yaml"]).current_dir(&directory), "");
    pipe(promtool().args(["test", "rules", "alerts_test.yaml"]).current_dir(&directory), "");

    let Observed { swarm, mut subscriber, master: _master, worker: _worker, .. } = Observed::new();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    subscriber.change();
    swarm.save("r2.yaml", "rule_id: R2\n");
    crate::support::swarm::wait_for("the invalid file", || {
        swarm.succeed(&["status", "--json"]).contains("r2.yaml").then_some(())
    });
    let exposition = swarm.succeed(&["status", "--format", "prometheus"]);
    let known: BTreeSet<&str> = exposition
        .lines()
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| *name != "#")
        .collect();
    let alerts = std::fs::read_to_string(file("config/observability/alerts.yaml")).unwrap();
    let alerts: Value = serde_yaml::from_str(&alerts).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(!rules.is_empty());
    for rule in rules {
        let query = rule["expr"].as_str().unwrap();
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let asked: Vec<_> =
            words.filter(|word| word.starts_with("ttp_") || word.starts_with("rulesyncd_")).collect();
        assert!(!asked.is_empty(), "{query}");
        for name in asked {
            // Nothing is counted for a driver that never failed.
            assert!(
                known.contains(name) || name == "rulesyncd_driver_failures_total",
                "{name} of {query}: {known:?}"
            );
        }
    }
}
