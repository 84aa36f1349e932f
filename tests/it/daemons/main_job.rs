//! A file is saved on one side, and a subscriber on the other receives its content.

use std::fs;

use serde_json::{Value, json};

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

fn swarm_with(count: usize) -> Swarm {
    let swarm = Swarm::on_sqlite();
    for number in 0..count {
        let id = format!("R{number:04}");
        swarm.save(&format!("{id}.yaml"), rule_text(&id, 1));
    }
    swarm
}

fn in_words(change: &Value) -> String {
    let id = change["rule_id"].as_str().unwrap();
    match (change["change_kind"].as_str().unwrap(), &change["new_value"]) {
        ("definition", Value::Null) => format!("deleted {id}"),
        ("definition", rule) => format!("written {id} v{}", rule["rule_version"]),
        ("state", state) if change["auto_revert"] == true => format!("expired {id} {}", state["state"]),
        (kind, state) => format!("{kind} {id} {}", state["state"]),
    }
}

#[test]
fn sync_writes_every_rule_verbatim_and_then_nothing() {
    let swarm = swarm_with(59);
    let odd = format!("# a comment\r\n{}unknown_key: [1, 2]\n", rule_text("ODD", 7));
    swarm.save("odd.yml", &odd);
    let place = swarm.url();
    assert_eq!(
        swarm.succeed(&["sync"]),
        format!("60 added, 0 changed, 0 deleted, 0 unchanged\non {place}\n")
    );
    let rows = swarm.rows();
    assert_eq!(rows.len(), 60);
    assert_eq!(rows[0], ["ODD", "7", "odd.yml", &odd, "filesystem"]);
    assert_eq!(
        swarm.succeed(&["sync"]),
        format!("0 added, 0 changed, 0 deleted, 60 unchanged\non {place}\n")
    );
    assert_eq!(swarm.rows(), rows);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let swarm = swarm_with(2);
    swarm.succeed(&["sync"]);
    let before = swarm.rows();
    swarm.save("R0000.yaml", rule_text("R0000", 2));
    swarm.save("new.yaml", rule_text("NEW", 1));
    swarm.remove("R0001.yaml");
    let diff = swarm.succeed(&["sync", "--dry-run"]);
    for line in ["- R0001 ", "~ R0000 ", "+ NEW ", "1 to add, 1 to change, 1 to delete, 0 unchanged"] {
        assert!(diff.contains(line), "no `{line}` in\n{diff}");
    }
    assert_eq!(swarm.rows(), before);
}

#[test]
fn each_thing_that_happens_arrives_as_the_changes_that_it_is() {
    let swarm = swarm_with(59);
    let _master = swarm.master();
    let _worker = swarm.worker();
    let mut subscriber = loop {
        let mut subscriber = swarm.subscribe();
        if subscriber.snapshot().len() == 59 {
            break subscriber;
        }
    };
    let mut hears = |expected: &str| {
        let change = subscriber.change();
        assert_eq!(in_words(&change), expected, "{change}");
        change
    };

    swarm.save("R0003.yaml", rule_text("R0003", 2));
    let change = hears("written R0003 v2");
    assert_eq!(change["new_value"]["match_spec"], json!({"field": "command_text", "pattern": "v2"}));
    assert_eq!(change["source_path"], "R0003.yaml");
    assert_eq!(change["updated_by"], "filesystem");
    assert_eq!(change["new_value"]["emits"][0]["confidence"].to_string(), "0.85");

    swarm.save_atomically("R0004.yaml", rule_text("R0004", 2));
    hears("written R0004 v2");
    swarm.save("new.yaml", rule_text("NEW", 1));
    hears("written NEW v1");
    swarm.remove("R0005.yaml");
    hears("deleted R0005");
    fs::rename(swarm.rules().join("R0006.yaml"), swarm.path("R0006.yaml")).unwrap();
    hears("deleted R0006");

    swarm.save("new.yaml", rule_text("RENAMED", 1));
    let mut both = [subscriber.change(), subscriber.change()].map(|change| in_words(&change));
    both.sort();
    assert_eq!(both, ["deleted NEW", "written RENAMED v1"]);

    swarm.save("R0007.yaml", "rule_id: R0007\nrule_version: [broken");
    swarm.save("R0008.yaml", rule_text("R0008", 2));
    assert_eq!(in_words(&subscriber.nothing_before("R0008")), "written R0008 v2");
    swarm.save("R0007.yaml", rule_text("R0007", 3));
    assert_eq!(in_words(&subscriber.change()), "written R0007 v3");

    swarm.succeed(&["state", "set", "R0009", "disabled", "--expires-in", "3s", "--reason", "noisy"]);
    let set = subscriber.change();
    assert_eq!(in_words(&set), "state R0009 \"disabled\"");
    assert_eq!(
        (&set["new_value"]["reason"], &set["new_value"]["set_by"]),
        (&json!("noisy"), &json!("operator"))
    );
    let expired = subscriber.change();
    assert_eq!(in_words(&expired), "expired R0009 \"enabled\"");
    assert_eq!(expired["new_value"]["expires_at"], Value::Null);

    assert_eq!(swarm.rows().len(), 58);
}

#[test]
fn a_burst_as_of_git_checkout_arrives_as_one_change_a_rule() {
    let swarm = swarm_with(40);
    let _master = swarm.master();
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().len() < 40 {
        subscriber = swarm.subscribe();
    }
    // Git removes each file that differs and writes it again.
    for number in 0..40 {
        let id = format!("R{number:04}");
        swarm.remove(&format!("{id}.yaml"));
        swarm.save(&format!("{id}.yaml"), rule_text(&id, 2));
    }
    let mut heard: Vec<_> = (0..40).map(|_| in_words(&subscriber.change())).collect();
    heard.sort();
    let expected: Vec<_> = (0..40).map(|number| format!("written R{number:04} v2")).collect();
    assert_eq!(heard, expected);
    swarm.save("last.yaml", rule_text("LAST", 1));
    subscriber.nothing_before("LAST");
}

#[test]
fn two_files_with_one_id_are_told_and_the_second_takes_over_when_the_first_goes() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("X", 1));
    let master = swarm.master();
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = swarm.subscribe();
    }
    swarm.save("b.yaml", rule_text("X", 2));
    master.wait_for_log("b.yaml and a.yaml both hold X; a.yaml keeps it");
    swarm.remove("a.yaml");
    assert_eq!(in_words(&subscriber.change()), "written X v2");
    assert_eq!(swarm.rows()[0][2], "b.yaml");
}

#[test]
fn dev_prints_every_change_of_a_directory_however_it_is_named() {
    let swarm = swarm_with(3);
    let printed = swarm.path("printed");
    let dev = swarm.daemon("dev", |command| {
        command.current_dir(swarm.path(".")).args(["--rules-dir", "rules"]);
        command.env_remove("RULESYNCD_RULES_DIR").stdout(fs::File::create(&printed).unwrap());
    });
    let wait_for_line = |wanted: &str| {
        wait_for(wanted, || fs::read_to_string(&printed).unwrap().contains(wanted).then_some(()));
    };
    wait_for_line("R0002 v1");
    swarm.save_atomically("R0002.yaml", rule_text("R0002", 2));
    wait_for_line("written  R0002 v2");
    // The command that it suggests for another terminal works unchanged.
    let introduction = fs::read_to_string(&printed).unwrap();
    let said = introduction.lines().find_map(|line| line.trim().strip_prefix("rulesyncd state ")).unwrap();
    let words: Vec<&str> = said.split(' ').map(|word| if word == "ID" { "R0001" } else { word }).collect();
    let state = swarm.command(&["state"]).args(words).env_remove("RULESYNCD_DATABASE_URL").output().unwrap();
    assert!(state.status.success(), "{said}: {}", text(&state.stderr));
    wait_for_line("R0001  disabled");
    dev.stop();
}

#[test]
fn the_flags_of_state_stand_before_or_after_what_it_is_to_do() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    let file = swarm.path("rulesyncd.yaml");
    fs::write(&file, format!("database: {{url: '{}'}}\n", swarm.url())).unwrap();
    let file = file.to_str().unwrap();
    for (flag, value) in [("--config", file), ("--database-url", swarm.url())] {
        for args in [["state", flag, value, "list"], ["state", "list", flag, value]] {
            let listed = swarm.command(&args).env_remove("RULESYNCD_DATABASE_URL").output().unwrap();
            assert!(text(&listed.stdout).contains("R1"), "{args:?}: {}", text(&listed.stderr));
        }
    }
}

#[test]
fn a_rule_as_large_as_its_master_allows_reaches_the_workers() {
    let swarm = Swarm::on_sqlite();
    let large =
        rule_text("LARGE", 1).replace("name: rule LARGE", &format!("name: {}", "x".repeat(300 * 1024)));
    swarm.save("large.yaml", large);
    let allowing = |command: &mut std::process::Command| {
        command.env("RULESYNCD_MASTER_MAX_RULE_SIZE", "512KiB");
    };
    let (_master, _worker) = (swarm.daemon("master", allowing), swarm.worker());
    let mut subscriber = swarm.subscribe();
    let heard = match &subscriber.snapshot()[..] {
        [] => subscriber.change(),
        [rule, ..] => rule.clone(),
    };
    assert_eq!((&heard["rule_id"], &heard["rule_version"]), (&"LARGE".into(), &1.into()));
}
