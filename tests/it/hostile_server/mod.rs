//! A faulty, impersonated or compromised database server only costs freshness: whatever it sends at each step of its
//! protocol, both daemons survive, subscribers are served, memory and journal stay small, and signals are handled.

mod mutations;
mod mysql;
mod postgres;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::forged::resident;
use crate::support::hostile::{Act, Attack, Hostile, Step};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Subscriber, Swarm, wait_for};

/// Pairs of a master and a worker that are attacked at the same time.
const LANES: usize = 4;

/// How long a subscriber waits while the server attacks, and a daemon until it ends: of many the middle one, on
/// a busy machine too.
const SERVED_WITHIN: Duration = Duration::from_millis(500);
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// How long any of them may take.
const SOON: Duration = Duration::from_secs(15);

const MOST_MEMORY_KIB: u64 = 128 * 1024;

/// The measurements.
#[derive(Default)]
struct Measured {
    waits: Vec<Duration>,
    ends: Vec<Duration>,
    memory_kib: u64,
}

fn attack(name: &'static str, step: Step, act: Act) -> Attack {
    Attack { name, step, act }
}

/// Both daemons under each of the attacks.
#[expect(clippy::print_stdout, reason = "the figures are what one wants to see")]
async fn both_daemons_live_through(kind: Kind, attacks: Vec<Attack>) {
    assert!(attacks.len() >= 40, "{}", attacks.len());
    let options: &[&str] = if kind == Kind::MariaDb { &["--skip-ssl"] } else { &[] };
    let server = Server::start(kind, options).await;
    for lane in 0..LANES {
        server.create(&format!("lane{lane}")).await;
    }
    let (measured, left) = (Mutex::new(Measured::default()), Mutex::new(attacks));
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (server, measured, left) = (&server, &measured, &left);
            scope.spawn(move || {
                let mut pair = Pair::new(server, &format!("lane{lane}"));
                loop {
                    let Some(attack) = left.lock().unwrap().pop() else { return };
                    let new = pair.under(attack);
                    let mut all = measured.lock().unwrap();
                    all.waits.extend(new.waits);
                    all.ends.extend(new.ends);
                    all.memory_kib = all.memory_kib.max(new.memory_kib);
                }
            });
        }
    });
    let Measured { waits, ends, memory_kib } = measured.into_inner().unwrap();
    println!("{kind:?}: at most {memory_kib} KiB");
    for (what, mut times, within) in
        [("subscribers waited", waits, SERVED_WITHIN), ("daemons ended after", ends, ENDED_WITHIN)]
    {
        times.sort_unstable();
        let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{kind:?}: {what} {middle:?}, at most {longest:?}, of {}", times.len());
        assert!(middle < within && longest < SOON, "{what} {middle:?}, at most {longest:?}");
    }
}

/// A master and a worker that reach one database through hostile proxies.
struct Pair {
    swarm: Swarm,
    database: String,
    ways: [Hostile; 2],
    version: i32,
}

impl Pair {
    fn new(server: &Server, database: &str) -> Self {
        let ways = [Hostile::before(server), Hostile::before(server)];
        Self { swarm: Swarm::on(ways[0].address(database)), database: database.to_owned(), ways, version: 0 }
    }

    /// Starts both daemons, lets the server attack them, and stops them under the attack.
    fn under(&mut self, attack: Attack) -> Measured {
        self.version += 1;
        self.swarm.save("R1.yaml", rule_text("R1", self.version));
        let daemons = [("master", &self.ways[0]), ("worker", &self.ways[1])].map(|(mode, way)| {
            way.attack(None);
            self.swarm.daemon(mode, |command| {
                command.env("RULESYNCD_DATABASE_URL", way.address(&self.database));
                command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
                command.env("RULESYNCD_WORKER_POLL_INTERVAL", "100ms");
            })
        });
        // The server's earlier attacks have left nothing behind.
        wait_for("the rule", || (served(&self.swarm)? == self.version).then_some(()));
        let name = attack.name;
        let is_endless = matches!(attack.act, Act::Forever(_) | Act::Repeat);
        for way in &self.ways {
            way.attack(Some(attack.clone()));
        }
        let (mut measured, mut since) = (Measured::default(), None);
        let attacked = || self.ways.iter().all(|way| way.attacked() > 0);
        let begun = Instant::now();
        while since.is_none_or(|since: Instant| {
            since.elapsed() < Duration::from_millis(if is_endless { 1_000 } else { 200 })
        }) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{name}: not both daemons came to this step");
            let asked = Instant::now();
            assert_eq!(served(&self.swarm), Some(self.version), "{name}");
            measured.waits.push(asked.elapsed());
            since = since.or_else(|| attacked().then(Instant::now));
            for daemon in &daemons {
                let memory = resident(daemon.pid());
                assert!(memory < MOST_MEMORY_KIB, "{name}: {memory} KiB");
                measured.memory_kib = measured.memory_kib.max(memory);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        for daemon in daemons {
            assert!(daemon.log().lines().count() < 100, "{name}: {}", daemon.log());
            let stopped = Instant::now();
            daemon.stop();
            measured.ends.push(stopped.elapsed());
        }
        measured
    }
}

/// The version of the one rule that a subscriber receives; `None` while there is none.
fn served(swarm: &Swarm) -> Option<i32> {
    let mut subscriber: Subscriber = swarm.subscribe();
    let rules = subscriber.snapshot();
    rules.first().map(|rule| rule["rule_version"].as_i64().unwrap().try_into().unwrap())
}
