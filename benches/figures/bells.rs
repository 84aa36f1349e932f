//! The master's bell on MySQL and MariaDB: what idle workers that wait for it cost the server, and how soon they hear.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, DatabaseFollower, Follow as _, RuleStore as _};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::contest::{Contender, Figure, Goal, Unit};
use crate::host::{Host, Subscriber, rule_text};
use crate::servers::{Databases, Fresh};
use crate::support::databases::{config, system_clock};

const BACKEND: &str = "mysql";
const RULES: usize = 100;
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A worker's part that follows the tables, and what it knows.
type Worker = (DatabaseFollower, Arc<Catalogue>);

/// A master in a process of its own, and so many workers' parts in this one: each has its own connection.
struct Swarm {
    host: Host,
    own: TempDir,
    workers: Vec<Worker>,
    version: usize,
    _database: Fresh,
}

impl Swarm {
    fn start(databases: &Databases, workers: usize) -> Self {
        let (database, own) = (databases.fresh(BACKEND), tempfile::tempdir().unwrap());
        for number in 0..RULES {
            std::fs::write(own.path().join(format!("R{number:06}.yaml")), rule_text(number, 1)).unwrap();
        }
        let mut host =
            Host::on(env!("CARGO_BIN_EXE_rulesyncd").as_ref(), own.path(), database.address().to_owned());
        host.run(&["sync"]);
        host.start("master");
        host.wait_for_master();
        let workers = databases.block_on(async {
            let mut begun = Vec::new();
            for _ in 0..workers {
                let opened = Database::open(&config(database.address()), system_clock()).await.unwrap();
                begun.push((opened.follow(), Arc::<Catalogue>::default()));
            }
            // Until the seconds after the load have passed, each poll reads it again.
            let (heard, _) = mpsc::unbounded_channel();
            followed(&mut begun, true, Duration::from_secs(8), &heard).await;
            begun
        });
        Self { host, own, workers, version: 1, _database: database }
    }

    /// Saves a rule, and returns its version and when that was.
    fn save(&mut self) -> (usize, Instant) {
        self.version += 1;
        let (number, new) = (self.version % RULES, self.own.path().join(".new"));
        std::fs::write(&new, rule_text(number, self.version)).unwrap();
        let start = Instant::now();
        std::fs::rename(new, self.own.path().join(format!("R{number:06}.yaml"))).unwrap();
        (self.version, start)
    }
}

/// Lets the workers poll for so long, and tells the versions that each finds. They wait for the bell between their polls, or
/// do not.
async fn followed(
    workers: &mut Vec<Worker>,
    wait: bool,
    span: Duration,
    heard: &mpsc::UnboundedSender<(usize, Instant)>,
) {
    let (begin, count) = (Instant::now(), u32::try_from(workers.len()).unwrap());
    let mut following = JoinSet::new();
    for ((mut follower, mut catalogue), number) in workers.drain(..).zip(0..) {
        let heard = heard.clone();
        following.spawn(async move {
            let mut next = begin + POLL_INTERVAL * number / count;
            sleep_until(next).await;
            while begin.elapsed() < span {
                let delta = follower.poll(&catalogue).await.unwrap();
                if delta.rows > 0 {
                    let versions = delta.rules.iter().flatten().map(|rule| rule.header.rule_version);
                    for version in versions {
                        heard.send((version.try_into().unwrap(), Instant::now())).ok();
                    }
                    Arc::get_mut(&mut catalogue).unwrap().apply(delta);
                }
                next = Instant::now() + POLL_INTERVAL;
                follower.idle_until(next);
                tokio::select! {
                    () = follower.woken(), if wait => {}
                    () = sleep_until(next) => {}
                }
            }
            (follower, catalogue)
        });
    }
    while let Some(worker) = following.join_next().await {
        workers.push(worker.unwrap());
    }
}

/// What the server computes while so many workers are idle and wait for the bell; the floor is the same without waiting.
pub(crate) fn idle(databases: &Databases, workers: usize) -> Figure<'_> {
    const SPAN: Duration = Duration::from_secs(6);
    let mut swarm = None;
    let name =
        format!("{workers} idle workers that wait for the bell beside polls alone, {BACKEND}, server's core");
    let figure = Figure::new(name, Unit::Percent, move |contender| {
        let swarm = swarm.get_or_insert_with(|| Swarm::start(databases, workers));
        let wait = matches!(contender, Contender::Build(_));
        let (heard, _) = mpsc::unbounded_channel();
        vec![databases.computed(BACKEND, async || followed(&mut swarm.workers, wait, SPAN, &heard).await)]
    });
    figure.rounds(9).goal(Goal::Times(1.0))
}

/// From a saved rule to the polls of so many workers that find it; one more may be frozen while it waits for the bell.
pub(crate) fn heard(databases: &Databases, workers: usize, is_one_frozen: bool) -> Figure<'_> {
    const SAVES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(1_370);
    let mut swarm = None;
    let frozen = if is_one_frozen { " beside a frozen one" } else { "" };
    let name = format!("saved to polled by {workers} workers{frozen}, {BACKEND}, beside polls alone");
    let figure = Figure::new(name, Unit::Seconds, move |contender| {
        let swarm = swarm.get_or_insert_with(|| {
            let mut swarm = Swarm::start(databases, workers);
            if is_one_frozen {
                let worker = swarm.host.start("worker");
                Subscriber::to(&swarm.host, r#"{"op":"subscribe"}"#).until("snapshot_end");
                std::thread::sleep(POLL_INTERVAL);
                let stopped =
                    std::process::Command::new("kill").args(["-STOP", &worker.to_string()]).status();
                assert!(stopped.unwrap().success());
            }
            swarm
        });
        let wait = matches!(contender, Contender::Build(_));
        databases.block_on(async {
            let (send, mut heard) = mpsc::unbounded_channel();
            let mut following = std::mem::take(&mut swarm.workers);
            let polling = followed(&mut following, wait, PAUSE * (SAVES + 1), &send);
            let saving = async {
                let mut saved = HashMap::new();
                for _ in 0..SAVES {
                    tokio::time::sleep(PAUSE).await;
                    saved.extend([swarm.save()]);
                }
                saved
            };
            let ((), saved) = tokio::join!(polling, saving);
            swarm.workers = following;
            let times = std::iter::from_fn(|| heard.try_recv().ok());
            times.filter_map(|(version, at)| Some((at - *saved.get(&version)?).as_secs_f64())).collect()
        })
    });
    let figure = figure.rounds(3).quantiles(&[0.5, 0.99]);
    if workers == 20 { figure.goal(Goal::AtMost(0.05)) } else { figure }
}
