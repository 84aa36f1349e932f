//! Bulk writes without a fault: several transactions, through which the lease is confirmed.

use std::process::Command;

use super::faults::{patience, save_all, size};
use super::{TOOK_OVER, cell};
use crate::support::databases::TestDatabase;
use crate::support::galera;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, ask, wait_within};

/// A transaction has at most so many rows.
pub(super) const MOST_ROWS: usize = 10_000;

/// A master writes more rules than a transaction may have, while a standby and a worker are at another server of the
/// same cluster, or at the same one. Prints for how long the worker said that its rules were stale.
#[expect(clippy::print_stdout, reason = "how long is for a person who compares builds")]
async fn a_bulk_write(server: &Server, others: &Server) {
    let count = size(MOST_ROWS + 500);
    let address = server.create("bulk").await;
    let mut external = TestDatabase::server(&address).await.external().await;
    let (one, other) = (Swarm::on(&address), Swarm::on(others.address("bulk")));
    save_all(&one, count, 1);
    // Unoptimised, a worker reads so many rules slowly.
    let patient = |command: &mut Command| {
        command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "60s");
    };
    let first = one.master();
    first.wait_for_log("this master holds the lock");
    let (second, worker) = (other.master(), other.daemon("worker", patient));
    worker.wait_for_log("rules are loaded");
    let mut stale = 0;
    wait_within(3 * patience(), "all rules", || {
        let status = ask(&other.socket())?;
        let database = &status["database"];
        assert_ne!(database["state"], "down", "{status}");
        assert_eq!(database["master_silent_for_ms"], 0, "{status}");
        stale = stale.max(database["stale_for_ms"].as_u64().unwrap());
        (status["rules"].as_u64() == Some(count as u64)).then_some(())
    });
    println!("{count} rules, {:?}: stale for at most {stale} ms", server.kind());
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
    let server = Server::start(Kind::Postgres, &[]).await;
    a_bulk_write(&server, &server).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_bulk_write_is_several_transactions_and_no_takeover_on_mariadb() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    a_bulk_write(&server, &server).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and Galera"]
async fn a_bulk_write_is_several_transactions_and_no_takeover_on_galera() {
    let nodes = galera::start(vec![Vec::new(); 2]).await;
    a_bulk_write(&nodes[0], &nodes[1]).await;
}
