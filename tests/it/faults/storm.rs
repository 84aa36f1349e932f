//! The storm, and the rest after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rulesyncd::clock::{Clock as _, SystemClock};
use serde_json::Value;

use super::chance::Chance;
use super::history::History;
use super::nemesis::{Target, hand, rage};
use super::subscriber::{Place, Subscriber, Temper};
use super::writers::{self, Author};
use crate::support::swarm::{Daemon, Swarm, wait_for};

const WORKERS: usize = 2;

/// The processes that are killed and started again.
pub(super) struct Daemons<'a> {
    swarm: &'a Swarm,
    master: Option<Daemon>,
    workers: Vec<Option<Daemon>>,
}

impl<'a> Daemons<'a> {
    fn start(swarm: &'a Swarm) -> Self {
        let mut daemons = Self { swarm, master: None, workers: (0..WORKERS).map(|_| None).collect() };
        daemons.restart_master();
        (0..WORKERS).for_each(|worker| daemons.restart_worker(worker));
        daemons
    }

    pub(super) fn restart_master(&mut self) {
        self.master.take().into_iter().for_each(Daemon::kill);
        self.master = Some(self.swarm.daemon("master", |command| {
            // Deletions here are many and meant; the guard has tests of its own.
            command.env("RULESYNCD_MASTER_MAX_DELETE", "100%").env("RULESYNCD_MASTER_RESCAN_INTERVAL", "2s");
        }));
    }

    /// Stops the master in its tracks while something happens.
    pub(super) fn while_the_master_sleeps(&self, something: impl FnOnce()) {
        let signal = |signal| self.master.iter().for_each(|master| master.signal(signal));
        signal("STOP");
        something();
        signal("CONT");
    }

    pub(super) fn restart_worker(&mut self, worker: usize) {
        self.workers[worker].take().into_iter().for_each(Daemon::kill);
        self.workers[worker] = Some(self.swarm.daemon("worker", |command| {
            command
                .env("RULESYNCD_SOCKET", self.swarm.path(&socket(worker)))
                .env("RULESYNCD_WORKER_CACHE", self.swarm.path(&format!("cache{worker}")))
                .env("RULESYNCD_WORKER_POLL_INTERVAL", "200ms")
                .env("RULESYNCD_WORKER_OVERLAP", "2s")
                .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "2s")
                .env("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "200ms")
                .env("RULESYNCD_WORKER_SUBSCRIBER_QUEUE", "16");
        }));
    }
}

fn socket(worker: usize) -> String {
    format!("events{worker}.sock")
}

/// Everything at once for so many seconds; then everything is mended, and what stands is written
/// down with what was heard.
pub(super) fn storm(swarm: &Swarm, mut target: Target, seed: u64, seconds: u64) -> History {
    let author = Mutex::new(Author::default());
    author.lock().unwrap().mend(swarm);
    let mut daemons = Daemons::start(swarm);
    let (end, calm) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let backend = target.backend();

    let mut places: Vec<(usize, Place)> = Vec::new();
    let mut listeners = Vec::new();
    for worker in 0..WORKERS {
        for temper in [Temper::Steady, Temper::Steady, Temper::Restless, Temper::Slow, Temper::Mute] {
            let place = Place::default();
            if temper != Temper::Mute {
                places.push((worker, Arc::clone(&place)));
            }
            let chance = Chance::new(seed, 100 + listeners.len() as u64);
            let socket = swarm.path(&socket(worker));
            let subscriber = Subscriber { socket, worker, temper, place, end: Arc::clone(&calm), chance };
            listeners.push(std::thread::spawn(move || subscriber.listen()));
        }
    }
    let mut faults = std::thread::scope(|scope| {
        let (author, end) = (&author, &end);
        scope.spawn(|| writers::write_files(swarm, author, Chance::new(seed, 1), end));
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let connect = async || hand(backend, swarm.url()).await;
            runtime.block_on(writers::write_rows(connect, || SystemClock.now(), Chance::new(seed, 2), end));
        });
        scope.spawn(|| writers::set_states(swarm, Chance::new(seed, 3), end));
        let nemesis =
            scope.spawn(|| rage(swarm, &mut target, &mut daemons, author, Chance::new(seed, 4), end));
        std::thread::sleep(Duration::from_secs(seconds));
        end.store(true, Ordering::Relaxed);
        nemesis.join().unwrap()
    });
    faults.retain(|_, count| *count > 0);

    author.lock().unwrap().mend(swarm);
    for worker in 0..WORKERS {
        let verify = || {
            let mut command = swarm.command(&["verify"]);
            let output = command.env("RULESYNCD_SOCKET", swarm.path(&socket(worker))).output().unwrap();
            output.status.success().then_some(())
        };
        wait_for(&format!("worker {worker} to be in step"), verify);
    }
    for (worker, place) in &places {
        wait_for("every subscriber to have heard everything", || {
            let socket = swarm.path(&socket(*worker)).display().to_string();
            let status: Value =
                serde_json::from_str(&swarm.succeed(&["status", "--json", "--socket", &socket])).unwrap();
            let (epoch, seq) = place.lock().unwrap().clone();
            (status["stream"]["epoch"] == *epoch && status["stream"]["seq"] == seq).then_some(())
        });
    }
    calm.store(true, Ordering::Relaxed);
    let heard = listeners.into_iter().map(|listener| listener.join().unwrap()).collect();
    let (table, states) = standing_rows(swarm, backend);
    let Author { valid: directory, invalid, .. } = author.into_inner().unwrap();
    let never_deleted = writers::standing().into_iter().collect();
    History {
        seed,
        backend: backend.to_owned(),
        faults,
        heard,
        directory,
        table,
        states,
        never_deleted,
        invalid,
    }
}

/// What the tables hold, read by another reader than the daemon's.
fn standing_rows(swarm: &Swarm, backend: &str) -> (BTreeMap<String, i64>, BTreeMap<String, String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut hand = hand(backend, swarm.url()).await.unwrap();
        let text = if backend == "mysql" { "CHAR" } else { "TEXT" };
        let now = SystemClock.now().to_sql_text();
        let (mut rules, mut states) = (BTreeMap::new(), BTreeMap::new());
        for id in writers::all() {
            let version = format!("SELECT CAST(rule_version AS {text}) FROM ttp_rule WHERE rule_id = '{id}'");
            if let Some(version) = hand.text(&version).await {
                rules.insert(id.clone(), version.parse().unwrap());
            }
            let state = format!(
                "SELECT state FROM ttp_rule_state WHERE rule_id = '{id}' AND (expires_at IS NULL OR expires_at > '{now}')"
            );
            if let Some(state) = hand.text(&state).await {
                states.insert(id, state);
            }
        }
        (rules, states)
    })
}
