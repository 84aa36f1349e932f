use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::rule::{RuleState, StateKind, TableDelta};

/// A run that has a state and loses it, after it was `restored` or read the tables first.
fn run(path: &Path, restored: bool) {
    let broker = Broker::new(Arc::new(SystemClock), 10, 10);
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };
    let states = vec![Ok((RuleId::new("R1").unwrap(), disabled))];
    let loaded = TableDelta { states, ..TableDelta::default() };
    if restored {
        broker.restore(loaded, None, Duration::ZERO).unwrap();
    } else {
        broker.apply(loaded, |_, _| Vec::new());
    }
    broker.apply(TableDelta { state_keys: Some(Vec::new()), ..TableDelta::default() }, |_, _| Vec::new());
    let mut writer = Writer::new(path.to_owned(), broker.epoch.clone());
    writer.append(&Batch::after(&broker, 0)).unwrap();
}

#[test]
fn a_change_that_was_recorded_is_repeated_only_by_a_run_that_began_with_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let records = || std::fs::read_to_string(&path).unwrap().lines().count();
    run(&path, false);
    assert_eq!(records(), 1);
    // The cache was older than the record.
    run(&path, true);
    assert_eq!(records(), 1);
    // What the tables had at the start and lose is lost another time.
    run(&path, false);
    assert_eq!(records(), 2);
}
