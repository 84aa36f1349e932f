//! `rulesyncd why` with real daemons: in sync, and then different in one place after the other.

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

fn why(swarm: &Swarm, rule_id: &str) -> (i32, String) {
    let output = swarm.run(&["why", rule_id]);
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_rules_story_is_told_from_its_file_to_its_subscribers() {
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", rule_text("R1", 3));
    let master = swarm.master();
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = swarm.subscribe();
    }

    let told = wait_for("the rule in sync", || Some(why(&swarm, "R1")).filter(|(code, _)| *code == 0)).1;
    for part in
        ["r1.yaml", "version 3, sha256 ", "of filesystem from r1.yaml", "none is set: enabled", "in sync"]
    {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
    let story: Value = serde_json::from_str(&swarm.succeed(&["why", "R1", "--json"])).unwrap();
    let digest = &story["files"][0]["content_sha256"];
    assert_eq!(digest, &story["table"]["row"]["content_sha256"]);
    assert_eq!(digest, &story["worker"]["rule"]["content_sha256"]);
    assert_eq!(story["master"], "held");

    assert_eq!(why(&swarm, "R2").0, 1);

    // The file is made invalid; then the master is stopped and another version is saved.
    swarm.save("r1.yaml", "rule_id: R1\nrule_version: [");
    master.wait_for_log("its last good version stays");
    let (code, told) = why(&swarm, "R1");
    assert!(code == 1 && told.contains("r1.yaml: line 2, column"), "{told}");
    master.stop();
    swarm.save("r1.yaml", rule_text("R1", 4));
    let (code, told) = why(&swarm, "R1");
    assert!(
        code == 1 && told.contains("holds version 4, the row version 3: no master answers on this host"),
        "{told}"
    );

    // A state is in sync again once the worker has it.
    swarm.succeed(&["state", "set", "R1", "disabled", "--reason", "noisy"]);
    subscriber.change();
    let told = why(&swarm, "R1").1;
    assert!(told.contains("disabled by operator") && told.contains("noisy"), "{told}");
    assert!(!told.contains("the worker says"), "{told}");
}

#[test]
fn a_host_that_can_see_nothing_says_why_and_ends_with_3() {
    let swarm = Swarm::on_sqlite();
    let (code, told) = why(&swarm, "R1");
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("events.sock cannot be opened"), "{told}");
}

/// As where the clock of the host that wrote a row is ahead.
#[test]
fn a_stamp_ahead_of_the_clock_is_not_told_as_an_age() {
    let swarm = Swarm::on_sqlite();
    swarm.save("r1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    let told = wait_for("the rule in sync", || Some(why(&swarm, "R1")).filter(|(code, _)| *code == 0)).1;
    assert!(told.contains(" ago)") && !told.contains("ahead"), "{told}");
    let status = swarm.succeed(&["status"]);
    assert!(status.contains(" ago)") && !status.contains("ahead"), "{status}");

    swarm.sql("update ttp_rule set updated_at = '2100-01-01 00:00:00.000000'");
    let status = wait_for("the stamp", || {
        Some(swarm.succeed(&["status"])).filter(|status| status.contains("2100-01-01"))
    });
    let line = status.lines().find(|line| line.contains("2100-01-01")).unwrap();
    assert!(line.contains("(in the future: ") && line.ends_with(" h ahead of this clock)"), "{line}");
    let told = why(&swarm, "R1").1;
    let written = told.lines().filter(|line| line.contains("written 2100-01-01")).collect::<Vec<_>>();
    assert_eq!(written.len(), 2, "the row and the worker: {told}");
    assert!(written.iter().all(|line| line.contains("(in the future: ")), "{told}");
}
