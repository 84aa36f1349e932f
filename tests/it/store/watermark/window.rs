//! A window of many rows, of which a poll reads the headers first.

use std::time::Duration;

use rulesyncd::store::Follow as _;

use super::NOTHING;
use crate::support::databases::TestDatabase;
use crate::support::rules::rule_text;

/// More rows than a poll reads whole.
const MANY: usize = 100;

/// A text that differs from [`rule_text`]'s in one letter.
fn reworded(rule_id: &str) -> String {
    rule_text(rule_id, 1).replace("name: rule", "name: Rule")
}

/// Rows of one second, which a poll has read; the window holds them all.
pub(super) async fn many_rows_and_one_edited(field: &TestDatabase) {
    let mut external = field.external().await;
    let now = field.now().await;
    let ids: Vec<_> = (0..MANY).map(|number| format!("R{number:03}")).collect();
    field.save(&ids.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    assert_eq!(watcher.poll().await, NOTHING);

    // A stamp that moved, also backwards; only a version or a path; and only a new stamp.
    external.put("R001", 2, now.after(Duration::from_micros(1))).await;
    external.put_text("R002", 1, &reworded("R002"), now.before(Duration::from_micros(1))).await;
    external.run("UPDATE ttp_rule SET rule_version = 7 WHERE rule_id = 'R003'").await;
    external.run("UPDATE ttp_rule SET source_path = 'elsewhere.yaml' WHERE rule_id = 'R004'").await;
    external.put("R005", 1, now).await;
    external.put("NEW", 1, now).await;
    let mut heard = watcher.poll().await;
    assert_eq!(watcher.rows, MANY as u64 + 1, "the window holds them all");
    heard.sort();
    assert_eq!(
        heard,
        ["written NEW v1", "written R001 v2", "written R002 v1", "written R003 v7", "written R004 v1"]
    );
    assert_eq!(watcher.poll().await, NOTHING);
}

/// On whole-second storage, or by a writer with no better clock, a stamp does not identify a text.
pub(super) async fn many_rows_of_one_second(field: &TestDatabase) {
    let mut external = field.external().await;
    let second = field.now().await.whole_second();
    for number in 0..MANY {
        external.put(&format!("R{number:03}"), 1, second).await;
    }
    let mut watcher = field.watcher().await;
    for text in [reworded("R050"), rule_text("R050", 1), reworded("R050")] {
        external.put_text("R050", 1, &text, second).await;
        assert_eq!(watcher.poll().await, ["written R050 v1"]);
        assert_eq!(watcher.poll().await, NOTHING);
    }
}

/// Rows that cannot be read are among the others, are logged once, and come back when they are corrected.
pub(super) async fn many_rows_and_poison(field: &TestDatabase) {
    let mut external = field.external().await;
    let now = field.now().await;
    for number in 0..MANY {
        external.put(&format!("R{number:03}"), 1, now).await;
    }
    let mut watcher = field.watcher().await;
    external.put_text("R007", 2, "rule_id: [", now.after(Duration::from_micros(7))).await;
    external.put_text("R008", 2, &rule_text("OTHER", 2), now.whole_second()).await;
    let mut heard = watcher.poll().await;
    heard.sort();
    assert_eq!(heard, ["deleted R007", "deleted R008"]);
    for _ in 0..2 {
        let delta = watcher.follower.poll(&watcher.catalogue).await.unwrap();
        assert!(delta.rules.is_empty(), "{delta:?}");
    }
    external.put("R007", 3, now.after(Duration::from_micros(8))).await;
    external.put("R008", 3, now.whole_second()).await;
    let mut heard = watcher.poll().await;
    heard.sort();
    assert_eq!(heard, ["written R007 v3", "written R008 v3"]);
}

/// The server sums the rows of the window, so that a poll need not read them again. Two rows that get the same stamp,
/// version and path length in place of others do not leave the sum as it was.
pub(super) async fn many_rows_of_which_two_get_the_same_change(field: &TestDatabase) {
    let mut external = field.external().await;
    let loaded = field.now().await.whole_second().after(Duration::from_micros(123_456));
    for number in 0..MANY {
        external.put(&format!("R{number:03}"), 1, loaded).await;
    }
    let mut watcher = field.watcher().await;
    watcher.poll().await;
    assert_eq!(watcher.poll().await, NOTHING);
    assert_eq!(watcher.rows, 0, "the window has many rows, but they were summed");
    for version in 2..=4 {
        let stamp = loaded.after(Duration::from_micros(u64::try_from(version).unwrap()));
        external.put("R001", version, stamp).await;
        external.put("R002", version, stamp).await;
        let mut heard = watcher.poll().await;
        heard.sort();
        assert_eq!(heard, [format!("written R001 v{version}"), format!("written R002 v{version}")]);
        assert_eq!(watcher.poll().await, NOTHING);
        assert_eq!(watcher.rows, 0);
    }
}
