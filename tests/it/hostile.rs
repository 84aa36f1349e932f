//! Clients that do harm, on purpose or by mistake: each gets a clear error or reaches a bound, and all others are
//! served.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rulesyncd::config::WorkerConfig;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

use crate::support::raw::Raw;
use crate::support::rules::rule_text;
use crate::support::swarm::{DEADLINE, Daemon, Swarm};
use crate::support::tables::{Tables, TestWorker, worker_config, worker_over};

/// A subscriber that must receive every change as if it were alone.
struct Witness {
    raw: Raw,
    tables: Tables,
    version: i32,
}

impl Witness {
    async fn of(worker: &TestWorker) -> Self {
        let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
        raw.snapshot().await;
        Self { raw, tables: worker.tables.clone(), version: 100 }
    }

    async fn is_served(&mut self) {
        self.version += 1;
        self.tables.write([("R1", self.version)]);
        assert_eq!(self.raw.event().await["rule_version"], self.version);
    }
}

#[tokio::test]
async fn a_malformed_line_gets_an_error_and_the_connection_is_closed() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut witness = Witness::of(&worker).await;
    let long = format!("{{\"op\":\"status\",\"id\":\"{}\"}}\n", "x".repeat(65 * 1024));
    let without_end = "x".repeat(70 * 1024);
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\n"[..], "bad_json"),
        (b"\n", "bad_json"),
        (b"\xff\xfe\x00\n", "bad_json"),
        (b"{\"op\":\"subscribe\"\n", "bad_json"),
        (b"{\"op\":\"drop_tables\",\"id\":3}\n", "unknown_op"),
        (b"{\"op\":\"subscribe\",\"kinds\":\"state\"}\n", "bad_request"),
        (b"{\"op\":\"subscribe\"}\n{\"op\":\"subscribe\"}\n", "already_subscribed"),
        (long.as_bytes(), "line_too_long"),
        (without_end.as_bytes(), "line_too_long"),
    ] {
        let mut raw = Raw::connect(worker.socket()).await;
        raw.next().await;
        // The server may close before it has read all of it.
        let _ = raw.write.write_all(bytes).await;
        let error = loop {
            let line = raw.event().await;
            if line["type"] == "error" {
                break line;
            }
        };
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().len() < 300, "{error}");
        raw.closed().await;
        witness.is_served().await;
    }
    let mut half = Raw::connect(worker.socket()).await;
    half.next().await;
    half.write.write_all(br#"{"op":"stat"#).await.unwrap();
    half.write.shutdown().await.unwrap();
    assert_eq!(half.text().await, None, "half a line is no line");
}

#[tokio::test]
async fn who_subscribes_and_closes_one_direction_goes_on_hearing() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut raw = Raw::subscribe(worker.socket(), json!({})).await;
    raw.write.shutdown().await.unwrap();
    raw.snapshot().await;
    Witness { raw, tables: worker.tables.clone(), version: 1 }.is_served().await;
}

#[tokio::test]
async fn who_asks_on_and_on_without_reading_is_not_read_either() {
    let (worker, _directory) = worker_over([("R1", 1)]);
    let mut witness = Witness::of(&worker).await;
    let asker = Raw::connect(worker.socket()).await;
    let questions = "{\"op\":\"status\",\"id\":1}\n".repeat(1_000);
    let mut taken = 0;
    // Until the socket accepts no more for a while, although the worker has had enough time.
    while tokio::time::timeout(Duration::from_millis(300), asker.write.writable()).await.is_ok() {
        match asker.write.try_write(questions.as_bytes()) {
            Ok(count) => taken += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(taken < 4 << 20, "{taken} bytes of questions were taken and none of the answers was read");
    }
    witness.is_served().await;
}

#[tokio::test]
async fn one_user_takes_no_more_than_his_share_of_the_connections() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config = WorkerConfig { max_subscribers_per_uid: 3, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut witness = Witness::of(&worker).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(worker.socket()).await;
        assert_eq!(raw.next().await["type"], "hello");
        others.push(raw);
    }
    let mut refused = Raw::connect(worker.socket()).await;
    let error = refused.next().await;
    assert_eq!(error["code"], "too_many_subscribers", "{error}");
    assert!(error["message"].as_str().unwrap().contains("worker.max_subscribers_per_uid"), "{error}");
    refused.closed().await;
    witness.is_served().await;
}

#[tokio::test]
async fn who_does_not_subscribe_is_sent_away_and_who_did_stays() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let worker = TestWorker::start(&tables, &worker_config(directory.path()));
    let mut witness = Witness::of(&worker).await;
    let mut idle = Raw::connect(worker.socket()).await;
    assert_eq!(idle.next().await["type"], "hello");
    // Requests are not a subscription.
    idle.send(&json!({ "op": "status", "id": 1 })).await;
    assert_eq!(idle.next().await["id"], 1);
    let mut error = String::new();
    let reading = idle.read.read_line(&mut error);
    tokio::time::timeout(Duration::from_secs(120), reading).await.unwrap().unwrap();
    assert!(error.contains("not_subscribed") && error.contains("30s"), "{error}");
    idle.closed().await;
    witness.is_served().await;
}

#[tokio::test]
async fn only_so_many_may_connect_and_each_that_leaves_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let config = WorkerConfig { max_subscribers: 5, ..worker_config(directory.path()) };
    let worker = TestWorker::start(&tables, &config);
    let mut witness = Witness::of(&worker).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(worker.socket()).await;
        raw.next().await;
        others.push(raw);
    }
    for _ in 0..300 {
        let mut refused = Raw::connect(worker.socket()).await;
        let error = refused.next().await;
        assert_eq!(error["code"], "too_many_subscribers", "{error}");
        assert!(error["message"].as_str().unwrap().contains("worker.max_subscribers"), "{error}");
        refused.closed().await;
    }
    witness.is_served().await;
    others.pop();
    let mut welcome = loop {
        let mut raw = Raw::connect(worker.socket()).await;
        if raw.next().await["type"] == "hello" {
            break raw;
        }
    };
    welcome.send(&json!({"op": "subscribe"})).await;
    welcome.snapshot().await;
}

#[tokio::test]
async fn only_the_users_that_are_named_may_connect() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::default();
    tables.write([("R1", 1)]);
    let own = std::os::unix::fs::MetadataExt::uid(&fs::metadata(directory.path()).unwrap());
    for (allow_uids, first) in [(vec![own + 1], "error"), (vec![own + 1, own], "hello")] {
        let worker =
            TestWorker::start(&tables, &WorkerConfig { allow_uids, ..worker_config(directory.path()) });
        let mut raw = Raw::connect(worker.socket()).await;
        let line = raw.next().await;
        assert_eq!(line["type"], first, "{line}");
        if first == "error" {
            assert_eq!(line["code"], "not_allowed", "{line}");
            raw.closed().await;
        }
        worker.stop().await.unwrap();
    }
}

/// A daemon with limits of its process, set by a line of shell.
fn limited(swarm: &Swarm, mode: &str, limit: &str) -> Daemon {
    swarm.daemon(mode, |command| {
        let script = format!("{limit}; exec {} {mode}", command.get_program().to_string_lossy());
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", &script]).env_clear();
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.env("RULESYNCD_LOG", "debug");
        limited.stdout(std::process::Stdio::null()).stdin(std::process::Stdio::null());
        *command = limited;
    })
}

/// The worker loses most of the files that it could open at its start.
#[test]
fn a_full_file_table_ends_nothing() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    let mut witness = swarm.subscribe();
    let pid = worker.pid().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={}", open + 8);
    assert!(std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    let crowd: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(swarm.socket()).unwrap()).collect();
    worker.wait_for_log("no connection can be accepted now");
    witness.snapshot();
    witness.send(r#"{"op":"get_state","rule_id":"R1"}"#);
    assert_eq!(witness.next()["result"]["state"], "enabled", "who is connected is served");
    drop(crowd);
    swarm.subscribe().snapshot();
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.succeed(&["sync"]);
    assert_eq!(witness.change()["rule_version"], 2);
    assert_eq!(worker.count_in_log("no connection can be accepted now"), 1, "told once");
}

/// The same for a master, whose socket only answers requests.
#[test]
fn a_masters_full_file_table_ends_nothing_either() {
    let swarm = Swarm::on_sqlite();
    let master = limited(&swarm, "master", "ulimit -n 32");
    master.wait_for_log("this master holds the lock");
    let connect = || UnixStream::connect(swarm.path("master.sock")).unwrap();
    let crowd: Vec<UnixStream> = (0..60).map(|_| connect()).collect();
    master.wait_for_log("no connection can be accepted now");
    drop(crowd);
    let mut asking = connect();
    asking.set_read_timeout(Some(DEADLINE)).unwrap();
    asking.write_all(b"{\"op\":\"status\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(asking).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"type\":\"response\""), "{answer}");
}

/// A client that closes gives up its output like any other that does not read.
#[test]
fn who_closes_one_direction_and_does_not_read_is_lagged_and_holds_up_no_stop() {
    const RULES: usize = 100;
    let swarm = Swarm::on_sqlite();
    let write_all = |version| {
        for number in 0..RULES {
            let id = format!("R{number}");
            swarm.save(
                &format!("{id}.yaml"),
                rule_text(&id, version) + &format!("description: {}\n", "d".repeat(20_000)),
            );
        }
        swarm.succeed(&["sync"]);
    };
    write_all(1);
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_JOURNAL_LENGTH", "10");
    });
    let half = swarm.subscribe();
    // When another one has had its snapshot, the worker has long filled this one's socket.
    assert_eq!(swarm.subscribe().snapshot().len(), RULES);
    half.shut_down_writing();
    write_all(2);
    worker.wait_for_log("does not keep up");
    let log = worker.log_path();
    worker.stop();
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("did not read to the end"), "each connection ends by itself:\n{log}");
    drop(half);
}

#[test]
fn rejected_connections_do_not_flood_the_log() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_MAX_SUBSCRIBERS", "1");
    });
    let _only = swarm.subscribe();
    for _ in 0..100 {
        let mut refused = String::new();
        std::io::Read::read_to_string(&mut UnixStream::connect(swarm.socket()).unwrap(), &mut refused)
            .unwrap();
        assert!(refused.contains("too_many_subscribers"), "{refused}");
    }
    assert_eq!(worker.count_in_log("was rejected"), 1, "{}", worker.log());
    let log = worker.log_path();
    worker.stop();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("99 more connections were rejected"), "{log}");
}

#[test]
fn clients_do_not_take_the_files_that_the_worker_needs() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let worker = limited(&swarm, "worker", "ulimit -n 100");
    worker.wait_for_log("at most 36 connections are served");
    let mut witness = swarm.subscribe();
    witness.snapshot();
    let crowd: Vec<UnixStream> = (0..150).map(|_| UnixStream::connect(swarm.socket()).unwrap()).collect();
    worker.wait_for_log("was rejected");
    // As after a restart of a server, every file of the database is opened again.
    fs::copy(swarm.path("rules.db"), swarm.path("copy.db")).unwrap();
    fs::rename(swarm.path("copy.db"), swarm.path("rules.db")).unwrap();
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.succeed(&["sync"]);
    assert_eq!(witness.change()["rule_version"], 2, "the crowd is still there");
    assert_eq!(worker.count_in_log("no connection can be accepted now"), 0);
    drop(crowd);
}

#[test]
fn a_daemon_may_open_as_many_files_as_its_hard_limit_allows() {
    let swarm = Swarm::on_sqlite();
    for mode in ["master", "worker"] {
        let daemon = limited(&swarm, mode, "ulimit -Sn 100; ulimit -Hn 4000");
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4000", "4000"], "{mode}");
        assert!(!daemon.log().contains("connections are served"), "{}", daemon.log());
    }
}
