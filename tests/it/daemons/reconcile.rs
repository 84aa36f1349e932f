//! The reconciler alone, step by step, on a database in memory.

use std::fs;
use std::path::Path;

use rulesyncd::config::{MasterConfig, Percent};
use rulesyncd::master::reconcile::{Reconciler, Report};
use rulesyncd::master::scan::Extent;
use rulesyncd::store::{MasterSession, Scope};

use crate::support::databases::{made, system_clock};
use crate::support::rules::rule_text;
use crate::support::swarm::DEADLINE;

fn config(rules_dir: &Path) -> MasterConfig {
    MasterConfig {
        rules_dir: rules_dir.to_owned(),
        updated_by: "filesystem".to_owned(),
        rescan_interval: DEADLINE,
        max_delete: Percent::parse("20%").unwrap(),
        max_rule_size: 4096,
        socket: rules_dir.join("unused.sock"),
    }
}

async fn step(reconciler: &mut Reconciler, session: &mut MasterSession) -> Report {
    reconciler.reconcile(session, &Extent::All, false).await.unwrap()
}

#[tokio::test]
async fn a_row_goes_only_when_its_file_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let database = made("sqlite::memory:", system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    fs::write(&file, rule_text("A", 1)).unwrap();
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), 1);

    // As git and editors do: away, and back a moment later.
    fs::remove_file(&file).unwrap();
    let report = step(&mut reconciler, &mut session).await;
    assert_eq!((report.plan.deletes.len(), report.look_again), (0, vec!["a.yaml".to_owned()]));
    fs::write(&file, rule_text("A", 1)).unwrap();
    assert!(step(&mut reconciler, &mut session).await.plan.is_empty());

    // That it was away once does not count when it goes for good.
    fs::remove_file(&file).unwrap();
    assert_eq!(step(&mut reconciler, &mut session).await.plan.deletes.len(), 0);
    while step(&mut reconciler, &mut session).await.plan.deletes.is_empty() {}
    assert_eq!(session.rows(Scope::All).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_second_reconcile_of_everything_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for id in ["A", "B", "C"] {
        fs::write(dir.path().join(format!("{id}.yaml")), rule_text(id, 1)).unwrap();
    }
    let database = made("sqlite::memory:", system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    step(&mut Reconciler::new(config(dir.path()), system_clock()), &mut session).await;
    let rows = session.rows(Scope::All).await.unwrap();
    // A master that has just started knows nothing but what it looks at.
    let report = step(&mut Reconciler::new(config(dir.path()), system_clock()), &mut session).await;
    assert_eq!((report.plan.is_empty(), report.plan.unchanged), (true, 3));
    assert_eq!(session.rows(Scope::All).await.unwrap(), rows);
}
