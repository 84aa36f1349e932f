//! Reports for other programs: SARIF and JUnit.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{GOOD, check, directory};
use tempfile::TempDir;

/// Findings of each kind of place: none, several lines, beyond ASCII, with a fix; and a path that cannot be read.
fn findings() -> TempDir {
    directory(&[
        ("a.yaml", GOOD),
        ("b.yaml", &GOOD.replace("R0001", "R0002").replace("suid_search", "yes")),
        ("c.yaml", &format!("{}owner: x\n# é\n\"ü<&>\": y\n", GOOD.replace("R0001", "R0003"))),
        ("d e%.yaml", ""),
        ("e.yaml", "- <&\"'\u{1b}\u{ffff}\n"),
        ("f.yaml", GOOD),
    ])
}

const PATHS: [&str; 7] = ["a.yaml", "b.yaml", "c.yaml", "d e%.yaml", "e.yaml", "f.yaml", "absent/é.yaml"];

fn report(files: &Path, format: &str) -> String {
    let run = check(files, &[&["--format", format][..], &PATHS].concat());
    assert_eq!(run.code, 3, "{}", run.err);
    run.out
}

#[test]
fn sarif_has_a_result_for_each_finding_with_its_place_and_its_fix() {
    let files = findings();
    let sarif: Value = serde_json::from_str(&report(files.path(), "sarif")).unwrap();
    let json: Value = serde_json::from_str(&report(files.path(), "json")).unwrap();
    let run = &sarif["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(results.len(), findings.len());
    for (result, finding) in results.iter().zip(findings) {
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(result["ruleId"], finding["code"]);
        assert_eq!(
            rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()]["id"],
            finding["code"]
        );
        assert_eq!(result["level"], finding["severity"]);
        assert_eq!(place["region"]["startLine"], finding["line"]);
        assert_eq!(place["region"]["startColumn"], finding["column"]);
        let path = finding["path"].as_str().unwrap().replace('%', "%25").replace(' ', "%20");
        assert_eq!(place["artifactLocation"]["uri"], path);
    }
    let ambiguous = results.iter().find(|result| result["ruleId"] == "ambiguous-value").unwrap();
    insta::assert_json_snapshot!(ambiguous);
    let unread = &run["invocations"][0];
    assert_eq!(unread["executionSuccessful"], false);
    insta::assert_json_snapshot!(unread["toolExecutionNotifications"]);
}

#[test]
fn a_clean_run_is_an_empty_result_and_a_successful_one() {
    let files = directory(&[("a.yaml", GOOD)]);
    let run = check(files.path(), &["--format", "sarif", "."]);
    let sarif: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(run.code, 0);
    assert_eq!(sarif["runs"][0]["results"], Value::Array(Vec::new()));
    assert_eq!(sarif["runs"][0]["invocations"][0]["executionSuccessful"], true);
    insta::assert_snapshot!(check(files.path(), &["--format", "junit", "."]).out);
}

#[test]
fn junit_has_a_test_for_each_path() {
    insta::assert_snapshot!(report(findings().path(), "junit"));
}

/// Validated with the schema of OASIS, and an independent reader of JUnit XML.
#[test]
#[ignore = "needs target/venv and target/sarif: tests/run"]
fn others_take_the_reports() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = findings();
    let at = |name: &str| files.path().join(name);
    fs::write(at("report.sarif"), report(files.path(), "sarif")).unwrap();
    fs::write(at("report.xml"), report(files.path(), "junit")).unwrap();
    let judged = Command::new(root.join("target/venv/bin/python"))
        .arg(root.join("tests/python/reports.py"))
        .arg(root.join("target/sarif/vendor/serde-sarif/src/schema.json"))
        .args([at("report.sarif"), at("report.xml")])
        .output()
        .unwrap();
    let told = [judged.stdout, judged.stderr].map(|out| String::from_utf8(out).unwrap());
    assert!(judged.status.success(), "{}{}", told[0], told[1]);
}
