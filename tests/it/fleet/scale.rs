//! As many workers as a fleet has: real ones and, beyond what one machine runs, their reports alone.

use std::time::{Duration, Instant};

use super::{stderr, subscribe, worker_with};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, text, wait_within};

#[expect(clippy::disallowed_methods, reason = "a test's size, which `tests/run long` raises")]
pub(super) fn is_long() -> bool {
    std::env::var_os("RULESYNCD_TEST_LONG").is_some()
}

/// Shows a figure to who runs the test for it.
#[expect(clippy::print_stdout, reason = "a measurement")]
pub(super) fn measured(figure: &str) {
    println!("{figure}");
}

/// Fifty real workers: `--wait` returns when all have the change, and not before.
async fn fifty_workers(kind: Kind) {
    let options: &[&str] = match kind {
        Kind::Postgres => &["-c", "max_connections=300"],
        Kind::MariaDb => &["--max-connections=300"],
    };
    let server = Server::start(kind, options).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let names: Vec<String> = (0..50).map(|number| format!("w{number:02}")).collect();
    let _workers: Vec<Daemon> = names.iter().map(|name| worker_with(&swarm, name, name, &[])).collect();
    wait_within(Duration::from_secs(60), "50 hosts in sync", || {
        swarm.run(&["fleet", "--expect", "50"]).status.success().then_some(())
    });
    let (mut took, mut later) = (Vec::new(), Vec::new());
    for round in 0..if is_long() { 30 } else { 3 } {
        let state = if round % 2 == 0 { "disabled" } else { "enabled" };
        let listening: Vec<_> = names
            .iter()
            .map(|name| {
                let mut subscriber = subscribe(&swarm, name);
                std::thread::spawn(move || {
                    assert_eq!(subscriber.change()["new_value"]["state"], state);
                    Instant::now()
                })
            })
            .collect();
        if is_long() {
            // Reports that follow three others wait; what is measured here does not.
            std::thread::sleep(Duration::from_secs(6));
        }
        let begun = Instant::now();
        let waited = swarm.succeed(&["state", "set", "R1", state, "--wait=60s"]);
        let returned = Instant::now();
        assert!(waited.contains("all 50 hosts have it"), "{waited}");
        let heard = listening.into_iter().map(|listening| listening.join().unwrap()).max().unwrap();
        assert!(heard <= returned, "early by {:?}", heard - returned);
        took.push(returned - begun);
        later.push(returned - heard);
    }
    took.sort();
    later.sort();
    measured(&format!(
        "50 workers on {kind:?}: state set --wait took {:?} to {:?}, median {:?}; at most {:?} after the last stream",
        took[0],
        took[took.len() - 1],
        took[took.len() / 2],
        later[later.len() - 1]
    ));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn fifty_workers_on_postgres() {
    fifty_workers(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn fifty_workers_on_mariadb() {
    fifty_workers(Kind::MariaDb).await;
}

/// The reports of a thousand workers: `--wait` returns when the last of them has the version, and not before.
async fn a_thousand_reports(kind: Kind) {
    const REPORTERS: usize = 1_000;
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let now = match kind {
        Kind::Postgres => "clock_timestamp() AT TIME ZONE 'UTC'",
        Kind::MariaDb => "UTC_TIMESTAMP(6)",
    };
    let mut client = server.client("fleet").await;
    for number in 0..REPORTERS {
        client
            .run(&format!(
                "INSERT INTO rulesyncd_worker (epoch, worker_id, host, program, started_at, reported_at, interval_ms, \
                 applied, seq, digest, rules, states, quarantined, quarantined_ids, subscribers, acknowledging, \
                 acknowledged, server, stale_ms) VALUES ('e{number}', 'w{number:04}', 'h{number:04}', '0.1.0', {now}, \
                 {now}, 30000, 1, 0, '{}', 1, 0, 0, '', 3, 3, 3, 'postgresql://db.example.org/honeypots', 0)",
                "a".repeat(64)
            ))
            .await;
    }
    let mut command = swarm.command(&["state", "set", "R1", "disabled", "--wait=120s"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let waiting = command.spawn().unwrap();
    wait_within(Duration::from_secs(60), "the write", || {
        swarm.run(&["state", "list"]).stdout.starts_with(b" RULE").then_some(())
    });
    let begun = Instant::now();
    for number in 0..REPORTERS {
        client
            .run(&format!(
                "UPDATE rulesyncd_worker SET applied = 2, reported_at = {now} WHERE epoch = 'e{number}'"
            ))
            .await;
    }
    let all_reported = Instant::now();
    let output = waiting.wait_with_output().unwrap();
    let returned = Instant::now();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text(&output.stdout).contains("all 1000 hosts have it"), "{}", text(&output.stdout));
    // It ended by now, and the last report was written before.
    let looked = Instant::now();
    let shown = swarm.run(&["fleet", "--json"]);
    let reading = looked.elapsed();
    assert!(text(&shown.stdout).contains("h0999"));
    measured(&format!(
        "1,000 reporters on {kind:?}: {:?} a report on an open connection; --wait returned {:?} after the last; `fleet` \
         with two looks took {reading:?}",
        (all_reported - begun) / 1_000,
        returned - all_reported
    ));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_thousand_reports_on_postgres() {
    a_thousand_reports(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_thousand_reports_on_mariadb() {
    a_thousand_reports(Kind::MariaDb).await;
}
