//! States of many rules at once: how the rules are chosen, who is asked, and what is written.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::layer::rule;
use crate::support::releases::Owner;
use crate::support::rules::rule_text;
use crate::support::swarm::{Subscriber, Swarm, text, wait_for};
use crate::support::terminal::Terminal;

/// The rules D1 and D2 in one tactic, X1 and X2 in another one.
fn swarm() -> Swarm {
    let swarm = Swarm::on_sqlite();
    let miner = rule("X1", &[("TA0002", "T1059", "T1059.004", "0.9")]).replace("rule X1", "XMRig Miner");
    swarm.save("D1.yaml", rule("D1", &[("TA0007", "T1083", "", "0.6")]));
    swarm.save("D2.yaml", rule("D2", &[("TA0001", "T1078", "", "0.3"), ("TA0007", "T1083", "", "0.6")]));
    swarm.save("X1.yaml", miner);
    swarm.save("X2.yaml", rule("X2", &[("TA0002", "T1059", "", "0.9")]));
    swarm.succeed(&["sync"]);
    swarm
}

/// The table of states as another reader sees it: `R1=disabled by alice`.
fn states(swarm: &Swarm) -> Vec<String> {
    let script = "import sqlite3, sys\n\
        rows = sqlite3.connect(sys.argv[1]).execute('select rule_id, state, set_by from ttp_rule_state order by 1')\n\
        for row in rows: print('%s=%s by %s' % row)";
    let read = Command::new("python3").args(["-c", script]).arg(swarm.path("rules.db")).output().unwrap();
    assert!(read.status.success(), "{}", text(&read.stderr));
    text(&read.stdout).lines().map(str::to_owned).collect()
}

fn run_with_input(swarm: &Swarm, args: &[&str], input: &str) -> Output {
    let mut command = swarm.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a command that must be refused with `code`, and say each of `words`.
fn refuses(swarm: &Swarm, args: &[&str], code: i32, words: &[&str]) {
    let before = states(swarm);
    let output = swarm.run(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: no {word:?} in {said}");
    }
    assert_eq!(states(swarm), before, "{args:?}");
}

/// The next changes, as `D1 disabled`, whatever their order.
fn changes<const N: usize>(subscriber: &mut Subscriber) -> BTreeSet<String> {
    let mut change = || {
        let change = subscriber.change();
        assert_eq!(change["change_kind"], "state", "{change}");
        format!("{} {}", change["rule_id"].as_str().unwrap(), change["new_value"]["state"].as_str().unwrap())
    };
    (0..N).map(|_| change()).collect()
}

#[test]
fn ids_conditions_and_standard_input_choose_rules_and_each_is_one_change() {
    let swarm = swarm();
    let worker = swarm.worker();
    worker.wait_for_log(" loaded");
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();

    let printed = swarm.succeed(&["state", "set", "X2", "D1", "X2", "disabled", "--reason", "both"]);
    let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..3].iter().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>(),
        [
            vec!["RULE", "STATE", "NAME"],
            vec!["D1", "no", "state", "rule", "D1"],
            vec!["X2", "no", "state", "rule", "X2"],
        ]
    );
    assert_eq!(lines[3..], ["2 rules are disabled, set by operator: both", &format!("on {}", swarm.url())]);
    assert_eq!(states(&swarm), ["D1=disabled by operator", "X2=disabled by operator"]);
    assert_eq!(changes::<2>(&mut subscriber), ["D1 disabled", "X2 disabled"].map(String::from).into());

    // A technique includes its sub-techniques, and the last word is the state wherever flags are.
    swarm.succeed(&["state", "set", "enabled", "--where", "technique=T1059", "--yes", "--set-by", "alice"]);
    let expected = ["D1=disabled by operator", "X1=enabled by alice", "X2=enabled by alice"];
    assert_eq!(states(&swarm), expected);
    assert_eq!(changes::<2>(&mut subscriber), ["X1 enabled", "X2 enabled"].map(String::from).into());

    // One rule needs no answer. Every condition must hold.
    let printed = swarm.succeed(&["state", "set", "--where", "name~miner", "clipped"]);
    assert!(printed.starts_with("X1 is clipped, set by operator\n"), "{printed}");
    swarm.succeed(&["state", "set", "--where", "tactic=TA0007", "--where", "tactic=TA0001", "clipped"]);
    let expected = [
        "D1=disabled by operator",
        "D2=clipped by operator",
        "X1=clipped by operator",
        "X2=enabled by alice",
    ];
    assert_eq!(states(&swarm), expected);
    assert_eq!(changes::<2>(&mut subscriber), ["X1 clipped", "D2 clipped"].map(String::from).into());

    let output = run_with_input(&swarm, &["state", "clear", "-", "--yes", "--json"], "X1\n\nD2\r\n");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, rule_id) in lines.iter().zip(["D2", "X1"]) {
        assert_eq!((&line["rule_id"], &line["cleared"]), (&rule_id.into(), &true.into()));
        assert_eq!(line["database"], swarm.url());
    }
    assert_eq!(changes::<2>(&mut subscriber), ["D2 enabled", "X1 enabled"].map(String::from).into());

    let printed = swarm.succeed(&["state", "clear", "D1", "D2"]);
    assert!(printed.contains("\n1 rule is enabled again, 1 had no such state\n"), "{printed}");
    assert_eq!(states(&swarm), ["X2=enabled by alice"]);
    // Rules without a state are not in the list of what is cleared.
    let printed = swarm.succeed(&["state", "clear", "--where", "tactic=TA0002", "--yes"]);
    assert!(printed.starts_with("X2 is enabled again"), "{printed}");
    let printed = swarm.succeed(&["state", "clear", "--where", "tactic=TA0002", "--yes"]);
    assert!(printed.starts_with("no chosen rule has a state\n"), "{printed}");
    assert_eq!(states(&swarm), [""; 0]);
}

#[test]
fn every_state_of_one_operator_is_cleared_and_no_other() {
    let swarm = swarm();
    for (rule_id, set_by) in [("D1", "alice"), ("D2", "bob"), ("X1", "alice"), ("X2", "Alice")] {
        swarm.succeed(&["state", "set", rule_id, "disabled", "--set-by", set_by]);
    }
    refuses(&swarm, &["state", "clear", "--all-by", "alice"], 2, &["--all-by chooses 2 rules", "give --yes"]);
    refuses(
        &swarm,
        &["state", "clear", "--all-by", "alic", "--yes"],
        2,
        &["`alic` has set no state; expected the name of somebody who has: Alice, alice, bob"],
    );
    let printed = swarm.succeed(&["state", "clear", "--all-by", "alice", "--yes"]);
    assert!(printed.contains("D1    disabled by alice"), "{printed}");
    assert!(printed.contains("\n2 rules are enabled again\n"), "{printed}");
    assert_eq!(states(&swarm), ["D2=disabled by bob", "X2=disabled by Alice"]);
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let swarm = swarm();
    let set = |args: &[&'static str]| [&["state", "set"], args].concat();
    for (args, words) in [
        (set(&["disabled"]), &["no rule is chosen", "--where"][..]),
        (set(&["D1", "D2"]), &["`D2` is not a state; expected `enabled`, `disabled` or `clipped`"]),
        (set(&["D1", "off"]), &["`off` is not a state"]),
        (set(&["D 1", "disabled"]), &["`D 1` has the character ' '"]),
        (set(&["D1", "--where", "tactic=TA0007", "disabled"]), &["choose rules in one of the two ways"]),
        (set(&["D1", "-", "disabled"]), &["leave out the other ids"]),
        (set(&["-", "disabled"]), &["standard input has no rule id"]),
        (set(&["D1", "D9", "X9", "disabled"]), &["no rule D9, X9", "did you mean D1", "--force"]),
        (set(&["--where", "tactics=1", "disabled"]), &["'tactics=1'", "expected `tactic=TA0007`"]),
        (set(&["--where", "tactic=T1059", "disabled"]), &["`T1059` is not the id of a tactic"]),
        (
            set(&["--where", "name~nothing", "disabled", "--yes"]),
            &["no rule fulfils `name~nothing`; the table has 4 rules"],
        ),
        (
            set(&["--where", "tactic=TA0007", "--where", "name~miner", "disabled", "--yes"]),
            &["no rule fulfils all conditions: 2 rules `tactic=TA0007`, 1 rule `name~miner`"],
        ),
        (set(&["--where", "tactic=TA0007", "disabled"]), &["chooses 2 rules", "no terminal", "give --yes"]),
        (set(&["D1", "disabled", "--wait", "30s"]), &["--wait 30s: write --wait=30s"]),
        (vec!["fleet", "--wait", "30s"], &["--wait 30s: write --wait=30s"]),
        (vec!["sync", "--wait", "5m"], &["--wait 5m: write --wait=5m"]),
        (vec!["state", "clear"], &["no rule is chosen"]),
        (vec!["state", "clear", "--all-by", "x", "D1"], &["--all-by chooses the rules"]),
        (vec!["state", "clear", "--where", "name~nothing"], &["no rule fulfils"]),
    ] {
        refuses(&swarm, &args, 2, words);
    }
    let output = run_with_input(&swarm, &["state", "set", "-", "disabled"], "D1\nX1\n");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("standard input chooses 2 rules") && said.contains("give --yes"), "{said}");
    let output = run_with_input(&swarm, &["state", "set", "-", "disabled", "--yes"], "D1\nD 2\n");
    assert!(text(&output.stderr).contains("standard input, line 2: `D 2` has the character ' '"));
    assert_eq!(states(&swarm), [""; 0]);

    // A row that is not valid fulfils no condition, and is not passed over in silence.
    swarm.sql("UPDATE ttp_rule SET yaml_content = 'x' WHERE rule_id = 'D1'");
    let output = swarm.run(&["state", "set", "--where", "tactic=TA0007", "disabled"]);
    assert!(
        text(&output.stderr).contains("1 row is quarantined and left out: D1"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(states(&swarm), ["D2=disabled by operator"]);

    // One id of which a case variant has a state: none is written.
    swarm.save("d2.yaml", rule_text("d2", 1));
    refuses(
        &swarm,
        &["state", "set", "X1", "d2", "X2", "disabled", "--force"],
        3,
        &["d2 has no state, but `D2` has"],
    );
    refuses(
        &swarm,
        &["state", "set", "E1", "e1", "disabled", "--force"],
        3,
        &["e1 has no state, but `E1` has"],
    );
}

#[test]
fn a_state_that_would_have_ended_already_is_refused_and_replaces_none() {
    let swarm = swarm();
    swarm.succeed(&["state", "set", "D1", "clipped", "--confidence-max", "0.5"]);
    for end in [["--expires-in", "0s"], ["--expires-at", "2020-05-01 07:25:09"]] {
        let args = [&["state", "set", "D1", "disabled"][..], &end].concat();
        refuses(&swarm, &args, 2, &["would have ended already", "without an offset is UTC", "--force"]);
    }
    swarm.succeed(&["state", "set", "D1", "disabled", "--expires-at", "2020-05-01 07:25:09", "--force"]);
    assert!(swarm.succeed(&["state", "list"]).contains("expired"));
}

/// Runs a command on a terminal, and types `answer` if it asks.
fn on_a_terminal(swarm: &Swarm, args: &[&str], answer: &str) -> (String, i32) {
    let mut terminal = Terminal::start(swarm, args);
    if terminal.until("[y/N] ") {
        terminal.enter(&format!("{answer}\n"));
    }
    terminal.end()
}

#[test]
fn on_a_terminal_the_rules_are_shown_and_only_yes_is_a_yes() {
    let swarm = swarm();
    let args = ["state", "set", "--where", "tactic=TA0007", "disabled"];
    for answer in ["", "n", "no", "yess", "Y e s"] {
        let (shown, code) = on_a_terminal(&swarm, &args, answer);
        assert_eq!(code, 1, "{answer:?}: {shown}");
        let listed = shown.find("rule D2").unwrap_or_else(|| panic!("{shown}"));
        let question =
            shown.find("Set 2 rules to disabled on sqlite://").unwrap_or_else(|| panic!("{shown}"));
        assert!(listed < question && shown.contains("nothing is changed"), "{shown}");
        assert_eq!(states(&swarm), [""; 0]);
    }
    let (shown, code) = on_a_terminal(&swarm, &args, "Yes");
    assert_eq!((code, shown.contains("2 rules are disabled")), (0, true), "{shown}");
    assert_eq!(states(&swarm).len(), 2);
    let (shown, code) = on_a_terminal(&swarm, &["state", "clear", "--all-by", "operator", "--json"], "y");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("disabled by operator") && shown.contains(r#""cleared":true"#), "{shown}");
    // Rules that are named are not asked about.
    let (shown, code) = on_a_terminal(&swarm, &["state", "set", "D1", "D2", "disabled"], "never typed");
    assert_eq!((code, shown.contains("[y/N]")), (0, false), "{shown}");
}

#[test]
fn a_long_reason_widens_no_table() {
    let swarm = swarm();
    let reason = "very ".repeat(500) + "noisy";
    swarm.succeed(&["state", "set", "D1", "disabled", "--reason", &reason]);
    let listed = swarm.succeed(&["state", "list"]);
    let chosen = swarm.run(&["state", "set", "--where", "tactic=TA0007", "clipped"]);
    for table in [listed, text(&chosen.stdout)] {
        assert!(table.contains("bytes more") && table.lines().all(|line| line.len() < 500), "{table}");
    }
    assert!(swarm.succeed(&["state", "list", "--json"]).contains(&reason));
}

#[test]
fn if_one_of_many_states_would_have_no_effect_none_is_set() {
    let swarm = Swarm::on_sqlite();
    let owner = Owner { states: "max=2 protected=R3".to_owned(), ..Owner::new() };
    owner.release(1, &[("R1", 1), ("R2", 1), ("R3", 1), ("R4", 1)]).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    wait_for("the release", || (swarm.rows().len() == 4).then_some(()));
    let run = |args: &[&str]| {
        let mut command = swarm.command(&[&["state"], args].concat());
        owner.trusted_by(&swarm, &mut command);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for (args, why) in [
        (
            &["set", "R1", "R2", "R4", "disabled"][..],
            "on 1 of 3 rules, so none is set: R4 (the signed release lets operators suppress at most 2",
        ),
        (
            &["set", "--where", "name~rule", "disabled", "--yes"],
            "on 2 of 4 rules, so none is set: R3 (the signed release protects the rule), R4 (",
        ),
        (&["set", "R1", "R9", "disabled", "--force"], "R9 (the signed release does not list the rule)"),
    ] {
        let (code, said) = run(args);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("the state would have no effect") && said.contains(why), "{said}");
        assert_eq!(states(&swarm), [""; 0]);
    }
    assert_eq!(run(&["set", "R1", "R2", "disabled"]).0, Some(0));
    // Those that are set again count once; a state that suppresses nothing has an effect.
    assert_eq!(run(&["set", "R2", "R1", "disabled", "--reason", "again"]).0, Some(0));
    assert_eq!(run(&["set", "--where", "name~rule", "enabled", "--yes"]).0, Some(0));
    assert_eq!(run(&["set", "R2", "R4", "disabled"]).0, Some(0));
}

#[test]
fn a_time_that_no_clock_reaches_is_refused_before_anything_is_written() {
    const LONGEST: &str = "18446744073709551615s";
    let swarm = swarm();
    let run = |args: &[&str]| {
        let output = swarm.run(args);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for args in [&["state", "set", "D1", "disabled"][..], &["state", "clear", "D1"], &["sync"]] {
        let (code, said) = run(&[args, &[&format!("--wait={LONGEST}")]].concat());
        assert!(code == Some(2) && said.contains("expected at most 366d"), "{args:?}: {code:?} {said}");
    }
    let (code, said) = run(&["state", "set", "D1", "disabled", "--expires-in", LONGEST]);
    assert!(code == Some(2) && said.contains("in the year 10000"), "{code:?} {said}");
    assert_eq!(states(&swarm), [""; 0]);
    let (code, said) = run(&["history", "--since", LONGEST]);
    assert!(code == Some(3) && said.contains("there is no history"), "{code:?} {said}");
}

#[test]
fn a_percent_in_the_path_of_a_database_names_the_same_file_to_daemon_and_command() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    let url = format!("sqlite://{}", swarm.path("x%2541.db").display());
    let _master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_DATABASE_URL", &url);
    });
    let set = wait_for("the command to find the rule", || {
        let mut command = swarm.command(&["state", "set", "R1", "disabled"]);
        let output = command.env_remove("RULESYNCD_DATABASE_URL").output().unwrap();
        output.status.success().then(|| text(&output.stdout))
    });
    assert!(set.ends_with(&format!("\non {url}\n")), "{set}");
    assert!(swarm.path("x%41.db").exists() && !swarm.path("xA.db").exists());
}
