//! The reconciler alone, step by step, with a database in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecursiveMode, Watcher as _};
use rulesyncd::config::{MasterConfig, Percent};
use rulesyncd::directory::DELETE_AFTER;
use rulesyncd::directory::ScanScope;
use rulesyncd::master::reconcile::{Reconciler, Report};
use rulesyncd::rule::RuleHeader;
use rulesyncd::store::{MasterSession, Scope};
use tokio::sync::Notify;

use crate::support::databases::{TestDatabase, made, system_clock};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::DEADLINE;

fn config(rules_dir: &Path) -> MasterConfig {
    MasterConfig {
        forget_workers_after: std::time::Duration::from_secs(604_800),
        lease: std::time::Duration::from_secs(15),
        rules_dir: rules_dir.to_owned(),
        follow_links_to: Vec::new(),
        updated_by: "filesystem".to_owned(),
        rescan_interval: DEADLINE,
        max_delete: Percent::parse("20%").unwrap(),
        max_rule_size: 4096,
        socket: rules_dir.join("unused.sock"),
    }
}

/// An invalid rule that names its id.
fn invalid_text(rule_id: &str, version: i32) -> String {
    rule_text(rule_id, version).replace("0.85", "1.85")
}

/// A rule that stays: the last one is never deleted without confirmation.
fn another_rule(directory: &Path) {
    fs::write(directory.join("Z.yaml"), rule_text("Z", 1)).unwrap();
}

async fn step(reconciler: &mut Reconciler, session: &mut MasterSession) -> Report {
    reconciler.reconcile(session, &ScanScope::All, None).await.unwrap()
}

#[tokio::test]
async fn a_row_goes_only_when_its_file_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let database = made("sqlite::memory:", system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    fs::write(&file, rule_text("A", 1)).unwrap();
    another_rule(dir.path());
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), 2);

    // As git and editors do: removed, and written a moment later.
    fs::remove_file(&file).unwrap();
    let report = step(&mut reconciler, &mut session).await;
    assert_eq!((report.plan.deletes.len(), report.rescan), (0, vec!["a.yaml".to_owned()]));
    fs::write(&file, rule_text("A", 1)).unwrap();
    assert!(step(&mut reconciler, &mut session).await.plan.is_empty());

    // An earlier absence does not count when the file is finally removed.
    fs::remove_file(&file).unwrap();
    assert_eq!(step(&mut reconciler, &mut session).await.plan.deletes.len(), 0);
    while step(&mut reconciler, &mut session).await.plan.deletes.is_empty() {}
    assert_eq!(session.rows(Scope::All).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_was_seen_while_the_database_was_away_is_missing_from_then_on_only() {
    let field = TestDatabase::sqlite_file().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("A.yaml");
    fs::write(&file, rule_text("A", 1)).unwrap();
    let (mut session, mut external) = (field.session().await, field.external().await);
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    step(&mut reconciler, &mut session).await;

    fs::remove_file(&file).unwrap();
    assert_eq!(step(&mut reconciler, &mut session).await.rescan, ["A.yaml"]);
    fs::write(&file, rule_text("A", 1)).unwrap();
    external.run("ALTER TABLE ttp_rule RENAME TO away").await;
    assert!(reconciler.reconcile(&mut session, &ScanScope::All, None).await.is_err());
    external.run("ALTER TABLE away RENAME TO ttp_rule").await;
    // Long enough for a missing file to count as deleted.
    std::thread::sleep(DELETE_AFTER);

    fs::remove_file(&file).unwrap();
    let report = step(&mut reconciler, &mut session).await;
    assert_eq!((report.plan.deletes, report.rescan), (vec![], vec!["A.yaml".to_owned()]));
}

#[tokio::test]
async fn a_file_that_comes_back_while_the_rows_are_read_keeps_its_row() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    // A writer then locks readers out.
    external.run("PRAGMA journal_mode = DELETE").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("A.yaml");
    fs::write(&file, rule_text("A", 1)).unwrap();
    another_rule(dir.path());
    let mut session = field.session().await;
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    step(&mut reconciler, &mut session).await;
    fs::remove_file(&file).unwrap();
    step(&mut reconciler, &mut session).await;
    // Long enough for a missing file to count as deleted.
    std::thread::sleep(DELETE_AFTER);

    external.run("BEGIN EXCLUSIVE").await;
    let names = ScanScope::Names(["A.yaml".to_owned(), "Z.yaml".to_owned()].into());
    // Once a scan reads a file, it has found which ones are missing.
    let reads = Arc::new(Notify::new());
    let noted = Arc::clone(&reads);
    let mut watcher = notify::recommended_watcher(move |_| noted.notify_one()).unwrap();
    watcher.watch(&dir.path().join("Z.yaml"), RecursiveMode::NonRecursive).unwrap();
    let (report, ()) = tokio::join!(reconciler.reconcile(&mut session, &names, None), async {
        reads.notified().await;
        fs::write(&file, rule_text("A", 1)).unwrap();
        external.run("COMMIT").await;
    });
    let report = report.unwrap();
    assert_eq!((report.plan.deletes, report.rescan), (vec![], vec!["A.yaml".to_owned()]));
    assert_eq!(session.rows(Scope::All).await.unwrap().len(), 2);
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
    // A master that has just started knows only what it reads.
    let report = step(&mut Reconciler::new(config(dir.path()), system_clock()), &mut session).await;
    assert_eq!((report.plan.is_empty(), report.plan.unchanged), (true, 3));
    assert_eq!(session.rows(Scope::All).await.unwrap(), rows);
}

#[tokio::test]
async fn what_another_changes_is_put_right_however_quiet_it_was_before() {
    let field = TestDatabase::sqlite_file().await;
    let dir = tempfile::tempdir().unwrap();
    for id in ["A", "B", "C"] {
        fs::write(dir.path().join(format!("{id}.yaml")), rule_text(id, 1)).unwrap();
    }
    let mut session = field.session().await;
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), 3);
    let mut external = field.external().await;
    let changed = rule_text("A", 1).replace("rule A", "another");
    for sql in [
        format!("UPDATE ttp_rule SET yaml_content = '{}' WHERE rule_id = 'A'", changed.replace('\'', "''")),
        "UPDATE ttp_rule SET rule_version = 9 WHERE rule_id = 'B'".to_owned(),
        "DELETE FROM ttp_rule WHERE rule_id = 'C'".to_owned(),
    ] {
        // Twice, so that the first result could hide the second.
        for _ in 0..2 {
            let report = step(&mut reconciler, &mut session).await;
            assert_eq!((report.plan.writes.len(), report.plan.unchanged), (0, 3), "{sql}");
        }
        external.run(&sql).await;
        let report = step(&mut reconciler, &mut session).await;
        assert_eq!((report.plan.writes.len(), report.plan.unchanged), (1, 2), "{sql}");
    }
    step(&mut reconciler, &mut session).await;
    fs::write(dir.path().join("A.yaml"), rule_text("A", 2)).unwrap();
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), 1);
    assert_eq!(
        external.text("SELECT rule_version || '' FROM ttp_rule WHERE rule_id = 'A'").await.unwrap(),
        "2"
    );
}

/// A reconciler of so many files that has written them to a database in memory.
async fn over_files(count: u32, file: impl Fn(u32) -> PathBuf) -> (Reconciler, MasterSession) {
    for number in 0..count {
        fs::write(file(number), rule_text(&format!("R{number:02}"), 1)).unwrap();
    }
    let database = made("sqlite::memory:", system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let mut reconciler = Reconciler::new(config(file(0).parent().unwrap()), system_clock());
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), count as usize);
    (reconciler, session)
}

#[tokio::test]
async fn a_file_that_was_looked_at_does_not_go_before_the_directory_that_was_emptied_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |number: u32| dir.path().join(format!("R{number:02}.yaml"));
    let (mut reconciler, mut session) = over_files(20, file).await;

    fs::remove_file(file(0)).unwrap();
    let mut rescan = ["R00.yaml".to_owned()].into();
    let mut emptied = false;
    while reconciler.held().is_none() {
        let extent = ScanScope::Names(rescan);
        let report = reconciler.reconcile(&mut session, &extent, None).await.unwrap();
        assert_eq!(report.plan.deletes, []);
        rescan = report.rescan.into_iter().collect();
        if !std::mem::replace(&mut emptied, true) {
            (1..20).for_each(|number| fs::remove_file(file(number)).unwrap());
        }
    }
    assert_eq!(session.rows(Scope::All).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_file_that_is_looked_at_alone_after_all_were_found_gone_goes_with_the_others_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = |number: u32| dir.path().join(format!("R{number:02}.yaml"));
    let (mut reconciler, mut session) = over_files(20, file).await;

    (0..20).for_each(|number| fs::remove_file(file(number)).unwrap());
    assert_eq!(step(&mut reconciler, &mut session).await.rescan.len(), 20);
    // A late event of one of them: this file is scanned, and no other.
    let late = ScanScope::Names(["R00.yaml".to_owned()].into());
    let began = std::time::Instant::now();
    while began.elapsed() < 12 * DELETE_AFTER {
        let report = reconciler.reconcile(&mut session, &late, None).await.unwrap();
        assert_eq!(report.plan.deletes, []);
    }
    assert_eq!(reconciler.held().map(|held| held.rule_ids.len()), Some(20));
}

#[tokio::test]
async fn what_stood_in_another_database_is_not_taken_to_stand_in_this_one() {
    let field = TestDatabase::sqlite_file().await;
    let dir = tempfile::tempdir().unwrap();
    for id in ["A", "B", "C"] {
        fs::write(dir.path().join(format!("{id}.yaml")), rule_text(id, 1)).unwrap();
    }
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    for _ in 0..2 {
        let mut session = field.session().await;
        assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), 3);
        for _ in 0..2 {
            assert_eq!(step(&mut reconciler, &mut session).await.plan.unchanged, 3);
        }
        session.close().await;
        let file = field.address.trim_start_matches("sqlite://").to_owned();
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{file}{end}"));
        }
        field.database.ensure_tables().await.unwrap();
    }
}

#[tokio::test]
async fn deletions_one_after_the_other_are_judged_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = |number: u32| dir.path().join(format!("R{number:02}.yaml"));
    let (mut reconciler, mut session) = over_files(60, file).await;

    // A fifth of the original rows may be deleted, in however many steps, and not one more.
    for (gone, left) in [(0..10, 50), (10..12, 48), (12..13, 48)] {
        // A reload in between does not reset the count.
        reconciler.configure(config(dir.path()));
        gone.for_each(|number| fs::remove_file(file(number)).unwrap());
        while !step(&mut reconciler, &mut session).await.rescan.is_empty() {}
        assert_eq!(session.rows(Scope::All).await.unwrap().len(), left);
    }
    assert_eq!(reconciler.held().map(|held| held.rule_ids.clone()), Some(vec!["R12".to_owned()]));
}

/// Another program may have written rows with the master's label.
#[tokio::test]
async fn a_row_whose_path_is_no_rule_files_goes_and_nothing_is_read_there() {
    let field = TestDatabase::sqlite_file().await;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("below")).unwrap();
    for name in ["A-1.yaml", "below/A.yaml", "notes.txt"] {
        fs::write(dir.path().join(name), rule_text("A", 1)).unwrap();
    }
    another_rule(dir.path());
    let (mut session, mut external) = (field.session().await, field.external().await);
    step(&mut Reconciler::new(config(dir.path()), system_clock()), &mut session).await;
    let outside = dir.path().join("notes.txt").display().to_string();
    for path in ["", "A-1.yaml", "below/A.yaml", "../x.yaml", &outside] {
        external.put("A", 1, field.now().await).await;
        external
            .run(&format!(
                "UPDATE ttp_rule SET updated_by = 'filesystem', source_path = '{path}' WHERE rule_id = 'A'"
            ))
            .await;
        let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
        let mut rescan = step(&mut reconciler, &mut session).await.rescan;
        let began = std::time::Instant::now();
        while !rescan.is_empty() {
            assert!(began.elapsed() < DEADLINE, "`{path}` is looked at for ever");
            let extent = ScanScope::Names(rescan.into_iter().collect());
            rescan = reconciler.reconcile(&mut session, &extent, None).await.unwrap().rescan;
        }
        let rows = session.rows(Scope::All).await.unwrap();
        assert_eq!(rows.iter().map(|row| &*row.rule_id).collect::<Vec<_>>(), ["Z"], "`{path}`");
        let (scanner, is_valid) = (reconciler.scanner(), |(_, rule): &(_, Result<_, _>)| rule.is_ok());
        let counts = (scanner.invalid().count(), scanner.rules().filter(is_valid).count());
        assert_eq!(counts, (0, 1), "`{path}` was read");
    }
}

#[tokio::test]
async fn a_foreign_row_that_differs_in_case_alone_does_not_stand_beside_the_files() {
    let field = TestDatabase::sqlite_file().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("abc.yaml"), rule_text("abc", 1)).unwrap();
    let (mut session, mut external) = (field.session().await, field.external().await);
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    step(&mut reconciler, &mut session).await;
    external.put("ABC", 9, field.now().await).await;
    step(&mut reconciler, &mut session).await;
    let ids: Vec<_> = session.rows(Scope::All).await.unwrap().into_iter().map(|row| row.rule_id).collect();
    assert_eq!(ids, ["abc"]);
    assert!(step(&mut reconciler, &mut session).await.plan.is_empty());
}

/// Edits that are reconciled alone, by the names of their files, leave the table as a comparison of everything wants it.
#[tokio::test]
async fn files_that_are_reconciled_by_name_leave_nothing_for_a_comparison_of_everything() {
    const FILES: usize = 5;
    for seed in 0..10_u64 {
        let field = TestDatabase::sqlite_memory().await;
        let dir = tempfile::tempdir().unwrap();
        let all = MasterConfig { max_delete: Percent::parse("100%").unwrap(), ..config(dir.path()) };
        another_rule(dir.path());
        let (mut session, mut external) = (field.session().await, field.external().await);
        let mut reconciler = Reconciler::new(all.clone(), system_clock());
        step(&mut reconciler, &mut session).await;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % bound
        };
        let mut story = Vec::new();
        for version in 1..=60 {
            let names: Vec<String> = (0..FILES).map(|file| format!("{file}.yaml")).collect();
            let (file, other) = (below(FILES), below(FILES));
            let rule_id = ["A", "a", "B", "b", "C", "D"][below(6)];
            let (path, other_path) = (dir.path().join(&names[file]), dir.path().join(&names[other]));
            let what = below(12);
            match what {
                0 => drop(fs::remove_file(&path)),
                1 => drop(fs::rename(&path, &other_path)),
                2 => fs::write(&path, "rule_id: [").unwrap(),
                4 | 5 => fs::write(&path, invalid_text(rule_id, version)).unwrap(),
                // Another program writes the row that the next edit concerns.
                3 => {
                    external.put(rule_id, 99, field.now().await).await;
                    step(&mut reconciler, &mut session).await;
                    fs::write(&path, rule_text(rule_id, version)).unwrap();
                }
                _ => fs::write(&path, rule_text(rule_id, version)).unwrap(),
            }
            story.push(format!("{what}: {} {} {rule_id} {version}", names[file], names[other]));
            let scope = ScanScope::Names([names[file].clone(), names[other].clone()].into());
            reconciler.reconcile(&mut session, &scope, None).await.unwrap();
            let mut judge = Reconciler::new(all.clone(), system_clock());
            let left = step(&mut judge, &mut session).await.plan;
            assert!(left.is_empty(), "seed {seed}: {story:#?} leaves {left:#?}");
        }
    }
}

#[tokio::test]
#[ignore = "starts a MariaDB server"]
async fn an_edit_reads_no_more_of_a_large_table_than_its_own_rows() {
    const RULES: usize = 5_000;
    let server = Server::start(Kind::MariaDb, &[]).await;
    let field = TestDatabase::server(&server.create("edits").await).await;
    let dir = tempfile::tempdir().unwrap();
    for number in 0..RULES {
        let id = format!("R{number}");
        fs::write(dir.path().join(format!("{id}.yaml")), rule_text(&id, 1)).unwrap();
    }
    let (mut session, mut external) = (field.session().await, field.external().await);
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    assert_eq!(step(&mut reconciler, &mut session).await.plan.writes.len(), RULES);
    let mut rows_read = async || {
        let counters = external.rows("SHOW GLOBAL STATUS LIKE 'Handler_read%'").await;
        counters.iter().map(|counter| counter[1].as_ref().unwrap().parse::<usize>().unwrap()).sum::<usize>()
    };
    let before = rows_read().await;
    for version in 2..=5 {
        fs::write(dir.path().join("R7.yaml"), rule_text("R7", version)).unwrap();
        let edited = ScanScope::Names(["R7.yaml".to_owned()].into());
        let report = reconciler.reconcile(&mut session, &edited, None).await.unwrap();
        assert_eq!(report.plan.writes.len(), 1);
    }
    let read = rows_read().await - before;
    assert!(read < RULES / 10, "four edits read {read} rows");
}

/// As git does it: the new name first, then the old one goes.
#[tokio::test]
async fn a_rule_that_is_renamed_and_broken_in_one_step_keeps_its_last_version() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let database = made("sqlite::memory:", system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let mut reconciler = Reconciler::new(config(dir.path()), system_clock());
    fs::write(at("R0010.yaml"), rule_text("R0010", 1)).unwrap();
    another_rule(dir.path());
    step(&mut reconciler, &mut session).await;

    fs::write(at("authorized_keys.yaml"), invalid_text("R0010", 2)).unwrap();
    fs::remove_file(at("R0010.yaml")).unwrap();
    let named = ScanScope::Names(["R0010.yaml".to_owned(), "authorized_keys.yaml".to_owned()].into());
    for scope in [&named, &named, &ScanScope::All] {
        reconciler.reconcile(&mut session, scope, None).await.unwrap();
        tokio::time::sleep(DELETE_AFTER).await;
    }
    let of = |rows: Vec<RuleHeader>| rows.into_iter().find(|row| row.rule_id == "R0010");
    assert_eq!(
        of(session.rows(Scope::All).await.unwrap()).unwrap().rule_version,
        1,
        "its last valid version"
    );

    fs::write(at("authorized_keys.yaml"), rule_text("R0010", 2)).unwrap();
    step(&mut reconciler, &mut session).await;
    let row = of(session.rows(Scope::All).await.unwrap()).unwrap();
    assert_eq!((row.rule_version, &*row.source_path), (2, "authorized_keys.yaml"));

    // Once no file names it, it goes.
    fs::write(at("authorized_keys.yaml"), invalid_text("R0011", 2)).unwrap();
    step(&mut reconciler, &mut session).await;
    assert!(of(session.rows(Scope::All).await.unwrap()).is_some(), "the file is invalid: its row stays");
    fs::remove_file(at("authorized_keys.yaml")).unwrap();
    step(&mut reconciler, &mut session).await;
    tokio::time::sleep(DELETE_AFTER).await;
    step(&mut reconciler, &mut session).await;
    assert!(of(session.rows(Scope::All).await.unwrap()).is_none());
}
