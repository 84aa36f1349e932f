//! The whole way: from a saved file, or from the command line, to the subscribers.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rand_pause::Pauses;
use tempfile::TempDir;

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Rules, Subscriber, rule_text};
use crate::plain;
use crate::servers::{Databases, Fresh};

/// In the seconds after a load a poll may read it again.
const AT_REST: Duration = Duration::from_secs(7);

/// A master and a worker as two processes, and who listens.
struct Swarm {
    // The processes are stopped before their database and their directory are removed.
    host: Host,
    master: u32,
    subscribers: Vec<Subscriber>,
    own: TempDir,
    _database: Fresh,
    count: usize,
    version: usize,
    pauses: Pauses,
}

impl Swarm {
    /// Whose rules were loaded before the daemons started.
    fn at_rest(build: &Path, databases: &Databases, backend: &str, count: usize, subscribers: usize) -> Self {
        let (database, own) = (databases.fresh(backend), tempfile::tempdir().unwrap());
        write_rules(own.path(), count, 1);
        let host = Host::on(build, own.path(), database.address().to_owned());
        host.run(&["sync"]);
        let swarm = Self::start(host, own, database, count, subscribers);
        std::thread::sleep(AT_REST);
        swarm
    }

    /// Whose rules were all loaded a moment ago, while the daemons ran.
    fn just_loaded(build: &Path, databases: &Databases, backend: &str, count: usize) -> Self {
        let (database, own) = (databases.fresh(backend), tempfile::tempdir().unwrap());
        let staged = tempfile::tempdir_in(own.path().parent().unwrap()).unwrap().keep();
        write_rules(&staged, count, 1);
        let host = Host::on(build, own.path(), database.address().to_owned());
        host.run(&["sync"]);
        let mut swarm = Self::start(host, own, database, count, 1);
        // All files at once: the directory replaces the empty one.
        std::fs::rename(staged, swarm.own.path()).unwrap();
        swarm.subscribers[0].until_rules(count);
        swarm
    }

    fn start(mut host: Host, own: TempDir, database: Fresh, count: usize, subscribers: usize) -> Self {
        let master = host.start("master");
        host.start("worker");
        host.wait_for_master();
        let subscribe = |_| {
            let mut subscriber = Subscriber::to(&host, r#"{"op":"subscribe"}"#);
            subscriber.until("snapshot_end");
            subscriber
        };
        let subscribers = (0..subscribers).map(subscribe).collect();
        Self {
            host,
            master,
            subscribers,
            own,
            _database: database,
            count,
            version: 1,
            pauses: Pauses::default(),
        }
    }

    /// Saves a rule, and returns how long it took until it was heard.
    fn save(&mut self) -> f64 {
        self.pauses.next();
        let (version, start) = self.write_next();
        let change = self.subscribers[0].until("change");
        let took = start.elapsed().as_secs_f64();
        assert_eq!(change["rule_version"], version, "{change}");
        took
    }

    /// Replaces a file, and returns the rule's version and when it was written.
    fn write_next(&mut self) -> (usize, Instant) {
        self.version += 1;
        let (version, number) = (self.version, self.version % self.count);
        let (beside, new) = (self.host.path("saved"), self.own.path().join(".new"));
        std::fs::write(&beside, rule_text(number, version)).unwrap();
        let start = Instant::now();
        std::fs::copy(&beside, &new).unwrap();
        std::fs::rename(new, self.own.path().join(format!("R{number:06}.yaml"))).unwrap();
        (version, start)
    }

    /// Sets a state by the command, and returns how long it took until every subscriber heard it.
    fn set_state(&mut self) -> f64 {
        self.pauses.next();
        self.version += 1;
        let rule_id = format!("R{:06}", self.version % self.count);
        let start = Instant::now();
        self.host.run(&["state", "set", &rule_id, "disabled", "--reason", "measured"]);
        for subscriber in &mut self.subscribers {
            assert_eq!(subscriber.until("change")["rule_id"], rule_id);
        }
        start.elapsed().as_secs_f64()
    }
}

fn write_rules(directory: &Path, count: usize, version: usize) {
    for number in 0..count {
        std::fs::write(directory.join(format!("R{number:06}.yaml")), rule_text(number, version)).unwrap();
    }
}

/// How often something is measured in a round: MySQL may be polled once a second.
fn samples(backend: &str) -> usize {
    if backend == "mysql" { 20 } else { 100 }
}

/// From a saved file to the change at a subscriber, beside a transaction that changes one row.
pub(crate) fn heard<'a>(
    rules: &'a Rules,
    databases: &'a Databases,
    backend: &'static str,
    count: usize,
) -> Figure<'a> {
    let mut swarms = HashMap::new();
    let mut hand = None;
    let (mut version, mut pauses) = (1, Pauses::default());
    let name = format!("saved to heard, {count} rules, {backend}");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let Contender::Build(build) = contender else {
            let (_database, hand) = hand.get_or_insert_with(|| {
                let database = databases.fresh(backend);
                let directory = rules.directory(count);
                let hand = databases.block_on(async {
                    let mut hand = plain::hand(database.address()).await;
                    plain::written(directory.path(), &mut hand).await;
                    hand
                });
                (database, hand)
            });
            return (0..samples(backend))
                .map(|_| {
                    version += 1;
                    pauses.next();
                    databases.block_on(plain::committed(hand, version))
                })
                .collect();
        };
        let start = || Swarm::at_rest(build, databases, backend, count, 1);
        let swarm = swarms.entry(contender.clone()).or_insert_with(start);
        (0..samples(backend)).map(|_| swarm.save()).collect()
    });
    let figure = figure.rounds(3).quantiles(&[0.5, 0.99]);
    match (backend, count) {
        ("mysql", _) => figure.goal(Goal::AtMost(0.05)),
        (_, 1_000) => figure.goal(Goal::Above(0.003)),
        ("sqlite", _) => figure.series("saved to heard, SQLite", count),
        _ => figure.series("saved to heard, PostgreSQL", count),
    }
}

/// The same with 100,000 rules beside 100 rules: the floor is this program, too, unless another build is compared.
pub(crate) fn heard_growth<'a>(
    databases: &'a Databases,
    backend: &'static str,
    just_loaded: bool,
) -> Figure<'a> {
    const SPAN: Duration = Duration::from_secs(5);
    let mut swarms: HashMap<Contender, Swarm> = HashMap::new();
    let what = if just_loaded { ", within six seconds of their load" } else { "" };
    let name = format!("saved to heard, 100000 rules beside 100{what}, {backend}");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let (build, count) = size_of(contender);
        if !just_loaded {
            let start = || Swarm::at_rest(build, databases, backend, count, 1);
            let swarm = swarms.entry(contender.clone()).or_insert_with(start);
            return (0..samples(backend)).map(|_| swarm.save()).collect();
        }
        let mut swarm = Swarm::just_loaded(build, databases, backend, count);
        let loaded = Instant::now();
        std::iter::from_fn(|| (loaded.elapsed() < SPAN).then(|| swarm.save())).collect()
    });
    figure.rounds(if just_loaded { 3 } else { 5 }).goal(Goal::Times(if just_loaded { 3.0 } else { 1.5 }))
}

/// Who measures a contender, and with how many rules, where few are compared with many.
pub(crate) fn size_of(contender: &Contender) -> (&Path, usize) {
    match contender {
        Contender::Floor => (Path::new(env!("CARGO_BIN_EXE_rulesyncd")), 100),
        Contender::Build(build) => (build, 100_000),
    }
}

/// What the master computes, in percent of a core, while one of its rules is saved ten times a second.
pub(crate) fn edited<'a>(databases: &'a Databases, backend: &'static str, count: usize) -> Figure<'a> {
    const SPAN: Duration = Duration::from_secs(60);
    let name = format!("10 edits a second for a minute, {count} rules, {backend}, master's core");
    let figure = Figure::new(name, Unit::Percent, move |contender| {
        let Contender::Build(build) = contender else { return Vec::new() };
        let mut swarm = Swarm::at_rest(build, databases, backend, count, 1);
        let (before, start) = (whole_cpu_time(swarm.master), Instant::now());
        for edit in 0..600 {
            std::thread::sleep((SPAN / 600 * edit).saturating_sub(start.elapsed()));
            swarm.write_next();
            swarm.subscribers[0].until("change");
        }
        let spent = whole_cpu_time(swarm.master) - before;
        vec![spent.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0]
    });
    figure.rounds(1).goal(Goal::AtMost(5.0))
}

/// The time that a process has computed for, in threads that have ended, too; in hundredths of a second.
fn whole_cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// From the start of the command to the last of so many subscribers.
pub(crate) fn state_set<'a>(
    databases: &'a Databases,
    backend: &'static str,
    subscribers: usize,
) -> Figure<'a> {
    let mut swarms = HashMap::new();
    let name = format!("state set to heard by {subscribers} subscribers, 1000 rules, {backend}");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let Contender::Build(build) = contender else {
            let start = Instant::now();
            assert!(std::process::Command::new("sh").args(["-c", "exec true"]).status().unwrap().success());
            return vec![start.elapsed().as_secs_f64()];
        };
        let start = || Swarm::at_rest(build, databases, backend, 1_000, subscribers);
        let swarm = swarms.entry(contender.clone()).or_insert_with(start);
        (0..samples(backend)).map(|_| swarm.set_state()).collect()
    });
    figure.rounds(3).quantiles(&[0.5, 0.99])
}

mod rand_pause {
    use std::time::Duration;

    /// Pauses of up to 20 ms, so that no save meets the same moment of anyone's timer.
    #[derive(Default)]
    pub(super) struct Pauses(u64);

    impl Pauses {
        pub(super) fn next(&mut self) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(1_000 + (self.0 >> 33) % 20_000));
        }
    }
}
