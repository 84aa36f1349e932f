//! The storm, and the rest after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::audit;
use super::chance::Chance;
use super::clocks::{Clocks, Timeline};
use super::daemons::{Daemons, MASTERS, WORKERS, Ways, ask, has_its_database, hosts, socket, watch};
use super::guests;
use super::history::{Cast, History, Rest, worker_host};
use super::nemesis::Nemesis;
use super::relay::Relay;
use super::subscriber::{Place, Subscriber, Temper};
use super::target::{Target, block_on, hand};
use super::writers::{self, Author, Book};
use crate::support::swarm::{Swarm, wait_for};

/// Where a storm takes place.
pub(super) struct Stage {
    pub(super) timeline: Timeline,
    pub(super) clocks: Clocks,
    pub(super) target: Target,
}

/// A flag that is raised at the end, however that comes.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A relay for each host between it and the server, and the address that leads through it.
fn lay_ways(swarm: &Swarm, target: &Target) -> (BTreeMap<String, Relay>, BTreeMap<String, String>) {
    let (mut relays, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for host in hosts() {
        let mut url = target.url();
        if let Target::Server { server, .. } = target {
            let here = swarm.path(&format!("way-{host}"));
            std::fs::create_dir(&here).unwrap();
            let name = if target.backend() == "mysql" { "sock" } else { ".s.PGSQL.5432" };
            relays.insert(host.clone(), Relay::start(here.join(name), server.path().join(name)));
            url = url.replace(&server.path().display().to_string(), &here.display().to_string());
        }
        urls.insert(host, url);
    }
    (relays, urls)
}

/// Tables with triggers, and what is bad in them and in the directory; then the first rules.
fn set_the_scene(swarm: &Swarm, target: &Target, author: &mut Author<'_>) {
    swarm.succeed(&["sync"]);
    block_on(async {
        let mut hand = hand(target.backend(), swarm.url()).await.unwrap();
        writers::poison_tables(&mut hand).await;
        audit::begin(&mut hand).await;
    });
    writers::poison_directory(swarm);
    author.mend();
    assert_eq!(swarm.run(&["sync"]).status.code(), Some(1), "the bad files are told of");
}

/// Everything at once for so many seconds; then everything is mended, and what stands is written
/// down with what was heard.
pub(super) fn storm(stage: Stage, seed: u64, seconds: u64) -> History {
    let Stage { timeline, clocks, mut target } = stage;
    let swarm = &Swarm::on(target.url());
    let (backend, name) = (target.backend(), target.name());
    let book = &Book::new(timeline);
    let author = &Mutex::new(Author::new(swarm, book));
    set_the_scene(swarm, &target, &mut author.lock().unwrap());

    let (relays, urls) = lay_ways(swarm, &target);
    let ways = &Ways { swarm, clocks: &clocks, urls, one_clock: !target.is_server() };
    let pids = &Mutex::default();
    let mut daemons = Daemons::start_all(ways, pids);
    let subscriber_relays: Vec<Relay> = (0..WORKERS)
        .map(|worker| Relay::start(detour(swarm, worker), socket(swarm, &worker_host(worker))))
        .collect();
    let [over, calm] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (end, at_rest) = (&*over, &AtomicBool::new(false));
    let (places, listeners) = listen(swarm, timeline, seed, [&over, &calm]);

    let (mut history, _ways) = std::thread::scope(|scope| {
        // Nobody goes on when this fails.
        let _flags = [end, at_rest, &calm].map(Raised);
        let watching = scope.spawn(move || watch(swarm, pids, timeline, at_rest));
        scope.spawn(move || writers::write_files(author, Chance::new(seed, 1), end));
        let writing = scope.spawn(move || {
            let connect = async || hand(backend, swarm.url()).await;
            block_on(writers::write_rows(connect, book, Chance::new(seed, 2), end));
        });
        let ordering = scope.spawn(|| {
            let run = |args: &[&str]| {
                let mut command = swarm.command(args);
                clocks.adopt(ways.clock("operator"), &mut command);
                command.output().unwrap()
            };
            writers::set_states(run, timeline, Chance::new(seed, 3), end)
        });
        let visiting = scope.spawn(move || {
            let doors: Vec<(String, PathBuf)> =
                hosts().into_iter().map(|host| (host.clone(), socket(swarm, &host))).collect();
            guests::visit(&doors, timeline, Chance::new(seed, 5), end)
        });
        let (target, daemons) = (&mut target, &mut daemons);
        let raging = scope.spawn(move || {
            let mut nemesis = Nemesis {
                swarm,
                target,
                daemons,
                ways: relays,
                subscribers: subscriber_relays,
                author,
                chance: Chance::new(seed, 4),
                timeline,
                faults: Vec::new(),
                restarts: Vec::new(),
                takeovers: Vec::new(),
            };
            nemesis.rage(end);
            nemesis
        });
        std::thread::sleep(Duration::from_secs(seconds));
        end.store(true, Ordering::Relaxed);
        let nemesis = raging.join().unwrap();
        let (orders, guests) = (ordering.join().unwrap(), visiting.join().unwrap());
        writing.join().unwrap();

        clocks.put_right();
        author.lock().unwrap().mend();
        come_to_rest(swarm, backend, &places);
        at_rest.store(true, Ordering::Relaxed);
        calm.store(true, Ordering::Relaxed);
        let history = History {
            faults: nemesis.faults,
            restarts: nemesis.restarts,
            takeovers: nemesis.takeovers,
            orders,
            guests,
            samples: watching.join().unwrap(),
            ..History::default()
        };
        // The daemons are still to be asked, over these.
        (history, (nemesis.ways, nemesis.subscribers))
    });
    history.heard = listeners.into_iter().map(|listener| listener.join().unwrap()).collect();
    write_down(&mut history, swarm, backend, author);
    history.masters = daemons.end_all();
    (history.lives, history.ended) = (daemons.lives, daemons.ended);
    (history.seed, history.backend, history.began_at) = (seed, name.to_owned(), timeline.began_at);
    history.texts = std::mem::take(&mut book.texts.lock().unwrap());
    history.removals = std::mem::take(&mut book.removals.lock().unwrap());
    history.clocks = clocks.steps();
    history.clocks_can_be_stepped = clocks.can_be_stepped();
    if ways.one_clock
        && let Some(steps) = history.clocks.get("database").cloned()
    {
        history.clocks.extend(hosts().into_iter().map(|host| (host, steps.clone())));
    }
    history
}

/// The way of those subscribers that are cut off.
fn detour(swarm: &Swarm, worker: usize) -> PathBuf {
    swarm.path(&format!("detour{worker}.sock"))
}

type Listener = std::thread::JoinHandle<super::history::Heard>;

fn listen(
    swarm: &Swarm,
    timeline: Timeline,
    seed: u64,
    [over, end]: [&Arc<AtomicBool>; 2],
) -> (Vec<(usize, Temper, Place)>, Vec<Listener>) {
    let (mut places, mut listeners) = (Vec::new(), Vec::new());
    for worker in 0..WORKERS {
        for temper in Temper::ALL {
            let place = Place::default();
            if temper != Temper::Mute {
                places.push((worker, temper, Arc::clone(&place)));
            }
            let socket = match temper {
                Temper::Cut | Temper::Restless => detour(swarm, worker),
                _ => socket(swarm, &worker_host(worker)),
            };
            let (over, end) = (Arc::clone(over), Arc::clone(end));
            let chance = Chance::new(seed, 100 + listeners.len() as u64);
            let subscriber = Subscriber { socket, worker, temper, place, over, end, chance, timeline };
            listeners.push(std::thread::spawn(move || subscriber.listen()));
        }
    }
    (places, listeners)
}

/// Waits until every daemon has its database, directory, tables and workers say the same, no state is
/// about to end, and every subscriber has heard everything.
fn come_to_rest(swarm: &Swarm, backend: &str, places: &[(usize, Temper, Place)]) {
    for host in hosts() {
        wait_for(&format!("{host} to have its database"), || {
            ask(&socket(swarm, &host)).filter(has_its_database)
        });
    }
    wait_for("no state to be about to end", || {
        let ending = block_on(async { Some(audit::ending(&mut hand(backend, swarm.url()).await?).await) });
        ending.filter(|count| count == "0")
    });
    for worker in 0..WORKERS {
        let verify = || {
            let mut command = swarm.command(&["verify", "--json", "--database-url", swarm.url()]);
            let output =
                command.env("RULESYNCD_SOCKET", socket(swarm, &worker_host(worker))).output().unwrap();
            let verdict: Value = serde_json::from_slice(&output.stdout).ok()?;
            // The files that hold no rule were put there to be invalid.
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
    for (worker, temper, place) in places {
        wait_for(&format!("{temper:?} of worker {worker} to have heard everything"), || {
            let status = ask(&socket(swarm, &worker_host(*worker)))?;
            let (epoch, seq) = place.lock().unwrap().clone();
            (status["stream"]["epoch"] == *epoch && status["stream"]["seq"] == seq).then_some(())
        });
    }
}

/// What stands at rest, and what the daemons tell of it.
fn write_down(history: &mut History, swarm: &Swarm, backend: &str, author: &Mutex<Author<'_>>) {
    let (table, states) = block_on(async {
        let mut hand = hand(backend, swarm.url()).await.unwrap();
        history.audit = audit::read(&mut hand).await;
        audit::standing(&mut hand).await
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
    history.rest = Rest {
        directory: author.valid.clone(),
        table,
        states,
        rejected_files: names(&holder, "broken", "source_path"),
        rejected_rows: (0..WORKERS).map(rejected).collect(),
    };
    history.cast = Cast {
        standing: writers::standing().into_iter().collect(),
        foreign: writers::foreign().into_iter().collect(),
        bad_files: writers::BAD_FILES.map(str::to_owned).into(),
        bad_rows: writers::BAD_ROWS.map(str::to_owned).into(),
        invalid: author.invalid.clone(),
    };
}
