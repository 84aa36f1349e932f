//! A program that can write the tables cannot empty a worker at once.

use serde_json::{Value, json};

use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Swarm, wait_for};

const RULES: usize = 10;

/// A worker with ten rules; their master has ended.
fn swarm(adapt: impl Fn(&mut std::process::Command)) -> (Swarm, Daemon) {
    let swarm = Swarm::on_sqlite();
    for number in 0..RULES {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 2));
    }
    let (master, worker) = (swarm.master(), swarm.daemon("worker", adapt));
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == RULES).then_some(()));
    master.stop();
    (swarm, worker)
}

fn status(swarm: &Swarm) -> Value {
    let socket = swarm.socket();
    serde_json::from_str(&swarm.succeed(&["status", "--json", "--socket", socket.to_str().unwrap()])).unwrap()
}

/// A program that may write the tables makes as many of both as it likes.
#[test]
fn a_status_names_a_thousand_of_what_is_quarantined_and_held_back_and_counts_all() {
    const HELD: usize = 1_100;
    const INVALID: usize = 1_200;
    let swarm = Swarm::on_sqlite();
    for number in 0..HELD {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    wait_for("the rules", || (status(&swarm)["rules"] == HELD).then_some(()));
    swarm.sql(&format!(
        "BEGIN; DELETE FROM ttp_rule;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {INVALID})
         INSERT INTO ttp_rule SELECT 'Q' || i, 1, 'Q' || i, 'no rule', strftime('%Y-%m-%d %H:%M:%f000', 'now'), 'x' FROM n;
         COMMIT"
    ));
    let said = wait_for("both", || {
        let said = status(&swarm);
        (said["quarantined_count"] == INVALID && said["pending_count"] == HELD).then_some(said)
    });
    for list in ["quarantined", "pending_mass_delete"] {
        assert_eq!(said[list].as_array().unwrap().len(), 1_000, "{list}");
    }
    assert_eq!(said["rules"], HELD);
    let text = swarm.succeed(&["status"]);
    assert!(
        text.contains("the first 1000 of 1100") && text.contains("the first 1000 of 1200"),
        "{}",
        &text[..2_000]
    );
    let metrics = swarm.succeed(&["status", "--format", "prometheus"]);
    for (name, value) in [("quarantined", INVALID), ("held_back", HELD)] {
        let sample = format!("rulesyncd_{name}{{mode=\"worker\"}} {value}");
        assert!(metrics.contains(&sample), "no {sample} in {metrics}");
    }
    let check = swarm.run(&["status", "--check"]);
    assert!(crate::support::swarm::text(&check.stdout).contains("1200 quarantined rows"), "{check:?}");
}

/// A master's directory may have as many files as it likes.
#[test]
fn a_masters_status_names_a_thousand_of_each_kind_and_counts_all() {
    const EACH: usize = 1_100;
    let swarm = Swarm::on_sqlite();
    for number in 0..EACH {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
        swarm.save(&format!("invalid{number}.yaml"), "no rule");
    }
    let master = swarm.master();
    let socket = swarm.path("master.sock");
    let told = || crate::support::swarm::ask(&socket);
    wait_for("the first reconcile", || (told()?["rules"] == EACH).then_some(()));
    master.stop();
    for number in 0..EACH {
        swarm.remove(&format!("R{number}.yaml"));
        for copy in ["a", "b"] {
            swarm.save(&format!("{copy}{number}.yaml"), rule_text(&format!("C{number}"), 1));
        }
    }
    let _master = swarm.master();
    let said = wait_for("the held back deletions", || told().filter(|said| said["pending_count"] == EACH));
    let lists = [
        ("broken", "broken_count"),
        ("conflicts", "conflict_count"),
        ("pending_mass_delete", "pending_count"),
    ];
    for (list, number) in lists {
        assert_eq!(said[list].as_array().unwrap().len(), 1_000, "{list}");
        assert_eq!(said[number], EACH, "{list}");
    }
    let text = swarm.succeed(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(text.matches("(the first 1000 of 1100)").count(), 3, "{}", &text[..2_000]);
    let metrics = swarm.succeed(&["status", "--format", "prometheus"]);
    for (name, value) in [("quarantined", 2 * EACH), ("held_back", EACH)] {
        let sample = format!("rulesyncd_{name}{{mode=\"master\"}} {value}");
        assert!(metrics.contains(&sample), "no {sample} in {metrics}");
    }
    let check = swarm.run(&["status", "--check"]);
    let line = crate::support::swarm::text(&check.stdout);
    assert!(line.contains("1100 deletions") && line.contains("1100 invalid files"), "{line}");
    // Also of a rule that is not named, `why` says what may hold its deletion back.
    let named = said["pending_mass_delete"].as_array().unwrap();
    let unnamed =
        (0..EACH).map(|number| format!("R{number}")).find(|id| !named.contains(&json!(id))).unwrap();
    for (id, answer) in [
        (named[0].as_str().unwrap(), "its deletion is held back"),
        (&unnamed, "the master holds back 1100 deletions and names 1000 of them, so this may be another"),
    ] {
        let why = crate::support::swarm::text(&swarm.run(&["why", id]).stdout);
        assert!(why.contains(answer), "{id}: {why}");
    }
}

#[test]
fn a_masters_status_names_a_thousand_rejected_rules_and_counts_all() {
    const ALL: usize = 1_100;
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    swarm.sql("CREATE TRIGGER no BEFORE INSERT ON ttp_rule BEGIN SELECT RAISE(ABORT, 'not here'); END");
    for number in 0..ALL {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    let _master = swarm.master();
    let socket = swarm.path("master.sock");
    let said = wait_for("the rejections", || {
        crate::support::swarm::ask(&socket).filter(|said| said["rejected_count"] == ALL)
    });
    assert_eq!(said["rejected"].as_array().unwrap().len(), 1_000);
    let text = swarm.succeed(&["status", "--socket", socket.to_str().unwrap()]);
    assert!(text.contains("rules that the database rejects (the first 1000 of 1100)"), "{}", &text[..2_000]);
    let check = crate::support::swarm::text(&swarm.run(&["status", "--check"]).stdout);
    assert!(check.contains("1100 rules rejected by the database"), "{check}");
}

/// Twenty are named, and no folder is read for the others: so nobody knows how many they are.
#[test]
fn a_masters_status_says_that_more_files_may_be_passed_over_than_it_names() {
    let swarm = Swarm::on_sqlite();
    for number in 10..35 {
        swarm.save(&format!("my-{number}.yaml"), "no rule");
    }
    // What is no rule's name makes no look by itself.
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "200ms");
    });
    let named = || swarm.succeed(&["status"]).matches("my-").count();
    wait_for("the first look", || (named() > 0).then_some(()));
    assert_eq!(named(), 20);
    let text = swarm.succeed(&["status"]);
    assert!(text.contains("for their name or place (the first 20, there may be more)"), "{text}");
    master.signal("USR1");
    master.wait_for_log("at least 20 YAML files not read because of name or place");

    for number in 10..20 {
        swarm.remove(&format!("my-{number}.yaml"));
    }
    wait_for("fewer", || (named() == 15).then_some(()));
    assert!(!swarm.succeed(&["status"]).contains("there may be more"));
    master.signal("USR1");
    master.wait_for_log("; 15 YAML files not read because of name or place");
}

/// A poll that finds nothing new does not look at what is quarantined, and must not forget it.
#[test]
fn quiet_polls_leave_what_is_quarantined_as_it_is() {
    let (swarm, worker) = swarm(|command| {
        command.env("RULESYNCD_POLL_INTERVAL", "100ms");
    });
    let now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')";
    swarm.sql(&format!(
        "INSERT INTO ttp_rule SELECT 'Q', 1, 'Q', 'no rule', {now}, 'x';
         INSERT INTO ttp_rule_state (rule_id, state, set_at) VALUES ('R1', 'paused', {now})"
    ));
    wait_for("both", || (status(&swarm)["quarantined_count"] == 2).then_some(()));
    let polls = || {
        let metrics = swarm.succeed(&["status", "--format", "prometheus"]);
        let polls = metrics.lines().filter(|line| line.contains("_count{") && line.contains("\"poll\""));
        polls.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    let begun = polls();
    let mut told = begun;
    wait_for("more polls", || {
        let said = status(&swarm);
        assert_eq!(
            (said["quarantined_count"].as_u64(), said["rules"].as_u64()),
            (Some(2), Some(RULES as u64))
        );
        assert_eq!(said["quarantined"].as_array().unwrap().len(), 2, "{said}");
        told = polls();
        (told >= begun + 10.0).then_some(())
    });
    assert_eq!(worker.count_in_log("is quarantined: "), 2, "{}", worker.log());
    assert_eq!(worker.count_in_log("no longer quarantined"), 0, "{}", worker.log());
    swarm.sql("DELETE FROM ttp_rule WHERE rule_id = 'Q'");
    worker.wait_for_log("the row `Q` of ttp_rule is no longer quarantined");
    assert_eq!(status(&swarm)["quarantined_count"], 1);
}

#[test]
fn a_mass_deletion_is_held_back_over_a_restart_until_it_is_allowed() {
    let (swarm, worker) = swarm(|_| {});
    swarm.sql("DELETE FROM ttp_rule WHERE rule_id <> 'R0'");
    worker.wait_for_log("9 rules are missing from the tables");
    assert_eq!(swarm.subscribe().snapshot().len(), RULES);
    assert_eq!(status(&swarm)["pending_mass_delete"].as_array().unwrap().len(), 9);
    assert!(swarm.succeed(&["status"]).contains("rulesyncd allow-mass-delete"));
    // The worker follows other changes, and holds back one more deletion.
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.sql("UPDATE ttp_rule SET rule_version = 3, updated_at = '2100-01-01 00:00:00.000000'");
    assert_eq!(subscriber.change()["rule_version"], 3);
    swarm.sql("DELETE FROM ttp_rule");
    wait_for("the last one", || {
        (status(&swarm)["pending_mass_delete"].as_array()?.len() == RULES).then_some(())
    });
    worker.wait_for_log("10 rules are missing from the tables");
    assert_eq!(worker.count_in_log("rules are missing from the tables"), 2, "each is said once");
    worker.stop();

    let worker = swarm.worker();
    worker.wait_for_log("10 rules are missing from the tables");
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), RULES);
    let told = swarm.succeed(&["allow-mass-delete"]);
    assert!(told.contains("10 deletions were held back"), "{told}");
    for _ in 0..RULES {
        assert_eq!(subscriber.change()["new_value"], Value::Null);
    }
    assert!(worker.log().contains("lifted the guard against mass deletion; 10 rules are deleted"));
    assert_eq!(status(&swarm)["pending_mass_delete"].as_array().unwrap().len(), 0);
    assert_eq!(swarm.succeed(&["allow-mass-delete"]), "no deletion is held back\n");
}

/// Another way to empty a worker: making the rows invalid.
#[test]
fn a_table_of_garbage_deletes_no_rule_and_what_comes_back_is_held_back_no_more() {
    let (swarm, worker) = swarm(|_| {});
    swarm.sql("CREATE TABLE kept AS SELECT * FROM ttp_rule; UPDATE ttp_rule SET yaml_content = 'garbage'");
    worker.wait_for_log("10 rules are missing from the tables or invalid");
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), RULES);
    swarm.sql("DELETE FROM ttp_rule; INSERT INTO ttp_rule SELECT * FROM kept");
    worker.wait_for_log("no deletion is held back any more");
    swarm.sql("DELETE FROM ttp_rule WHERE rule_id = 'R7'");
    assert_eq!(subscriber.nothing_before("R7")["new_value"], Value::Null);
}

#[test]
fn a_mass_deletion_is_followed_after_the_configured_time() {
    let (swarm, worker) = swarm(|command| {
        command.env("RULESYNCD_WORKER_MAX_DELETE_HOLD", "2s");
    });
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.sql("DELETE FROM ttp_rule");
    worker.wait_for_log("the worker follows the deletions in 2s");
    for _ in 0..RULES {
        assert_eq!(subscriber.change()["new_value"], Value::Null);
    }
    assert!(worker.log().contains("the missing rows did not come back"), "{}", worker.log());
}

/// Row by row makes no difference.
#[test]
fn tables_that_empty_row_by_row_are_held_back_once_many_are_gone() {
    let (swarm, worker) = swarm(|_| {});
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    for number in 0..5 {
        swarm.sql(&format!("DELETE FROM ttp_rule WHERE rule_id = 'R{number}'"));
        assert_eq!(subscriber.change()["new_value"], Value::Null);
    }
    swarm.sql("DELETE FROM ttp_rule WHERE rule_id = 'R5'");
    worker.wait_for_log("1 rule is missing from the tables");
    assert_eq!(swarm.subscribe().snapshot().len(), 5);
}

#[test]
fn versions_that_fall_are_followed_and_told_in_one_record() {
    let (swarm, worker) = swarm(|_| {});
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.sql("UPDATE ttp_rule SET rule_version = 1, updated_at = '2100-01-01 00:00:00.000000'");
    for _ in 0..RULES {
        assert_eq!(subscriber.change()["rule_version"], 1);
    }
    worker.wait_for_log("the version of 10 rules fell: R0 from 2 to 1, R1 from 2 to 1");
    assert_eq!(worker.count_in_log(" WARN "), 1, "{}", worker.log());
}

/// A user who may read the stream may not lift the guard.
#[test]
fn only_root_and_the_workers_own_user_may_allow_it_as_root() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let (swarm, worker) = swarm(|command| {
        command.env("RULESYNCD_WORKER_SOCKET_MODE", "0666");
    });
    swarm.sql("DELETE FROM ttp_rule");
    worker.wait_for_log("10 rules are missing from the tables");
    let directory = swarm.socket().parent().unwrap().to_owned();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = "import socket, sys\n\
         s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile('rw')\n\
         f.readline(); f.write('{\"op\":\"allow_mass_delete\"}\\n'); f.flush(); print(f.readline())";
    let mut other = std::process::Command::new("python3");
    let answer = other.args(["-c", script]).arg(swarm.socket()).uid(65_534).gid(65_534).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.contains("not_allowed") && answer.contains("user 65534 may not"), "{answer}");
    assert_eq!(swarm.subscribe().snapshot().len(), RULES);
}
