//! A worker follows a directory without a database: `dir://`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::{Duration, Instant};

use rulesyncd::directory::DELETE_AFTER;
use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Subscriber, Swarm, text, wait_for};

/// The next change, as the rule and its version; no version for a deletion.
fn hears(subscriber: &mut Subscriber) -> (String, Option<u64>) {
    let change = subscriber.change();
    (change["rule_id"].as_str().unwrap().to_owned(), change["new_value"]["rule_version"].as_u64())
}

fn status(swarm: &Swarm) -> Value {
    serde_json::from_str(&swarm.succeed(&["status", "--json", "--socket", swarm.socket().to_str().unwrap()]))
        .unwrap()
}

#[test]
fn what_happens_in_the_directory_arrives_and_every_command_knows_it() {
    let swarm = Swarm::on_directory();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.save("b.yaml", rule_text("B", 1));
    let worker = swarm.worker();
    worker.wait_for_log("without a database: there are no operator states");
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 2);

    swarm.save("a.yaml", rule_text("A", 2));
    assert_eq!(hears(&mut subscriber), ("A".to_owned(), Some(2)));
    swarm.save_atomically("c.yaml", rule_text("C", 1));
    assert_eq!(hears(&mut subscriber), ("C".to_owned(), Some(1)));
    // The id of a file changes: the old one is deleted at once.
    swarm.save("c.yaml", rule_text("D", 1));
    assert_eq!(hears(&mut subscriber), ("D".to_owned(), Some(1)));
    assert_eq!(hears(&mut subscriber), ("C".to_owned(), None));
    fs::rename(swarm.rules().join("b.yaml"), swarm.rules().join("b2.yaml")).unwrap();
    assert_eq!(hears(&mut subscriber), ("B".to_owned(), Some(1)));

    assert!(swarm.succeed(&["verify"]).contains("in sync: directory, worker"));
    assert!(swarm.succeed(&["why", "A"]).contains("a.yaml"));
    let worker = status(&swarm);
    assert_eq!((&worker["rules"], &worker["database"]["backend"]), (&3.into(), &"filesystem".into()));
    assert_eq!(worker["database"]["url"], swarm.url());

    for (args, exit) in [(&["state", "set", "A", "disabled"][..], 3), (&["sync"], 3), (&["master"], 2)] {
        let output = swarm.run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        assert!(
            said.contains("is a directory of rules, without tables and operator states"),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn half_a_file_and_a_broken_one_keep_the_rule_and_a_conflict_is_named() {
    let swarm = Swarm::on_directory();
    swarm.save("a.yaml", rule_text("A", 1));
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);

    // A slow writer, whose partial text is a valid rule.
    let longer = rule_text("A", 2) + "evidence_fields: [command_text, session_id]\n";
    let cut = longer.len() - "text, session_id]\n".len();
    let mut file = OpenOptions::new().write(true).truncate(true).open(swarm.rules().join("a.yaml")).unwrap();
    file.write_all(&longer.as_bytes()[..cut]).unwrap();
    swarm.save("z.yaml", rule_text("Z", 1));
    assert_eq!(hears(&mut subscriber), ("Z".to_owned(), Some(1)));
    file.write_all(&longer.as_bytes()[cut..]).unwrap();
    drop(file);
    let change = subscriber.change();
    assert_eq!(
        change["new_value"]["evidence_fields"],
        serde_json::json!(["command_text", "session_id"]),
        "{change}"
    );

    swarm.save("a.yaml", "rule_id: [");
    swarm.save("y.yaml", rule_text("Z", 9));
    let quarantined = wait_for("both files in status", || {
        let worker = status(&swarm);
        let rows = worker["quarantined"].as_array()?;
        (rows.len() == 2).then(|| worker["quarantined"].to_string())
    });
    assert!(
        quarantined.contains("a.yaml") && quarantined.contains("z.yaml holds the rule_id `Z`"),
        "{quarantined}"
    );
    let verified = swarm.run(&["verify"]);
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stdout));
    // None of these is a change; once corrected, each is.
    swarm.save("a.yaml", rule_text("A", 3));
    assert_eq!(hears(&mut subscriber), ("A".to_owned(), Some(3)));
    swarm.remove("y.yaml");
    wait_for("nothing in quarantine", || status(&swarm)["quarantined"].as_array()?.is_empty().then_some(()));
}

#[test]
fn a_file_must_stay_away_to_be_deleted_and_an_emptied_directory_is_held_back() {
    let swarm = Swarm::on_directory();
    for id in ["A", "B", "C", "D", "E", "F", "G"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 7);

    // Removed and written again, as some editors save: no deletion.
    swarm.remove("A.yaml");
    swarm.save("A.yaml", rule_text("A", 2));
    assert_eq!(hears(&mut subscriber), ("A".to_owned(), Some(2)));

    let removed = Instant::now();
    swarm.remove("B.yaml");
    assert_eq!(hears(&mut subscriber), ("B".to_owned(), None));
    assert!(removed.elapsed() >= DELETE_AFTER - Duration::from_millis(100), "{:?}", removed.elapsed());

    for id in ["A", "C", "D", "E", "F", "G"] {
        swarm.remove(&format!("{id}.yaml"));
    }
    wait_for("the deletions held back", || {
        (status(&swarm)["pending_mass_delete"].as_array()?.len() == 6).then_some(())
    });
    swarm.succeed(&["allow-mass-delete"]);
    let mut deleted: Vec<_> = (0..6).map(|_| hears(&mut subscriber)).collect();
    deleted.sort();
    assert_eq!(deleted, ["A", "C", "D", "E", "F", "G"].map(|id| (id.to_owned(), None)));
}

#[test]
fn a_directory_that_is_missing_is_an_outage_and_a_restart_serves_the_last_rules() {
    let swarm = Swarm::on_directory();
    swarm.save("a.yaml", rule_text("A", 1));
    let worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);
    wait_for("the cache", || swarm.path("catalogue.ndjson").exists().then_some(()));
    worker.stop();

    fs::rename(swarm.rules(), swarm.path("elsewhere")).unwrap();
    let worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1, "what was known is served");
    worker.wait_for_log("the rules directory cannot be read");
    fs::rename(swarm.path("elsewhere"), swarm.rules()).unwrap();
    swarm.save("a.yaml", rule_text("A", 2));
    assert_eq!(hears(&mut subscriber), ("A".to_owned(), Some(2)));
    worker.wait_for_log("the rules directory can be read again");
    swarm.save("b.yaml", "rule_id: [");
    worker.wait_for_log("`b.yaml` in the rules directory is quarantined: line 1, ");
    let log = worker.log();
    assert!(!log.contains("database does") && !log.contains("ttp_rule is"), "{log}");
}
