//! Behaviour of SQLite files only.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rulesyncd::clock::{ManualClock, Timestamp};
use rulesyncd::rule::{Catalogue, RowFingerprint, RuleState, StateKind, Table};
use rulesyncd::store::{Database, Follow, RowIndex, RuleStore, RuleWrite, StoreError};

use super::assert_lock_lost;
use crate::support::databases::{TestDatabase, config, made, poll, system_clock};
use crate::support::rules::{id, in_words, rule_row};
use crate::support::swarm::copy_of_the_program;

fn address(directory: &Path) -> String {
    format!("sqlite://{}/rules.db", directory.display())
}

#[tokio::test]
async fn what_is_no_database_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.db");
    std::fs::write(&path, "these are not the rules you are looking for").unwrap();
    let error = Database::open(&config(&address(directory.path())), system_clock()).await.unwrap_err();
    let said = error.to_string();
    assert!(!error.is_transient(), "{said}");
    for word in ["rules.db", "not a SQLite database", "database.url"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(std::fs::read(&path).unwrap().len(), 43);
}

#[tokio::test]
async fn a_worker_waits_for_the_file_and_the_tables() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.db");
    let database = Database::open(&config(&address(directory.path())), system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (database.follow(), Arc::<Catalogue>::default());
    let error = follower.poll(&catalogue).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("waiting for"), "{error}");
    assert!(!path.exists(), "a worker made the file");
    std::fs::write(&path, "").unwrap();
    let error = follower.poll(&catalogue).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("waiting for the tables"), "{error}");

    let field = made(&address(directory.path()), system_clock()).await;
    let mut session = field.try_lock().await.unwrap().unwrap();
    session.apply(&[RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    assert_eq!(changes.iter().map(in_words).collect::<Vec<_>>(), ["written R1 v1"]);
}

/// Waits for wake-ups and polls, until something changed.
pub(super) async fn heard(follower: &mut impl Follow, catalogue: &mut Arc<Catalogue>) -> Vec<String> {
    let hearing = async {
        loop {
            follower.woken().await;
            let changes = poll(follower, catalogue).await.unwrap();
            if !changes.is_empty() {
                return changes.iter().map(in_words).collect();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), hearing).await.expect("no hint within 10 s")
}

#[tokio::test]
async fn a_commit_by_another_process_is_a_hint() {
    let field = TestDatabase::sqlite_file().await;
    let links = tempfile::tempdir().unwrap();
    let link = links.path().join("link.db");
    symlink(field.address.strip_prefix("sqlite://").unwrap(), &link).unwrap();
    for address in [field.address.clone(), format!("sqlite://{}", link.display())] {
        // Opened separately, so that nothing in this process wakes the follower.
        let other = Database::open(&config(&address), system_clock()).await.unwrap();
        let (mut follower, mut catalogue) = (other.follow(), Arc::<Catalogue>::default());
        poll(&mut follower, &mut catalogue).await.unwrap();
        let mut external = field.external().await;
        for version in 1..20 {
            external.put("R1", version, field.now().await).await;
            let expected = format!("written R1 v{version}");
            assert_eq!(heard(&mut follower, &mut catalogue).await, [expected], "{address}");
        }
    }
}

#[tokio::test]
async fn another_file_in_the_place_of_the_first_is_followed() {
    let (first, second) = (TestDatabase::sqlite_file().await, TestDatabase::sqlite_file().await);
    first.save(&[("R1", 1)]).await;
    second.save(&[("R2", 1)]).await;
    let other = Database::open(&config(&first.address), system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (other.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let path = |field: &TestDatabase| field.address.strip_prefix("sqlite://").unwrap().to_owned();
    let mut master = first.session().await;
    // A backup replaces the file, as by `mv`.
    std::fs::rename(path(&second), path(&first)).unwrap();
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    let changes: Vec<_> = changes.iter().map(in_words).collect();
    assert_eq!(changes, ["written R2 v1", "deleted R1"]);
    // The master no longer writes into the old file.
    let write = [RuleWrite::Upsert(rule_row("R3", 1))];
    assert_lock_lost(master.apply(&write).await, "the database's file was removed, or another");
    drop(master);
    first.save(&[("R3", 1)]).await;
    assert_eq!(heard(&mut follower, &mut catalogue).await, ["written R3 v1"]);
}

#[tokio::test]
async fn an_older_copy_of_the_same_rules_in_the_place_of_the_file_is_followed() {
    let (first, second) = (TestDatabase::sqlite_file().await, TestDatabase::sqlite_file().await);
    second.save(&[("R1", 1)]).await;
    let mut external = second.external().await;
    external.run("UPDATE ttp_rule SET updated_at = '2026-01-01 00:00:00.000000'").await;
    drop(external);
    first.save(&[("R1", 2)]).await;
    let other = Database::open(&config(&first.address), system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (other.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let path = |field: &TestDatabase| field.address.strip_prefix("sqlite://").unwrap().to_owned();
    std::fs::rename(path(&second), path(&first)).unwrap();
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    let changes: Vec<_> = changes.iter().map(in_words).collect();
    assert_eq!(changes, ["written R1 v1"]);
}

#[tokio::test]
async fn masters_that_reach_one_file_by_different_ways_have_one_lock() {
    let field = TestDatabase::sqlite_file().await;
    let file = PathBuf::from(field.address.strip_prefix("sqlite://").unwrap());
    let links = tempfile::tempdir().unwrap();
    symlink(file.parent().unwrap(), links.path().join("directory")).unwrap();
    symlink(&file, links.path().join("file.db")).unwrap();
    let held = field.session().await;
    let name = file.file_name().unwrap().to_string_lossy();
    for path in [format!("directory/{name}"), "file.db".to_owned()] {
        let other = made(&format!("sqlite://{}", links.path().join(path).display()), system_clock()).await;
        assert!(other.try_lock().await.unwrap().is_none());
    }
    held.close().await;
    let other = made(&format!("sqlite://{}/file.db", links.path().display()), system_clock()).await;
    assert!(other.try_lock().await.unwrap().is_some());
}

#[tokio::test]
async fn a_master_whose_lock_file_was_replaced_writes_nothing() {
    let field = TestDatabase::sqlite_file().await;
    let mut master = field.session().await;
    let lock = format!("{}.lock", field.address.strip_prefix("sqlite://").unwrap());
    std::fs::remove_file(&lock).unwrap();
    let mut second = field.session().await;
    assert_lock_lost(master.ping().await, "the lock's file was removed, or another");
    let write = [RuleWrite::Upsert(rule_row("R1", 1))];
    assert_lock_lost(master.apply(&write).await, "the lock's file");
    assert!(field.database.load_compiled().await.unwrap().is_empty());
    second.apply(&write).await.unwrap();
    second.ping().await.unwrap();
}

#[tokio::test]
async fn a_pipe_in_place_of_the_lock_file_is_refused_and_not_waited_for() {
    let field = TestDatabase::sqlite_file().await;
    let lock = format!("{}.lock", field.address.strip_prefix("sqlite://").unwrap());
    let is_made = Command::new("mkfifo").arg(&lock).status();
    assert!(is_made.unwrap().success());
    let error = field.database.try_lock().await.unwrap_err().to_string();
    assert!(error.contains(&lock) && error.contains("No such device"), "{error}");
}

#[tokio::test]
async fn a_database_that_another_keeps_locked_is_waited_for_and_no_longer() {
    let field = TestDatabase::sqlite_file().await;
    let mut quick = config(&field.address);
    quick.connect_timeout = Duration::from_millis(200);
    let database = Database::open(&quick, system_clock()).await.unwrap();
    let mut session = database.try_lock().await.unwrap().unwrap();
    let mut external = field.external().await;
    external.run("BEGIN IMMEDIATE").await;
    let write = [RuleWrite::Upsert(rule_row("R1", 1))];
    let error = session.apply(&write).await.unwrap_err();
    assert!(error.is_transient() && !matches!(error, StoreError::LockLost { .. }), "{error}");
    // Readers are not delayed.
    database.load_compiled().await.unwrap();
    external.run("COMMIT").await;
    assert_eq!(session.apply(&write).await.unwrap().rows, 1);
}

#[tokio::test]
async fn cells_of_the_wrong_kind_are_quarantined_alone() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    field.save(&[("R0", 1), ("R1", 1), ("R2", 1), ("R3", 1), ("R4", 1)]).await;
    for set in [
        "updated_at = 'yesterday' WHERE rule_id = 'R1'",
        "rule_version = 'one' WHERE rule_id = 'R2'",
        "yaml_content = x'ff00' WHERE rule_id = 'R3'",
        "rule_id = x'fe' WHERE rule_id = 'R4'",
    ] {
        external.run(&format!("UPDATE ttp_rule SET {set}")).await;
    }
    external.run("INSERT INTO ttp_rule_state (rule_id, state, confidence_max, set_at) VALUES ('R0', 'clipped', 'high', '2026-01-01')").await;
    let mut watcher = field.watcher_with(Duration::ZERO).await;
    let rules: Vec<_> = watcher.catalogue.rules().map(|(rule, _)| rule.rule_id().to_string()).collect();
    assert_eq!(rules, ["R0"]);
    let reasons: Vec<_> =
        watcher.catalogue.quarantined().map(|row| format!("{}: {}", row.key, row.reason)).collect();
    assert_eq!(
        reasons,
        [
            "R1: updated_at is `yesterday`; expected a time",
            "R2: rule_version is `one`; expected an integer",
            "R3: yaml_content is not UTF-8",
            "\u{fffd}: rule_id is not UTF-8",
            "R0: confidence_max is `high`; expected a number; the rule counts as enabled meanwhile",
        ]
    );
    // They are logged once.
    watcher.poll().await;
    assert_eq!(watcher.missed_by_watermark, 0);
    // A master whose files have these ids overwrites them.
    field.save(&[("R1", 2), ("R2", 2), ("R3", 2)]).await;
    assert_eq!(watcher.poll().await, ["written R1 v2", "written R2 v2", "written R3 v2"]);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_among_many_rows_is_quarantined_alone() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    let ids: Vec<_> = (0..100).map(|number| format!("R{number:03}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    external.run("UPDATE ttp_rule SET rule_id = x'fe' WHERE rule_id = 'R007'").await;
    external.put("R008", 2, field.now().await).await;
    assert_eq!(watcher.poll().await, ["written R008 v2", "deleted R007"]);
    let reasons: Vec<_> = watcher.catalogue.quarantined().map(|row| row.reason).collect();
    assert_eq!(reasons, ["rule_id is not UTF-8"]);
    assert!(watcher.poll().await.is_empty());
}

/// An empty index that replaces the file when it is used.
struct Swapping(String, String);

impl RowIndex for Swapping {
    fn count(&self, _table: Table) -> u64 {
        // Once: then there is nothing to put there.
        let _ = std::fs::rename(&self.0, &self.1);
        0
    }

    fn fingerprint(&self, _table: Table, _key: &str) -> Option<RowFingerprint> {
        None
    }
}

#[tokio::test]
async fn what_was_read_of_a_file_that_was_replaced_meanwhile_is_not_believed() {
    let (first, second) = (TestDatabase::sqlite_file().await, TestDatabase::sqlite_file().await);
    first.save(&[("R1", 1)]).await;
    second.save(&[("R2", 1)]).await;
    let path = |field: &TestDatabase| field.address.strip_prefix("sqlite://").unwrap().to_owned();
    let mut follower = first.database.follow();
    let error = follower.poll(&Arc::new(Swapping(path(&second), path(&first)))).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("replaced"), "{error}");
    let mut catalogue = Arc::<Catalogue>::default();
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    assert_eq!(changes.iter().map(in_words).collect::<Vec<_>>(), ["written R2 v1"]);
}

#[tokio::test]
async fn a_state_ends_in_whatever_words_its_end_is_written() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    for (rule_id, end) in [
        ("R1", "2026-01-01 00:00:00"),
        ("R2", "2026-01-01T00:00:00.5+02:00"),
        // Before now as text, and after it as a time.
        ("R3", "2026-01-01 00:00:00-23:00"),
    ] {
        let insert = "INSERT INTO ttp_rule_state (rule_id, state, expires_at, set_at)";
        external
            .run(&format!("{insert} VALUES ('{rule_id}', 'disabled', '{end}', '2025-12-31 00:00:00')"))
            .await;
    }
    let clock = Arc::new(ManualClock::at(Timestamp::parse("2026-01-01 12:00:00").unwrap()));
    let database = Database::open(&config(&field.address), clock).await.unwrap();
    let mut session = database.try_lock().await.unwrap().unwrap();
    let removed = session.remove_expired_states().await.unwrap();
    assert_eq!(removed.iter().map(|row| row.rule_id.as_str()).collect::<Vec<_>>(), ["R1", "R2"]);
    let left = database.states().await.unwrap();
    assert_eq!(left.iter().map(|row| row.rule_id.as_str()).collect::<Vec<_>>(), ["R3"]);
}

#[tokio::test]
async fn states_are_stamped_in_the_order_in_which_they_are_set_though_the_clock_steps_back() {
    let directory = tempfile::tempdir().unwrap();
    let start = Timestamp::parse("2026-01-01 12:00:00").unwrap();
    let clock = Arc::new(ManualClock::at(start));
    let database = made(&address(directory.path()), Arc::<ManualClock>::clone(&clock)).await;
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };
    let mut stamps = Vec::new();
    for (rule_id, behind) in [("R1", 0), ("R2", 0), ("R3", 3_600)] {
        clock.set(start.before(Duration::from_secs(behind)));
        stamps.push(database.set_state(&id(rule_id), disabled.clone()).await.unwrap().set_at);
    }
    assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
}

#[tokio::test]
async fn a_state_that_is_set_while_the_expired_ones_are_removed_stays() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    let now = field.now().await;
    let minute = Duration::from_secs(60);
    external.put_state("R1", "disabled", Some(now.before(minute)), now).await;
    let mut session = field.session().await;
    external.run("BEGIN IMMEDIATE").await;
    let later = now.after(minute).to_sql_text();
    external.run(&format!("UPDATE ttp_rule_state SET expires_at = '{later}', state = 'clipped'")).await;
    // The master reads the row as it was, and has to wait for the file.
    let mut removing = tokio::spawn(async move { session.remove_expired_states().await });
    let silence = Duration::from_millis(300);
    assert!(tokio::time::timeout(silence, &mut removing).await.is_err(), "it waits for the file");
    external.commit().await;
    assert!(removing.await.unwrap().unwrap().is_empty());
    assert_eq!(field.database.states().await.unwrap()[0].state, "clipped");
}

/// A worker only needs to read the file, whether a master runs or not.
#[tokio::test]
#[ignore = "needs root"]
async fn a_file_that_may_only_be_read_is_enough_as_root() {
    const NOBODY: u32 = 65_534;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = copy_of_the_program(directory.path());
    let address = address(directory.path());
    let nobody = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env("RULESYNCD_DATABASE_URL", &address).uid(NOBODY).gid(NOBODY);
        let done = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        (done.status.code(), format!("{out}{err}"))
    };
    let field = made(&address, system_clock()).await;
    let mut session = field.try_lock().await.unwrap().unwrap();
    let disabled = "disabled".parse().map(|state| RuleState { state, ..RuleState::default() });
    field.set_state(&"R7".parse().unwrap(), disabled.unwrap()).await.unwrap();
    session.apply(&[RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let list = |when: &str| {
        let (code, said) = nobody(&["state", "list"]);
        assert!(code == Some(0) && said.contains("R7"), "{when}: {said}");
    };
    list("beside a master");
    session.close().await;
    drop(field);
    assert!(!directory.path().join("rules.db-wal").exists());
    list("with nobody there");
    let (code, said) = nobody(&["state", "clear", "R7"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("right to write the file"), "{said}");
}
