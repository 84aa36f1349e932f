//! The event stream as a subscriber hears it.

use rulesyncd::rule::{RuleState, StateKind};
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::tables::worker_over;

/// A change in a short spelling.
fn tell(change: &Value) -> String {
    let value = match (&change["change_kind"], &change["new_value"]) {
        (_, Value::Null) => "deleted".to_owned(),
        (kind, rule) if kind == "definition" => format!("v{}", rule["rule_version"]),
        (_, state) => state["state"].as_str().unwrap().to_owned(),
    };
    let how = if change["auto_revert"] == true { " by itself" } else { "" };
    format!("{} {} {value}{how}", change["seq"], change["rule_id"].as_str().unwrap())
}

fn disabled(set_by: &str) -> RuleState {
    RuleState { state: StateKind::Disabled, set_by: Some(set_by.to_owned()), ..RuleState::default() }
}

#[tokio::test]
async fn a_subscriber_gets_a_snapshot_and_then_one_line_for_each_change() {
    let (worker, _directory) = worker_over([("R1", 1), ("R2", 1)]);
    worker.tables.set("R9", disabled("ann"));
    let mut raw = Raw::connect(worker.socket()).await;
    let hello = raw.next().await;
    assert_eq!((&hello["type"], &hello["protocol"]), (&json!("hello"), &json!(1)));
    raw.send(&json!({"op": "subscribe"})).await;

    let (begin, ids, end) = raw.snapshot().await;
    let epoch = &hello["epoch"];
    assert_eq!(
        begin,
        json!({"type": "snapshot_begin", "epoch": epoch, "seq": 0, "rules": 2, "states": 1, "reason": "initial"})
    );
    assert_eq!(ids, ["R1", "R2", "R9"]);
    assert_eq!((&end["epoch"], &end["seq"]), (epoch, &json!(0)));

    worker.tables.write([("R2", 2), ("R3", 1)]);
    assert_eq!(tell(&raw.event().await), "1 R2 v2");
    assert_eq!(tell(&raw.event().await), "2 R3 v1");
    worker.tables.delete("R1");
    let deleted = raw.event().await;
    let fields: Vec<&String> = deleted.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["type", "seq", "change_kind", "rule_id", "new_value", "emitted_at"]);
    assert_eq!(tell(&deleted), "3 R1 deleted");
    worker.tables.set("R2", disabled("ben"));
    assert_eq!(tell(&raw.event().await), "4 R2 disabled");
    worker.tables.write([("R2", 3)]);
    let written = raw.event().await;
    assert_eq!(written["new_value"]["state"]["set_by"], "ben", "a rule carries the state in force");
    worker.tables.clear("R2");
    assert_eq!(tell(&raw.event().await), "6 R2 enabled");
}
