//! A table that has been idle for so long that a poll need not even count its rows.

use std::time::Duration;

use rulesyncd::store::RuleWrite;

use super::NOTHING;
use crate::support::databases::{OVERLAP, PAST_THE_OVERLAP, TestDatabase, Watcher};
use crate::support::swarm::DEADLINE;

/// How long a state lasts that must be received before it expires, even on a busy machine.
const STATE_FOR: Duration = Duration::from_secs(5);

/// What the first poll finds that finds anything: so many rules are counted once in five seconds, and compared once an
/// hour.
async fn next_change(field: &TestDatabase, watcher: &mut Watcher) -> Vec<String> {
    let begun = std::time::Instant::now();
    loop {
        let heard = watcher.poll().await;
        if !heard.is_empty() {
            return heard;
        }
        assert!(begun.elapsed() < DEADLINE, "nothing is heard");
        field.pass(Duration::from_millis(50)).await;
    }
}

/// What this program deletes is heard by the next poll, however many rules there are.
pub(super) async fn deletions_of_our_own_among_many_rules(field: &TestDatabase) {
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    field.pass(PAST_THE_OVERLAP).await;
    let mut session = field.session().await;
    for id in &ids[..3] {
        assert_eq!(watcher.poll().await, NOTHING);
        let delete = RuleWrite::Delete { rule_id: id.clone(), updated_by: "filesystem".into() };
        session.apply([delete]).await.unwrap();
        assert_eq!(watcher.poll().await, [format!("deleted {id}")]);
    }
}

pub(in crate::store) async fn what_comes_after_a_long_quiet(field: &TestDatabase) {
    let mut external = field.external().await;
    // So many that the poll asks for the version instead of counting them.
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    field.save(&[("R1", 1), ("R2", 1), ("R3", 1), ("R4", 1)]).await;
    let mut watcher = field.watcher().await;
    for round in 1..=2 {
        field.pass(PAST_THE_OVERLAP).await;
        for _ in 0..3 {
            assert_eq!(watcher.poll().await, NOTHING);
        }
        let now = field.now().await;
        external.run(&format!("DELETE FROM ttp_rule WHERE rule_id = 'R{round}'")).await;
        assert_eq!(next_change(field, &mut watcher).await, [format!("deleted R{round}")]);
        external.run(&format!("DELETE FROM ttp_rule WHERE rule_id = 'R{}'", round + 2)).await;
        assert_eq!(next_change(field, &mut watcher).await, [format!("deleted R{}", round + 2)]);
        external.put("NEW", round, now.before(OVERLAP / 2)).await;
        assert_eq!(watcher.poll().await, [format!("written NEW v{round}")]);
        let end = field.now().await.after(STATE_FOR);
        external.put_state("NEW", "disabled", Some(end), now).await;
        assert_eq!(watcher.poll().await, ["state NEW disabled"]);
        field.pass(STATE_FOR.max(PAST_THE_OVERLAP)).await;
        assert_eq!(watcher.poll().await, ["expired NEW"]);
        external.run("DELETE FROM ttp_rule_state").await;
        assert_eq!(watcher.poll().await, NOTHING);
    }
}

/// MariaDB knows for a table when the transaction began that committed last: two that began in the same second look
/// alike.
pub(super) async fn two_transactions_of_one_second(field: &TestDatabase) {
    let (mut first, mut second) = (field.external().await, field.external().await);
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    second.begin().await;
    second.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY7'").await;
    first.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY8'").await;
    assert_eq!(next_change(field, &mut watcher).await, ["deleted MANY8"]);
    field.pass(PAST_THE_OVERLAP).await;
    // The first of these still reads a window, the second counts, and the third need not.
    for _ in 0..3 {
        assert_eq!(watcher.poll().await, NOTHING);
    }
    second.commit().await;
    assert_eq!(next_change(field, &mut watcher).await, ["deleted MANY7"]);
}

/// As above, but the second commits after a poll that counted: its stamp is within the window, however little of the
/// overlap a column of whole seconds leaves.
pub(super) async fn an_edit_behind_one_of_the_same_second(field: &TestDatabase) {
    let (mut first, mut second) = (field.external().await, field.external().await);
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    // So that the window is where the polls were, and not where the stamps are.
    first.put("FUTURE", 1, field.now().await.after(Duration::from_secs(3_600))).await;
    assert_eq!(watcher.poll().await, ["written FUTURE v1"]);
    second.begin().await;
    second.run("DELETE FROM ttp_rule WHERE rule_id = 'NONE'").await;
    first.run("DELETE FROM ttp_rule WHERE rule_id = 'FUTURE'").await;
    assert_eq!(next_change(field, &mut watcher).await, ["deleted FUTURE"]);
    field.pass(PAST_THE_OVERLAP).await;
    assert_eq!(watcher.poll().await, NOTHING);
    // Late in a second, so that the stamp is cut by much.
    while field.now().await.as_micros().rem_euclid(1_000_000) < 700_000 {
        field.pass(Duration::from_millis(20)).await;
    }
    for _ in 0..2 {
        assert_eq!(watcher.poll().await, NOTHING);
    }
    second.put("MANY7", 2, field.now().await.before(OVERLAP).whole_second()).await;
    second.commit().await;
    let committed = std::time::Instant::now();
    loop {
        let heard = watcher.poll().await;
        if !heard.is_empty() {
            assert_eq!(heard, ["written MANY7 v2"]);
            break;
        }
        assert!(committed.elapsed() < DEADLINE, "an edit was not heard");
        field.pass(Duration::from_millis(20)).await;
    }
}

/// A change that leaves no trace, and another one right after it.
pub(super) async fn a_deletion_behind_a_change_that_left_no_trace(field: &TestDatabase) {
    let mut external = field.external().await;
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    let old = field.now().await.before(Duration::from_secs(3_600));
    for round in 0..2 {
        field.pass(PAST_THE_OVERLAP).await;
        assert_eq!(watcher.poll().await, NOTHING);
        external.put("GONE", 1, old).await;
        external.run("DELETE FROM ttp_rule WHERE rule_id = 'GONE'").await;
        assert_eq!(watcher.poll().await, NOTHING);
        external.run(&format!("DELETE FROM ttp_rule WHERE rule_id = 'MANY{round}'")).await;
        assert_eq!(next_change(field, &mut watcher).await, [format!("deleted MANY{round}")]);
    }
}

/// A transaction that wrote before the table was last counted, and committed after.
pub(in crate::store) async fn a_deletion_that_was_under_way(field: &TestDatabase) {
    let (mut late, mut other) = (field.external().await, field.external().await);
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    field.pass(PAST_THE_OVERLAP).await;
    for _ in 0..3 {
        assert_eq!(watcher.poll().await, NOTHING);
    }
    late.begin().await;
    late.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY2'").await;
    for _ in 0..3 {
        assert_eq!(watcher.poll().await, NOTHING);
    }
    if field.address.starts_with("postgres") {
        // SQLite allows one writer at a time, and on MariaDB two that began in the same second look alike.
        other.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY3'").await;
        assert_eq!(next_change(field, &mut watcher).await, ["deleted MANY3"]);
        field.pass(PAST_THE_OVERLAP).await;
        for _ in 0..3 {
            assert_eq!(watcher.poll().await, NOTHING);
        }
    }
    late.commit().await;
    assert_eq!(next_change(field, &mut watcher).await, ["deleted MANY2"]);
}
