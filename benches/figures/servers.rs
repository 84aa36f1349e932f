//! The databases, and what many idle workers cost them.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, DatabaseFollower, Follow as _, FollowConfig, RuleStore as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::plain;
use crate::support::databases::{config, system_clock};
use crate::support::servers::{Kind, Server};

/// A worker's part that follows the tables, and what it knows.
type Worker = (DatabaseFollower, Arc<Catalogue>);

/// Servers that are started when they are first wanted.
pub(crate) struct Databases {
    runtime: Runtime,
    postgres: OnceCell<Server>,
    mariadb: OnceCell<Server>,
    made: Cell<usize>,
}

/// A database of its own.
pub(crate) struct Fresh {
    address: String,
    _directory: Option<TempDir>,
}

impl Fresh {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Databases {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, postgres: OnceCell::new(), mariadb: OnceCell::new(), made: Cell::default() }
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn with_server<T>(&self, backend: &str, work: impl AsyncFnOnce(&Server) -> T) -> T {
        let (place, kind, many) = match backend {
            "postgresql" => (&self.postgres, Kind::Postgres, "-cmax_connections=500"),
            _ => (&self.mariadb, Kind::MariaDb, "--max-connections=500"),
        };
        let server = place.get_or_init(|| self.runtime.block_on(Server::start(kind, &[many])));
        self.runtime.block_on(work(server))
    }

    /// What a server computes during `work`, in percent of a core.
    pub(crate) fn computed(&self, backend: &str, work: impl AsyncFnOnce()) -> f64 {
        self.with_server(backend, async |server| {
            let (before, begun) = (cpu_time(server), Instant::now());
            work().await;
            (cpu_time(server) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0
        })
    }

    /// A database without tables.
    pub(crate) fn fresh(&self, backend: &str) -> Fresh {
        if backend == "sqlite" {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("rules.db");
            // The plain driver makes none.
            std::fs::File::create(&file).unwrap();
            return Fresh { address: format!("sqlite://{}", file.display()), _directory: Some(directory) };
        }
        self.made.set(self.made.get() + 1);
        let name = format!("measured{}", self.made.get());
        let address = self.with_server(backend, async |server| server.create(&name).await);
        Fresh { address, _directory: None }
    }
}

/// What a server computes, in percent of a core, while 200 idle workers poll it so often.
pub(crate) fn idle_workers<'a>(
    databases: &'a Databases,
    backend: &'static str,
    rules: usize,
    poll_interval: Duration,
) -> Figure<'a> {
    const WORKERS: u32 = 200;
    const SPAN: Duration = Duration::from_secs(4);
    let mut workers: Option<(Fresh, Vec<Worker>)> = None;
    let name = format!(
        "{WORKERS} idle workers of {rules} rules on {backend}, a poll in {poll_interval:?}, server's core"
    );
    Figure::new(name, Unit::Percent, move |contender| {
        // In this process, so of this build alone; the floor is a poll that asks for one number.
        let (database, followers) = workers.get_or_insert_with(|| {
            let database = databases.fresh(backend);
            let followers = databases.block_on(async {
                let mut hand = plain::hand(database.address()).await;
                let directory = tempfile::tempdir().unwrap();
                for number in 0..rules {
                    let text = crate::host::rule_text(number, 1);
                    std::fs::write(directory.path().join(format!("{number}.yaml")), text).unwrap();
                }
                plain::written(directory.path(), &mut hand).await;
                let mut followers = Vec::new();
                for _ in 0..WORKERS {
                    // Each worker is a process of its own, with its own connections.
                    let database = Database::open(&config(database.address()), system_clock()).await.unwrap();
                    let (mut follower, mut catalogue) = (database.follow(), Arc::<Catalogue>::default());
                    let delta = follower.poll(&catalogue).await.unwrap();
                    Arc::get_mut(&mut catalogue).unwrap().apply(delta);
                    followers.push((follower, catalogue));
                }
                // Until the overlap has passed, each poll reads it again.
                tokio::time::sleep(Duration::from_secs(7)).await;
                for (follower, catalogue) in &mut followers {
                    follower.poll(catalogue).await.unwrap();
                }
                followers
            });
            (database, followers)
        });
        databases.with_server(backend, async |server| {
            let mut hand = plain::hand(database.address()).await;
            let mut pace = tokio::time::interval(poll_interval / WORKERS);
            let (before, begun) = (cpu_time(server), Instant::now());
            while begun.elapsed() < SPAN {
                for (follower, catalogue) in followers.iter_mut() {
                    pace.tick().await;
                    match contender {
                        Contender::Floor => drop(hand.text("SELECT '1'").await),
                        Contender::Build(_) => drop(follower.poll(catalogue).await.unwrap()),
                    }
                }
            }
            let late = Instant::now() - pace.tick().await.into_std();
            if late > poll_interval {
                eprintln!("polls came {late:?} late: this machine is too slow for {WORKERS} workers of {rules} rules");
                return Vec::new();
            }
            vec![(cpu_time(server) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0]
        })
    })
    .rounds(3)
}

/// What a server computes for an idle poll, with 100,000 rules beside 100 rules. A poll that counts many rules, once in
/// five seconds a worker, is none of them.
pub(crate) fn idle_poll<'a>(databases: &'a Databases, backend: &'static str) -> Figure<'a> {
    const POLLS: u32 = 1_000;
    let mut workers: HashMap<usize, (Fresh, Worker)> = HashMap::new();
    let name = format!("server's time for an idle poll, 100000 rules beside 100, {backend}");
    Figure::new(name, Unit::Seconds, move |contender| {
        // In this process, so of this build alone.
        let (build, count) = crate::heard::size_of(contender);
        if build.as_os_str() != env!("CARGO_BIN_EXE_rulesyncd") {
            return Vec::new();
        }
        let (_database, (follower, catalogue)) = workers.entry(count).or_insert_with(|| {
            let database = databases.fresh(backend);
            let directory = tempfile::tempdir().unwrap();
            for number in 0..count {
                let text = crate::host::rule_text(number, 1);
                std::fs::write(directory.path().join(format!("{number}.yaml")), text).unwrap();
            }
            let worker = databases.block_on(async {
                let mut hand = plain::hand(database.address()).await;
                plain::written(directory.path(), &mut hand).await;
                if backend == "postgresql" {
                    // What the server does by itself after a load is no part of a poll.
                    hand.run("VACUUM ANALYZE ttp_rule").await;
                    hand.run("CHECKPOINT").await;
                }
                let follow = FollowConfig {
                    max_memory: 256 << 20,
                    full_scan_interval: Duration::from_secs(3_600),
                    ..FollowConfig::default()
                };
                let opened = Database::open(&config(database.address()), system_clock()).await.unwrap();
                let (mut follower, mut catalogue) =
                    (opened.following(follow).follow(), Arc::<Catalogue>::default());
                let delta = follower.poll(&catalogue).await.unwrap();
                assert_eq!(delta.rows, count as u64);
                Arc::get_mut(&mut catalogue).unwrap().apply(delta);
                tokio::time::sleep(Duration::from_secs(7)).await;
                (follower, catalogue)
            });
            (database, worker)
        });
        databases.with_server(backend, async |server| {
            // This one counts.
            follower.poll(catalogue).await.unwrap();
            let before = cpu_time(server);
            for _ in 0..POLLS {
                assert_eq!(follower.poll(catalogue).await.unwrap().rows, 0);
            }
            vec![(cpu_time(server) - before).as_secs_f64() / f64::from(POLLS)]
        })
    })
    .rounds(9)
    .goal(Goal::Times(1.5))
}

/// The time that the server's processes have computed for.
fn cpu_time(server: &Server) -> Duration {
    let of = |process: std::fs::DirEntry| {
        let at_home = std::fs::read_link(process.path().join("cwd")).ok()?.starts_with(server.path());
        at_home.then(|| crate::resting::cpu_time(&process.path()))
    };
    std::fs::read_dir("/proc").unwrap().map(Result::unwrap).filter_map(of).sum()
}
