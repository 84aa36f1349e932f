//! What a watermark alone gets wrong, and what must come out right, on every database.

mod extremes;
mod quiet;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rulesyncd::rule::{RuleState, StateKind};
use rulesyncd::store::{Follow, RowsAsRead, RuleStore, RuleWrite, Scope, StoreError};

use crate::support::databases::{OVERLAP, PAST_THE_OVERLAP, TestDatabase};
use crate::support::rules::{id, rule_row, rule_text};
use crate::support::servers::Kind;
use crate::support::swarm::DEADLINE;

use self::extremes::{
    a_stamp_of_the_last_year, a_state_of_an_id_in_another_case, texts_that_are_longer_than_a_line,
};
use self::quiet::{
    a_deletion_behind_a_change_that_left_no_trace, an_edit_behind_one_of_the_same_second,
    deletions_of_our_own_among_many_rules, two_transactions_of_one_second,
};
pub(super) use self::quiet::{a_deletion_that_was_under_way, what_comes_after_a_long_quiet};
use self::window::{
    many_rows_and_one_edited, many_rows_and_poison, many_rows_of_one_second,
    many_rows_of_which_two_get_the_same_change,
};

const NOTHING: [&str; 0] = [];

/// Makes a test of each case for each kind of SQLite database that supports it, and one function of all for servers.
/// "Between two transactions" needs two at once, which a database in memory does not have; "on servers" needs two
/// writers at once.
macro_rules! watermark_cases {
    (
        everywhere: [$($case:ident),* $(,)?],
        between_two_transactions: [$($between:ident),* $(,)?],
        on_servers: [$($writing:ident),* $(,)?],
        where_texts_have_no_bound: [$($unbounded:ident),* $(,)?],
    ) => {
        mod sqlite_file {
            $(#[tokio::test] async fn $case() { super::$case(&super::TestDatabase::sqlite_file().await).await; })*
            $(#[tokio::test] async fn $between() { super::$between(&super::TestDatabase::sqlite_file().await).await; })*
            $(#[tokio::test] async fn $unbounded() { super::$unbounded(&super::TestDatabase::sqlite_file().await).await; })*
        }
        mod sqlite_memory {
            $(#[tokio::test] async fn $case() { super::$case(&super::TestDatabase::sqlite_memory().await).await; })*
            $(#[tokio::test] async fn $unbounded() { super::$unbounded(&super::TestDatabase::sqlite_memory().await).await; })*
        }
        /// Runs every case, each on a database of its own, all at the same time.
        pub(super) async fn all(kind: Kind, mut field: impl AsyncFnMut(&str) -> TestDatabase) {
            let mut cases = tokio::task::JoinSet::new();
            $(
                let under_test = field(stringify!($case)).await;
                cases.spawn(async move { (stringify!($case), $case(&under_test).await) });
            )*
            $(
                let under_test = field(stringify!($between)).await;
                cases.spawn(async move { (stringify!($between), $between(&under_test).await) });
            )*
            $(
                let under_test = field(stringify!($writing)).await;
                cases.spawn(async move { (stringify!($writing), $writing(&under_test).await) });
            )*
            // MySQL's columns have a size limit.
            if kind == Kind::Postgres {
                $(
                    let under_test = field(stringify!($unbounded)).await;
                    cases.spawn(async move { (stringify!($unbounded), $unbounded(&under_test).await) });
                )*
            }
            let mut failed = 0;
            while let Some(case) = cases.join_next().await {
                failed += usize::from(case.is_err());
            }
            assert_eq!(failed, 0, "cases that failed; the message of each is above");
        }
    };
}

watermark_cases![
    everywhere: [
        two_rows_with_one_timestamp,
        one_rule_saved_twice_within_a_second,
        a_clock_that_is_behind,
        a_row_deleted_by_another,
        an_idle_poll_reads_no_row,
        many_rows_with_one_stamp_in_the_future,
        a_row_that_is_no_rule,
        a_row_that_was_only_touched,
        an_edit_between_the_first_look_and_the_second,
        states_that_others_set,
        a_stamp_in_the_future,
        one_look_is_one_snapshot,
        an_edit_by_hand_that_left_the_stamp_alone,
        a_swap_that_left_the_count_alone,
        a_ceiling_of_a_32_bit_column,
        ids_that_differ_only_in_case,
        expired_states_alone_are_removed,
        stamps_rise_above_the_owners_own,
        only_an_owned_row_is_deleted,
        rows_that_changed_since_they_were_read,
        one_row_that_the_database_does_not_take,
        texts_with_everything_in_them,
        one_writer_at_a_time,
        a_batch_of_many,
        a_batch_of_large_ones,
        many_rows_and_one_edited,
        many_rows_of_one_second,
        many_rows_and_poison,
        what_comes_after_a_long_quiet,
        a_deletion_behind_a_change_that_left_no_trace,
        deletions_of_our_own_among_many_rules,
        a_stamp_of_the_last_year,
        a_state_of_an_id_in_another_case,
    ],
    between_two_transactions: [
        a_late_commit,
        a_deletion_that_was_under_way,
        an_edit_beside_a_change_that_was_under_way,
    ],
    on_servers: [
        one_row_that_a_trigger_refuses,
        many_rows_of_which_two_get_the_same_change,
        two_transactions_of_one_second,
        an_edit_behind_one_of_the_same_second,
    ],
    where_texts_have_no_bound: [
        texts_that_are_longer_than_a_line,
    ],
];

async fn two_rows_with_one_timestamp(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut watcher = field.watcher().await;
    let stamp = field.now().await.whole_second();
    external.put("R1", 1, stamp).await;
    assert_eq!(watcher.poll().await, ["written R1 v1"]);
    external.put("R2", 1, stamp).await;
    assert_eq!(watcher.poll().await, ["written R2 v1"]);
    assert_eq!(watcher.poll().await, NOTHING);
}

async fn one_rule_saved_twice_within_a_second(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut watcher = field.watcher().await;
    let stamp = field.now().await.whole_second();
    for version in 1..=3 {
        external.put("R1", version, stamp).await;
        assert_eq!(watcher.poll().await, [format!("written R1 v{version}")]);
    }
    external.put_state("R1", "disabled", None, stamp).await;
    assert_eq!(watcher.poll().await, ["state R1 disabled"]);
    external.put_state("R1", "clipped", None, stamp).await;
    assert_eq!(watcher.poll().await, ["state R1 clipped"]);
}

async fn a_late_commit(field: &TestDatabase) {
    let (mut first, mut late) = (field.external().await, field.external().await);
    let mut watcher = field.watcher().await;
    let now = field.now().await;
    first.put("R1", 1, now).await;
    assert_eq!(watcher.poll().await, ["written R1 v1"]);
    // As with a stamp from the beginning of a long transaction.
    late.begin().await;
    late.put("R2", 1, now.before(OVERLAP / 2)).await;
    for _ in 0..3 {
        assert_eq!(watcher.poll().await, NOTHING);
    }
    late.commit().await;
    assert_eq!(watcher.poll().await, ["written R2 v1"]);

    // The same once nothing has happened for a long time.
    field.pass(PAST_THE_OVERLAP).await;
    assert_eq!(watcher.poll().await, NOTHING);
    assert_eq!(watcher.poll().await, NOTHING);
    late.begin().await;
    late.put("R3", 1, field.now().await.before(OVERLAP / 2)).await;
    assert_eq!(watcher.poll().await, NOTHING);
    late.commit().await;
    assert_eq!(watcher.poll().await, ["written R3 v1"]);
}

async fn a_clock_that_is_behind(field: &TestDatabase) {
    let mut external = field.external().await;
    let hour = Duration::from_secs(3_600);
    let mut watcher = field.watcher().await;
    let mut scanner = field.watcher_with(Duration::ZERO).await;
    let now = field.now().await;
    external.put("R1", 1, now).await;
    assert_eq!(watcher.poll().await, ["written R1 v1"]);
    assert_eq!(scanner.poll().await, ["written R1 v1"]);
    // By less than the overlap: at once.
    external.put("R2", 1, now.before(OVERLAP)).await;
    assert_eq!(watcher.poll().await, ["written R2 v1"]);
    assert_eq!(scanner.poll().await, ["written R2 v1"]);
    assert_eq!(scanner.missed_by_watermark, 0);
    // By more: the count shows that there is a new row but not which; the full scan finds it, and an edit.
    external.put("R3", 1, now.before(hour)).await;
    assert_eq!(scanner.poll().await, ["written R3 v1"]);
    assert_eq!(scanner.missed_by_watermark, 1);
    external.put("R2", 2, now.before(hour)).await;
    assert_eq!(scanner.poll().await, ["written R2 v2"]);
    assert_eq!(scanner.missed_by_watermark, 1);
    assert_eq!(scanner.poll().await, NOTHING);
    assert_eq!(scanner.missed_by_watermark, 0);
}

async fn a_row_deleted_by_another(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1), ("R2", 1), ("R3", 1)]).await;
    let mut watcher = field.watcher().await;
    external.run("DELETE FROM ttp_rule WHERE rule_id = 'R2'").await;
    assert_eq!(watcher.poll().await, ["deleted R2"]);
    assert_eq!(watcher.poll().await, NOTHING);
    // One is deleted and one is added: the count is the same.
    external.run("DELETE FROM ttp_rule WHERE rule_id = 'R3'").await;
    external.put("R4", 1, field.now().await).await;
    assert_eq!(watcher.poll().await, ["written R4 v1", "deleted R3"]);
}

async fn an_idle_poll_reads_no_row(field: &TestDatabase) {
    let mut external = field.external().await;
    let rules: Vec<_> = (0..300).map(|n| format!("R{n}")).collect();
    field.save(&rules.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    external.run(&format!("UPDATE ttp_rule SET updated_at = '{}'", field.now().await.to_sql_text())).await;
    let mut watcher = field.watcher().await;
    assert_eq!(watcher.rows, 300);
    field.pass(PAST_THE_OVERLAP).await;
    watcher.poll().await;
    // A commit without a change, so that the poll is not skipped.
    external.run("CREATE TABLE other (n INTEGER)").await;
    assert_eq!(watcher.poll().await, NOTHING);
    assert_eq!(watcher.rows, 0);
    external.put("R7", 2, field.now().await).await;
    assert_eq!(watcher.poll().await, ["written R7 v2"]);
    assert_eq!(watcher.rows, 1);
}

async fn many_rows_with_one_stamp_in_the_future(field: &TestDatabase) {
    let mut external = field.external().await;
    let rules: Vec<_> = (0..1_000).map(|n| format!("R{n}")).collect();
    let rules: Vec<_> = rules.iter().map(|id| (id.as_str(), 1)).collect();
    field.save(&rules).await;
    let mut watcher = field.watcher().await;
    let future = field.now().await.after(Duration::from_secs(3_600));
    external.run(&format!("UPDATE ttp_rule SET updated_at = '{}'", future.to_sql_text())).await;
    assert_eq!(watcher.poll().await, NOTHING);
    // The same stamp with another text: only the content differs.
    external.put("R5", 2, future).await;
    external.put("R6", 3, future).await;
    assert_eq!(watcher.poll().await, ["written R5 v2", "written R6 v3"]);
    assert_eq!(watcher.poll().await, NOTHING);
}

async fn a_row_that_is_no_rule(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1)]).await;
    let mut watcher = field.watcher().await;
    let now = field.now().await;
    external.put_text("R2", 1, "rule_id: [", now).await;
    external.put_text("R3", 1, &rule_text("R30", 1), now).await;
    external.put("R4", 1, now).await;
    external.put_state("R4", "paused", None, now).await;
    external.put_state("R1", "disabled", None, now).await;
    assert_eq!(watcher.poll().await, ["written R4 v1", "state R1 disabled"]);
    let keys: Vec<_> = watcher.catalogue.quarantined().map(|row| row.key).collect();
    assert_eq!(keys, ["R2", "R3", "R4"]);
    // It is not logged again, by a poll or a full scan, and delays nothing.
    let mut scanner = field.watcher_with(Duration::ZERO).await;
    for watcher in [&mut watcher, &mut scanner] {
        let delta = watcher.follower.poll(&watcher.catalogue).await.unwrap();
        assert!(delta.rules.is_empty() && delta.states.is_empty(), "{delta:?}");
    }
    // It comes back when it is corrected.
    external.put("R2", 2, field.now().await).await;
    assert_eq!(watcher.poll().await, ["written R2 v2"]);
    assert_eq!(watcher.catalogue.quarantined().count(), 2);
}

async fn a_row_that_was_only_touched(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1)]).await;
    let mut watcher = field.watcher().await;
    let later = field.now().await.after(Duration::from_secs(1));
    external.run(&format!("UPDATE ttp_rule SET updated_at = '{}'", later.to_sql_text())).await;
    assert_eq!(watcher.poll().await, NOTHING);
}

async fn an_edit_between_the_first_look_and_the_second(field: &TestDatabase) {
    field.save(&[("R1", 1)]).await;
    let mut watcher = field.watcher().await;
    field.save(&[("R1", 2)]).await;
    assert_eq!(watcher.poll().await, ["written R1 v2"]);
}

async fn states_that_others_set(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut watcher = field.watcher().await;
    let now = field.now().await;
    external.put_state("R1", "disabled", None, now).await;
    assert_eq!(watcher.poll().await, ["state R1 disabled"]);
    external.put_state("R1", "clipped", None, now.after(Duration::from_secs(1))).await;
    assert_eq!(watcher.poll().await, ["state R1 clipped"]);
    external.run("DELETE FROM ttp_rule_state").await;
    assert_eq!(watcher.poll().await, ["state R1 enabled"]);
    // A state that expires is the default again by the database's clock, while its row still exists.
    let end = field.now().await.after(Duration::from_secs(2));
    external.put_state("R2", "disabled", Some(end), now).await;
    assert_eq!(watcher.poll().await, ["state R2 disabled"]);
    field.pass(Duration::from_millis(2_100)).await;
    assert_eq!(watcher.poll().await, ["expired R2"]);
    assert_eq!(field.database.get_state(&id("R2")).await.unwrap(), RuleState::default());
}

async fn a_stamp_in_the_future(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut watcher = field.watcher().await;
    let now = field.now().await;
    let year = Duration::from_secs(365 * 86_400);
    external.put("R1", 1, now.after(year)).await;
    external.put_state("R1", "disabled", None, now.after(year)).await;
    assert_eq!(watcher.poll().await, ["written R1 v1", "state R1 disabled"]);
    external.put("R2", 1, now).await;
    external.put_state("R2", "disabled", None, now).await;
    assert_eq!(watcher.poll().await, ["written R2 v1", "state R2 disabled"]);
    field.pass(PAST_THE_OVERLAP).await;
    watcher.poll().await;
    external.put("R2", 2, field.now().await).await;
    assert_eq!(watcher.poll().await, ["written R2 v2"]);
}

/// A writer swaps one rule for another in each transaction, and gives a state the rule's version for
/// its reason, so that every snapshot has one of the two rules and the state of that moment; a poll
/// that mixes two snapshots finds both rules or none, or the state of another moment.
async fn one_look_is_one_snapshot(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("A", 1)]).await;
    let mut watcher = field.watcher().await;
    let stamp = field.now().await;
    external.put_state("S", "disabled", None, stamp).await;
    external.run("UPDATE ttp_rule_state SET reason = '1'").await;
    let swaps = Arc::new(AtomicI32::new(2));
    let counter = Arc::clone(&swaps);
    let writer = tokio::spawn(async move {
        for (old, new) in [("A", "B"), ("B", "A")].into_iter().cycle() {
            external.begin().await;
            external.run(&format!("DELETE FROM ttp_rule WHERE rule_id = '{old}'")).await;
            let version = counter.fetch_add(1, Ordering::SeqCst);
            external.put(new, version, stamp.after(Duration::from_millis(1))).await;
            external.run(&format!("UPDATE ttp_rule_state SET reason = '{version}'")).await;
            external.commit().await;
        }
    });
    let mut looks = 0;
    while looks < 200 || swaps.load(Ordering::SeqCst) < 100 {
        watcher.poll().await;
        looks += 1;
        let rules = watcher.catalogue.rule_rows().map(|rule| rule.header.rule_version.to_string());
        let states = watcher.catalogue.state_rows().map(|(_, state)| state.reason.clone().unwrap());
        assert_eq!(rules.collect::<Vec<_>>(), states.collect::<Vec<_>>());
    }
    writer.abort();
}

async fn an_edit_by_hand_that_left_the_stamp_alone(field: &TestDatabase) {
    let mut external = field.external().await;
    let rules: Vec<_> = (0..300).map(|n| format!("R{n}")).collect();
    field.save(&rules.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut scanner = field.watcher_with(Duration::ZERO).await;
    assert_eq!(scanner.missed_by_watermark, 0);
    field.pass(PAST_THE_OVERLAP).await;
    scanner.poll().await;
    for (column, value) in [
        ("yaml_content", format!("'{}'", rule_text("R1", 9).replace('\'', "''"))),
        ("rule_version", "5".into()),
        ("source_path", "'elsewhere.yaml'".into()),
    ] {
        external.run(&format!("UPDATE ttp_rule SET {column} = {value} WHERE rule_id = 'R1'")).await;
        let changes = scanner.poll().await;
        assert_eq!((changes.len(), scanner.missed_by_watermark), (1, 1), "{column}: {changes:?}");
        // The window is open again meanwhile, and its rows are not missed.
        field.pass(PAST_THE_OVERLAP).await;
        assert_eq!(scanner.poll().await, NOTHING);
    }
}

async fn a_swap_that_left_the_count_alone(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1)]).await;
    let mut scanner = field.watcher_with(Duration::ZERO).await;
    // A key that changed in place, with its old stamp: neither the watermark nor the count shows that.
    external.run("UPDATE ttp_rule SET rule_id = 'R2' WHERE rule_id = 'R1'").await;
    assert_eq!(scanner.poll().await, ["deleted R1"]);
    assert_eq!(scanner.catalogue.quarantined().count(), 1);
}

async fn a_ceiling_of_a_32_bit_column(field: &TestDatabase) {
    let clipped = RuleState { state: StateKind::Clipped, confidence_max: Some(0.85), ..RuleState::default() };
    let written = field.database.set_state(&id("R1"), clipped).await.unwrap();
    assert_eq!(written.confidence_max, Some(0.85));
    assert_eq!(field.database.get_state(&id("R1")).await.unwrap().confidence_max, Some(0.85));
    let watcher = field.watcher().await;
    assert_eq!(watcher.catalogue.state("R1").confidence_max, Some(0.85));
    assert_eq!(field.database.states().await.unwrap()[0].confidence_max, Some(0.85));
}

async fn ids_that_differ_only_in_case(field: &TestDatabase) {
    field.save(&[("R1", 1), ("R2", 1)]).await;
    let mut watcher = field.watcher().await;
    let mut session = field.session().await;
    // Both are one conflict, and read together.
    let rows = session.rows(Scope::AnyCase(&["r1".into()])).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.rule_id.as_str()).collect::<Vec<_>>(), ["R1"]);
    // A deletion means the id with its case.
    let delete =
        |rule_id: &str| RuleWrite::Delete { rule_id: rule_id.into(), updated_by: "filesystem".into() };
    assert_eq!(session.apply(&[delete("r2")]).await.unwrap().rows, 0);
    // The plan writes a rule under another case by a deletion and an insertion.
    session.apply(&[delete("R1"), RuleWrite::Upsert(rule_row("r1", 2))]).await.unwrap();
    session.close().await;
    assert_eq!(watcher.poll().await, ["written r1 v2", "deleted R1"]);
}

async fn expired_states_alone_are_removed(field: &TestDatabase) {
    let mut external = field.external().await;
    let now = field.now().await;
    let second = Duration::from_secs(1);
    external.put_state("R1", "disabled", Some(now.before(second)), now).await;
    external.put_state("R2", "disabled", Some(now.after(600 * second)), now).await;
    external.put_state("R3", "disabled", None, now).await;
    // It cannot be read as a state, and has expired nevertheless.
    external.put_state("R4", "paused", Some(now.before(second)), now).await;
    let mut session = field.session().await;
    let mut removed: Vec<_> =
        session.remove_expired_states().await.unwrap().into_iter().map(|row| row.rule_id).collect();
    removed.sort();
    assert_eq!(removed, ["R1", "R4"]);
    let left: Vec<_> = field.database.states().await.unwrap().into_iter().map(|row| row.rule_id).collect();
    assert_eq!(left, ["R2", "R3"]);
    assert!(session.remove_expired_states().await.unwrap().is_empty());
}

async fn stamps_rise_above_the_owners_own(field: &TestDatabase) {
    let mut external = field.external().await;
    let future = field.now().await.after(Duration::from_secs(3_600));
    field.save(&[("R1", 1)]).await;
    external.run(&format!("UPDATE ttp_rule SET updated_at = '{}'", future.to_sql_text())).await;
    // Another program's stamp in the future does not affect the next ones.
    external.put("R9", 1, future.after(Duration::from_secs(86_400))).await;
    field.save(&[("R2", 1)]).await;
    let rows = field.database.rows(Scope::All).await.unwrap();
    let stamp = |id: &str| rows.iter().find(|row| row.rule_id == id).unwrap().updated_at;
    assert!(stamp("R2") >= stamp("R1"), "{rows:?}");
    assert!(stamp("R2") < future.after(Duration::from_secs(60)), "{rows:?}");

    // A state is newer than the one that it replaces, whatever clock stamped that one.
    external.put_state("R1", "disabled", None, future).await;
    let clipped = RuleState { state: StateKind::Clipped, ..RuleState::default() };
    let set_at = field.database.set_state(&id("R1"), clipped).await.unwrap().set_at.unwrap();
    assert!(set_at >= future.whole_second(), "{set_at} before {future}");
}

async fn only_an_owned_row_is_deleted(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    // An admin overwrites the row after the plan was made.
    external.put("R1", 2, field.now().await).await;
    let mut session = field.session().await;
    assert_eq!(session.owned("filesystem").await.unwrap(), 1);
    assert_eq!(session.owned("Filesystem").await.unwrap(), 0);
    let delete =
        |rule_id: &str| RuleWrite::Delete { rule_id: rule_id.into(), updated_by: "filesystem".into() };
    assert_eq!(session.apply(&[delete("R1"), delete("R2")]).await.unwrap().rows, 1);
    let left: Vec<_> = session.rows(Scope::All).await.unwrap().into_iter().map(|row| row.rule_id).collect();
    assert_eq!(left, ["R1"]);
}

async fn rows_that_changed_since_they_were_read(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut session = field.session().await;
    let keys = ["R1".to_owned(), "R2".to_owned()];
    let write = |version| [RuleWrite::Upsert(rule_row("R1", version))];
    for change in [
        "UPDATE ttp_rule SET yaml_content = 'other' WHERE rule_id = 'R1'",
        "UPDATE ttp_rule SET rule_version = 7 WHERE rule_id = 'R1'",
        "UPDATE ttp_rule SET source_path = 'other.yaml' WHERE rule_id = 'R1'",
        "UPDATE ttp_rule SET updated_by = 'admin' WHERE rule_id = 'R1'",
        "UPDATE ttp_rule SET updated_at = '2020-01-01 00:00:00' WHERE rule_id = 'R1'",
        "DELETE FROM ttp_rule WHERE rule_id = 'R1'",
        "INSERT INTO ttp_rule SELECT 'R2', rule_version, source_path, yaml_content, updated_at, updated_by \
         FROM ttp_rule WHERE rule_id = 'R1'",
    ] {
        external.run("DELETE FROM ttp_rule").await;
        session.apply(write(1)).await.unwrap();
        let read = |rows| RowsAsRead { keys: keys.iter().cloned().collect(), rows };
        let rows = session.rows(Scope::Keys(&keys)).await.unwrap();
        assert_eq!(session.apply_if_as_read(write(2), read(rows)).await.unwrap().rows, 1);

        let rows = session.rows(Scope::Keys(&keys)).await.unwrap();
        assert_eq!(external.run(change).await, 1, "{change}");
        let changed = session.rows(Scope::All).await.unwrap();
        let refused = session.apply_if_as_read(write(3), read(rows)).await;
        assert!(matches!(refused, Err(StoreError::RowsChanged { .. })), "{change}: {refused:?}");
        assert_eq!(session.rows(Scope::All).await.unwrap(), changed, "{change}: something was written");
    }
}

/// The rows of an edit are locked before they are compared: a change that is committed meanwhile is not overwritten.
async fn an_edit_beside_a_change_that_was_under_way(field: &TestDatabase) {
    let mut external = field.external().await;
    let mut session = field.session().await;
    session.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let keys = ["R1".to_owned()];
    let rows = session.rows(Scope::Keys(&keys)).await.unwrap();
    external.begin().await;
    external.run("UPDATE ttp_rule SET yaml_content = 'other' WHERE rule_id = 'R1'").await;
    let editing = async {
        loop {
            let read = RowsAsRead { keys: keys.iter().cloned().collect(), rows: rows.clone() };
            match session.apply_if_as_read([RuleWrite::Upsert(rule_row("R1", 2))], read).await {
                // On a busy machine, the lock is held for longer than an edit waits for it.
                Ok(applied) if matches!(applied.rejected[..], [(_, StoreError::RowLocked { .. })]) => {
                    assert_eq!(applied.rows, 0);
                }
                edited => break edited,
            }
        }
    };
    let committing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        external.commit().await;
    };
    let (edited, ()) = tokio::join!(editing, committing);
    assert!(matches!(edited, Err(StoreError::RowsChanged { .. })), "{edited:?}");
    let left = external.text("SELECT yaml_content FROM ttp_rule WHERE rule_id = 'R1'").await;
    assert_eq!(left.as_deref(), Some("other"));
}

async fn one_row_that_the_database_does_not_take(field: &TestDatabase) {
    let mut external = field.external().await;
    // A version out of the column's range; on SQLite, a check constraint rejects it.
    let check = "CREATE TRIGGER narrow BEFORE INSERT ON ttp_rule WHEN NEW.rule_version > 2147483647 \
                 BEGIN SELECT RAISE(ABORT, 'out of range'); END";
    if field.database.backend() == "sqlite" {
        external.run(check).await;
    }
    let mut bad = rule_row("R2", 1);
    bad.header.rule_version = 1 << 40;
    let writes = [rule_row("R1", 1), bad, rule_row("R3", 1)].map(RuleWrite::Upsert);
    let mut session = field.session().await;
    let applied = session.apply(writes).await.unwrap();
    assert_eq!(applied.rows, 2);
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(applied.rejected[0].0, "R2");
    assert!(matches!(applied.rejected[0].1, StoreError::RowRejected { .. }), "{applied:?}");
    let rows = session.rows(Scope::All).await.unwrap();
    let ids: BTreeSet<_> = rows.iter().map(|row| row.rule_id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["R1", "R3"]));
    session.ping().await.unwrap();
}

/// A constraint of somebody's own, which no row but one breaks.
async fn one_row_that_a_trigger_refuses(field: &TestDatabase) {
    let mut external = field.external().await;
    if field.database.backend() == "mysql" {
        external
            .run(
                "CREATE TRIGGER refuse BEFORE INSERT ON ttp_rule FOR EACH ROW BEGIN IF NEW.rule_id = 'R2' THEN \
                 SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF; END",
            )
            .await;
    } else {
        external
            .run(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.rule_id = 'R2' THEN \
                 RAISE 'not this one'; END IF; RETURN NEW; END$$; \
                 CREATE TRIGGER refuse BEFORE INSERT ON ttp_rule FOR EACH ROW EXECUTE FUNCTION refuse()",
            )
            .await;
    }
    let writes = ["R1", "R2", "R3"].map(|id| RuleWrite::Upsert(rule_row(id, 1)));
    let mut session = field.session().await;
    let applied = session.apply(writes).await.unwrap();
    assert_eq!((applied.rows, applied.rejected.len()), (2, 1), "{applied:?}");
    let (id, why) = &applied.rejected[0];
    assert_eq!(id, "R2");
    assert!(
        matches!(why, StoreError::RowRejected { .. }) && why.to_string().contains("not this one"),
        "{why}"
    );
}

async fn texts_with_everything_in_them(field: &TestDatabase) {
    let text = format!(
        "{}description: \"a \\\\ b ' '' \u{1F980} \\t % _ ?1 $1\"\n# comment; DROP TABLE ttp_rule; -- \\\n",
        rule_text("R1", 1)
    );
    let mut row = rule_row("R1", 1);
    row.yaml_content = text.clone();
    let mut session = field.session().await;
    session.apply(&[RuleWrite::Upsert(row)]).await.unwrap();
    let rows = session.rows(Scope::All).await.unwrap();
    assert_eq!(rows[0].content_sha256, rulesyncd::rule::ContentDigest::of(&text));
    let rules = field.database.load_compiled().await.unwrap();
    assert_eq!(rules[0].definition.description.as_deref(), Some("a \\ b ' '' \u{1F980} \t % _ ?1 $1"));
    // The fingerprint uses the database's digest: a full scan finds nothing missed.
    let mut scanner = field.watcher_with(Duration::ZERO).await;
    assert_eq!(scanner.poll().await, NOTHING);
    assert_eq!(scanner.missed_by_watermark, 0);
}

async fn one_writer_at_a_time(field: &TestDatabase) {
    let mut first = field.session().await;
    assert!(field.database.try_lock().await.unwrap().is_none());
    first.ping().await.unwrap();
    first.close().await;
    let second = field.session().await;
    // Dropped without closing, as by a master that panics.
    drop(second);
    let begun = Instant::now();
    while field.database.try_lock().await.unwrap().is_none() {
        assert!(begun.elapsed() < DEADLINE, "the lock of a dropped session stays");
    }
}

async fn a_batch_of_many(field: &TestDatabase) {
    let ids: Vec<_> = (0..2_500).map(|n| format!("R{n:04}")).collect();
    let writes: Vec<_> = ids.iter().map(|id| RuleWrite::Upsert(rule_row(id, 1))).collect();
    let mut session = field.session().await;
    assert_eq!(session.apply(writes).await.unwrap().rows, 2_500);
    assert_eq!(session.owned("filesystem").await.unwrap(), 2_500);
    let folded: Vec<_> = ids.iter().map(|id| id.to_lowercase()).collect();
    for scope in [Scope::AnyCase(&folded), Scope::Keys(&ids)] {
        assert_eq!(session.rows(scope).await.unwrap().len(), 2_500);
    }
    let mut watcher = field.watcher().await;
    assert_eq!(watcher.catalogue.rule_count(), 2_500);
    let again: Vec<_> = ids[..600].iter().map(|id| RuleWrite::Upsert(rule_row(id, 2))).collect();
    session.apply(again).await.unwrap();
    assert_eq!(watcher.poll().await.len(), 600);
    let gone: Vec<_> = ids
        .iter()
        .map(|id| RuleWrite::Delete { rule_id: id.clone(), updated_by: "filesystem".into() })
        .collect();
    assert_eq!(session.apply(gone).await.unwrap().rows, 2_500);
    assert_eq!(watcher.poll().await.len(), 2_500);
    assert_eq!(watcher.catalogue.rule_count(), 0);
}

/// More text at once than a server accepts in one statement.
async fn a_batch_of_large_ones(field: &TestDatabase) {
    let writes: Vec<_> = (0..100)
        .map(|n| {
            let mut row = rule_row(&format!("R{n}"), 1);
            row.yaml_content.push_str(&"# a long story\n".repeat(16_000));
            RuleWrite::Upsert(row)
        })
        .collect();
    let mut session = field.session().await;
    assert_eq!(session.apply(writes).await.unwrap().rows, 100);
    assert_eq!(session.rows(Scope::All).await.unwrap().len(), 100);
}
