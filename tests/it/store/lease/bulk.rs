//! Bulk writes without a fault: several transactions, through which the lease is confirmed.

use std::process::Command;

use serde_json::Value;

use super::faults::{save_all, size};
use super::{TOOK_OVER, cell};
use crate::support::databases::TestDatabase;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, wait_within};

/// A transaction has at most so many rows.
const MOST_ROWS: usize = 10_000;

/// A master writes more rules than a transaction may have, beside a standby and a worker.
async fn a_bulk_write(kind: Kind) {
    let count = size(MOST_ROWS + 500);
    let server = Server::start(kind, &[]).await;
    let address = server.create("bulk").await;
    let mut external = TestDatabase::server(&address).await.external().await;
    let (one, other) = (Swarm::on(&address), Swarm::on(&address));
    save_all(&one, count, 1);
    // Unoptimised, a worker reads so many rules slowly.
    let patient = |command: &mut Command| {
        command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "60s");
    };
    let (first, worker) = (one.master(), one.daemon("worker", patient));
    first.wait_for_log("this master holds the lock");
    worker.wait_for_log("rules are loaded");
    let second = other.master();
    let status = || -> Value {
        let output = one.run(&["status", "--json", "--socket", one.socket().to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    wait_within(6 * DEADLINE, "all rules", || {
        let status = status();
        assert_ne!(status["database"]["state"], "down", "{status}");
        (status["rules"].as_u64() == Some(count as u64)).then_some(())
    });
    let version = external.text("SELECT CONCAT(version, '') FROM rulesyncd_version").await.unwrap();
    assert_eq!(
        version.parse::<usize>().unwrap(),
        count.div_ceil(MOST_ROWS),
        "a transaction for so many rows"
    );
    assert_eq!(cell(&mut external, "term").await, "1");
    assert_eq!(second.count_in_log(TOOK_OVER), 0, "{}", second.log());
    assert!(!worker.log().contains("does not answer"), "{}", worker.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_bulk_write_is_several_transactions_and_no_takeover_on_postgres() {
    a_bulk_write(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_bulk_write_is_several_transactions_and_no_takeover_on_mariadb() {
    a_bulk_write(Kind::MariaDb).await;
}
