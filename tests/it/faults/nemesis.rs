//! Breaks the environment, one fault at a time, and records each.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::chance::{Chance, fault_lasts};
use super::clocks::Timeline;
use super::daemons::{Daemons, WORKERS, hosts, socket};
use super::history::{Fault, MASTERS, Restart, worker_host};
use super::relay::{Mode, Relay};
use super::target::Target;
use super::writers::Author;
use crate::support::swarm::{Swarm, ask, wait_for};

pub(super) struct Nemesis<'n, 'd> {
    pub(super) swarm: &'n Swarm,
    pub(super) target: &'n mut Target,
    pub(super) daemons: &'n mut Daemons<'d>,
    /// Between each host and each server; empty without a server.
    pub(super) routes: BTreeMap<String, Vec<Relay>>,
    /// Between the workers and the subscribers whose connections are cut.
    pub(super) subscribers: Vec<Relay>,
    pub(super) author: &'n Mutex<Author<'n>>,
    pub(super) chance: Chance,
    pub(super) timeline: Timeline,
    pub(super) faults: Vec<Fault>,
    pub(super) restarts: Vec<Restart>,
    pub(super) takeovers: Vec<u64>,
}

/// A fault, and the hosts that it concerns; all if empty.
type Done = (&'static str, Vec<String>);

type Deed<'n, 'd> = fn(&mut Nemesis<'n, 'd>) -> Done;

/// The offsets of a clock, in seconds.
const OFFSETS: [i64; 10] = [1, -1, 3, -3, 61, -61, 3_600, -3_600, 18_000, -18_000];

impl<'n, 'd> Nemesis<'n, 'd> {
    /// Injects all faults in random order, again and again until the end. Sets a flag when there was each of them.
    pub(super) fn run(&mut self, end: &AtomicBool, each_fault: &AtomicBool) {
        let mut deeds: Vec<Deed<'n, 'd>> = vec![
            Self::kill_the_holder,
            Self::kill_the_standby,
            Self::kill_a_worker,
            Self::restart_a_worker_without_its_database,
            Self::swap_the_directory,
            Self::empty_the_directory,
            Self::overflow_the_watch,
            Self::cut_subscribers,
            Self::break_the_database,
        ];
        if let Some(servers) = self.target.servers() {
            if servers.are_several() {
                // Above all failovers.
                deeds.push(Self::break_the_database);
                deeds.push(Self::part_from_one_server);
            }
            deeds.extend::<[Deed<'n, 'd>; 4]>([
                Self::cut_connections,
                Self::refuse_connections,
                Self::let_connections_hang,
                Self::end_sessions,
            ]);
        }
        if self.daemons.routes.clocks.can_be_stepped() {
            deeds.extend::<[Deed<'n, 'd>; 3]>([Self::step_a_clock; 3]);
        }
        let mut deck = Vec::new();
        while !end.load(Ordering::Relaxed) {
            if deck.is_empty() {
                deck.clone_from(&deeds);
            }
            let place = self.chance.below(deck.len() as u64);
            let deed = deck.swap_remove(usize::try_from(place).unwrap());
            self.chance.pause(400);
            let from = self.timeline.now();
            let (what, hosts) = deed(self);
            let (hosts, to) = (hosts.into_iter().collect(), self.timeline.now());
            self.faults.push(Fault { what: what.to_owned(), hosts, from, to });
            if deck.is_empty() {
                each_fault.store(true, Ordering::Relaxed);
            }
        }
    }

    fn some_worker(&mut self) -> usize {
        usize::try_from(self.chance.below(WORKERS as u64)).unwrap()
    }

    fn some_while(&mut self) -> Duration {
        Duration::from_millis(200 + self.chance.below(1_000))
    }

    fn the_holder(&self) -> &'static str {
        wait_for("a master to hold the lock", || self.daemons.holder())
    }

    /// The standby takes over; then the first master returns as the standby.
    fn kill_the_holder(&mut self) -> Done {
        let holder = self.the_holder();
        self.daemons.kill(holder);
        let from = self.timeline.now();
        self.the_holder();
        self.takeovers.push(self.timeline.now() - from);
        self.daemons.start(holder);
        ("holder of the lock killed", vec![holder.to_owned()])
    }

    fn kill_the_standby(&mut self) -> Done {
        let holder = self.the_holder();
        let standby = MASTERS.into_iter().find(|host| *host != holder).unwrap();
        self.daemons.kill(standby);
        self.daemons.start(standby);
        ("standby killed", vec![standby.to_owned()])
    }

    fn kill_a_worker(&mut self) -> Done {
        let host = worker_host(self.some_worker());
        self.daemons.kill(&host);
        self.daemons.start(&host);
        ("worker killed", vec![host])
    }

    fn restart_a_worker_without_its_database(&mut self) -> Done {
        let worker = self.some_worker();
        let host = worker_host(worker);
        let hosts = [host.clone()];
        let has_a_way = self.routes.contains_key(&host);
        if has_a_way {
            self.set_ways(&hosts, Mode::Refuse);
            self.cut_ways(&hosts);
        }
        self.target.move_away(true);
        let place = socket(self.swarm, &host);
        let down = || ask(&place).filter(|status| status["database"]["state"] == "down");
        wait_for("the worker to miss its database", down);
        self.daemons.stop_softly(&host);
        self.daemons.start(&host);
        let status = wait_for("the worker's status of its database", || ask(&place));
        self.restarts.push(Restart {
            worker,
            epoch: status["stream"]["epoch"].as_str().unwrap().to_owned(),
            database: status["database"]["state"].as_str().unwrap().to_owned(),
            stale_for_ms: status["database"]["stale_for_ms"].as_u64().unwrap(),
        });
        // Subscribers reconnect meanwhile, and the worker serves its cache.
        fault_lasts(Duration::from_millis(500));
        self.target.move_away(false);
        if has_a_way {
            self.set_ways(&hosts, Mode::Pass);
            return ("connections refused, worker restarted", vec![host]);
        }
        ("database moved away, worker restarted", Vec::new())
    }

    /// Replaces the directory by another with the same files; for a moment there is none.
    fn swap_the_directory(&mut self) -> Done {
        let _nobody_writes = self.author.lock().unwrap();
        let (rules, staged, old) = (self.swarm.rules(), self.swarm.path("staged"), self.swarm.path("old"));
        assert!(Command::new("cp").arg("-a").args([&rules, &staged]).status().unwrap().success());
        fs::rename(&rules, &old).unwrap();
        self.chance.pause(300);
        fs::rename(&staged, &rules).unwrap();
        fs::remove_dir_all(&old).unwrap();
        ("directory swapped", vec!["directory".to_owned()])
    }

    /// Empties the directory, as if it were not mounted.
    fn empty_the_directory(&mut self) -> Done {
        let outage = self.some_while();
        let _nobody_writes = self.author.lock().unwrap();
        let (rules, old) = (self.swarm.rules(), self.swarm.path("old"));
        fs::rename(&rules, &old).unwrap();
        fs::create_dir(&rules).unwrap();
        fault_lasts(outage);
        fs::remove_dir(&rules).unwrap();
        fs::rename(&old, &rules).unwrap();
        ("directory emptied", vec!["directory".to_owned()])
    }

    /// More events than the kernel keeps for one watch (fs.inotify.max_queued_events, 16,384).
    fn overflow_the_watch(&mut self) -> Done {
        let holder = self.the_holder();
        // Two files in turn, because the kernel merges equal successive events.
        let notes = ["notes.txt", "more.txt"].map(|name| self.swarm.rules().join(name));
        self.daemons.while_it_sleeps(holder, || {
            for _ in 0..4_000 {
                for note in &notes {
                    fs::write(note, "x").unwrap();
                }
            }
        });
        ("watch overflowed", vec![holder.to_owned()])
    }

    fn cut_subscribers(&mut self) -> Done {
        let worker = self.some_worker();
        let relay = &self.subscribers[worker];
        if self.chance.below(2) == 0 {
            relay.set(Mode::Hang);
            fault_lasts(Duration::from_millis(300));
            relay.set(Mode::Pass);
        }
        relay.cut();
        ("subscribers cut", vec![format!("subscribers of {}", worker_host(worker))])
    }

    fn break_the_database(&mut self) -> Done {
        (self.target.break_for_a_while(&mut self.chance), Vec::new())
    }

    /// The relays of one host, or of all.
    fn some_ways(&mut self) -> Vec<String> {
        let hosts = hosts();
        let chosen = usize::try_from(self.chance.below(hosts.len() as u64 + 1)).unwrap();
        hosts.get(chosen).map_or(hosts.clone(), |host| vec![host.clone()])
    }

    fn set_ways(&self, hosts: &[String], mode: Mode) {
        hosts.iter().flat_map(|host| &self.routes[host]).for_each(|way| way.set(mode));
    }

    fn cut_ways(&self, hosts: &[String]) {
        hosts.iter().flat_map(|host| &self.routes[host]).for_each(Relay::cut);
    }

    /// One host cannot reach one of the servers, and all others can.
    fn part_from_one_server(&mut self) -> Done {
        let (host, outage) = (self.chance.pick(&hosts()).clone(), self.some_while() * 2);
        let way = self.chance.pick(&self.routes[&host]);
        way.set(Mode::Refuse);
        way.cut();
        fault_lasts(outage);
        way.set(Mode::Pass);
        ("connections to one server refused", vec![host])
    }

    fn cut_connections(&mut self) -> Done {
        let hosts = self.some_ways();
        self.cut_ways(&hosts);
        ("connections cut", hosts)
    }

    fn refuse_connections(&mut self) -> Done {
        let (hosts, outage) = (self.some_ways(), self.some_while());
        self.set_ways(&hosts, Mode::Refuse);
        self.cut_ways(&hosts);
        fault_lasts(outage);
        self.set_ways(&hosts, Mode::Pass);
        ("connections refused", hosts)
    }

    /// Sometimes for longer than a statement may take; then the connections resume, or are cut.
    fn let_connections_hang(&mut self) -> Done {
        let (hosts, outage) = (self.some_ways(), self.some_while() * 3);
        self.set_ways(&hosts, Mode::Hang);
        fault_lasts(outage);
        if self.chance.below(2) == 0 {
            self.cut_ways(&hosts);
        }
        self.set_ways(&hosts, Mode::Pass);
        ("connections hung", hosts)
    }

    fn end_sessions(&mut self) -> Done {
        if let Some(servers) = self.target.servers() {
            servers.end_sessions();
        }
        ("sessions ended", Vec::new())
    }

    /// The clock keeps this offset until it gets another.
    fn step_a_clock(&mut self) -> Done {
        let mut clocks = hosts();
        clocks.extend(["database", "operator"].map(str::to_owned));
        let host = self.chance.pick(&clocks).clone();
        let clock = self.daemons.routes.clock(&host).to_owned();
        let seconds = *self.chance.pick(&OFFSETS);
        self.daemons.routes.clocks.step(&clock, seconds);
        (
            if seconds > 0 { "clock stepped forward" } else { "clock stepped back" },
            vec![format!("clock of {clock}")],
        )
    }
}
