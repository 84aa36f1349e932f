//! A collector that is absent, slow or refuses: rules are synced, one record reports it, and stopping is not delayed
//! much.

use std::time::{Duration, Instant};

use super::receiver::{Manner, Receiver, export_to};
use crate::support::rules::rule_text;
use crate::support::swarm::Swarm;

/// How long a change and a stop may take in spite of a collector.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// `timeout` is the time limit of an export, in milliseconds.
fn rules_go_on(endpoint: &str, timeout: &str, said: Option<&str>) {
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", rule_text("R1", 1));
    let daemon = |mode| {
        swarm.daemon(mode, |command| {
            export_to(command, endpoint);
            command.env("OTEL_EXPORTER_OTLP_TIMEOUT", timeout);
        })
    };
    let (master, worker) = (daemon("master"), daemon("worker"));
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = swarm.subscribe();
    }
    for version in 2..12 {
        swarm.save("r1.yaml", rule_text("R1", version));
        let saved = Instant::now();
        assert_eq!(subscriber.change()["rule_version"], version);
        assert!(saved.elapsed() < TIME_LIMIT, "a change took {:?}", saved.elapsed());
    }
    let logs: Vec<_> = [master, worker]
        .into_iter()
        .map(|daemon| {
            said.iter().for_each(|said| daemon.wait_for_log(said));
            let (started, log) = (Instant::now(), daemon.log_path());
            daemon.stop();
            assert!(started.elapsed() < TIME_LIMIT, "the stop took {:?}", started.elapsed());
            std::fs::read_to_string(log).unwrap()
        })
        .collect();
    for log in logs {
        assert_eq!(log.matches("the collector at").count(), usize::from(said.is_some()), "{log}");
    }
}

#[test]
fn absent() {
    // A port that was free a moment ago, and where nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    rules_go_on(&format!("http://127.0.0.1:{port}"), "300", Some("does not accept"));
}

#[test]
fn slow() {
    let receiver = Receiver::new(Manner::Hangs);
    rules_go_on(&receiver.endpoint(), "300", Some("timeout"));
    // The daemon still waits for it when it must stop.
    rules_go_on(&receiver.endpoint(), "60000", None);
}

#[test]
fn refusing() {
    for status in [400, 503] {
        let receiver = Receiver::new(Manner::Refuses(status));
        rules_go_on(&receiver.endpoint(), "300", Some(&format!("it answers {status}")));
    }
}

#[test]
fn an_address_that_is_none_ends_the_start_and_is_not_shown() {
    let swarm = Swarm::on_sqlite();
    for endpoint in ["user:canary@collector", "ftp://canary"] {
        let mut command = swarm.command(&["sync"]);
        export_to(&mut command, endpoint);
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT: ") && !told.contains("canary"), "{told}");
    }
}
