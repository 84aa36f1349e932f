//! The levels of findings, as the users of a directory configure them.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::time::Duration;

use super::{GOOD, check, check_by, directory};

const SETTINGS: &str = ".rulesyncd-check.yaml";

/// A valid rule with two warnings: `unknown-key` for `owner` and for `last_reviewed`.
fn reviewed() -> String {
    format!("{GOOD}owner: blue\nlast_reviewed: '2026-05-02'\n")
}

/// The bracketed part of each finding's title, in order: `warning[unknown-key]`.
fn titles(out: &str) -> Vec<String> {
    let titles = out.lines().filter(|line| line.starts_with("error[") || line.starts_with("warning["));
    titles.map(|line| line.split(']').next().unwrap().to_owned() + "]").collect()
}

#[test]
fn a_file_above_the_rules_says_how_bad_a_code_is() {
    let files = directory(&[(SETTINGS, "codes:\n  unknown-key: error\n")]);
    let rules = files.path().join("team/rules");
    fs::create_dir_all(&rules).unwrap();
    fs::write(rules.join("a.yaml"), reviewed()).unwrap();
    let run = check(files.path(), &["team/rules"]);
    assert_eq!(titles(&run.out), ["error[unknown-key]", "error[unknown-key]"]);
    assert_eq!(run.code, 1);

    // Only the nearest file applies.
    fs::write(rules.join(SETTINGS), "codes: {unknown-key: off}\n").unwrap();
    let run = check(files.path(), &["team/rules"]);
    assert_eq!((run.out.as_str(), run.code), ("1 file: nothing wrong\n", 0));
    // A flag overrides it, whatever the working directory is.
    let run = check(&rules, &["a.yaml", "--warn", "unknown-key"]);
    assert_eq!(titles(&run.out), ["warning[unknown-key]", "warning[unknown-key]"]);
}

/// As in `/tmp`, where everybody may put a file that is above the directories of others.
#[test]
#[ignore = "needs root"]
fn a_file_of_a_stranger_above_the_rules_does_not_count() {
    let files = directory(&[(SETTINGS, "codes: {unknown-key: off}\n")]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("a.yaml"), reviewed()).unwrap();
    let warned = || titles(&check(&rules, &["."]).out).len();
    assert_eq!(warned(), 0);
    let stranger = Some(64_321);
    chown(files.path().join(SETTINGS), stranger, None).unwrap();
    assert_eq!(warned(), 2);
    // The owner of the rules is none.
    chown(&rules, stranger, None).unwrap();
    assert_eq!(warned(), 0);
    // Nor is who may write the rules' own directory.
    chown(&rules, Some(0), None).unwrap();
    fs::rename(files.path().join(SETTINGS), rules.join(SETTINGS)).unwrap();
    assert_eq!(warned(), 0);
}

#[test]
fn keys_of_ones_own_are_allowed_by_name_and_by_pattern() {
    let files = directory(&[(SETTINGS, "allowed_keys: [owner, '*_reviewed']\n"), ("a.yaml", &reviewed())]);
    let run = check(files.path(), &["--strict", "."]);
    assert_eq!((run.out.as_str(), run.code), ("1 file: nothing wrong\n", 0));
    fs::write(files.path().join(SETTINGS), "allowed_keys: [own]\n").unwrap();
    assert_eq!(titles(&check(files.path(), &["."]).out).len(), 2);
}

#[test]
fn some_files_have_levels_of_their_own() {
    let settings =
        "codes: {unknown-key: error}\noverrides:\n- {files: ['old_*'], codes: {unknown-key: off}}\n";
    let second = reviewed().replace("R0001", "R0002");
    let files = directory(&[(SETTINGS, settings), ("a.yaml", &reviewed()), ("old_b.yaml", &second)]);
    let run = check(files.path(), &["."]);
    assert_eq!(titles(&run.out), ["error[unknown-key]", "error[unknown-key]"]);
    assert!(!run.out.contains("old_b.yaml"), "{}", run.out);
}

#[test]
fn flags_set_levels_and_strict_raises_what_is_left() {
    let tactic = GOOD.replace("T1083", "T1029") + "owner: blue\n";
    let files = directory(&[("a.yaml", &tactic)]);
    let run = check(files.path(), &["a.yaml", "--error", "attack-tactic"]);
    assert_eq!(titles(&run.out), ["error[attack-tactic]", "warning[unknown-key]"]);
    assert_eq!(run.code, 1);
    let run = check(files.path(), &["a.yaml", "--strict", "--off", "attack-tactic"]);
    assert_eq!(titles(&run.out), ["error[unknown-key]"]);
}

#[test]
fn what_a_master_refuses_is_an_error_whatever_is_set() {
    let files = directory(&[("a.yaml", GOOD)]);
    let run = check(files.path(), &["a.yaml", "--off", "duplicate-key"]);
    assert_eq!(run.code, 2);
    assert!(run.err.contains("duplicate-key is an error whatever is set"), "{}", run.err);
}

#[test]
fn settings_that_cannot_be_used_are_told_with_their_file_and_change_nothing() {
    for (settings, expected) in [
        ("codes: {unknown-kye: off}\n", "there is no code \"unknown-kye\"; did you mean `unknown-key`?"),
        ("codes: {syntax: warning}\n", "syntax is an error whatever is set"),
        ("codes: {unknown-key: loud}\n", ": 1:22: expected one of off, warning, error"),
        ("code: {}\n", "unknown key; known here are codes, allowed_keys, overrides"),
        ("allowed_keys: ['[']\n", "is no pattern of names"),
    ] {
        let files = directory(&[(SETTINGS, settings), ("a.yaml", &reviewed())]);
        let run = check(files.path(), &["."]);
        assert_eq!(run.code, 2, "{settings}");
        assert!(run.err.contains(SETTINGS) && run.err.contains(expected), "{settings}: {}", run.err);
    }
    let files = directory(&[(SETTINGS, "# nothing yet\n"), ("a.yaml", GOOD)]);
    assert_eq!(check(files.path(), &["."]).code, 0);
}

#[test]
fn settings_are_read_up_to_a_limit_from_their_own_directory_and_never_shown() {
    let files = directory(&[]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("a.yaml"), reviewed()).unwrap();
    fs::write(files.path().join("credentials"), "[default]\nkey = CANARY\n").unwrap();
    fs::write(rules.join("notes"), "codes:\n  unknown-key: CANARY\nkey: CANARY: CANARY\n").unwrap();
    let settings = rules.join(SETTINGS);
    for (target, said) in [
        ("/dev/zero", "it is a device, not a file"),
        ("/proc/self/environ", "out of its directory"),
        ("../credentials", "out of its directory"),
        ("notes", ": 2:16: expected one of off, warning, error"),
    ] {
        symlink(target, &settings).unwrap();
        let mut program = assert_cmd::Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        program.env("KEY", "CANARY").timeout(Duration::from_secs(60));
        let run = check_by(program, files.path(), &["rules"]);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{target}: {}", run.err);
        assert!(run.err.contains(SETTINGS) && run.err.contains(said), "{target}: {}", run.err);
        assert!(!run.err.contains("CANARY"), "{target}: {}", run.err);
        fs::remove_file(&settings).unwrap();
    }
    fs::write(&settings, "#".repeat(64 * 1024 + 1)).unwrap();
    let run = check(files.path(), &["rules"]);
    assert!(run.code == 2 && run.err.contains("it has 65537 bytes; it may have 65536"), "{}", run.err);
}

#[test]
fn a_file_with_very_many_findings_is_told_of_twenty() {
    let marks = "\u{feff}".repeat(80_000);
    let files = directory(&[("a.yaml", &format!("{GOOD}# {marks}\n"))]);
    let run = check(files.path(), &["--format", "json", "a.yaml"]);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 20);
    let last = findings.last().unwrap()["help"].as_str().unwrap();
    assert!(last.ends_with("79980 more findings are not listed"), "{last}");
    assert!(run.out.len() < 20_000, "{} bytes", run.out.len());
}
