//! A failover in the middle of a bulk write: the primary ends, its replica is promoted, and two masters know both.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::audit::{Audit, Gate};
use super::bulk::MOST_ROWS;
use super::faults::{patience, save_all, size, writer};
use super::{TOOK_OVER, cell, master};
use crate::store::hosts::{pair, until_it_has_rules};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::Swarm;

/// How long it takes at most until a master leads after a failover, with the longest lease of the two masters and more.
const TAKEOVER: Duration = Duration::from_secs(17);

/// The first master's second transaction is open when the primary ends. It is lost as a whole, either master goes on, and
/// the other one writes nothing more.
async fn a_failover(kind: Kind) {
    let count = size(MOST_ROWS + 500);
    let (mut primary, replica) = pair(kind).await;
    let both = Server::address_of(&[&primary, &replica], "rules");
    let (one, other) = (Swarm::on(&both), Swarm::on(&both));
    save_all(&other, count, 2);
    one.save("R00000.yaml", rule_text("R00000", 1));
    let first = master(&one);
    first.wait_for_log("R00000 added");
    let second = master(&other);
    second.wait_for_log("standing by");
    let mut audit = Audit::begin(primary.client("rules").await, kind).await;

    audit.close(Gate::LateRow).await;
    let staged = Swarm::on(&both);
    save_all(&staged, count, 1);
    fs::rename(one.rules(), one.path("before")).unwrap();
    fs::rename(staged.rules(), one.rules()).unwrap();
    audit.until_it_is_waited_for().await;
    until_it_has_rules(&replica, MOST_ROWS + 1).await;
    assert!(audit.is_waited_for().await, "the transaction ended before the failover");
    primary.stop();
    replica.promote().await;

    let promoted = Instant::now();
    let mut audit = Audit::go_on(replica.client("rules").await, kind);
    while cell(&mut audit.external, "term").await == "1" {
        assert!(promoted.elapsed() < TAKEOVER, "{}{}", first.log(), second.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let one_version = |versions: BTreeMap<String, usize>| {
        versions.into_iter().find(|(_, rules)| *rules == count).map(|(version, _)| version)
    };
    let version = loop {
        match one_version(audit.versions().await) {
            Some(version) => break version,
            None => assert!(promoted.elapsed() < patience(), "{}{}", first.log(), second.log()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let terms = audit.judge(writer).await;
    assert!(terms.len() > 1, "{terms:?}");
    let takeovers = [&first, &second].map(|master| master.count_in_log(TOOK_OVER));
    assert_eq!(takeovers, [0, usize::from(version == "2")], "{}{}", first.log(), second.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn in_a_bulk_write_a_failover_leaves_one_writer_on_postgres() {
    a_failover(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn in_a_bulk_write_a_failover_leaves_one_writer_on_mariadb() {
    a_failover(Kind::MariaDb).await;
}
