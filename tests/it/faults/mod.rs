//! Everything at once, while everything around it breaks; then a judge who only has the records.
//!
//! Writers (files, another program's SQL, operators) and a nemesis work side by side, seeded, so
//! that a failure can be tried again: `RULESYNCD_FAULTS_SEED`. `RULESYNCD_FAULTS_SECONDS` is how
//! long. Records are kept in `target/faults` and can be judged again:
//! `RULESYNCD_FAULTS_HISTORY=FILE cargo test --test it faults::a_saved_history -- --ignored`.

mod chance;
mod history;
mod nemesis;
mod storm;
mod subscriber;
mod writers;

use std::path::Path;

use self::history::History;
use self::nemesis::Target;
use self::storm::storm;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::Swarm;

#[expect(clippy::disallowed_methods, reason = "a parameter of the test, not of the program")]
fn parameter(name: &str) -> Option<String> {
    std::env::var(format!("RULESYNCD_FAULTS_{name}")).ok()
}

fn number(name: &str, default: u64) -> u64 {
    parameter(name).map_or(default, |text| text.parse().unwrap())
}

/// Judges, keeps the records, and prints how much was judged.
#[expect(clippy::print_stdout, reason = "how much was judged is what a reader of the run wants to know")]
fn conclude(history: &History) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = project.join(format!("target/faults/{}-{}.json", history.backend, history.seed));
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, serde_json::to_vec(history).unwrap()).unwrap();
    let verdict = history.judge();
    println!("{}, seed {}: {verdict}", history.backend, history.seed);
    assert!(
        verdict.violations.is_empty(),
        "{} (records in {})",
        verdict.violations.join("\n"),
        kept.display()
    );
}

#[test]
fn a_storm_on_sqlite() {
    conclude(&storm(&Swarm::on_sqlite(), Target::Sqlite, number("SEED", 1), number("SECONDS", 15)));
}

#[test]
#[ignore = "needs root"]
fn a_storm_on_a_disk_that_fills_up_as_root() {
    let mount = SmallDisk::mount();
    let swarm = Swarm::on(format!("sqlite://{}", mount.path().join("rules.db").display()));
    let target = Target::SmallDisk(mount.path().to_owned());
    conclude(&storm(&swarm, target, number("SEED", 2), number("SECONDS", 15)));
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        assert!(
            mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path()).status().unwrap().success()
        );
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn storm_on(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, url) = runtime.block_on(async {
        let server = Server::start(kind, &[]).await;
        let url = server.create("rules").await;
        (server, url)
    });
    let target = Target::Server(Box::new(server), runtime);
    conclude(&storm(&Swarm::on(url), target, number("SEED", 1), number("SECONDS", 30)));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_storm_on_postgresql() {
    storm_on(Kind::Postgres);
}

#[test]
#[ignore = "needs MariaDB"]
fn a_storm_on_mariadb() {
    storm_on(Kind::MariaDb);
}

#[test]
#[ignore = "judges the records that RULESYNCD_FAULTS_HISTORY names"]
fn a_saved_history_is_judged_again() {
    let Some(path) = parameter("HISTORY") else { return };
    let history: History = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let verdict = history.judge();
    assert!(verdict.violations.is_empty(), "{verdict}\n{}", verdict.violations.join("\n"));
}
