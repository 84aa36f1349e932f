//! `rulesyncd check` as people, editors and builds run it.

mod attack;
mod editors;
mod fix;
mod formats;
mod messages;
mod paths;
mod settings;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

const GOOD: &str = "\
rule_id: R0001
rule_version: 1
name: suid_search
applies_to: [command]
match: {field: command_text, pattern: '\\bfind\\b'}
emits:
- {tactic: TA0007, technique_id: T1083, confidence: 0.85}
";

/// A directory with these files in it.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// What a run printed, and its exit code.
struct Run {
    code: i32,
    out: String,
    err: String,
}

fn check(directory: &Path, arguments: &[&str]) -> Run {
    check_by(Command::new(env!("CARGO_BIN_EXE_rulesyncd")), directory, arguments)
}

/// The same by a command that begins with the program.
fn check_by(mut program: Command, directory: &Path, arguments: &[&str]) -> Run {
    let output = program.current_dir(directory).arg("check").args(arguments).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_good_directory_is_told_in_one_line() {
    let files = directory(&[("a.yaml", GOOD), ("b.yml", &GOOD.replace("R0001", "R0002"))]);
    let run = check(files.path(), &["."]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "2 files: nothing wrong\n", ""));
}

#[test]
fn a_warning_passes_unless_strict() {
    let files = directory(&[("a.yaml", &format!("{GOOD}owner: someone\n"))]);
    let run = check(files.path(), &["a.yaml"]);
    assert_eq!(run.code, 0);
    assert!(run.out.starts_with("warning[unknown-key]: owner: not a known key"), "{}", run.out);
    let run = check(files.path(), &["a.yaml", "--strict"]);
    assert_eq!(run.code, 1);
    assert!(run.out.starts_with("error[unknown-key]: owner: not a known key"), "{}", run.out);
}

#[test]
fn json_says_where_and_why() {
    let files = directory(&[("a.yaml", GOOD), ("b.yaml", &GOOD.replace("suid_search", "yes"))]);
    let run = check(files.path(), &["--format", "json", "."]);
    assert_eq!(run.code, 1);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    insta::assert_json_snapshot!(report);
}

#[test]
fn githubs_commands_are_escaped() {
    let files = directory(&[("a,b: c%.yaml", &GOOD.replace("suid_search", "010"))]);
    let run = check(files.path(), &["--format", "github", "a,b: c%.yaml"]);
    assert_eq!(run.code, 1);
    insta::assert_snapshot!(run.out);
}

#[test]
fn an_id_in_two_files_is_told_at_the_second() {
    let files = directory(&[("a.yaml", GOOD), ("b.yaml", &GOOD.replace("R0001", "r0001"))]);
    let run = check(files.path(), &["."]);
    assert_eq!(run.code, 0);
    assert!(
        run.out.contains("`r0001` is in ./a.yaml too") && run.out.contains("--> ./b.yaml:1:10"),
        "{}",
        run.out
    );
    // Two directories are two sets of rules.
    fs::create_dir(files.path().join("other")).unwrap();
    fs::rename(files.path().join("b.yaml"), files.path().join("other/b.yaml")).unwrap();
    assert_eq!(check(files.path(), &[".", "other"]).out, "2 files: nothing wrong\n");
}

#[test]
fn every_code_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    for code in rulesyncd::rule::Code::ALL {
        let run = check(directory.path(), &["--explain", code.as_str()]);
        assert_eq!(run.code, 0);
        assert!(run.out.starts_with(&format!("# {code}\n\n")), "{code}: {}", run.out);
        // What is wrong, in an example, and what would be right.
        assert!(run.out.len() > 200, "{code} is explained in too few words");
    }
    let run = check(directory.path(), &["--explain", "nothing"]);
    assert_eq!(run.code, 2);
    assert!(run.err.contains("ambiguous-value"), "the codes are listed: {}", run.err);
}

#[test]
fn colour_is_for_terminals() {
    let files = directory(&[("a.yaml", "")]);
    let run = check(files.path(), &["."]);
    assert!(!run.out.contains('\u{1b}'), "{:?}", run.out);
}

#[test]
fn without_a_path_it_is_usage() {
    let run = check(Path::new("/"), &[]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
}

#[test]
fn a_version_that_did_not_rise_is_told_against_a_database() {
    let files = directory(&[("a.yaml", GOOD), ("b.yaml", &GOOD.replace("R0001", "R0002"))]);
    let url = format!("sqlite:///{}/rules.db", files.path().display());
    let sync = Command::new(env!("CARGO_BIN_EXE_rulesyncd"))
        .current_dir(files.path())
        .args(
            ["sync", "--rules-dir", ".", "--database-url", "sqlite:///rules.db"]
                .map(|argument| argument.replace("///", &format!("///{}/", files.path().display()))),
        )
        .output()
        .unwrap();
    assert!(sync.status.success(), "{}", String::from_utf8_lossy(&sync.stderr));
    let against = |name: &str| check(files.path(), &[name, "--database-url", &url]);
    assert_eq!(against("a.yaml").out, "1 file: nothing wrong\n");

    let edited = GOOD.replace("suid_search", "suid_find").replace("R0001", "r0001");
    fs::write(files.path().join("a.yaml"), &edited).unwrap();
    let run = against("a.yaml");
    assert_eq!(run.code, 0);
    assert!(
        run.out.starts_with(
            "warning[version-not-raised]: rule_version: the text is another than the database's, which has \
             version 1\n --> a.yaml:2:15\n"
        ),
        "{}",
        run.out
    );
    fs::write(files.path().join("a.yaml"), edited.replace("rule_version: 1", "rule_version: 2")).unwrap();
    assert_eq!(against("a.yaml").out, "1 file: nothing wrong\n");

    let run = check(files.path(), &["a.yaml", "--database-url", "sqlite:////nowhere/at/all.db"]);
    assert_eq!((run.code, run.out.as_str()), (3, ""), "{}", run.err);
}
