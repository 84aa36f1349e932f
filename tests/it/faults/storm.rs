//! The storm, and the final state after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::audit;
use super::chance::Chance;
use super::clocks::{Clocks, Timeline};
use super::daemons::{Daemons, Routes, WORKERS, has_its_database, hosts, socket, watch};
use super::history::{FinalState, History, MASTERS, Roles, worker_host};
use super::hostile_clients;
use super::nemesis::Nemesis;
use super::relay::Relay;
use super::subscriber::{Behaviour, Progress, Subscriber};
use super::target::{External, Target, block_on};
use super::writers::{self, Author, Book};
use crate::support::swarm::{DEADLINE, Swarm, ask, wait_for, wait_within};

/// The environment of a storm.
pub(super) struct Setup {
    pub(super) timeline: Timeline,
    pub(super) clocks: Clocks,
    pub(super) target: Target,
}

/// Sets a flag when it is dropped, however the test ends.
struct SetOnDrop<'f>(&'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts a relay between each host and each server, and returns the addresses that lead through them.
fn start_relays(swarm: &Swarm, target: &Target) -> (BTreeMap<String, Vec<Relay>>, BTreeMap<String, String>) {
    let (mut relays, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for host in hosts() {
        let mut url = target.url();
        if let Some(servers) = target.servers() {
            let (mut ways, mut directories) = (Vec::new(), Vec::new());
            for (number, there) in servers.directories().into_iter().enumerate() {
                let here = swarm.path(&format!("way-{host}-{number}"));
                std::fs::create_dir(&here).unwrap();
                let name = servers.kind().socket();
                ways.push(Relay::start(here.join(name), there.join(name)));
                directories.push(here);
            }
            url = servers.url_for(&host, &directories);
            relays.insert(host.clone(), ways);
        }
        urls.insert(host, url);
    }
    (relays, urls)
}

/// Creates the tables with triggers, the invalid rows and files, and the first rules.
fn prepare(swarm: &Swarm, external: &External, author: &mut Author<'_>) {
    swarm.succeed(&["sync"]);
    block_on(async {
        let mut external = external.connect().await.unwrap();
        writers::poison_tables(&mut external).await;
        audit::begin(&mut external).await;
    });
    writers::poison_directory(swarm);
    author.mend();
    assert_eq!(swarm.run(&["sync"]).status.code(), Some(1), "the bad files are told of");
}

/// Runs everything at once for so many seconds, then repairs everything, and records the final state and what the
/// subscribers received.
pub(super) fn storm(setup: Setup, seed: u64, seconds: u64) -> History {
    let Setup { timeline, clocks, mut target } = setup;
    let swarm = &Swarm::on(target.url());
    let (name, servers) = (target.name(), target.servers().map_or(1, |servers| servers.directories().len()));
    let external = &target.external();
    let book = &Book::new(timeline);
    let author = &Mutex::new(Author::new(swarm, book));
    prepare(swarm, external, &mut author.lock().unwrap());

    let (relays, urls) = start_relays(swarm, &target);
    let routes = &Routes { swarm, clocks: &clocks, urls, one_clock: target.servers().is_none(), servers };
    let pids = &Mutex::default();
    let mut daemons = Daemons::start_all(routes, pids);
    let subscriber_relays: Vec<Relay> = (0..WORKERS)
        .map(|worker| Relay::start(detour(swarm, worker), socket(swarm, &worker_host(worker))))
        .collect();
    let [over, calm] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (end, at_rest, each_fault) = (&*over, &AtomicBool::new(false), &AtomicBool::new(false));
    let (progress, listeners) = listen(swarm, timeline, seed, [&over, &calm]);

    let (mut history, _ways) = std::thread::scope(|scope| {
        // All threads end when this one fails.
        let _flags = [end, at_rest, &calm].map(SetOnDrop);
        let watching = scope.spawn(move || watch(swarm, pids, timeline, at_rest));
        scope.spawn(move || writers::write_files(author, Chance::new(seed, 1), end));
        let writing = scope.spawn(move || {
            block_on(writers::write_rows(external, book, Chance::new(seed, 2), end));
        });
        let ordering = scope.spawn(|| {
            let run = |args: &[&str]| {
                let mut command = swarm.command(args);
                clocks.adopt(routes.clock("operator"), &mut command);
                command.output().unwrap()
            };
            writers::set_states(run, timeline, Chance::new(seed, 3), end)
        });
        let visiting = scope.spawn(move || {
            let doors: Vec<(String, PathBuf)> =
                hosts().into_iter().map(|host| (host.clone(), socket(swarm, &host))).collect();
            hostile_clients::visit(&doors, timeline, Chance::new(seed, 5), end)
        });
        let (target, daemons) = (&mut target, &mut daemons);
        let nemesis_thread = scope.spawn(move || {
            let mut nemesis = Nemesis {
                swarm,
                target,
                daemons,
                routes: relays,
                subscribers: subscriber_relays,
                author,
                chance: Chance::new(seed, 4),
                timeline,
                faults: Vec::new(),
                restarts: Vec::new(),
                takeovers: Vec::new(),
            };
            nemesis.run(end, each_fault);
            nemesis
        });
        std::thread::sleep(Duration::from_secs(seconds));
        // A slow machine needs longer until there was each fault.
        wait_within(4 * DEADLINE, "each fault", || each_fault.load(Ordering::Relaxed).then_some(()));
        end.store(true, Ordering::Relaxed);
        let nemesis = nemesis_thread.join().unwrap();
        let (orders, hostile_clients) = (ordering.join().unwrap(), visiting.join().unwrap());
        writing.join().unwrap();

        clocks.put_right();
        author.lock().unwrap().mend();
        wait_until_idle(swarm, external, &progress);
        at_rest.store(true, Ordering::Relaxed);
        calm.store(true, Ordering::Relaxed);
        let history = History {
            faults: nemesis.faults,
            restarts: nemesis.restarts,
            takeovers: nemesis.takeovers,
            orders,
            hostile_clients,
            samples: watching.join().unwrap(),
            ..History::default()
        };
        // The daemons must still be reachable through these.
        (history, (nemesis.routes, nemesis.subscribers))
    });
    history.transcripts = listeners.into_iter().map(|listener| listener.join().unwrap()).collect();
    record_final_state(&mut history, swarm, external, author);
    history.masters = daemons.end_all();
    (history.servers, history.lives, history.ended) = (servers, daemons.lives, daemons.ended);
    (history.seed, history.backend, history.began_at) = (seed, name.to_owned(), timeline.began_at);
    history.texts = std::mem::take(&mut book.texts.lock().unwrap());
    history.removals = std::mem::take(&mut book.removals.lock().unwrap());
    history.clocks = clocks.steps();
    history.clocks_can_be_stepped = clocks.can_be_stepped();
    if routes.one_clock
        && let Some(steps) = history.clocks.get("database").cloned()
    {
        history.clocks.extend(hosts().into_iter().map(|host| (host, steps.clone())));
    }
    history
}

/// The relay's socket for the subscribers whose connections are cut.
fn detour(swarm: &Swarm, worker: usize) -> PathBuf {
    swarm.path(&format!("detour{worker}.sock"))
}

type Listener = std::thread::JoinHandle<super::history::Transcript>;

fn listen(
    swarm: &Swarm,
    timeline: Timeline,
    seed: u64,
    [over, end]: [&Arc<AtomicBool>; 2],
) -> (Vec<(usize, Behaviour, Progress)>, Vec<Listener>) {
    let (mut progress, mut listeners) = (Vec::new(), Vec::new());
    for worker in 0..WORKERS {
        for behaviour in Behaviour::ALL {
            let place = Progress::default();
            if behaviour != Behaviour::Mute {
                progress.push((worker, behaviour, Arc::clone(&place)));
            }
            let socket = match behaviour {
                Behaviour::Cut | Behaviour::Restless => detour(swarm, worker),
                _ => socket(swarm, &worker_host(worker)),
            };
            let (over, end) = (Arc::clone(over), Arc::clone(end));
            let chance = Chance::new(seed, 100 + listeners.len() as u64);
            let subscriber = Subscriber { socket, worker, behaviour, place, over, end, chance, timeline };
            listeners.push(std::thread::spawn(move || subscriber.listen()));
        }
    }
    (progress, listeners)
}

/// Waits until every daemon has its database, `verify` finds no difference, no state is about to expire, and every
/// subscriber has every change.
fn wait_until_idle(swarm: &Swarm, external: &External, progress: &[(usize, Behaviour, Progress)]) {
    for host in hosts() {
        wait_for(&format!("{host} to have its database"), || {
            ask(&socket(swarm, &host)).filter(has_its_database)
        });
    }
    wait_for("no state to be about to end", || {
        let ending = block_on(async { Some(audit::ending(&mut external.connect().await?).await) });
        ending.filter(|count| count == "0")
    });
    for worker in 0..WORKERS {
        let verify = || {
            let mut command = swarm.command(&["verify", "--json", "--database-url", swarm.url()]);
            let output =
                command.env("RULESYNCD_SOCKET", socket(swarm, &worker_host(worker))).output().unwrap();
            let verdict: Value = serde_json::from_slice(&output.stdout).ok()?;
            // The invalid files were put there on purpose.
            let is_meant =
                |row: &&Value| row["what"].as_str().is_some_and(|what| what.contains(" is invalid: "));
            let differences = verdict["differences"].as_array()?.iter().filter(|row| !is_meant(row));
            let differing = differences.map(|row| row["rule_id"].as_str().unwrap());
            let left_out = verdict["left_out"].as_array()?.is_empty();
            (left_out && differing.collect::<Vec<_>>().iter().all(|id| writers::BAD_ROWS.contains(id)))
                .then_some(())
        };
        wait_for(&format!("worker {worker} to be in sync"), verify);
    }
    for (worker, behaviour, place) in progress {
        wait_for(&format!("{behaviour:?} of worker {worker} to have transcript everything"), || {
            let status = ask(&socket(swarm, &worker_host(*worker)))?;
            let (epoch, seq) = place.lock().unwrap().clone();
            (status["stream"]["epoch"] == *epoch && status["stream"]["seq"] == seq).then_some(())
        });
    }
}

/// Records the final state, and what the daemons say about it.
fn record_final_state(history: &mut History, swarm: &Swarm, external: &External, author: &Mutex<Author<'_>>) {
    let (table, states) = block_on(async {
        let mut external = external.connect().await.unwrap();
        history.audit = audit::read(&mut external).await;
        audit::final_rows(&mut external).await
    });
    let names = |status: &Value, list: &str, key: &str| -> BTreeSet<String> {
        let found = status[list].as_array().unwrap().iter();
        found.map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
    };
    let status = |host: &str| wait_for("a status", || ask(&socket(swarm, host)));
    let holder = MASTERS.map(status).into_iter().find(|status| status["lock"] == "held").unwrap();
    let rejected = |worker| {
        let host = worker_host(worker);
        let rows = names(&status(&host), "quarantined", "rule_id");
        (host, rows)
    };
    let author = author.lock().unwrap();
    history.final_state = FinalState {
        directory: author.valid.clone(),
        table,
        states,
        rejected_files: names(&holder, "broken", "source_path"),
        rejected_rows: (0..WORKERS).map(rejected).collect(),
    };
    history.roles = Roles {
        permanent: writers::permanent().into_iter().collect(),
        foreign: writers::foreign().into_iter().collect(),
        bad_files: writers::BAD_FILES.map(str::to_owned).into(),
        bad_rows: writers::BAD_ROWS.map(str::to_owned).into(),
        invalid: author.invalid.clone(),
    };
}
