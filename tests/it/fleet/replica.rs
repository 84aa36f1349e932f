//! A worker at a replica reports to the primary; while the replica is paused, `fleet` and `--wait` name it.

use std::time::{Duration, Instant};

use super::wait::begin;
use super::{fleet, stderr, subscribe, worker, worker_with};
use crate::store::hosts::{pair_in, until_it_has_rules};
use crate::store::replicas::{pause, resume};
use crate::support::clock;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text, wait_for, wait_within};

/// Reports of a worker at a replica spread over 10 s, and each look of `fleet` at one that is not in sync takes 7 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// How the worker knows the primary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Primary {
    /// By `worker.report_url`.
    ReportUrl,
    /// As the second host of its own address. The replica's clock is 20 s ahead, so what it shows counts as stale all the
    /// time: `--wait` asks for the version and not for clocks.
    SecondHost,
}

async fn a_paused_replica(kind: Kind, primary_is: Primary) {
    let is_ahead = primary_is == Primary::SecondHost;
    let (primary, replica) = pair_in(kind, if is_ahead { clock::ahead() } else { Vec::new() }).await;
    let swarm = Swarm::on(Server::address_of(&[&primary], "rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _master = swarm.master();
    until_it_has_rules(&replica, 1).await;
    let _near = worker(&swarm, "near", "near");
    let reports = [("REPORT_SPREAD", "200ms"), ("REPORT_INTERVAL", "2s")];
    let (at_replica, keys) = match primary_is {
        Primary::ReportUrl => {
            let at_replica = Swarm::on(Server::address_of(&[&replica], "rules"));
            (at_replica, [&reports[..], &[("REPORT_URL", swarm.url())]].concat())
        }
        Primary::SecondHost => {
            let address = Server::address_of(&[&replica, &primary], "rules");
            (Swarm::on(address + "?target_session_attrs=standby"), reports.to_vec())
        }
    };
    let _far = worker_with(&at_replica, "far", "far", &keys);
    let mut heard_far = subscribe(&at_replica, "far");
    let state_of_far = |wanted: &str| {
        wait_within(PATIENCE, &format!("far {wanted}"), || {
            let (_, hosts) = fleet(&swarm);
            let hosts: Vec<_> = hosts.iter().map(|(id, state)| (&**id, &**state)).collect();
            (hosts == [("far", wanted), ("near", "in_sync")]).then_some(())
        });
    };
    state_of_far(if is_ahead { "stale" } else { "in_sync" });

    pause(&replica).await;
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait=10s"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 of 2 hosts lacks the change") && said.contains("/far (has version"), "{said}");
    state_of_far("stale");

    let waiting = begin(&swarm, &["fleet", "--wait=90s"]);
    resume(&replica).await;
    let listening = std::thread::spawn(move || (heard_far.change(), Instant::now()));
    let output = waiting.wait_with_output().unwrap();
    let returned = Instant::now();
    assert!(
        text(&output.stdout).contains("all 2 hosts have it"),
        "{}{}",
        text(&output.stdout),
        stderr(&output)
    );
    let (change, heard) = listening.join().unwrap();
    assert_eq!(change["new_value"]["state"], "disabled");
    assert!(heard <= returned, "early by {:?}", heard - returned);
    state_of_far(if is_ahead { "stale" } else { "in_sync" });
    // The replica repeats the primary's reports, and has none that only it got.
    swarm.save("R2.yaml", rule_text("R2", 1));
    until_it_has_rules(&replica, 2).await;
    clock::clear_up();
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_worker_at_a_replica_reports_to_the_named_primary_on_postgres() {
    a_paused_replica(Kind::Postgres, Primary::ReportUrl).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL and libfaketime"]
async fn a_worker_at_a_replica_reports_to_the_primary_of_its_address_on_postgres() {
    a_paused_replica(Kind::Postgres, Primary::SecondHost).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and libfaketime"]
async fn a_worker_at_a_replica_reports_to_the_primary_of_its_address_on_mariadb() {
    a_paused_replica(Kind::MariaDb, Primary::SecondHost).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_worker_at_a_replica_reports_to_the_named_primary_on_mariadb() {
    a_paused_replica(Kind::MariaDb, Primary::ReportUrl).await;
}

/// A worker that knows no server that takes writes says once what to do, and serves its rules.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_worker_that_knows_only_a_replica_says_what_to_do() {
    let (primary, replica) = pair_in(Kind::Postgres, Vec::new()).await;
    let swarm = Swarm::on(Server::address_of(&[&primary], "rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    until_it_has_rules(&replica, 1).await;
    let at_replica = Swarm::on(Server::address_of(&[&replica], "rules"));
    let far = worker(&at_replica, "far", "far");
    far.wait_for_log("name the server that takes writes in `worker.report_url`");
    // It serves all the same.
    subscribe(&at_replica, "far");
    // A replica knows nothing of the primary's lock, which a master of version 0.1 has alone: it says what it knows.
    let mut old = primary.client("rules").await;
    old.run("SELECT pg_advisory_lock(8247617475583766115)").await;
    for (swarm, who) in [
        (&swarm, " by a master without a lease (session "),
        (&at_replica, "no master has held the lease since "),
    ] {
        let fleet = || text(&swarm.run(&["fleet"]).stdout).to_owned();
        wait_for(who, || fleet().contains(who).then_some(()));
    }
    drop(old);
    let wrong = swarm.path("wrong.yaml");
    std::fs::write(&wrong, "worker:\n  report_url: sqlite:rules.db\n").unwrap();
    let output = swarm.command(&["worker"]).env("RULESYNCD_CONFIG", &wrong).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("worker.report_url") && said.contains("is no server; expected postgres://"),
        "{said}"
    );
}
