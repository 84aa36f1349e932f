//! Whatever a path leads to, the run ends and says what is wrong.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::{GOOD, check, check_by, directory};
use crate::support::swarm::copy_of_the_program;

const NOBODY: u32 = 65_534;

#[test]
fn of_a_directory_only_rules_are_read() {
    let files = directory(&[
        ("a.yaml", GOOD),
        (".a.yaml.swp", "x"),
        ("a.yaml~", "x"),
        ("4913", "x"),
        ("a.yaml.tmp", "x"),
        ("README.md", "x"),
    ]);
    fs::create_dir(files.path().join("folder.yaml")).unwrap();
    fs::create_dir(files.path().join("nested")).unwrap();
    fs::write(files.path().join("nested/b.txt"), "x").unwrap();
    assert_eq!(check(files.path(), &["."]).out, "1 file: nothing wrong\n");
}

#[test]
fn a_file_that_is_named_is_read_whatever_its_name() {
    let files = directory(&[("rule-1.yaml", GOOD)]);
    let run = check(files.path(), &["rule-1.yaml"]);
    assert_eq!(run.code, 0);
    assert!(run.out.contains("warning[file-name]"), "{}", run.out);
}

#[test]
fn what_cannot_be_read_is_the_environments_fault_and_the_rest_is_checked() {
    let files = directory(&[("bad.yaml", "name: x\n"), ("big.yaml", &"#".repeat(10_000_000))]);
    symlink("nowhere", files.path().join("dangling.yaml")).unwrap();
    assert!(Command::new("mkfifo").arg(files.path().join("fifo.yaml")).status().unwrap().success());
    let run = check(files.path(), &[".", "none.yaml"]);
    assert_eq!(run.code, 3);
    assert_eq!(run.err, "rulesyncd: 3 paths could not be read\n");
    for told in [
        "error: ./dangling.yaml: there is no such file (or a symbolic link that leads nowhere)\n",
        "error: ./fifo.yaml: it is a FIFO, not a file\n",
        "error: none.yaml: there is no such file",
        "error[too-large]: it has 10000000 bytes; a rule may have 262144\n",
        "error[missing-field]: the fields `rule_id`, `rule_version`, `applies_to`, `match`, `emits` are missing\n --> ./bad.yaml:1:1\n",
    ] {
        assert!(run.out.contains(told), "{told} in {}", run.out);
    }
}

#[test]
fn a_file_without_permission_is_told() {
    let files = directory(&[("a.yaml", GOOD)]);
    let path = files.path().join("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let programs = directory(&[]);
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = Command::new(copy_of_the_program(programs.path()));
    // Root can read everything.
    if fs::read(&path).is_ok() {
        program.uid(NOBODY).gid(NOBODY);
    }
    let run = check_by(assert_cmd::Command::from_std(program), files.path(), &["."]);
    assert_eq!(run.code, 3);
    assert!(run.out.contains("it cannot be read: Permission denied"), "{}", run.out);
}

#[test]
fn an_empty_directory_is_no_success() {
    let files = directory(&[]);
    let run = check(files.path(), &["."]);
    assert_eq!(run.code, 3);
    assert!(run.out.contains("error: .: no rule in it"), "{}", run.out);
}

#[test]
fn a_file_is_checked_once() {
    let files = directory(&[("a.yaml", GOOD)]);
    assert_eq!(check(files.path(), &[".", "./a.yaml", "."]).out, "1 file: nothing wrong\n");
}

#[test]
fn a_directory_is_listed_as_its_master_lists_it() {
    let files = directory(&[("R1.yaml", GOOD)]);
    let rules = files.path();
    fs::create_dir(rules.join("linux")).unwrap();
    symlink("linux", rules.join("x.yaml")).unwrap();
    let run = check(rules, &["."]);
    assert_eq!(
        (run.code, &*run.out),
        (0, "1 file: nothing wrong\n"),
        "a link to a directory is none of its files"
    );

    for name in ["my-rule.yaml", "R2.YAML", "linux/R9.yaml"] {
        fs::write(rules.join(name), GOOD).unwrap();
    }
    let run = check(rules, &["."]);
    assert_eq!(run.code, 0);
    assert!(
        run.out.ends_with("4 files: 3 warnings\nmore on a finding: rulesyncd check --explain file-name\n"),
        "{}",
        run.out
    );
    for name in ["my-rule.yaml", "R2.YAML", "linux/R9.yaml"] {
        assert!(run.out.contains(&format!("--> ./{name}:1:1")), "{}", run.out);
    }
    assert_eq!(check(rules, &["--strict", "."]).code, 1);
}

#[test]
fn a_directory_is_read_as_the_configured_master_reads_it() {
    let (files, shared) = (directory(&[("big.yaml", GOOD)]), directory(&[("b.yaml", GOOD)]));
    symlink(shared.path().join("b.yaml"), files.path().join("b.yaml")).unwrap();
    let run = check(files.path(), &["."]);
    assert_eq!(
        (run.code, run.out.ends_with("1 file: nothing wrong; 1 path could not be read\n")),
        (3, true),
        "{}",
        run.out
    );

    let configured = |key: &str, value: &str| {
        let mut program = assert_cmd::Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        program.env("RULESYNCD_CONFIG", "/dev/null").env(key, value);
        check_by(program, files.path(), &["."])
    };
    let follows = configured("RULESYNCD_MASTER_FOLLOW_LINKS_TO", shared.path().to_str().unwrap());
    assert!(follows.out.contains("warning[duplicate-id]"), "{}", follows.out);
    let small = configured("RULESYNCD_MASTER_MAX_RULE_SIZE", "64");
    assert!(small.out.contains("a rule may have 64"), "{}", small.out);
}

#[test]
fn a_link_that_leads_out_is_not_shown_whoever_names_it() {
    let files = directory(&[("credentials", "rule_id: CANARY\nkey: CANARY\n")]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    symlink("../credentials", rules.join("a.yaml")).unwrap();
    for arguments in
        [&["rules"][..], &["rules/a.yaml"], &["--fix", "rules/a.yaml"], &["--fix", "--diff", "rules/a.yaml"]]
    {
        let run = check(files.path(), arguments);
        let said = run.out + &run.err;
        assert_eq!(run.code, 3, "{arguments:?}: {said}");
        assert!(
            said.contains("it is a symbolic link out of") && !said.contains("CANARY"),
            "{arguments:?}: {said}"
        );
    }
    // From within the directory as well.
    let run = check(&rules, &["a.yaml"]);
    assert!(run.code == 3 && !run.out.contains("CANARY"), "{}", run.out);
    fs::write(rules.join("text"), GOOD).unwrap();
    symlink("text", rules.join("b.yaml")).unwrap();
    assert_eq!(check(&rules, &["b.yaml"]).code, 0);
}

#[test]
fn a_pattern_that_means_a_text_of_gigabytes_is_checked_like_any_other() {
    let pattern = "(?:(?:(?:(?:(?:a{100}){100}){100}){100}){100})b+";
    let files = directory(&[("a.yaml", &GOOD.replace(r"\bfind\b", pattern))]);
    let run = check(files.path(), &["."]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "1 file: nothing wrong\n", ""));
}
