//! An independent collector, based on Google's protobuf library, understands the export.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use serde_json::Value;

use super::receiver::export_to;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, wait_for};

/// The collector in the Python package `oteltap`.
const COLLECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/oteltap");

#[test]
#[ignore = "needs target/venv with oteltap: tests/run"]
fn a_real_collector_understands_it() {
    let swarm = Swarm::on_sqlite();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let printed = swarm.path("printed");
    let mut command = Command::new(COLLECTOR);
    command.args(["--port", &port.to_string()]).env("PYTHONUNBUFFERED", "1");
    command.stdout(fs::File::create(&printed).unwrap());
    let _collector = swarm.spawn(command);
    wait_for("the collector", || TcpStream::connect(("127.0.0.1", port)).ok());

    swarm.save("r1.yaml", rule_text("R1", 1));
    let mut sync = swarm.command(&["sync"]);
    export_to(&mut sync, &format!("http://127.0.0.1:{port}"));
    assert!(sync.status().unwrap().success());
    let line = |name: &str| {
        wait_for(name, || {
            let printed = fs::read_to_string(&printed).unwrap();
            let mut lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["name"] == name)
        })
    };
    let edit = line("ttp.rule.ingest");
    for inner in ["ttp.rule.parse", "ttp.rule.validate", "ttp.store.write_rule", "ttp.rule.publish"] {
        assert_eq!(line(inner)["parentSpanId"], edit["spanId"], "{inner}");
    }
    for histogram in ["ttp.rule.propagation", "ttp.store.latency"] {
        assert!(line(histogram)["histogram"]["dataPoints"][0]["count"].is_string(), "{histogram}");
    }
}
