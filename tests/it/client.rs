//! The crate's own subscriber, under all kinds of broken connections.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rulesyncd::client::{ClientError, Event, SocketClient, Subscriber, ask};
use rulesyncd::config::WorkerConfig;
use rulesyncd::wire::{ErrorCode, NewValue, Op, ServerLine, SnapshotReason, Subscribe};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::raw::TIME_LIMIT;
use crate::support::tables::{Tables, TestWorker, worker_config, worker_over};

/// A copy of the rules' versions, kept by a subscriber.
struct Copy {
    subscriber: Subscriber,
    versions: BTreeMap<String, i64>,
    /// The reasons of its snapshots, and how often it was disconnected.
    snapshots: Vec<SnapshotReason>,
    cuts: usize,
}

impl Copy {
    fn new(socket: PathBuf) -> Self {
        let subscribe = Subscribe { follow: true, ..Subscribe::default() };
        let subscriber = Subscriber::new(socket, subscribe);
        Self { subscriber, versions: BTreeMap::new(), snapshots: Vec::new(), cuts: 0 }
    }

    /// Applies one event.
    async fn step(&mut self) {
        let event = timeout(TIME_LIMIT, self.subscriber.next()).await.expect("nothing came").unwrap();
        match event {
            Event::Line(line) => match line.line {
                ServerLine::SnapshotBegin { reason, .. } => {
                    self.versions.clear();
                    self.snapshots.push(reason);
                }
                ServerLine::Rule(rule) => {
                    self.versions.insert(rule.rule_id.to_string(), rule.rule_version);
                }
                ServerLine::Change(change) => match change.new_value {
                    Some(NewValue::Rule(_)) => {
                        self.versions.insert(change.rule_id.to_string(), change.rule_version.unwrap());
                    }
                    Some(NewValue::State(_)) => {}
                    None => {
                        self.versions.remove(change.rule_id.as_str());
                    }
                },
                _ => {}
            },
            Event::Disconnected(_) => self.cuts += 1,
        }
    }

    async fn until(&mut self, versions: &[(&str, i64)]) {
        let wanted = versions.iter().map(|&(id, version)| (id.to_owned(), version)).collect();
        let whole = |copy: &Self| copy.versions == wanted && copy.subscriber.cursor().is_some();
        while !whole(self) {
            self.step().await;
        }
    }
}

#[tokio::test]
async fn a_subscriber_outlives_a_worker_that_is_killed_and_one_that_stops() {
    let (worker, directory) = worker_over([("R1", 1), ("R2", 1)]);
    let (tables, config) = (worker.tables.clone(), worker.config.clone());
    let mut copy = Copy::new(config.socket.clone());
    copy.until(&[("R1", 1), ("R2", 1)]).await;
    tables.write([("R1", 2)]);
    copy.until(&[("R1", 2), ("R2", 1)]).await;
    worker.kill().await;
    tables.write([("R3", 1)]);
    tables.delete("R2");
    let worker = TestWorker::start(&tables, &config);
    copy.until(&[("R1", 2), ("R3", 1)]).await;
    let (stopped, ()) = tokio::join!(worker.stop(), async { copy.step().await });
    stopped.unwrap();
    tables.write([("R3", 2)]);
    let _worker = TestWorker::start(&tables, &config);
    copy.until(&[("R1", 2), ("R3", 2)]).await;
    let reasons = [SnapshotReason::Initial, SnapshotReason::EpochChanged, SnapshotReason::EpochChanged];
    assert_eq!(copy.snapshots, reasons);
    drop(directory);
}

/// A subscriber that disconnects at any line, of a snapshot or of the changes, and resumes from its cursor misses
/// nothing; another subscription receives every change, too.
#[tokio::test]
async fn a_consumer_that_leaves_at_any_line_loses_nothing() {
    let (worker, _directory) = worker_over([("R1", 1), ("R2", 1), ("R3", 1)]);
    let socket = worker.config.socket.clone();
    let mut beside = Copy::new(socket.clone());
    beside.until(&[("R1", 1), ("R2", 1), ("R3", 1)]).await;
    let (mut cursor, mut versions) = (None, BTreeMap::new());
    for round in 2..40 {
        worker.tables.write([("R1", round)]);
        worker.tables.write([("R2", round)]);
        let mut copy = Copy::new(socket.clone());
        copy.subscriber =
            Subscriber::new(socket.clone(), Subscribe { follow: true, cursor, ..Subscribe::default() });
        copy.versions = versions;
        // `hello` and the lines of a snapshot or a change, in the middle of which it leaves.
        for _ in 0..round % 6 + 1 {
            copy.step().await;
        }
        (cursor, versions) = (copy.subscriber.cursor().cloned(), copy.versions);
    }
    let whole = [("R1", 39), ("R2", 39), ("R3", 1)];
    let mut copy = Copy::new(socket.clone());
    copy.subscriber = Subscriber::new(socket, Subscribe { follow: true, cursor, ..Subscribe::default() });
    copy.versions = versions;
    copy.until(&whole).await;
    beside.until(&whole).await;
    assert_eq!(beside.snapshots, [SnapshotReason::Initial]);
    // It resumed: if the cursor moved before its line was returned, a snapshot would come here.
    assert!(copy.snapshots.is_empty(), "{:?}", copy.snapshots);
}

#[tokio::test]
async fn a_cut_connection_resumes_without_a_snapshot() {
    let (worker, directory) = worker_over([("R1", 1)]);
    let front = directory.path().join("front.sock");
    let mut copy = Copy::new(front.clone());
    let cutter = cutting_proxy(front, worker.config.socket.clone());
    for version in 1..=40 {
        copy.until(&[("R1", version.into())]).await;
        worker.tables.write([("R1", version + 1)]);
    }
    copy.until(&[("R1", 41)]).await;
    cutter.abort();
    assert!(copy.cuts > 5, "the proxy cut {} connections", copy.cuts);
    assert_eq!(copy.snapshots, [SnapshotReason::Initial]);
}

/// Relays connections to `back`, and cuts each after some kilobytes, in the middle of a line.
fn cutting_proxy(front: PathBuf, back: PathBuf) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(front).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = tokio::net::UnixStream::connect(&back).await else { continue };
            tokio::spawn(async move {
                use tokio::io::AsyncReadExt as _;
                let (client_read, mut client_write) = client.into_split();
                let (server_read, mut server_write) = server.into_split();
                let mut up = client_read;
                let mut down = server_read.take(3_500);
                tokio::select! {
                    _ = tokio::io::copy(&mut up, &mut server_write) => {}
                    _ = tokio::io::copy(&mut down, &mut client_write) => {}
                }
            });
        }
    })
}

/// What was acknowledged on one connection is known of the next one, although nothing changes and no heartbeat comes.
#[tokio::test]
async fn what_was_acknowledged_is_acknowledged_again_after_a_cut() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config =
        WorkerConfig { heartbeat_interval: Duration::from_secs(3_600), ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let (front, cut) = (directory.path().join("front.sock"), Arc::new(Notify::new()));
    let listener = UnixListener::bind(&front).unwrap();
    let (back, is_cut) = (config.socket.clone(), Arc::clone(&cut));
    let proxy = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::UnixStream::connect(&back).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                () = is_cut.notified() => {}
            }
        }
    });
    let mut copy = Copy::new(front);
    copy.until(&[("R1", 1)]).await;
    tables.write([("R1", 2)]);
    copy.until(&[("R1", 2)]).await;
    copy.subscriber.acknowledge().await;
    // The number of the connection, and what it acknowledged.
    let known = || {
        let peers = worker.handle.status().stream.subscribers;
        peers.into_iter().find(|peer| peer.acked == Some(1)).map(|peer| peer.id)
    };
    let acknowledges = async |copy: &mut Copy, before: Option<u64>| {
        let waits = async {
            loop {
                if let Some(number) = known().filter(|number| Some(*number) != before) {
                    return number;
                }
                tokio::select! {
                    event = copy.subscriber.next() => drop(event.unwrap()),
                    () = tokio::time::sleep(Duration::from_millis(5)) => {}
                }
            }
        };
        timeout(TIME_LIMIT, waits).await.expect("no acknowledgement")
    };
    let first = acknowledges(&mut copy, None).await;
    cut.notify_one();
    acknowledges(&mut copy, Some(first)).await;
    assert_eq!(copy.snapshots, [SnapshotReason::Initial]);
    proxy.abort();
}

#[tokio::test]
async fn a_server_that_breaks_its_promise_is_begun_anew_and_a_refusal_is_final() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut copy = Copy::new(socket.clone());
    let serve = async |lines: Vec<serde_json::Value>| {
        let (mut stream, _) = listener.accept().await.unwrap();
        for line in lines {
            stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
        stream
    };
    let begin = json!({"type": "snapshot_begin", "epoch": "e", "seq": 4, "rules": 0, "states": 0, "reason": "initial"});
    let end = json!({"type": "snapshot_end", "epoch": "e", "seq": 4, "digest": "0".repeat(64)});
    let gap = json!({"type": "change", "seq": 6, "change_kind": "definition", "rule_id": "R1", "new_value": null,
        "emitted_at": "2026-05-01T07:25:09.123456Z"});
    let (_stream, ()) = tokio::join!(serve(vec![begin, end, gap]), async {
        for _ in 0..3 {
            copy.step().await;
        }
    });
    assert_eq!((&*copy.snapshots, copy.cuts), (&[SnapshotReason::Initial][..], 1));
    assert_eq!(copy.subscriber.cursor(), None, "after a gap nothing is known");

    let refusal =
        json!({"type": "error", "code": "not_allowed", "message": "user 7 is not in worker.allow_uids"});
    let (_stream, refused) = tokio::join!(serve(vec![refusal]), async {
        timeout(TIME_LIMIT, copy.subscriber.next()).await.unwrap()
    });
    assert!(matches!(refused, Err(ClientError::Refused { code: ErrorCode::NotAllowed, .. })), "{refused:?}");
}

#[tokio::test]
async fn who_is_turned_away_before_it_has_spoken_hears_why() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut connection = SocketClient::connect(&socket).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let refusal = json!({"type": "error", "code": "not_allowed", "message": "not you"});
    stream.write_all(format!("{refusal}\n").as_bytes()).await.unwrap();
    drop(stream);
    let refused = connection.ask(Op::Status {}).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { code: ErrorCode::NotAllowed, .. }), "{refused:?}");
    let refused = connection.ask(Op::Status {}).await.unwrap_err();
    assert!(matches!(refused, ClientError::Closed), "then nothing more: {refused:?}");
}

#[tokio::test]
async fn a_question_gets_its_answer_or_the_reason() {
    let (worker, directory) = worker_over([("R1", 1)]);
    drop(crate::support::raw::Raw::connect(worker.socket()).await);
    let status = ask(worker.socket(), Op::Status {}).await.unwrap();
    assert_eq!(status["mode"], "worker");
    let nobody = ask(&directory.path().join("none"), Op::Status {}).await.unwrap_err();
    assert!(nobody.to_string().contains("is the daemon running"), "{nobody}");
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_ends_with_the_same_rules() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config = WorkerConfig { journal_length: 20, subscriber_queue: 5, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut copy = Copy::new(config.socket.clone());
    copy.until(&[("R1", 1)]).await;
    for version in 2..=1_000 {
        tables.write([("R1", version)]);
        tokio::task::yield_now().await;
    }
    copy.until(&[("R1", 1_000)]).await;
    drop(worker);
}
