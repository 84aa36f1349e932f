//! How long things take on each database: `cargo bench --profile dist --bench databases`. Needs
//! PostgreSQL, MariaDB and a quiet machine; a server that is missing is an error.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
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

/// What a server computes for one second of this many idle workers that poll every second.
async fn idle_workers(server: &Server, address: &str) -> String {
    const WORKERS: usize = 200;
    const ROUNDS: u32 = 5;
    let database = made(address, system_clock()).await;
    let mut followers: Vec<_> = (0..WORKERS).map(|_| (database.follow(), Catalogue::default())).collect();
    let config = support::databases::config(address);
    for (follower, catalogue) in &mut followers {
        // Each worker is a process of its own, with its own connections.
        let database = Database::open(&config, system_clock()).await.unwrap();
        *follower = database.follow();
        catalogue.apply(follower.look(catalogue).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    for (follower, catalogue) in &mut followers {
        follower.look(catalogue).await.unwrap();
    }
    let before = cpu_time(server);
    for _ in 0..ROUNDS {
        for (follower, catalogue) in &mut followers {
            follower.look(catalogue).await.unwrap();
        }
    }
    let share = (cpu_time(server) - before).as_secs_f64() / f64::from(ROUNDS);
    format!("{}: {WORKERS} idle workers take {:.1} % of a core", database.backend(), share * 100.0)
}

/// The time that the server's processes have computed for.
fn cpu_time(server: &Server) -> Duration {
    let ticks = |process: std::fs::DirEntry| {
        let at_home = std::fs::read_link(process.path().join("cwd")).ok()?.starts_with(server.path());
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        // After the name, which may hold anything: the 12th and 13th are user's and system's time.
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        at_home.then_some(ticks)
    };
    let processes = std::fs::read_dir("/proc").unwrap().map(Result::unwrap);
    Duration::from_millis(10 * processes.filter_map(ticks).sum::<u64>())
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
        for (kind, many) in
            [(Kind::Postgres, "-cmax_connections=500"), (Kind::MariaDb, "--max-connections=500")]
        {
            let server = Server::start(kind, &[many]).await;
            let address = server.create("measured").await;
            println!("{}", measure(&address).await);
            println!("{}", idle_workers(&server, &address).await);
        }
    });
}
