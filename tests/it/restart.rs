//! What a worker serves after it was stopped or killed, while the database is unavailable.

use std::path::Path;

use rulesyncd::clock::Timestamp;
use rulesyncd::rule::{RuleState, StateKind};
use serde_json::json;
use tempfile::TempDir;

use crate::support::raw::Raw;
use crate::support::tables::{Tables, TestWorker, worker_config, worker_over};

/// A stopped worker that had R1 and R2 and a state.
async fn stopped() -> (Tables, TempDir) {
    let (worker, directory) = worker_over([("R1", 1), ("R2", 1)]);
    let tables = worker.tables.clone();
    let state = RuleState {
        state: StateKind::Clipped,
        confidence_max: Some(0.85),
        set_at: Some(Timestamp::from_micros(1_777_000_000_000_000)),
        ..RuleState::default()
    };
    tables.set("R2", state);
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    raw.snapshot().await;
    worker.stop().await.unwrap();
    (tables, directory)
}

fn start(tables: &Tables, directory: &Path) -> TestWorker {
    TestWorker::start(tables, &worker_config(directory))
}

/// Subscribes while the database is unavailable, and expects no rules.
async fn expect_nothing_served(worker: &TestWorker) {
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    let first = raw.next().await;
    assert_eq!((&first["type"], &first["database"]), (&json!("heartbeat"), &json!("down")), "{first}");
}

#[tokio::test]
async fn a_restart_with_the_database_away_serves_what_was_known_and_then_only_what_differs() {
    let (tables, directory) = stopped().await;
    tables.set_unavailable(Some("connection refused"));
    tables.write([("R2", 2), ("R3", 1)]);
    tables.delete("R1");

    let worker = start(&tables, directory.path());
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    let (_, ids, _) = raw.snapshot().await;
    assert_eq!(ids, ["R1", "R2"]);
    let beat = raw.heartbeat(|beat| beat["database"] == "down").await;
    assert!(beat["stale_for_ms"].as_u64() > Some(0), "{beat}");

    tables.set_unavailable(None);
    let mut heard = Vec::new();
    for _ in 0..3 {
        let change = raw.event().await;
        heard.push(format!("{} {} {}", change["seq"], change["rule_id"], change["rule_version"]));
        if change["rule_id"] == "R2" {
            assert_eq!(change["new_value"]["state"]["confidence_max"], 0.85);
        }
    }
    assert_eq!(heard, ["1 \"R2\" 2", "2 \"R3\" 1", "3 \"R1\" null"]);
    raw.heartbeat(|beat| beat["database"] == "up" && beat["stale_for_ms"] == 0).await;
}

#[tokio::test]
async fn a_killed_worker_leaves_what_it_had_written() {
    let (worker, directory) = worker_over([("R1", 1)]);
    let (tables, cache) = (worker.tables.clone(), worker.config.cache.clone());
    Raw::subscribe(worker.socket(), json!({})).await.snapshot().await;
    while !cache.exists() {
        tokio::task::yield_now().await;
    }
    worker.kill().await;
    tables.set_unavailable(Some("gone"));
    let worker = start(&tables, directory.path());
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    assert_eq!(raw.snapshot().await.1, ["R1"]);
}

#[tokio::test]
async fn a_torn_or_foreign_file_is_set_aside_and_never_served() {
    let (tables, directory) = stopped().await;
    tables.set_unavailable(Some("gone"));
    let cache = directory.path().join("catalogue.ndjson");
    let whole = std::fs::read(&cache).unwrap();
    let flipped = {
        let mut bytes = whole.clone();
        let place = bytes.windows(5).position(|window| window == b"T1083").unwrap();
        bytes[place] = b'X';
        bytes
    };
    let half = &whole[..whole.len() / 2];
    let line = whole.iter().rposition(|&byte| byte == b'{').unwrap();
    for (what, bytes) in [
        ("half", half),
        ("without its last line", &whole[..line]),
        ("one bit of a rule is another", &flipped),
        ("foreign", b"{\"hello\":\"world\"}\n"),
        ("empty", b""),
    ] {
        std::fs::write(&cache, bytes).unwrap();
        let worker = start(&tables, directory.path());
        expect_nothing_served(&worker).await;
        assert!(!cache.exists(), "{what}");
        assert_eq!(
            std::fs::read(directory.path().join("catalogue.ndjson.corrupt")).unwrap(),
            bytes,
            "{what}"
        );
        worker.stop().await.unwrap();
    }
    std::fs::write(&cache, &whole).unwrap();
    let worker = start(&tables, directory.path());
    Raw::subscribe(worker.socket(), json!({})).await.snapshot().await;
}

#[tokio::test]
async fn what_was_read_from_another_database_is_not_served() {
    let (tables, directory) = stopped().await;
    tables.set_unavailable(Some("gone"));
    let worker = TestWorker::start_from("memory://others", &tables, &worker_config(directory.path()));
    expect_nothing_served(&worker).await;
    worker.stop().await.unwrap();
    let worker = start(&tables, directory.path());
    Raw::subscribe(worker.socket(), json!({})).await.snapshot().await;
}
