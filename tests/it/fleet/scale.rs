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
    let load_before = load();
    for round in 0..if is_long() { 200 } else { 3 } {
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
    // Without notifications each worker hears of the change at its next poll, within a second and a tenth.
    let limit = Duration::from_secs(match kind {
        Kind::Postgres => 2,
        Kind::MariaDb => 3,
    });
    measured(&format!(
        "50 workers on {kind:?}, load {load_before} before and {} after: state set --wait took {}, and returned {} after \
         the last stream",
        load(),
        Spread::of(&mut took, limit),
        Spread::of(&mut later, Duration::from_millis(1_500))
    ));
    if is_long() {
        // Other programs of this machine may hold up single waits.
        let median = |times: &[Duration]| times[times.len() / 2];
        assert!(median(&took) <= limit, "{:?}", median(&took));
        assert!(median(&later) <= Duration::from_millis(1_500), "{:?}", median(&later));
    }
}

/// How many processes of this machine want to run, on average over 1, 5 and 15 minutes.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The spread of measured times.
struct Spread {
    count: usize,
    min: Duration,
    median: Duration,
    p99: Duration,
    max: Duration,
    limit: Duration,
    beyond: usize,
}

impl Spread {
    /// Sorts the times; `limit` is what each should take at most.
    fn of(times: &mut [Duration], limit: Duration) -> Self {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let beyond = times.iter().filter(|time| **time > limit).count();
        Self { count: times.len(), min: at(0), median: at(50), p99: at(99), max: at(100), limit, beyond }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, min, median, p99, max, limit, beyond } = self;
        write!(
            formatter,
            "{min:.2?} to {max:.2?} (median {median:.2?}, 99 % within {p99:.2?}, {beyond} of {count} beyond {limit:?})"
        )
    }
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

/// The reports of a thousand workers, or ten thousand: `--wait` returns when the last of them has the version, and not
/// before.
async fn a_thousand_reports(kind: Kind) {
    let reporters: u32 = if is_long() { 10_000 } else { 1_000 };
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let now = match kind {
        Kind::Postgres => "clock_timestamp() AT TIME ZONE 'UTC'",
        Kind::MariaDb => "UTC_TIMESTAMP(6)",
    };
    let mut client = server.client("fleet").await;
    for number in 0..reporters {
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
    for number in 0..reporters {
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
    assert!(
        text(&output.stdout).contains(&format!("all {reporters} hosts have it")),
        "{}",
        text(&output.stdout)
    );
    // It ended by now, and the last report was written before.
    let looked = Instant::now();
    let shown = swarm.run(&["fleet", "--json"]);
    let reading = looked.elapsed();
    assert!(text(&shown.stdout).contains(&format!("h{:04}", reporters - 1)));
    measured(&format!(
        "{reporters} reporters on {kind:?}: {:?} a report on an open connection; --wait returned {:?} after the last; `fleet` \
         with two looks took {reading:?}",
        (all_reported - begun) / reporters,
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
