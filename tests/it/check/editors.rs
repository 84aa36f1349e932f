//! Standard input and `--watch`, as editors use them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use assert_cmd::Command;
use serde_json::Value;

use super::{GOOD, check, directory};

fn of_stdin(directory: &std::path::Path, text: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
    let output =
        program.current_dir(directory).arg("check").args(arguments).write_stdin(text).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn standard_input_is_checked_under_the_name_of_its_file() {
    let files = directory(&[]);
    fs::create_dir(files.path().join("rules")).unwrap();
    fs::write(files.path().join("rules/.rulesyncd-check.yaml"), "allowed_keys: [owner]\n").unwrap();
    let with_key = format!("{GOOD}owner: x\n");

    assert_eq!(of_stdin(files.path(), GOOD, &["-"]), (0, "1 file: nothing wrong\n".into(), String::new()));
    let (code, out, _) = of_stdin(files.path(), &with_key, &["-"]);
    assert!(code == 0 && out.contains(" --> <stdin>:8:1\n"), "{out}");
    // The settings are those of the directory in the given name.
    let (code, out, _) = of_stdin(files.path(), &with_key, &["-", "--stdin-name", "rules/a.yaml"]);
    assert_eq!((code, out.as_str()), (0, "1 file: nothing wrong\n"));
    let wrong = GOOD.replace("suid_search", "yes");
    let (code, out, _) =
        of_stdin(files.path(), &wrong, &["--format", "json", "--stdin-name", "rules/a.yaml", "-"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    let finding = &report["findings"][0];
    assert_eq!((code, &finding["path"], &finding["line"]), (1, &"rules/a.yaml".into(), &3.into()));
    // The name is checked like a file's.
    let (_, out, _) = of_stdin(files.path(), GOOD, &["-", "--stdin-name", "rules/a-b.yaml"]);
    assert!(out.contains("warning[file-name]: `a-b.yaml` is not read from a rules directory"), "{out}");
    // No more is read than the size limit of a rule.
    let (code, out, _) = of_stdin(files.path(), &"#\n".repeat(200_000), &["-"]);
    assert!(code == 1 && out.contains("error[too-large]"), "{out}");
}

#[test]
fn what_the_caller_opened_is_checked_whatever_it_is() {
    let files = directory(&[("good.yaml", GOOD), ("long", &"#\n".repeat(200_000))]);
    let script = |line: &str| {
        let mut bash = Command::new("bash");
        bash.current_dir(files.path())
            .args(["-c", &line.replace("rulesyncd", env!("CARGO_BIN_EXE_rulesyncd"))]);
        let output = bash.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for fine in [
        "rulesyncd check /dev/stdin < good.yaml",
        "cat good.yaml | rulesyncd check /dev/stdin",
        "cat good.yaml | rulesyncd check --stdin-name rules/a.yaml /proc/self/fd/0",
        "rulesyncd check <(cat good.yaml)",
        "rulesyncd check /dev/fd/7 7< good.yaml",
    ] {
        assert_eq!(script(fine), (0, "1 file: nothing wrong\n".into()), "{fine}");
    }
    let (code, said) = script("rulesyncd check /dev/stdin < long");
    assert!(code == 1 && said.contains("error[too-large]") && said.contains("--> /dev/stdin:1:1"), "{said}");
    let (code, said) = script("rulesyncd check --fix /dev/stdin < good.yaml");
    assert_eq!((code, &*said), (2, "rulesyncd: standard input can neither be fixed nor watched\n"));
    for unreadable in
        ["rulesyncd check /dev/fd/77", "rulesyncd check /dev/stdin < .", "rulesyncd check /dev/zero"]
    {
        let (code, said) = script(unreadable);
        assert!(code == 3 && said.contains("1 path could not be read"), "{unreadable}: {said}");
    }
    // A name of the directory counts as a file of the directory, wherever it leads.
    let (code, said) = script("ln -s /dev/stdin in.yaml; cat good.yaml | rulesyncd check .");
    assert!(code == 3 && said.contains("in.yaml: it is"), "{said}");
}

#[test]
fn a_name_without_standard_input_is_usage() {
    let files = directory(&[("a.yaml", GOOD)]);
    let run = check(files.path(), &["a.yaml", "--stdin-name", "b.yaml"]);
    assert_eq!(run.code, 2);
    assert_eq!(run.err, "rulesyncd: --stdin-name names standard input, which is the path `-`\n");
}

struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn of(directory: &std::path::Path, paths: &[&str]) -> Self {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rulesyncd"))
            .current_dir(directory)
            .args(["check", "--watch", "--format", "json"])
            .args(paths)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next report; the runner of the tests bounds the wait.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Reads reports until one has so many files and errors: a check may see a half-finished save.
    fn until(&mut self, files: u64, errors: u64) -> Value {
        loop {
            let report = self.next();
            if (&report["files"], &report["errors"]) == (&files.into(), &errors.into()) {
                return report;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_watch_checks_again_when_files_come_change_and_go() {
    let files = directory(&[]);
    let rules = files.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("a.yaml"), GOOD).unwrap();
    let mut watch = Watch::of(files.path(), &["rules"]);
    watch.until(1, 0);
    fs::write(rules.join("a.yaml"), GOOD.replace("suid_search", "yes")).unwrap();
    assert_eq!(watch.until(1, 1)["findings"][0]["code"], "ambiguous-value");
    fs::write(rules.join(".b.tmp"), GOOD.replace("R0001", "R0002")).unwrap();
    fs::rename(rules.join(".b.tmp"), rules.join("b.yaml")).unwrap();
    watch.until(2, 1);
    fs::remove_file(rules.join("a.yaml")).unwrap();
    watch.until(1, 0);
    // A half-written settings file is reported, and checked again.
    fs::write(rules.join(".rulesyncd-check.yaml"), "codes: {").unwrap();
    fs::write(rules.join("b.yaml"), format!("{GOOD}owner: x\n")).unwrap();
    fs::write(rules.join(".rulesyncd-check.yaml"), "codes: {unknown-key: error}").unwrap();
    watch.until(1, 1);
    // A replaced directory is another one under the same name.
    fs::create_dir(files.path().join("next")).unwrap();
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        fs::write(files.path().join("next").join(name), GOOD).unwrap();
    }
    fs::rename(&rules, files.path().join("old")).unwrap();
    fs::rename(files.path().join("next"), &rules).unwrap();
    watch.until(3, 0);
    fs::write(rules.join("c.yaml"), "{}").unwrap();
    watch.until(3, 1);
}

#[test]
fn a_report_that_has_an_end_is_not_watched() {
    let files = directory(&[("a.yaml", GOOD)]);
    for format in ["sarif", "junit"] {
        let run = check(files.path(), &["--watch", "--format", format, "."]);
        assert_eq!((run.code, run.out.as_str()), (2, ""));
        assert!(run.err.contains("leave out --watch"), "{}", run.err);
    }
}
