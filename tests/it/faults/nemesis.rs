//! Who breaks things.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection as _;
use tokio::runtime::Runtime;

use super::chance::Chance;
use super::storm::Daemons;
use super::writers::Author;
use crate::support::databases::Hand;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::Swarm;

/// The database that is broken.
pub(super) enum Target {
    Sqlite,
    /// A SQLite file on a disk of this mount point, which is filled to the last byte.
    SmallDisk(PathBuf),
    Server(Box<Server>, Runtime),
}

impl Target {
    pub(super) fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite | Self::SmallDisk(_) => "sqlite",
            Self::Server(server, _) if server.kind() == Kind::Postgres => "postgresql",
            Self::Server(..) => "mysql",
        }
    }
}

/// Another program's connection; `None` while the database is away.
pub(super) async fn hand(backend: &str, url: &str) -> Option<Hand> {
    Some(match backend {
        "sqlite" => Hand::Sqlite(sqlx::SqliteConnection::connect(url).await.ok()?),
        "mysql" => Hand::MySql(sqlx::MySqlConnection::connect(url).await.ok()?),
        _ => Hand::Postgres(sqlx::PgConnection::connect(url).await.ok()?),
    })
}

/// Breaks things until the end, each only once the last is mended, and tells how often what.
pub(super) fn rage(
    swarm: &Swarm,
    target: &mut Target,
    daemons: &mut Daemons<'_>,
    author: &Mutex<Author>,
    mut chance: Chance,
    end: &AtomicBool,
) -> BTreeMap<String, usize> {
    let mut done = BTreeMap::new();
    while !end.load(Ordering::Relaxed) {
        chance.pause(1_200);
        let what = match chance.below(7) {
            0 | 1 => {
                daemons.restart_master();
                "master killed"
            }
            2 | 3 => {
                daemons.restart_worker(usize::try_from(chance.below(2)).unwrap());
                "worker killed"
            }
            4 => {
                swap_directory(swarm, author, &mut chance);
                "directory swapped"
            }
            5 => {
                daemons.while_the_master_sleeps(|| overflow_the_watch(swarm));
                "watch overflowed"
            }
            _ => break_database(swarm, target, &mut chance),
        };
        *done.entry(what.to_owned()).or_default() += 1;
    }
    done
}

/// Another directory with the same files takes the place of the first, which is away for a moment.
fn swap_directory(swarm: &Swarm, author: &Mutex<Author>, chance: &mut Chance) {
    let _nobody_writes = author.lock().unwrap();
    let (staged, old) = (swarm.path("staged"), swarm.path("old"));
    fs::create_dir(&staged).unwrap();
    for entry in fs::read_dir(swarm.rules()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), staged.join(entry.file_name())).unwrap();
    }
    fs::rename(swarm.rules(), &old).unwrap();
    chance.pause(300);
    fs::rename(&staged, swarm.rules()).unwrap();
    fs::remove_dir_all(&old).unwrap();
}

/// More events than the kernel keeps for one watch (fs.inotify.max_queued_events, 16,384).
fn overflow_the_watch(swarm: &Swarm) {
    // Two files in turn: the kernel merges an event with an equal one before it.
    let notes = ["notes.txt", "more.txt"].map(|name| swarm.rules().join(name));
    for _ in 0..4_000 {
        for note in &notes {
            // A directory that is being swapped is away for a moment.
            let _ = fs::write(note, "x");
        }
    }
}

fn break_database(swarm: &Swarm, target: &mut Target, chance: &mut Chance) -> &'static str {
    let away = Duration::from_millis(300 + chance.below(1_500));
    match target {
        Target::Sqlite => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut hand = hand("sqlite", swarm.url()).await.unwrap();
                if hand.try_run("BEGIN IMMEDIATE").await.is_ok() {
                    tokio::time::sleep(away).await;
                    hand.run("ROLLBACK").await;
                }
            });
            "database locked"
        }
        Target::SmallDisk(mount) => {
            let filler = mount.join("filler");
            let mut file = fs::File::create(&filler).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
            std::thread::sleep(away);
            drop(file);
            fs::remove_file(filler).unwrap();
            "disk full"
        }
        Target::Server(server, runtime) => {
            server.stop();
            std::thread::sleep(away);
            runtime.block_on(server.go_on());
            "database stopped"
        }
    }
}
