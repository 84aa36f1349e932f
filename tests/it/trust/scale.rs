//! Many workers, many rules, and a release that arrives slowly.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rulesyncd::clock::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::master::version;
use super::worker::{quoted, snapshot, status, wait_for_reasons};
use crate::support::clock;
use crate::support::counting::CountingRelay;
use crate::support::databases::{ExternalClient, TestDatabase};
use crate::support::releases::{Files, Owner};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Daemon, Subscriber, Swarm, text, wait_for, wait_within};

/// How many workers agree in the test.
const WORKERS: usize = 50;

fn status_at(socket: &std::path::Path) -> Value {
    let mut client = Subscriber::connect(socket);
    client.send(r#"{"op":"status","id":1}"#);
    client.next()["result"].clone()
}

#[tokio::test]
#[ignore = "needs PostgreSQL and faketime"]
async fn fifty_workers_have_one_digest_whatever_states_are_set_and_whatever_their_clocks_say() {
    let server = Server::start(Kind::Postgres, &["-c", "max_connections=300"]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner { states: "max=3 protected=R1".to_owned(), ..Owner::new() };
    let ids: Vec<String> = (1..=9).map(|number| format!("R{number}")).collect();
    let rules: Vec<(&str, i32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    owner.release(1, &rules).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    let sockets: Vec<PathBuf> = (0..WORKERS).map(|number| swarm.path(&format!("{number}.sock"))).collect();
    let workers: Vec<Daemon> = sockets
        .iter()
        .zip(0..)
        .map(|(socket, number)| {
            let mut command = swarm.command(&["worker"]);
            owner.trusted_by(&swarm, &mut command);
            command
                .stdout(Stdio::null())
                .env("RULESYNCD_SOCKET", socket)
                .env("RULESYNCD_WORKER_CACHE", socket.with_extension("ndjson"))
                .env("RULESYNCD_WORKER_POLL_INTERVAL", "3s")
                .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "5s");
            match number % 5 {
                0 => clock::start_at(&mut command, "1970-01-02 00:00:00"),
                1 => clock::start_at(&mut command, "2099-06-01 00:00:00"),
                _ => {}
            }
            swarm.spawn(command)
        })
        .collect();
    wait_within(Duration::from_secs(60), "every worker", || {
        sockets.iter().all(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok()).then_some(())
    });
    // Waits until all workers say the same, and exactly these states have no effect.
    let agree = |without_effect: &[&str], states: u64| {
        let expected: BTreeSet<&str> = without_effect.iter().copied().collect();
        wait_within(Duration::from_secs(60), &format!("{without_effect:?} without an effect"), || {
            let all: Vec<Value> = sockets.iter().map(|socket| status_at(socket)).collect();
            let is_so = |status: &Value| {
                let without = status["trust"]["without_effect"].as_object();
                let without: BTreeSet<&str> = without.into_iter().flatten().map(|(id, _)| &**id).collect();
                status["digest"] == all[0]["digest"] && without == expected && status["states"] == states
            };
            (!all[0]["digest"].is_null() && all.iter().all(is_so)).then_some(())
        });
    };
    agree(&[], 0);

    // N + 1 states, one of them dated back by decades, and one of a protected rule.
    let now = database.now().await;
    let ago = |seconds: u64| now.before(Duration::from_secs(seconds));
    for (rule_id, at) in [("R3", ago(30)), ("R4", ago(20)), ("R5", ago(10)), ("R1", ago(40))] {
        sql.put_state(rule_id, "disabled", None, at).await;
    }
    sql.put_state("R6", "clipped", None, "2000-01-01T00:00:00Z".parse_time()).await;
    agree(&["R1", "R5"], 3);

    // Another one that is dated back pushes out the last, until it ends by the database's clock.
    let mut subscriber = Subscriber::connect(&sockets[2]);
    subscriber.send(r#"{"op":"subscribe"}"#);
    assert_eq!(snapshot(&mut subscriber).0.len(), 9);
    let end = database.now().await.after(Duration::from_secs(20));
    sql.put_state("R2", "disabled", Some(end), "2001-01-01T00:00:00Z".parse_time()).await;
    let mut pushed: Vec<String> = (0..2).map(|_| state_of(&subscriber.change())).collect();
    pushed.sort();
    assert_eq!(pushed, ["R2 disabled", "R4 enabled"]);
    let mut ended: Vec<String> = (0..2).map(|_| state_of(&subscriber.change())).collect();
    ended.sort();
    assert_eq!(ended, ["R2 enabled", "R4 disabled"]);
    agree(&["R1", "R5"], 3);
    workers.into_iter().for_each(Daemon::kill);
    clock::clear_up();
}

fn state_of(change: &Value) -> String {
    format!("{} {}", change["rule_id"].as_str().unwrap(), change["new_value"]["state"].as_str().unwrap())
}

trait ParseTime {
    fn parse_time(&self) -> Timestamp;
}

impl ParseTime for str {
    fn parse_time(&self) -> Timestamp {
        Timestamp::parse(self).unwrap()
    }
}

/// How often `git checkout` is stopped in a second, and how short it runs in between: a disk that is slow.
const PULSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(1));

#[tokio::test]
#[ignore = "needs PostgreSQL and git"]
async fn a_release_of_a_thousand_rules_by_a_slow_git_checkout_is_one_transaction_and_one_burst() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner::new();
    let ids: Vec<String> = (0..1_000).map(|number| format!("R{number:04}")).collect();
    let rules = |version: i32| ids.iter().map(|id| (id.as_str(), version)).collect::<Vec<_>>();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(swarm.rules()).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        command.args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", swarm.rules());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let run = |args: &[&str]| assert!(git(args).status().unwrap().success(), "{args:?}");
    let save = |files: &Files| {
        for (name, text) in &files.0 {
            swarm.save(name, text);
        }
    };
    run(&["init", "-q", "-b", "release"]);
    for release in 1..=2 {
        save(&owner.release(release, &rules(i32::try_from(release).unwrap())));
        run(&["add", "."]);
        run(&["commit", "-q", "-m", "a release"]);
    }
    run(&["checkout", "-q", "HEAD~1"]);
    let (master, _worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    wait_for_reasons(&swarm, &[]);
    let mut subscriber = swarm.subscribe();
    assert_eq!(snapshot(&mut subscriber).0.len(), 1_000);

    let mut checkout = git(&["checkout", "-q", "release"]).spawn().unwrap();
    let process = checkout.id().to_string();
    let signal = |signal: &str| Command::new("kill").args(["-s", signal, &process]).status().unwrap();
    let mut pulses = 0;
    let ended = loop {
        if let Some(ended) = checkout.try_wait().unwrap() {
            break ended;
        }
        signal("STOP");
        std::thread::sleep(PULSE.0);
        signal("CONT");
        std::thread::sleep(PULSE.1);
        pulses += 1;
        // What the subscriber has is a whole release in the middle of it, too.
        assert_eq!(status(&swarm)["rules"], 1_000);
    };
    assert!(ended.success() && pulses > 3, "git ended after {pulses} stops");
    // One burst: nothing but the thousand changes, and at the first of them the worker serves the whole release.
    let first = subscriber.change();
    assert_eq!(status(&swarm)["trust"]["version"], json!(version(2)));
    let mut changed: BTreeSet<String> = BTreeSet::from([first["rule_id"].as_str().unwrap().to_owned()]);
    let (mut seq, begun) = (first["seq"].as_u64().unwrap(), first["seq"].as_u64().unwrap());
    for _ in 1..1_000 {
        let change = subscriber.change();
        assert_eq!((&change["rule_version"], change["seq"].as_u64()), (&json!(2), Some(seq + 1)));
        changed.insert(change["rule_id"].as_str().unwrap().to_owned());
        seq += 1;
    }
    assert_eq!((changed.len(), seq - begun), (1_000, 999));
    // One transaction: PostgreSQL has the number of the one that wrote each row.
    let transactions = "SELECT count(DISTINCT xmin)::text FROM \
         (SELECT xmin::text FROM ttp_rule UNION ALL SELECT xmin::text FROM rulesyncd_manifest) AS written (xmin)";
    assert_eq!(sql.text(transactions).await.as_deref(), Some("1"));
    // It made no noise.
    assert_eq!(master.count_in_log("held back"), 0, "{}", master.log());
    assert_eq!(
        master.count_in_log(&format!("the release of {}, signed by owner, is published", version(2))),
        1
    );
}

/// Fills the tables with a release of `count` rules, as a master does, long ago.
async fn fill(sql: &mut ExternalClient, owner: &Owner, count: usize) -> (Vec<String>, Files) {
    let ids: Vec<String> = (0..count).map(|number| format!("R{number:06}")).collect();
    let rules: Vec<(&str, i32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    let release = owner.release(1, &rules);
    for some in ids.chunks(1_000) {
        let rows: Vec<String> = some
            .iter()
            .map(|id| {
                let text = quoted(&rule_text(id, 1));
                format!("('{id}', 1, '{id}.yaml', {text}, '2020-01-01 00:00:00', 'filesystem')")
            })
            .collect();
        sql.run(&format!("INSERT INTO ttp_rule VALUES {}", rows.join(", "))).await;
    }
    publish(sql, &release).await;
    (ids, release)
}

/// Writes a release's manifest and list.
async fn publish(sql: &mut ExternalClient, release: &Files) {
    let list = release.text("MANIFEST.rules").as_bytes();
    let pieces = list.chunks(512 << 10).map(|piece| String::from_utf8(piece.to_vec()).unwrap());
    let part_0 = (release.text("MANIFEST").to_owned(), quoted(release.text("MANIFEST.sig")));
    let parts = std::iter::once(part_0).chain(pieces.map(|piece| (piece, "NULL".to_owned())));
    let at = SystemClock.now().to_sql_text();
    sql.run("DELETE FROM rulesyncd_manifest").await;
    for (part, (body, signatures)) in parts.enumerate() {
        let body = quoted(&body);
        sql.run(&format!(
            "INSERT INTO rulesyncd_manifest VALUES ('honeypots', {part}, 'v', {body}, {signatures}, '{at}')"
        ))
        .await;
    }
}

/// How many bytes a worker reads for the release of one changed rule among `count`, beyond the row's text.
async fn bytes_read(kind: Kind, count: usize) -> u64 {
    let server = Server::start(kind, &[]).await;
    let address = server.create("signed").await;
    let owner = Owner::new();
    // The program makes the table.
    let maker = Swarm::on(&address);
    owner.release(1, &[]).check_out(&maker);
    let mut sync = maker.command(&["sync"]);
    owner.trusted_by(&maker, &mut sync);
    let made = sync.output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let mut sql = server.client("signed").await;
    let (ids, _) = fill(&mut sql, &owner, count).await;

    let through = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
    let socket = match kind {
        Kind::Postgres => ".s.PGSQL.5432",
        Kind::MariaDb => "sock",
    };
    let relay = CountingRelay::start(through.path().join(socket), server.path().join(socket));
    let (from, to) = (server.path().to_str().unwrap(), through.path().to_str().unwrap());
    let swarm = Swarm::on(address.replace(from, to));
    let _worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command
            .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1h")
            .env("RULESYNCD_WORKER_OVERLAP", "1s")
            // The first load of 100,000 rules takes a test build minutes.
            .env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "30s");
    });
    let patience = Duration::from_secs(60 + count as u64 / 50);
    wait_within(patience, "the release", || {
        (status(&swarm)["rules"] == json!(count) && status(&swarm)["trust"]["state"] == "ok").then_some(())
    });
    let mut rules: Vec<(&str, i32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    let mut least = u64::MAX;
    // The more polls and reports fall into the time that a release takes, the more it seems to cost.
    for (minute, edition) in (2..=4).zip(2..) {
        // Until the overlap has passed after the last change, each poll compares what may be new.
        wait_within(patience, "idle polls", || {
            let before = relay.sent();
            std::thread::sleep(Duration::from_millis(2_500));
            let read = relay.sent() - before;
            (read > 0 && read < 2_048).then_some(())
        });
        rules[count / 2].1 = edition;
        let release = owner.release(minute, &rules);
        sql.begin().await;
        sql.put(&ids[count / 2], edition, SystemClock.now()).await;
        publish(&mut sql, &release).await;
        // Idle polls before it are no part of its cost.
        let before = relay.sent();
        sql.commit().await;
        let wanted = json!(version(minute));
        wait_within(patience, "the next release", || {
            (status(&swarm)["trust"]["version"] == wanted).then_some(())
        });
        least = least.min(relay.sent() - before);
    }
    least.saturating_sub(rule_text(&ids[count / 2], 4).len() as u64)
}

#[expect(clippy::disallowed_methods, reason = "a test's size, which `tests/run long` raises")]
fn is_long() -> bool {
    std::env::var_os("RULESYNCD_TEST_LONG").is_some()
}

/// What a worker reads for a release does not depend on how many rules there are.
async fn a_release_costs_a_worker_the_manifest_and_the_changed_rows(kind: Kind) {
    let most = if is_long() { 100_000 } else { 3_000 };
    let (few, many) = (bytes_read(kind, 300).await, bytes_read(kind, most).await);
    assert!(
        few > 0 && few < 4_096 && many > 0 && many < 4_096,
        "{few} bytes among 300 rules, {many} among {most}"
    );
    // The digits of counts differ, and perhaps one poll more or less.
    assert!(few.abs_diff(many) < 1_024, "{few} bytes among 300 rules, {many} among {most}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_release_of_one_rule_costs_a_worker_less_than_4_kib_on_postgresql() {
    a_release_costs_a_worker_the_manifest_and_the_changed_rows(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_release_of_one_rule_costs_a_worker_less_than_4_kib_on_mariadb() {
    a_release_costs_a_worker_the_manifest_and_the_changed_rows(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn an_idle_poll_makes_no_statement_for_the_manifest() {
    let server = Server::start(Kind::MariaDb, &["--general-log=1", "--log-output=TABLE"]).await;
    let swarm = Swarm::on(server.create("signed").await);
    let owner = Owner::new();
    owner.release(1, &[("R1", 1), ("R2", 1)]).check_out(&swarm);
    let master = owner.daemon(&swarm, "master");
    let _worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command.env("RULESYNCD_WORKER_POLL_INTERVAL", "100ms");
    });
    wait_for_reasons(&swarm, &[]);
    master.stop();
    let mut sql = server.client("mysql").await;
    sql.run("TRUNCATE general_log").await;
    let asked = "SELECT CAST(COUNT(*) AS CHAR) FROM general_log WHERE command_type = 'Execute' \
         AND argument LIKE '%rulesyncd_manifest%' AND argument NOT LIKE '%general_log%' AND argument ";
    let number = |text: Option<String>| text.unwrap().parse::<u32>().unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    while number(sql.text(&format!("{asked} LIKE '%ttp_rule_state%'")).await) < 10 {
        assert!(std::time::Instant::now() < deadline, "the manifest's columns are not in the idle statement");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(number(sql.text(&format!("{asked} NOT LIKE '%ttp_rule_state%'")).await), 0);
    // What those columns say is acted upon.
    let _master = owner.daemon(&swarm, "master");
    owner.release(2, &[("R1", 1), ("R2", 1)]).check_out(&swarm);
    wait_for("the renewal", || (status(&swarm)["trust"]["version"] == json!(version(2))).then_some(()));
}
