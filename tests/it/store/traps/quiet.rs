//! A table in which nothing has happened for so long that a poll need not even count its rows.

use std::time::Duration;

use super::NOTHING;
use crate::support::databases::{Field, OVERLAP, PAST_THE_OVERLAP};

pub(super) async fn what_comes_after_a_long_quiet(field: &Field) {
    let mut hand = field.hand().await;
    // So many that it is worth to know without counting that they are all there.
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    field.save(&[("R1", 1), ("R2", 1), ("R3", 1), ("R4", 1)]).await;
    let mut watcher = field.watcher().await;
    for round in 1..=2 {
        field.pass(PAST_THE_OVERLAP).await;
        for _ in 0..3 {
            assert_eq!(watcher.look().await, NOTHING);
        }
        let now = field.now().await;
        // One after the other within a second, each heard at the next look.
        hand.run(&format!("DELETE FROM ttp_rule WHERE rule_id = 'R{round}'")).await;
        assert_eq!(watcher.look().await, [format!("deleted R{round}")]);
        hand.run(&format!("DELETE FROM ttp_rule WHERE rule_id = 'R{}'", round + 2)).await;
        assert_eq!(watcher.look().await, [format!("deleted R{}", round + 2)]);
        hand.put("NEW", round, now.before(OVERLAP / 2)).await;
        assert_eq!(watcher.look().await, [format!("written NEW v{round}")]);
        hand.put_state("NEW", "disabled", Some(now.after(Duration::from_secs(2))), now).await;
        assert_eq!(watcher.look().await, ["state NEW disabled"]);
        field.pass(PAST_THE_OVERLAP).await;
        assert_eq!(watcher.look().await, ["expired NEW"]);
        hand.run("DELETE FROM ttp_rule_state").await;
        assert_eq!(watcher.look().await, NOTHING);
    }
}

/// MariaDB remembers of a table when the transaction began that was the last to commit to it: two that
/// began in one second look alike.
pub(super) async fn two_transactions_of_one_second(field: &Field) {
    if field.address.starts_with("sqlite") {
        // There one has to wait for the other.
        return;
    }
    let (mut first, mut second) = (field.hand().await, field.hand().await);
    let ids: Vec<_> = (0..2_500).map(|number| format!("MANY{number}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    second.begin().await;
    second.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY7'").await;
    first.run("DELETE FROM ttp_rule WHERE rule_id = 'MANY8'").await;
    assert_eq!(watcher.look().await, ["deleted MANY8"]);
    field.pass(PAST_THE_OVERLAP).await;
    // The first of these still reads a window, the second counts, and the third need not.
    for _ in 0..3 {
        assert_eq!(watcher.look().await, NOTHING);
    }
    second.commit().await;
    let committed = std::time::Instant::now();
    loop {
        let heard = watcher.look().await;
        if !heard.is_empty() {
            assert_eq!(heard, ["deleted MANY7"]);
            break;
        }
        assert!(committed.elapsed() < Duration::from_secs(3), "a deletion was not heard");
        field.pass(Duration::from_millis(50)).await;
    }
}
