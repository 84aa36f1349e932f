//! How long things take on each database: `cargo bench --profile dist --bench databases`. Needs
//! PostgreSQL, MariaDB and a quiet machine; a server that is missing is an error.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its outcome is what it prints")]

/// Of the tests' helpers, those that a bench wants.
#[path = "../tests/it/support"]
#[expect(dead_code, reason = "the tests want more of them")]
mod support {
    pub(crate) mod databases;
    pub(crate) mod rules;
    pub(crate) mod servers;
}

use std::time::{Duration, Instant};

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, Follow, RuleStore, RuleWrite};

use support::databases::{made, system_clock};
use support::rules::rule_row;
use support::servers::{Kind, Server};

/// Rules in the table while everything is measured.
const RULES: usize = 10_000;

async fn measure(address: &str) -> String {
    // Opened twice, so that nothing in this process tells the one of the other.
    let database: Database = made(address, system_clock()).await;
    let other = made(address, system_clock()).await;
    let writes: Vec<_> = (0..RULES).map(|n| RuleWrite::Upsert(rule_row(&format!("R{n:05}"), 1))).collect();
    let mut session = database.try_lock().await.unwrap().unwrap();
    let start = Instant::now();
    session.apply(&writes).await.unwrap();
    let cold = start.elapsed();

    let (mut follower, mut catalogue) = (other.follow(), Catalogue::default());
    let start = Instant::now();
    catalogue.apply(follower.look(&catalogue).await.unwrap());
    let first = start.elapsed();
    assert_eq!(catalogue.rule_count(), RULES);

    // Saved and heard: from before the transaction to the change in hand.
    let mut heard = Vec::new();
    let mut commits = Vec::new();
    for version in 2..202 {
        let write = [RuleWrite::Upsert(rule_row("R00077", version))];
        tokio::time::sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        let saving = async {
            session.apply(&write).await.unwrap();
            commits.push(start.elapsed());
        };
        let hearing = async {
            loop {
                let poll = tokio::time::timeout(Duration::from_secs(1), follower.hint()).await;
                let look = follower.look(&catalogue).await.unwrap();
                if !catalogue.apply(look).is_empty() {
                    return poll.is_ok();
                }
            }
        };
        let ((), _by_hint) = tokio::join!(saving, hearing);
        heard.push(start.elapsed());
        // Only where something hints is it worth more than a few polls.
        if database.backend() == "mysql" && version > 4 {
            break;
        }
    }
    heard.sort();
    commits.sort();

    tokio::time::sleep(Duration::from_millis(6_500)).await;
    follower.look(&catalogue).await.unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        follower.look(&catalogue).await.unwrap();
    }
    let idle = start.elapsed() / 200;
    format!(
        "{}: write {RULES} rules {cold:.0?}, first look {first:.0?}, commit {:.1?}, saved to heard {:.1?} \
         (95 %: {:.1?}), idle look {idle:.0?}",
        database.backend(),
        commits[commits.len() / 2],
        heard[heard.len() / 2],
        heard[heard.len() * 95 / 100],
    )
}

fn main() {
    // `cargo test --all-targets` runs benches too, without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite://{}/rules.db", directory.path().display());
        println!("{}", measure(&address).await);
        for kind in [Kind::Postgres, Kind::MariaDb] {
            let server = Server::start(kind, &[]).await;
            println!("{}", measure(&server.create("measured").await).await);
        }
    });
}
