//! `--wait` while others write, while hosts restart, and after a failover.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::scale::{is_long, measured};
use super::{stderr, subscribe, until_in_sync, worker, worker_with};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, text, wait_for};

/// The waits that go on at the same time.
const AT_ONCE: usize = 10;

/// Writes ten times a second until it stops; returns how often.
fn ten_a_second(stops: &AtomicBool, write: impl Fn(i32)) -> i32 {
    let (mut number, mut next) = (0, Instant::now());
    while !stops.load(Ordering::Relaxed) {
        number += 1;
        write(number);
        next += Duration::from_millis(100);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    number
}

/// While a master and an operator write ten changes a second each, every `--wait` returns, and none before every stream
/// has the change.
async fn under_edits_of_two_writers(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    let rules: Vec<String> = (0..AT_ONCE).map(|number| format!("W{number}")).collect();
    for rule_id in rules.iter().map(String::as_str).chain(["E1", "E2"]) {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let names = ["w1", "w2", "w3"];
    let _workers = names.map(|name| worker_with(&swarm, name, name, &[]));
    let _master = swarm.master();
    until_in_sync(&swarm, &names);
    let rounds = if is_long() { 200 / AT_ONCE } else { 1 };

    // Each stream's first change with each reason, and when it was heard.
    let (sender, heard) = mpsc::channel();
    for name in names {
        let (mut subscriber, sender) = (subscribe(&swarm, name), sender.clone());
        std::thread::spawn(move || {
            let mut open = rounds * AT_ONCE;
            while open > 0 {
                let change = subscriber.change();
                if let Some(reason) =
                    change["new_value"]["reason"].as_str().filter(|why| why.starts_with("wait "))
                {
                    sender.send((reason.to_owned(), Instant::now())).unwrap();
                    open -= 1;
                }
            }
        });
    }
    drop(sender);
    let stops = AtomicBool::new(false);
    let (returned, edits, lasted) = std::thread::scope(|scope| {
        let begun = Instant::now();
        let saving = scope.spawn(|| {
            ten_a_second(&stops, |version| swarm.save_atomically("E1.yaml", rule_text("E1", version + 1)))
        });
        let setting = scope.spawn(|| {
            ten_a_second(&stops, |number| {
                let state = if number % 2 == 0 { "enabled" } else { "disabled" };
                swarm.succeed(&["state", "set", "E2", state, "--reason", "an edit"]);
            })
        });
        let waits = rules.iter().map(|rule_id| {
            let swarm = &swarm;
            scope.spawn(move || {
                let rounds = (0..rounds).map(|round| {
                    let reason = format!("wait {rule_id} {round}");
                    let state = if round % 2 == 0 { "disabled" } else { "clipped" };
                    let waited =
                        swarm.succeed(&["state", "set", rule_id, state, "--reason", &reason, "--wait=60s"]);
                    let returned = Instant::now();
                    assert!(waited.contains("all 3 hosts have it"), "{waited}");
                    (reason, returned)
                });
                rounds.collect::<Vec<_>>()
            })
        });
        let waits: Vec<_> = waits.collect();
        let returned: HashMap<String, Instant> =
            waits.into_iter().flat_map(|wait| wait.join().unwrap()).collect();
        stops.store(true, Ordering::Relaxed);
        (returned, saving.join().unwrap() + setting.join().unwrap(), begun.elapsed())
    });
    assert_eq!(returned.len(), rounds * AT_ONCE);
    let mut by_stream = 0;
    for (reason, at) in heard {
        let returned = returned[&reason];
        assert!(at <= returned, "{reason} was early by {:?}", at - returned);
        by_stream += 1;
    }
    assert_eq!(by_stream, names.len() * returned.len(), "every stream has every change");
    measured(&format!(
        "{} waits on {kind:?} beside {:.1} edits a second, none early",
        returned.len(),
        f64::from(edits) / lasted.as_secs_f64()
    ));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn under_edits_of_two_writers_on_postgres() {
    under_edits_of_two_writers(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn under_edits_of_two_writers_on_mariadb() {
    under_edits_of_two_writers(Kind::MariaDb).await;
}

/// A command that goes on while the test does something.
pub(super) fn begin(swarm: &Swarm, args: &[&str]) -> std::process::Child {
    let mut command = swarm.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A worker that is restarted during `--wait` is waited for as its successor, and a wait for a change that the database
/// lost says so.
async fn a_restart_and_a_lost_change(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    for rule_id in ["R1", "R2"] {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let mut sql = server.client("fleet").await;
    let names = ["w1", "w2"];
    let mut workers: Vec<Daemon> = names.iter().map(|name| worker(&swarm, name, name)).collect();
    until_in_sync(&swarm, &names);

    workers[1].freeze();
    let mut waiting = begin(&swarm, &["state", "set", "R1", "disabled", "--wait=30s"]);
    wait_for("the write", || swarm.succeed(&["state", "get", "R1"]).contains("disabled").then_some(()));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits for the frozen worker");
    workers.pop().unwrap().kill();
    workers.push(worker(&swarm, "w2", "w2"));
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text(&output.stdout).contains("all 2 hosts have it"), "{}", text(&output.stdout));
    until_in_sync(&swarm, &names);

    // A failover loses what its standby has not got: the row of each kind of change is as it was before.
    let old_state =
        "UPDATE ttp_rule_state SET state = 'clipped', set_at = '2026-01-01 00:00:00' WHERE rule_id = 'R1'";
    let old_rule = format!(
        "UPDATE ttp_rule SET rule_version = 1, yaml_content = '{}', updated_at = '2026-01-01 00:00:00' \
         WHERE rule_id = 'R2'",
        rule_text("R2", 1).replace('\'', "''")
    );
    let cases: [(&[&str], &str); 4] = [
        (&["state", "set", "R1", "enabled"], old_state),
        (&["state", "set", "R2", "disabled"], "DELETE FROM ttp_rule_state WHERE rule_id = 'R2'"),
        (
            &["state", "clear", "R1"],
            "INSERT INTO ttp_rule_state (rule_id, state, set_at) VALUES ('R1', 'clipped', '2026-01-01 00:00:00')",
        ),
        (&["sync"], &old_rule),
    ];
    swarm.save("R2.yaml", rule_text("R2", 2));
    for (args, loss) in cases {
        let before = version(&mut sql).await;
        workers[0].freeze();
        let waiting = begin(&swarm, &[args, &["--wait=30s"]].concat());
        let deadline = Instant::now() + Duration::from_secs(60);
        while version(&mut sql).await == before {
            assert!(Instant::now() < deadline, "{args:?} writes nothing");
        }
        // It has read its own row by the time at which it looks at the reports again and again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        sql.run(loss).await;
        workers[0].thaw();
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("the database lost the change"), "{args:?}: {}", stderr(&output));
    }
    // What another operator writes meanwhile is later, and no loss.
    workers[0].freeze();
    let waiting = begin(&swarm, &["state", "set", "R1", "disabled", "--reason", "first", "--wait=30s"]);
    wait_for("the first", || swarm.succeed(&["state", "get", "R1"]).contains("first").then_some(()));
    swarm.succeed(&["state", "clear", "R1"]);
    workers[0].thaw();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    // A server that stops meanwhile: what was written may be lost, and nobody knows.
    workers[0].freeze();
    let waiting = begin(&swarm, &["state", "set", "R1", "disabled", "--reason", "last", "--wait=6s"]);
    wait_for("the last", || swarm.succeed(&["state", "get", "R1"]).contains("last").then_some(()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.stop();
    let output = waiting.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("after 6s, ") && said.contains(" of 2 hosts lack"), "{said}");
    let unknown = "the change was written, and whether the database still has it is not known: ";
    assert!(said.contains(unknown), "{said}");
}

async fn version(client: &mut crate::support::databases::ExternalClient) -> Option<String> {
    client.text("SELECT CAST(version AS CHAR(20)) FROM rulesyncd_version").await
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_restart_and_a_lost_change_on_postgres() {
    a_restart_and_a_lost_change(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_restart_and_a_lost_change_on_mariadb() {
    a_restart_and_a_lost_change(Kind::MariaDb).await;
}

/// A wait asks for one number five times a second, whatever the size of the fleet, and reads all reports once a second at
/// most: judged by the server's own log of statements.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_wait_reads_all_reports_only_once_a_second() {
    let server = Server::start(Kind::MariaDb, &["--general-log=1", "--log-output=TABLE"]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let names = ["w1", "w2"];
    let workers = names.map(|name| worker(&swarm, name, name));
    until_in_sync(&swarm, &names);
    workers.iter().for_each(|worker| worker.freeze());
    let mut log = server.client("mysql").await;
    log.run("TRUNCATE general_log").await;
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait=6s"]);
    assert!(stderr(&output).contains("after 6s, 2 of 2 hosts lack the change"), "{}", stderr(&output));
    let mut asked = async |what: &str| -> u32 {
        let query = format!(
            "SELECT CAST(COUNT(*) AS CHAR) FROM general_log WHERE command_type = 'Execute' AND argument LIKE '{what}' \
             AND argument NOT LIKE '%general_log%'"
        );
        log.text(&query).await.unwrap().parse().unwrap()
    };
    let numbers = asked("SELECT %count(*)% FROM rulesyncd_worker WHERE COALESCE(applied%").await;
    let all = asked("SELECT %epoch% FROM rulesyncd_worker LIMIT%").await;
    // 6 s have 30 looks, of which six read all; before and after them are four more that do.
    assert!((15..=30).contains(&numbers), "{numbers} numbers");
    assert!((4..=10).contains(&all), "{all} times all reports");
    let connections = "SELECT CAST(COUNT(*) AS CHAR) FROM general_log WHERE command_type = 'Connect'";
    let connections: u32 = log.text(connections).await.unwrap().parse().unwrap();
    assert!(connections < 10, "{connections} connections");
}
