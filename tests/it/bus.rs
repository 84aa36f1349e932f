//! The host's message bus, served by the test.

use std::path::Path;
use std::time::Duration;

use rulesyncd::config::WorkerConfig;
use rulesyncd::rule::{RuleState, StateKind};
use rulesyncd::wire::Health;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::support::raw::{Raw, TIME_LIMIT};
use crate::support::tables::{Tables, TestWorker, worker_config};

/// One client's connection, as the bus reads it.
struct Client(BufReader<UnixStream>);

impl Client {
    async fn accept(bus: &UnixListener) -> Self {
        let (stream, _) = timeout(TIME_LIMIT, bus.accept()).await.expect("nobody connected").unwrap();
        let mut client = Self(BufReader::new(stream));
        assert_eq!(client.frame().await, ("HELLO rulesyncd".to_owned(), None));
        client
    }

    /// The next frame: its header, and its body if it has one.
    async fn frame(&mut self) -> (String, Option<Value>) {
        let read = async {
            let mut header = String::new();
            self.0.read_line(&mut header).await.unwrap();
            assert!(header.len() <= 4096 && header.ends_with('\n'), "{header:?}");
            let mut body = vec![0; self.0.read_u32().await.unwrap() as usize];
            self.0.read_exact(&mut body).await.unwrap();
            let body = (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap());
            (header.trim_end().to_owned(), body)
        };
        timeout(TIME_LIMIT, read).await.expect("no frame came")
    }

    /// The payload of the next notice, whose envelope is checked.
    async fn notice(&mut self, topic: &str) -> Value {
        let (header, body) = self.frame().await;
        assert_eq!(header, format!("PUB {topic}"));
        let body = body.unwrap();
        let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["v", "id", "topic", "type", "ts", "payload"]);
        assert_eq!((&body["v"], &body["topic"], &body["type"]), (&json!(1), &json!(topic), &json!("")));
        let id = body["id"].as_str().unwrap();
        assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
        assert!(body["ts"].as_f64().unwrap() > 1.7e9, "{body}");
        body["payload"].clone()
    }
}

fn worker(directory: &TempDir, tables: &Tables) -> TestWorker {
    let config =
        WorkerConfig { bus_socket: Some(directory.path().join("bus")), ..worker_config(directory.path()) };
    TestWorker::start(tables, &config)
}

fn bus_at(directory: &TempDir) -> UnixListener {
    let path = directory.path().join("bus");
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(path).unwrap()
}

async fn subscriber(socket: &Path) -> Raw {
    let mut raw = Raw::subscribe(socket, json!({})).await;
    raw.snapshot().await;
    raw
}

#[tokio::test]
async fn each_change_is_one_hint() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let bus = bus_at(&directory);
    let worker = worker(&directory, &tables);
    subscriber(worker.socket()).await;
    let mut client = Client::accept(&bus).await;
    tables.write([("R1", 2)]);
    assert_eq!(client.notice("ttp.rule.reloaded.R1").await, json!({"rule_id": "R1", "rule_version": 2}));
    let state = RuleState { state: StateKind::Disabled, set_by: Some("ann".into()), ..RuleState::default() };
    tables.set("R1", state);
    let notice = client.notice("ttp.rule.state.R1").await;
    assert_eq!(notice, json!({"rule_id": "R1", "state": "disabled", "set_by": "ann"}));
    tables.clear("R1");
    assert_eq!(client.notice("ttp.rule.state.R1").await, json!({"rule_id": "R1", "auto_revert": true}));
    tables.delete("R1");
    assert_eq!(client.notice("ttp.rule.reloaded.R1").await, json!({"rule_id": "R1", "deleted": true}));
    assert_eq!(worker.handle.status().bus.unwrap().published, 4);
    worker.stop().await.unwrap();
    assert_eq!(client.frame().await, ("BYE".to_owned(), None));
}

#[tokio::test]
async fn a_bus_that_is_away_delays_nobody_and_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let worker = worker(&directory, &tables);
    let mut raw = subscriber(worker.socket()).await;
    tables.write([("R1", 2)]);
    assert_eq!(raw.event().await["rule_version"], 2);
    let status = worker.handle.status().bus.unwrap();
    assert_eq!((status.state, status.published), (Health::Down, 0));
    assert!(status.last_error.is_some());

    let bus = bus_at(&directory);
    let mut client = Client::accept(&bus).await;
    assert_eq!(client.notice("ttp.rule.reloaded.R1").await["rule_version"], 2);
    drop((client, bus));
    tables.write([("R1", 3)]);
    assert_eq!(raw.event().await["rule_version"], 3);
    let bus = bus_at(&directory);
    let mut client = Client::accept(&bus).await;
    tables.write([("R1", 4)]);
    // At most once: the change that fell into the restart may be missing, and none comes twice.
    let mut version = client.notice("ttp.rule.reloaded.R1").await;
    if version["rule_version"] == 3 {
        version = client.notice("ttp.rule.reloaded.R1").await;
    }
    assert_eq!(version["rule_version"], 4);
    assert_eq!(worker.handle.status().bus.unwrap().state, Health::Up);
}

#[tokio::test]
async fn a_bus_that_does_not_read_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let bus = bus_at(&directory);
    let worker = worker(&directory, &tables);
    let mut raw = subscriber(worker.socket()).await;
    let mut client = Client::accept(&bus).await;
    // More than fits into the socket, and more than the bound of 100 changes after it.
    for version in 2..=80 {
        tables.write((0..40).map(|n| (format!("B{n}"), version)));
        for _ in 0..40 {
            raw.event().await;
        }
    }
    let published = worker.handle.status().bus.unwrap().published;
    assert!(published < 79 * 40, "the bus took all {published}");
    let read_on = async {
        loop {
            client.frame().await;
            if worker.handle.status().bus.unwrap().missed > 0 {
                break;
            }
        }
    };
    timeout(TIME_LIMIT, read_on).await.expect("nothing was passed over");
    tables.write([("LAST", 1)]);
    let last = async { while client.frame().await.0 != "PUB ttp.rule.reloaded.LAST" {} };
    timeout(TIME_LIMIT, last).await.expect("the bus is not served on");
    let stopping = worker.stop();
    timeout(Duration::from_secs(8), stopping).await.expect("the stop waited for the bus").unwrap();
}
