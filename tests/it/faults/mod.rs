//! Runs everything at once while faults break the environment, then judges the records.
//!
//! Writers (files, another program's SQL, operators), hostile clients and a nemesis work in parallel.
//! `RULESYNCD_FAULTS_SEED` repeats a run, `RULESYNCD_FAULTS_SECONDS` sets its length. Each run prints what it judged:
//! the changes, the faults by kind, the subscribers, and the number of facts for each promise.
//!
//! The records are kept in `target/faults`, and can be judged again: `RULESYNCD_FAULTS_HISTORY=FILE cargo test --test
//! it faults::a_saved_history -- --ignored`.

mod audit;
pub(crate) mod chance;
mod clocks;
mod daemons;
mod history;
mod hostile_clients;
mod nemesis;
mod relay;
mod servers;
mod storm;
mod subscriber;
mod target;
mod writers;

use std::path::Path;

use self::clocks::{Clocks, Timeline};
use self::history::History;
use self::servers::{Servers, Topology};
use self::storm::{Setup, storm};
use self::target::Target;
use crate::support::mounts::Mount;
use crate::support::servers::Kind;

#[expect(clippy::disallowed_methods, reason = "a parameter of the test, not of the program")]
fn parameter(name: &str) -> Option<String> {
    std::env::var(format!("RULESYNCD_FAULTS_{name}")).ok()
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    parameter(name).map_or(default, |text| text.parse().unwrap())
}

/// Saves the records and judges them.
fn conclude(history: &History) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = project.join(format!("target/faults/{}-{}.json", history.backend, history.seed));
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, serde_json::to_vec(history).unwrap()).unwrap();
    judge(history, &kept);
}

/// Judges the records, and prints how much was judged.
#[expect(clippy::print_stdout, reason = "how much was judged is what a reader of the run wants to know")]
fn judge(history: &History, kept: &Path) {
    let verdict = history.judge();
    println!("{}, seed {}: {verdict}", history.backend, history.seed);
    let violations = verdict.violations.join("\n");
    assert!(violations.is_empty(), "{violations} (records in {})", kept.display());
    let not_judged = verdict.not_judged();
    assert!(not_judged.is_empty(), "no fact was there to judge the promises {not_judged:?} by: {verdict}");
}

#[test]
fn a_storm_on_sqlite() {
    let home = tempfile::tempdir().unwrap();
    storm_on_a_file(home.path(), false, number("SEED", 1));
}

#[test]
#[ignore = "needs root and libfaketime"]
fn a_storm_on_a_disk_that_fills_up_as_root() {
    let home = tempfile::tempdir().unwrap();
    let _mount = Mount::tmpfs(home.path(), "96m");
    storm_on_a_file(home.path(), true, number("SEED", 2));
}

fn storm_on_a_file(home: &Path, fills: bool, seed: u64) {
    std::fs::create_dir(home.join("db")).unwrap();
    let timeline = Timeline::begin();
    let clocks = Clocks::new(timeline, fills);
    let target = Target::Sqlite { home: home.to_owned(), fills };
    conclude(&storm(Setup { timeline, clocks, target }, seed, number("SECONDS", 20)));
}

fn storm_on(topology: Topology) {
    let timeline = Timeline::begin();
    let clocks = Clocks::new(timeline, true);
    let target = Target::Servers(Box::new(Servers::start(topology, clocks.environment("database"))));
    conclude(&storm(Setup { timeline, clocks, target }, number("SEED", 1), number("SECONDS", 30)));
}

#[test]
#[ignore = "needs PostgreSQL and libfaketime"]
fn a_storm_on_postgresql() {
    storm_on(Topology::Single(Kind::Postgres));
}

#[test]
#[ignore = "needs PostgreSQL and libfaketime"]
fn a_storm_on_postgresql_with_failovers() {
    storm_on(Topology::Standby(Kind::Postgres));
}

#[test]
#[ignore = "needs MariaDB and libfaketime"]
fn a_storm_on_mariadb() {
    storm_on(Topology::Single(Kind::MariaDb));
}

#[test]
#[ignore = "needs MariaDB and libfaketime"]
fn a_storm_on_mariadb_with_failovers() {
    storm_on(Topology::Standby(Kind::MariaDb));
}

#[test]
#[ignore = "needs MariaDB, Galera and libfaketime"]
fn a_storm_on_galera() {
    storm_on(Topology::Galera);
}

#[test]
#[ignore = "judges the records that RULESYNCD_FAULTS_HISTORY names"]
fn a_saved_history_is_judged_again() {
    let path = parameter("HISTORY").expect("RULESYNCD_FAULTS_HISTORY names the records to judge");
    let history: History = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    judge(&history, Path::new(&path));
}
