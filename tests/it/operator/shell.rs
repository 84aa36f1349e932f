//! What commands do for a person at a terminal: completion, colours, similar names, resuming by a printed number.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

/// What bash completes after these words, with the script that the program prints.
fn completions(swarm: &Swarm, words: &[&str]) -> Vec<String> {
    completions_with(swarm, words, &[])
}

/// As [`completions`], with more variables.
fn completions_with(swarm: &Swarm, words: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(rulesyncd completions bash); COMP_WORDS=(rulesyncd {}); COMP_CWORD={}; COMP_TYPE=9; \
         _clap_complete_rulesyncd rulesyncd \"${{COMP_WORDS[COMP_CWORD]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len(),
    );
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_rulesyncd")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", program.display());
    let mut command = swarm.command(&[]);
    let environment: Vec<_> =
        command.get_envs().map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new("bash");
    for (key, value) in environment {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.envs(variables.iter().copied());
    let output = command.args(["-c", &script]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn commands_states_codes_kinds_and_ids_of_rules_are_completed() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("R0015", 1));
    swarm.save("b.yaml", rule_text("R0016", 1));
    swarm.save("c.yaml", rule_text("X1", 1));
    let offered = |words: &[&str]| completions(&swarm, words);
    assert_eq!(offered(&["sta"]), ["state", "status"]);
    assert_eq!(offered(&["state", "set", "X1", ""])[..3], ["enabled", "disabled", "clipped"]);
    assert_eq!(offered(&["check", "--explain", "attack-t"]), ["attack-tactic"]);
    assert_eq!(offered(&["check", "--off", "backt"]), ["backtracking"]);
    assert_eq!(offered(&["watch", "--kind", ""]), ["definition", "state"]);
    assert_eq!(offered(&["state", "set", "X1", "di"]), ["disabled"]);
    assert_eq!(offered(&["state", "set", "--where", "t"]), ["tactic=", "technique="]);
    // From the directory, while no worker runs: of rules as large as the master reads.
    let large = format!("{}\n# {}\n", rule_text("Z1", 1), "x".repeat(256 << 10));
    swarm.save("z.yaml", large);
    assert_eq!(offered(&["why", "Z"]), [""; 0]);
    let larger = completions_with(&swarm, &["why", "Z"], &[("RULESYNCD_MASTER_MAX_RULE_SIZE", "300KiB")]);
    assert_eq!(larger, ["Z1"]);
    std::fs::remove_file(swarm.rules().join("z.yaml")).unwrap();
    assert_eq!(offered(&["why", "R"]), ["R0015", "R0016"]);
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    worker.wait_for_log(" loaded");
    swarm.save("d.yaml", rule_text("R0017", 1));
    // From the worker, if one runs.
    for words in [
        &["why", "R"][..],
        &["state", "set", "R"],
        &["state", "set", "R0015", "R"],
        &["state", "clear", "R"],
        &["state", "get", "R"],
        &["history", "R"],
        &["watch", "--rule", "R"],
    ] {
        assert_eq!(offered(words), ["R0015", "R0016"], "{words:?}");
    }
}

#[test]
fn a_change_is_resumed_after_by_the_number_that_was_printed_and_kinds_are_chosen() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    worker.wait_for_log(" loaded");
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.succeed(&["state", "set", "A", "disabled"]);
    subscriber.change();
    swarm.save("a.yaml", rule_text("A", 2));
    swarm.succeed(&["sync"]);
    subscriber.change();
    let first_line = |args: &[&str]| {
        let mut child = swarm.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line
    };
    let head = first_line(&["watch", "--once"]);
    assert!(head.starts_with("1 rule after change ") && head.ends_with(":2\n"), "{head}");
    let epoch = head.trim_end().trim_start_matches("1 rule after change ").trim_end_matches(":2");
    for from in ["0".to_owned(), format!("{epoch}:0")] {
        assert!(
            first_line(&["watch", "--from", &from]).contains("     1  "),
            "after nothing comes the first"
        );
        let line = first_line(&["watch", "--from", &from, "--kind", "definition"]);
        assert!(line.contains("     2  ") && line.contains("written"), "{line}");
        assert!(first_line(&["watch", "--from", &from, "--kind", "state"]).contains("     1  "));
    }
    assert!(first_line(&["watch", "--from", "1"]).contains("     2  "));
    for bad in [&["watch", "--from", "x"][..], &["watch", "--kind", "x"]] {
        assert_eq!(swarm.run(bad).status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn a_mistyped_id_is_answered_with_those_that_it_may_be() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("DIS0002", 1));
    swarm.succeed(&["sync"]);
    let output = swarm.run(&["why", "DSI0002"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("no file, no row and no worker here knows DSI0002; did you mean DIS0002?"),
        "{told}"
    );
    assert!(!text(&swarm.run(&["why", "OTHER"]).stdout).contains("did you mean"));
    swarm.succeed(&["state", "set", "DIS0002", "disabled"]);
    assert!(swarm.succeed(&["state", "list"]).contains("until cleared"));
}

#[test]
fn colour_is_as_it_is_asked_for() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", "name: yes\n");
    let rules = swarm.rules();
    let rules = rules.to_str().unwrap();
    let colours = |args: &[&str]| text(&swarm.run(args).stdout).contains("\u{1b}[");
    assert!(!colours(&["check", rules]) && !colours(&["check", rules, "--color", "auto"]));
    assert!(
        colours(&["check", rules, "--color", "always"]) && colours(&["--color", "always", "check", rules])
    );
    assert!(!colours(&["check", rules, "--color", "never"]));
    // `always` overrides settings for all programs.
    let output = swarm.command(&["check", rules, "--color", "always"]).env("NO_COLOR", "1").output().unwrap();
    assert!(text(&output.stdout).contains("\u{1b}["));
    assert_eq!(swarm.run(&["check", rules, "--color", "sometimes"]).status.code(), Some(2));
    // This also applies to a daemon's log.
    let master = swarm.daemon("master", |command| {
        command.args(["--color", "always"]);
    });
    assert!(
        wait_for("a record", || Some(master.log()).filter(|log| log.contains("lock"))).contains("\u{1b}[")
    );
}

#[test]
fn quiet_checks_and_tests_print_what_is_wrong_alone() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.save("a.test.yaml", "must_match: [v1]\n");
    let rules = swarm.rules();
    let rules = rules.to_str().unwrap();
    assert_eq!(swarm.succeed(&["check", "-q", rules]), "");
    assert_eq!(swarm.succeed(&["test", "-q", rules]), "");
    swarm.save("a.test.yaml", "must_match: [v2]\n");
    swarm.save("b.yaml", "name: yes\n");
    for (command, wrong) in [("check", "error[ambiguous-value]"), ("test", "- match\n  + no match")] {
        let output = swarm.run(&[command, "--quiet", rules]);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1));
        assert!(out.contains(wrong) && !out.contains("2 files") && !out.contains("2 rules"), "{out}");
    }
}

#[test]
fn manual_pages_list_the_values_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["man", directory.path().to_str().unwrap()]);
    for (page, values) in [
        ("state-set", &["enabled: ", "disabled: ", "clipped: "][..]),
        ("watch", &["definition: ", "state: "]),
        ("check", &["sarif: ", "junit: ", "backtracking", "always"]),
        ("test", &["must_match", "python"]),
    ] {
        let text = std::fs::read_to_string(directory.path().join(format!("rulesyncd-{page}.1"))).unwrap();
        let text = text.replace(r"\-", "-");
        for value in values {
            assert!(text.contains(value), "no {value:?} in the page of {page}:\n{text}");
        }
    }
}
