//! The event stream as a subscriber receives it.

use std::time::Duration;

use rulesyncd::config::WorkerConfig;
use rulesyncd::rule::{RuleState, StateKind};
use rulesyncd::wire::Health;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::support::raw::{Raw, TIME_LIMIT};
use crate::support::tables::{Tables, TestWorker, worker_config, worker_over};

/// A change in a short spelling.
fn tell(change: &Value) -> String {
    let value = match (&change["change_kind"], &change["new_value"]) {
        (_, Value::Null) => "deleted".to_owned(),
        (kind, rule) if kind == "definition" => format!("v{}", rule["rule_version"]),
        (_, state) => state["state"].as_str().unwrap().to_owned(),
    };
    let how = if change["auto_revert"] == true { " by itself" } else { "" };
    format!("{} {} {value}{how}", change["seq"], change["rule_id"].as_str().unwrap())
}

fn disabled(set_by: &str) -> RuleState {
    RuleState { state: StateKind::Disabled, set_by: Some(set_by.to_owned()), ..RuleState::default() }
}

#[tokio::test]
async fn a_subscriber_gets_a_snapshot_and_then_one_line_for_each_change() {
    let (worker, _directory) = worker_over([("R1", 1), ("R2", 1)]);
    worker.tables.set("R9", disabled("ann"));
    let mut raw = Raw::connect(worker.socket()).await;
    let hello = raw.next().await;
    assert_eq!((&hello["type"], &hello["protocol"]), (&json!("hello"), &json!(1)));
    raw.send(&json!({"op": "subscribe"})).await;

    let (begin, ids, end) = raw.snapshot().await;
    let epoch = &hello["epoch"];
    assert_eq!(
        begin,
        json!({"type": "snapshot_begin", "epoch": epoch, "seq": 0, "rules": 2, "states": 1, "reason": "initial"})
    );
    assert_eq!(ids, ["R1", "R2", "R9"]);
    assert_eq!((&end["epoch"], &end["seq"]), (epoch, &json!(0)));

    worker.tables.write([("R2", 2), ("R3", 1)]);
    assert_eq!(tell(&raw.event().await), "1 R2 v2");
    assert_eq!(tell(&raw.event().await), "2 R3 v1");
    worker.tables.delete("R1");
    let deleted = raw.event().await;
    let fields: Vec<&String> = deleted.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["type", "seq", "change_kind", "rule_id", "new_value", "emitted_at"]);
    assert_eq!(tell(&deleted), "3 R1 deleted");
    worker.tables.set("R2", disabled("ben"));
    assert_eq!(tell(&raw.event().await), "4 R2 disabled");
    worker.tables.write([("R2", 3)]);
    let written = raw.event().await;
    assert_eq!(written["new_value"]["state"]["set_by"], "ben", "a rule carries the effective state");
    worker.tables.clear("R2");
    assert_eq!(tell(&raw.event().await), "6 R2 enabled");
}

/// A worker that has just started has numbered no change yet.
#[tokio::test]
async fn a_subscriber_that_acknowledges_the_snapshot_counts_before_the_first_change() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    raw.snapshot().await;
    let reported = || {
        let report = worker.handle.status().report.unwrap();
        (report.seq, report.acknowledging, report.acknowledged)
    };
    assert_eq!(reported(), (0, 0, 0));
    raw.send(&json!({"op": "ack", "seq": 0, "id": 1})).await;
    assert_eq!(raw.event().await["result"]["acked"], 0);
    assert_eq!(reported(), (0, 1, 1));
    worker.tables.write([("R1", 2)]);
    assert_eq!(tell(&raw.event().await), "1 R1 v2");
    assert_eq!(reported(), (1, 1, 0), "it has not said yet that it has the change");
    for (seq, acked) in [(9, 1), (0, 1)] {
        raw.send(&json!({"op": "ack", "seq": seq, "id": 2})).await;
        assert_eq!(raw.event().await["result"]["acked"], acked);
        assert_eq!(reported(), (1, 1, 1));
    }
}

#[tokio::test]
async fn rules_are_in_sync_only_while_they_are_known_to_be_current() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let says = async |begin: &str| {
        let said = timeout(TIME_LIMIT, async {
            while !worker.handle.status().sentence().starts_with(begin) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        said.await.unwrap_or_else(|_| panic!("not {begin}: {}", worker.handle.status().sentence()));
    };
    says("1 rule in sync; ").await;
    worker.tables.hang();
    // The database has not failed yet.
    says("1 rule stale for ").await;
    assert_eq!(worker.handle.status().database.state, Health::Up);
}

#[tokio::test]
async fn a_cursor_inside_of_the_journal_resumes_and_any_other_gets_a_snapshot_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config = WorkerConfig { journal_length: 3, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut witness = Raw::subscribe(worker.socket(), json!({})).await;
    let (begin, ..) = witness.snapshot().await;
    let epoch = &begin["epoch"];
    for version in 2..=6 {
        tables.write([("R1", version)]);
        assert_eq!(tell(&witness.event().await), format!("{} R1 v{version}", version - 1));
    }

    let cursor = |epoch: &Value, seq: u64| json!({"cursor": {"epoch": epoch, "seq": seq}});
    let mut resumed = Raw::subscribe(worker.socket(), cursor(epoch, 2)).await;
    for (seq, version) in [(3, 4), (4, 5), (5, 6)] {
        assert_eq!(tell(&resumed.event().await), format!("{seq} R1 v{version}"));
    }
    let mut current = Raw::subscribe(worker.socket(), cursor(epoch, 5)).await;
    current.heartbeat(|beat| beat["seq"] == 5).await;
    tables.write([("R1", 7)]);
    for raw in [&mut witness, &mut resumed, &mut current] {
        assert_eq!(tell(&raw.event().await), "6 R1 v7");
    }

    let other = json!("0198c0de-0000-7000-8000-000000000000");
    for (epoch, seq, reason) in
        [(epoch, 2, "compacted"), (epoch, 7, "epoch_changed"), (&other, 6, "epoch_changed")]
    {
        let mut raw = Raw::subscribe(worker.socket(), cursor(epoch, seq)).await;
        let (begin, ids, _) = raw.snapshot().await;
        assert_eq!((&begin["reason"], &begin["seq"]), (&json!(reason), &json!(6)));
        assert_eq!(ids, ["R1"]);
    }
}

#[tokio::test]
async fn filters_leave_gaps_and_heartbeats_close_them() {
    let (worker, _directory) = worker_over([("R1", 1), ("R2", 1)]);
    worker.tables.set("R1", disabled("ann"));
    let mut states = Raw::subscribe(worker.socket(), json!({"kinds": ["state"]})).await;
    let (begin, ids, _) = states.snapshot().await;
    assert_eq!((&begin["rules"], &begin["states"]), (&json!(0), &json!(1)));
    assert_eq!(ids, ["R1"], "without `rule` lines the state of a rule stands alone");
    let mut second = Raw::subscribe(worker.socket(), json!({"rule_ids": ["R2", "R7"]})).await;
    assert_eq!(second.snapshot().await.1, ["R2"]);

    worker.tables.write([("R1", 2)]);
    states.heartbeat(|beat| beat["seq"] == 1).await;
    second.heartbeat(|beat| beat["seq"] == 1).await;
    worker.tables.write([("R2", 2)]);
    assert_eq!(tell(&second.event().await), "2 R2 v2");
    worker.tables.set("R2", disabled("ben"));
    assert_eq!(tell(&states.event().await), "3 R2 disabled");
    assert_eq!(tell(&second.event().await), "3 R2 disabled");
}

#[tokio::test]
async fn without_follow_the_snapshot_is_all() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut raw = Raw::subscribe(worker.socket(), json!({"follow": false})).await;
    assert_eq!(raw.snapshot().await.1, ["R1"]);
    assert_eq!(raw.text().await, None);
}

#[tokio::test]
async fn heartbeats_and_status_say_whether_the_database_answers() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.set_unavailable(Some("connection refused"));
    let worker = TestWorker::start(&tables, &worker_config(directory.path()));
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    let beat = raw.next().await;
    assert_eq!(beat["type"], "heartbeat", "nothing is served before anything is known: {beat}");
    assert_eq!((&beat["database"], beat.get("digest")), (&json!("down"), None));
    raw.send(&json!({"op": "get_state", "id": "a", "rule_id": "R1"})).await;
    let refusal = raw.event().await;
    assert_eq!((&refusal["code"], &refusal["id"]), (&json!("not_ready"), &json!("a")));

    tables.write([("R1", 1)]);
    tables.set_unavailable(None);
    assert_eq!(raw.snapshot().await.1, ["R1"]);
    let beat = raw.heartbeat(|beat| beat["database"] == "up").await;
    assert_eq!(beat["stale_for_ms"], 0);

    tables.set_unavailable(Some("connection refused"));
    raw.heartbeat(|beat| beat["database"] == "down" && beat["stale_for_ms"].as_u64() > Some(100)).await;
    let status = worker.handle.status();
    assert_eq!(status.database.state, Health::Down);
    assert!(status.last_error.unwrap().contains("connection refused"));
    assert!(worker.handle.status().sentence().starts_with("database unavailable, 1 rule stale for"));
    tables.write([("R1", 2)]);
    tables.set_unavailable(None);
    assert_eq!(tell(&raw.event().await), "1 R1 v2");
    raw.heartbeat(|beat| beat["database"] == "up" && beat["stale_for_ms"] == 0).await;
}

#[tokio::test]
async fn questions_are_answered_on_any_connection() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    worker.tables.set("R1", disabled("ann"));
    worker.tables.break_rule("R2", "emits is missing");
    let mut witness = Raw::subscribe(worker.socket(), json!({})).await;
    witness.snapshot().await;
    let mut raw = Raw::connect(worker.socket()).await;
    raw.next().await;
    raw.send(&json!({"op": "get_state", "id": 7, "rule_id": "R1"})).await;
    let answer = raw.next().await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("response"), &json!(7)));
    assert_eq!(
        (&answer["result"]["state"], &answer["result"]["set_by"]),
        (&json!("disabled"), &json!("ann"))
    );
    for unknown in ["R9", "no such rule"] {
        raw.send(&json!({"op": "get_state", "rule_id": unknown})).await;
        let answer = raw.next().await;
        assert_eq!(answer["result"], serde_json::to_value(RuleState::default()).unwrap());
    }
    raw.send(&json!({"op": "status", "id": 8})).await;
    let status = raw.next().await["result"].take();
    assert_eq!(
        (&status["mode"], &status["rules"], &status["states"]),
        (&json!("worker"), &json!(1), &json!(1))
    );
    assert_eq!(
        status["quarantined"],
        json!([{"table": "ttp_rule", "rule_id": "R2", "reason": "emits is missing"}])
    );
    assert_eq!(status["stream"]["subscribers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_acknowledgement_shows_in_the_status() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    raw.snapshot().await;
    worker.tables.write([("R1", 2)]);
    raw.event().await;
    raw.send(&json!({"op": "ack", "seq": 1, "id": 1})).await;
    assert_eq!(raw.event().await["result"], json!({"acked": 1}));
    // A change that was never sent cannot be acknowledged, and an acknowledgement is not taken back.
    for seq in [900, 0] {
        raw.send(&json!({"op": "ack", "seq": seq, "id": 2})).await;
        assert_eq!(raw.event().await["result"], json!({"acked": 1}));
    }
    let status = worker.handle.status();
    let subscriber = &status.stream.subscribers[0];
    assert_eq!((subscriber.acked, subscriber.lag, subscriber.uid), (Some(1), 0, own_uid()));
    assert_eq!(subscriber.pid, i32::try_from(std::process::id()).ok());
}

fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn a_state_ends_by_the_databases_clock_though_nobody_looks() {
    for trouble in [
        |_: &Tables| {},
        |tables: &Tables| tables.set_unavailable(Some("gone")),
        |tables: &Tables| tables.hang(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let tables = Tables::default();
        tables.set_clock_ahead(-3_600);
        let config =
            WorkerConfig { poll_interval: Duration::from_secs(3_600), ..worker_config(directory.path()) };
        let worker = TestWorker::start(&tables, &config);
        let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
        raw.snapshot().await;
        let expires_at = tables.now().after(Duration::from_millis(700));
        tables.set("R1", RuleState { expires_at: Some(expires_at), ..disabled("ann") });
        assert_eq!(tell(&raw.event().await), "1 R1 disabled");
        trouble(&tables);
        assert_eq!(tell(&raw.event().await), "2 R1 enabled by itself");
        let late = tables.now().since(expires_at);
        assert!(tables.now() >= expires_at && late < Duration::from_secs(10), "{late:?} late");
    }
}

#[tokio::test]
async fn a_stop_is_told_after_everything_else() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let (socket, cache) = (worker.config.socket.clone(), worker.config.cache.clone());
    let mut raw = Raw::subscribe(&socket, json!({})).await;
    raw.snapshot().await;
    let mut asking = Raw::connect(&socket).await;
    asking.next().await;
    worker.stop().await.unwrap();
    for raw in [&mut raw, &mut asking] {
        assert_eq!(raw.event().await["code"], "shutting_down");
        assert_eq!(raw.text().await, None);
    }
    assert!(!socket.exists(), "the socket's file is removed");
    assert!(cache.exists(), "what is known is kept");
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_behind_too() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config =
        WorkerConfig { subscriber_queue: 100, journal_length: 10_000, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut reader = Raw::subscribe(worker.socket(), json!({})).await;
    let mut sleeper = Raw::subscribe(worker.socket(), json!({})).await;
    reader.snapshot().await;
    sleeper.snapshot().await;
    // It had caught up when its unread answers filled the connection, and then its requests did.
    let questions = "{\"op\":\"status\"}\n".repeat(1_000);
    while timeout(Duration::from_millis(500), sleeper.write.write_all(questions.as_bytes())).await.is_ok() {}
    for version in 2..=300 {
        tables.write([("R1", version)]);
        assert_eq!(reader.event().await["rule_version"], version);
    }
    let next = loop {
        let line = sleeper.event().await;
        if line["type"] != "response" {
            break line;
        }
    };
    assert_eq!((&next["type"], &next["reason"]), (&json!("snapshot_begin"), &json!("lagged")), "{next}");
}

#[tokio::test]
async fn a_burst_is_no_lag_but_not_reading_is() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config =
        WorkerConfig { subscriber_queue: 100, journal_length: 10_000, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut reader = Raw::subscribe(worker.socket(), json!({})).await;
    let mut sleeper = Raw::subscribe(worker.socket(), json!({})).await;
    reader.snapshot().await;
    sleeper.snapshot().await;

    // More changes than the lag limit in one poll: both receive every one.
    tables.write((1..=150).map(|n| (format!("B{n:03}"), 1)));
    for raw in [&mut reader, &mut sleeper] {
        for seq in 1..=150 {
            assert_eq!(raw.event().await["seq"], seq);
        }
    }
    // The reader receives these changes one by one, while the other reads nothing.
    let mut seq = 150;
    for version in 2..=1_200 {
        tables.write([("R1", version)]);
        seq += 1;
        assert_eq!(reader.event().await["seq"], seq, "who reads is not disturbed by who does not");
    }
    let mut last = 150;
    let begin = loop {
        let line = sleeper.event().await;
        if line["type"] == "snapshot_begin" {
            break line;
        }
        last += 1;
        assert_eq!(line["seq"], last, "what came before the snapshot came in order");
    };
    assert_eq!(begin["reason"], "lagged");
    assert!(begin["seq"].as_u64() > Some(last), "{begin} after {last}");
    assert_eq!(begin["rules"], 151);
    let mut versions = Vec::new();
    while versions.last() != Some(&json!(1_200)) {
        let line = sleeper.event().await;
        if line["rule_id"] == "R1" {
            versions.push(line["rule_version"].clone());
        }
    }
}
