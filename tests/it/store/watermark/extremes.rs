//! Extreme values, in rows that other programs wrote.

use std::time::Duration;

use rulesyncd::rule::{RuleState, StateKind};
use rulesyncd::store::{RuleStore, Scope, StoreError};

use super::NOTHING;
use crate::support::databases::TestDatabase;
use crate::support::rules::id;

/// A stamp that means "never" does not push the owner's stamps to the end of time.
pub(super) async fn a_stamp_of_the_last_year(field: &TestDatabase) {
    let mut external = field.external().await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    let now = field.now().await;
    let (hour, minute) = (Duration::from_secs(3_600), Duration::from_secs(60));
    let soon = now.after(hour).to_sql_text();
    external.run(&format!("UPDATE ttp_rule SET updated_at = '{soon}' WHERE rule_id = 'R2'")).await;
    external.run("UPDATE ttp_rule SET updated_at = '9999-12-31 23:59:59' WHERE rule_id = 'R1'").await;
    let mut watcher = field.watcher().await;
    field.save(&[("R1", 2), ("R3", 1)]).await;
    field.save(&[("R3", 2)]).await;
    assert_eq!(watcher.poll().await, ["written R1 v2", "written R3 v2"]);
    for row in field.database.rows(Scope::All).await.unwrap() {
        // Later stamps exceed the one that a clock can have given, but not the other.
        assert!(row.updated_at >= now.after(hour).whole_second(), "{row:?}");
        assert!(row.updated_at < now.after(hour + minute), "{row:?}");
    }

    let far = now.after(Duration::from_secs(86_400 * 365_000)).whole_second();
    external.put_state("R1", "disabled", None, far).await;
    assert_eq!(watcher.poll().await, ["state R1 disabled"]);
    let clipped = RuleState { state: StateKind::Clipped, ..RuleState::default() };
    let set_at = field.database.set_state(&id("R1"), clipped.clone()).await.unwrap().set_at.unwrap();
    assert!(set_at < now.after(minute), "{set_at}");
    assert_eq!(watcher.poll().await, ["state R1 clipped"]);

    // An end beyond the end of time is refused, not truncated.
    let ages = RuleState { expires_at: Some(now.after(Duration::MAX)), ..clipped };
    let error = field.database.set_state(&id("R1"), ages).await.unwrap_err();
    assert!(error.to_string().contains("year 10000"), "{error}");
    assert_eq!(watcher.poll().await, NOTHING);
}

/// Two ids that differ only in case are one: on MySQL the second would overwrite the first, and a rule's state would
/// end without a trace.
pub(super) async fn a_state_of_an_id_in_another_case(field: &TestDatabase) {
    let mut watcher = field.watcher().await;
    let state = |state| RuleState { state, ..RuleState::default() };
    field.database.set_state(&id("R1"), state(StateKind::Disabled)).await.unwrap();
    assert_eq!(watcher.poll().await, ["state R1 disabled"]);
    for error in [
        field.database.set_state(&id("r1"), state(StateKind::Clipped)).await.map(drop).unwrap_err(),
        field.database.clear_state(&id("r1")).await.map(drop).unwrap_err(),
    ] {
        assert!(!error.is_transient() && error.to_string().contains("`R1`"), "{error}");
    }
    assert_eq!(watcher.poll().await, NOTHING);
    assert!(!field.database.clear_state(&id("R2")).await.unwrap());
    field.database.set_state(&id("R1"), state(StateKind::Clipped)).await.unwrap();
    assert_eq!(watcher.poll().await, ["state R1 clipped"]);
    assert!(field.database.clear_state(&id("R1")).await.unwrap());
    field.database.set_state(&id("r1"), state(StateKind::Disabled)).await.unwrap();
    assert_eq!(watcher.poll().await, ["state R1 enabled", "state r1 disabled"]);
}

/// A text of another program that is longer than a line of the stream may be is not sent.
pub(super) async fn texts_that_are_longer_than_a_line(field: &TestDatabase) {
    let (mut external, now) = (field.external().await, field.now().await);
    field.save(&[("R1", 1), ("R2", 1), ("R3", 1)]).await;
    for rule_id in ["R1", "R2", "R3"] {
        external.put_state(rule_id, "disabled", None, now).await;
    }
    let long = |length: usize| format!("'{}'", "é".repeat(length / 2));
    for (table, column, rule_id) in [
        ("ttp_rule_state", "reason", "R1"),
        ("ttp_rule_state", "set_by", "R2"),
        ("ttp_rule", "source_path", "R2"),
        ("ttp_rule", "updated_by", "R3"),
    ] {
        let text = long(100_000);
        external.run(&format!("UPDATE {table} SET {column} = {text} WHERE rule_id = '{rule_id}'")).await;
    }
    external.run(&format!("UPDATE ttp_rule_state SET reason = {} WHERE rule_id = 'R3'", long(4_096))).await;
    let watcher = field.watcher().await;
    let said: Vec<_> =
        watcher.catalogue.quarantined().map(|row| format!("{}: {}", row.key, row.reason)).collect();
    let too_long = "has 100000 bytes; at most 4096 are possible";
    let meanwhile = "the rule counts as enabled meanwhile";
    assert_eq!(
        said,
        [
            format!("R2: source_path {too_long}"),
            format!("R3: updated_by {too_long}"),
            format!("R1: reason {too_long}; {meanwhile}"),
            format!("R2: set_by {too_long}; {meanwhile}"),
        ]
    );
    assert_eq!(watcher.catalogue.state("R3").reason.map(|reason| reason.len()), Some(4_096));
    let reason = Some("é".repeat(100_000));
    let set = field.database.set_state(&id("R1"), RuleState { reason, ..RuleState::default() }).await;
    assert!(matches!(set, Err(StoreError::InvalidState(_))), "{set:?}");
}
