//! What daemons and commands say of a row of `ttp_rule_state` that is no state: the rule counts as enabled, and nobody
//! enabled it.

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Swarm, text, wait_for};

const REASON: &str = "the state is `paused`; expected `enabled`, `disabled` or `clipped`";
const MEANWHILE: &str = "the rule counts as enabled meanwhile";

/// A swarm whose operator disabled A.
fn disabled() -> (Swarm, Daemon, Daemon) {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    worker.wait_for_log(" loaded");
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    swarm.succeed(&["state", "set", "A", "disabled", "--set-by", "alice", "--reason", "noisy"]);
    master.wait_for_log("A disabled by alice");
    worker.wait_for_log("A disabled by alice");
    (swarm, master, worker)
}

#[test]
fn a_state_that_becomes_nonsense_is_not_said_to_be_cleared() {
    let (swarm, master, worker) = disabled();
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    // As of a program with other words, which stamps what it writes.
    swarm.sql(
        "update ttp_rule_state set state = 'paused', set_by = 'other',
         set_at = strftime('%Y-%m-%d %H:%M:%f', 'now') where rule_id = 'A'",
    );
    assert_eq!(subscriber.change()["new_value"]["state"], "enabled", "by contract");

    worker.wait_for_log(&format!("the row `A` of ttp_rule_state is quarantined: {REASON}; {MEANWHILE}"));
    worker.wait_for_log(&format!("A enabled: the row of its state is quarantined: {REASON}"));
    master.wait_for_log(&format!("A has a row that is no state: {REASON}; {MEANWHILE}"));
    for daemon in [&master, &worker] {
        assert_eq!(daemon.count_in_log("cleared"), 0, "{}", daemon.log());
    }

    let listed = swarm.succeed(&["state", "list"]);
    assert!(listed.contains("paused (no state: enabled)"), "{listed}");
    let listed: Value = serde_json::from_str(&swarm.succeed(&["state", "list", "--json"])).unwrap();
    assert_eq!((&listed["state"], &listed["invalid"]), (&"paused".into(), &REASON.into()), "{listed}");
    let status = swarm.succeed(&["status"]);
    assert!(status.contains(MEANWHILE), "{status}");
    let why = text(&swarm.run(&["why", "A"]).stdout);
    assert_eq!(why.matches(MEANWHILE).count(), 1, "{why}");

    // The operator mends it; the record is of that, and then of a state that really was cleared.
    swarm.succeed(&["state", "set", "A", "disabled", "--set-by", "bob"]);
    worker.wait_for_log("A disabled by bob");
    worker.wait_for_log("the row `A` of ttp_rule_state is no longer quarantined");
    swarm.succeed(&["state", "clear", "A"]);
    for daemon in [&master, &worker] {
        daemon.wait_for_log("was cleared");
    }
}

/// On SQLite a column takes any value.
#[test]
fn a_state_that_becomes_unreadable_is_not_said_to_be_cleared() {
    let (swarm, master, worker) = disabled();
    swarm.sql("update ttp_rule_state set set_at = 'zz soon' where rule_id = 'A'");
    worker.wait_for_log("A enabled: the row of its state is quarantined: set_at");
    master.wait_for_log("A has a row that is no state: set_at");
    for daemon in [&master, &worker] {
        assert_eq!(daemon.count_in_log(MEANWHILE), 1, "{}", daemon.log());
        assert_eq!(daemon.count_in_log("cleared"), 0, "{}", daemon.log());
    }
    let listed = swarm.succeed(&["state", "list"]);
    let line = listed.lines().find(|line| line.trim_start().starts_with('A'));
    assert!(
        line.is_some_and(|line| line.contains("(no state: enabled)") && line.contains("set_at")),
        "{listed}"
    );
    let listed: Value = serde_json::from_str(&swarm.succeed(&["state", "list", "--json"])).unwrap();
    assert!(listed["rule_id"] == "A" && listed["invalid"].as_str().unwrap().contains("set_at"), "{listed}");
    let why = text(&swarm.run(&["why", "A"]).stdout);
    assert!(why.contains("cannot be read: set_at"), "{why}");
    swarm.sql("delete from ttp_rule_state");
    master.wait_for_log("A enabled: the row that was no state was removed");
}

#[test]
fn where_no_worker_names_it_why_says_that_a_row_is_no_state() {
    let (swarm, master, worker) = disabled();
    worker.stop();
    swarm.sql("update ttp_rule_state set state = 'paused' where rule_id = 'A'");
    let why = swarm.run(&["why", "A"]);
    let said = text(&why.stdout);
    assert!(said.contains(&format!("the row of its state is no state: {REASON}; {MEANWHILE}")), "{said}");
    drop(master);
}

/// The neighbour of a row that became nonsense: one that is gone is cleared, quarantined before or not.
#[test]
fn a_quarantined_state_that_is_removed_is_released_and_changes_nothing() {
    let (swarm, _master, worker) = disabled();
    swarm.sql("update ttp_rule_state set state = 'paused', set_at = strftime('%Y-%m-%d %H:%M:%f', 'now')");
    worker.wait_for_log("A enabled: the row of its state is quarantined");
    swarm.sql("delete from ttp_rule_state");
    worker.wait_for_log("the row `A` of ttp_rule_state is no longer quarantined");
    assert_eq!(worker.count_in_log("cleared"), 0, "the rule was enabled before: {}", worker.log());
}
