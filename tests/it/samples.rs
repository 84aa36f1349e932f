//! `rulesyncd test`: the patterns of rules on their samples, with and without Python.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

const RULE: &str = "\
rule_id: R0001
rule_version: 1
name: suid_search
applies_to: [command]
match: {field: command_text, pattern: '\\bfind\\b.*-perm'}
emits:
- {tactic: TA0007, technique_id: T1083, confidence: 0.85}
";

const SEVERAL_FIELDS: &str = "\
rule_id: R0002
rule_version: 1
name: cron
applies_to: [command]
match:
  any:
  - {field: command_text, pattern: 'crontab -$'}
  - {field: path, pattern: '^/etc/cron'}
emits:
- {tactic: TA0007, technique_id: T1083, confidence: 0.85}
";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

struct Run {
    code: i32,
    out: String,
    err: String,
}

fn program(directory: &Path, arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
    program.current_dir(directory).arg("test").args(arguments);
    program
}

fn run(mut program: Command) -> Run {
    let output = program.output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// With the interpreter that is first in PATH.
fn by_python(directory: &Path, arguments: &[&str]) -> Run {
    run(program(directory, arguments))
}

/// Without any interpreter.
fn without_python(directory: &Path, arguments: &[&str]) -> Run {
    let mut program = program(directory, arguments);
    program.env("PATH", "/nonexistent");
    run(program)
}

/// The version of the interpreter is this machine's.
fn settle(out: &str) -> String {
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    if let Some(last) = lines.last_mut()
        && let Some((before, version)) = last.split_once("of Python ")
    {
        assert!(version.starts_with("3."), "{version}");
        *last = format!("{before}of Python 3");
    }
    lines.join("\n")
}

#[test]
fn the_sample_rules_pass_their_tests_by_both_engines_and_have_no_finding() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/rules");
    let python = by_python(&rules, &["."]);
    assert!(
        python.out.starts_with("13 rules, 10 tested: 57 samples passed; run by the `re` of Python 3."),
        "{}",
        python.out
    );
    assert_eq!((python.code, python.err.as_str()), (0, ""));
    let fancy = without_python(&rules, &["."]);
    assert_eq!(
        (fancy.code, fancy.out.as_str()),
        (
            0,
            "13 rules, 10 tested: 57 samples passed; run by the Rust crate fancy-regex, since there is no python3 \
             (see --python)\n"
        )
    );
    let check = Command::new(env!("CARGO_BIN_EXE_rulesyncd"))
        .arg("check")
        .arg("--strict")
        .arg(&rules)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(check.stdout).unwrap(), "13 files: nothing wrong\n");
}

#[test]
fn a_sample_that_is_not_as_expected_is_shown_as_a_difference() {
    let files = directory(&[
        ("find.yaml", RULE),
        (
            "find.test.yaml",
            "must_match:\n- find / -perm -4000\n- |\n  find\n  -perm\nmust_not_match:\n- \"find\\x1b / -perm 644\"\n- ls\n",
        ),
        ("cron.yml", SEVERAL_FIELDS),
        (
            "cron.test.yml",
            "must_match:\n- path: /var/cron\nmust_not_match:\n- command_text: \"crontab -\\n\"\n",
        ),
        ("untested.yaml", &RULE.replace("R0001", "R0003")),
    ]);
    let python = by_python(files.path(), &["."]);
    let fancy = without_python(files.path(), &["."]);
    assert_eq!((python.code, python.err.as_str()), (1, ""));
    insta::assert_snapshot!(settle(&python.out));
    // The two differ only in the name of the engine.
    let differences = |out: &str| out.lines().rev().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(differences(&python.out), differences(&fancy.out));
    assert!(fancy.out.contains("run by the Rust crate fancy-regex"), "{}", fancy.out);
    assert_eq!(fancy.code, 1);
}

#[test]
fn a_link_that_leads_out_is_not_read() {
    let files = directory(&[("credentials", "must_match: CANARY\n")]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("find.yaml"), RULE).unwrap();
    std::os::unix::fs::symlink("../credentials", rules.join("find.test.yaml")).unwrap();
    for path in ["rules", "rules/find.yaml", "rules/find.test.yaml"] {
        let run = without_python(files.path(), &[path]);
        let said = run.out + &run.err;
        assert_eq!(run.code, 3, "{path}: {said}");
        assert!(said.contains("it is a symbolic link out of") && !said.contains("CANARY"), "{path}: {said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_what_the_others_gave() {
    let files = directory(&[
        ("a.yaml", RULE),
        ("b.yaml", RULE),
        ("b.test.yaml", "must_match: [nothing of it]\n"),
        ("c.yaml", RULE),
        ("c.test.yaml", "must_match: [find -perm]\n"),
    ]);
    fs::create_dir(files.path().join("a.test.yaml")).unwrap();
    let run = without_python(files.path(), &["."]);
    assert_eq!(run.code, 3, "{}{}", run.out, run.err);
    assert!(run.err.contains("./a.test.yaml: it is a directory, not a file"), "{}", run.err);
    assert!(run.out.contains("./b.test.yaml:1: must_match[0]"), "{}", run.out);
    assert!(run.out.contains("2 tested: 1 of 2 samples passed, 1 file not read;"), "{}", run.out);
}

/// As a master reads it, also where its file is named alone.
#[test]
fn a_link_into_a_directory_that_the_master_follows_is_read() {
    let files = directory(&[("shared.yaml", RULE), ("shared.test.yaml", "must_match: [find -perm]\n")]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    for name in ["shared.yaml", "shared.test.yaml"] {
        std::os::unix::fs::symlink(files.path().join(name), rules.join(name)).unwrap();
    }
    for arguments in [["test", "rules"], ["test", "rules/shared.yaml"], ["check", "rules/shared.yaml"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        command.current_dir(files.path()).args(arguments).env("PATH", "/nonexistent");
        assert!(!command.output().unwrap().status.success(), "{arguments:?}");
        command.env("RULESYNCD_MASTER_FOLLOW_LINKS_TO", files.path());
        let run = run(command);
        assert_eq!(run.code, 0, "{arguments:?}: {}{}", run.out, run.err);
    }
}

#[test]
fn what_is_wrong_with_a_test_file_is_told_with_its_line() {
    let files = directory(&[
        ("a.yaml", RULE),
        (
            "a.test.yaml",
            "must_mach: [x]\nmust_match:\n- yes\n- {command_text: x, path: y}\n- {path: y}\n- [x]\n",
        ),
        ("b.yaml", SEVERAL_FIELDS),
        ("b.test.yaml", "must_match:\n- crontab -\nmust_not_match: []\n"),
        ("c.yaml", RULE),
        ("c.test.yaml", "- x\n"),
        ("d.yaml", RULE),
        ("d.test.yaml", "must_match:\n- 'x\n"),
        ("e.yaml", RULE),
        ("e.test.yaml", "{}\n"),
        ("f.test.yaml", "must_match: [x]\n"),
        ("g.yaml", &RULE.replace("rule_version: 1\n", "")),
        ("g.test.yaml", "must_match: [x]\n"),
        ("h.yaml", &RULE.replace("pattern", "regex")),
        ("h.test.yaml", "must_match: [x]\n"),
        ("i.yaml", &RULE.replace(".*", "(")),
        ("i.test.yaml", "must_match: [x]\n"),
    ]);
    let run = without_python(files.path(), &["."]);
    assert_eq!(run.code, 1);
    insta::assert_snapshot!(run.out);
}

#[test]
fn a_pattern_that_does_not_come_to_an_end_fails_and_the_next_is_tried() {
    let files = directory(&[
        ("a.yaml", &RULE.replace("\\bfind\\b.*-perm", "^(a+)+$")),
        ("a.test.yaml", &format!("must_match:\n- aaa\nmust_not_match:\n- {}!\n- b\n", "a".repeat(60))),
    ]);
    let run = by_python(files.path(), &["."]);
    assert_eq!(run.code, 1);
    assert!(
        run.out.contains("+ match.pattern does not work: it found nothing in this text within 10s"),
        "{}",
        run.out
    );
    assert!(
        run.out.contains("1 rule, 1 tested: 2 of 3 samples passed; run by the `re` of Python 3."),
        "{}",
        run.out
    );
}

#[test]
fn what_only_python_can_try_is_not_passed_without_it() {
    let files = directory(&[
        ("a.yaml", &RULE.replace("\\bfind\\b.*-perm", "(?a)\\w")),
        ("a.test.yaml", "must_match: [x]\nmust_not_match: [é]\n"),
    ]);
    assert_eq!(by_python(files.path(), &["a.yaml"]).code, 0);
    let run = without_python(files.path(), &["a.test.yaml"]);
    assert_eq!(run.code, 3);
    assert!(run.out.contains("0 of 2 samples passed"), "{}", run.out);
    assert_eq!(run.err, "rulesyncd: not every sample was run: name a Python interpreter with --python\n");
}

#[test]
fn nothing_to_test_and_an_interpreter_that_does_not_run_are_errors() {
    let files =
        directory(&[("a.yaml", RULE), ("b.yaml", RULE), ("b.test.yaml", "must_match: [find -perm]\n")]);
    let empty = tempfile::tempdir().unwrap();
    for (arguments, directory, told) in [
        (&["."][..], empty.path(), "no test in .: the samples of NAME.yaml are in NAME.test.yaml beside it"),
        (&["a.yaml"], files.path(), "a.yaml has no test: expected its samples in a.test.yaml"),
        (&["absent"], files.path(), "absent has no test"),
        (
            &["--python", "/nonexistent/python", "."],
            files.path(),
            "/nonexistent/python does not run: there is no such program",
        ),
        (
            &["--python", "/bin/true", "."],
            files.path(),
            "/bin/true does not run: it is no Python 3 that answers",
        ),
    ] {
        let run = by_python(directory, arguments);
        assert_eq!((run.code, run.out.as_str()), (3, ""), "{arguments:?}");
        assert!(run.err.contains(told), "{arguments:?}: {}", run.err);
    }
    assert_eq!(by_python(files.path(), &["--python", "python3", "b.yaml"]).code, 0);
}

#[test]
fn a_rule_may_be_as_large_as_the_master_is_configured_to_take() {
    let long = format!("{RULE}description: {}\n", "x".repeat(300 << 10));
    let files = directory(&[("a.yaml", &long), ("a.test.yaml", "must_match: [find / -perm -4000]\n")]);
    let configured = |size: &str| {
        let mut program = program(files.path(), &["."]);
        program.env("RULESYNCD_CONFIG", "/dev/null").env("RULESYNCD_MASTER_MAX_RULE_SIZE", size);
        run(program)
    };
    let large = configured("512KiB");
    assert_eq!(large.code, 0, "{}{}", large.out, large.err);
    let small = configured("256KiB");
    assert!(small.code == 3 && small.err.contains("a rule may have 262144"), "{}{}", small.out, small.err);
}
