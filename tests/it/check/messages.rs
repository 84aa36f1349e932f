//! The messages, word for word.

use super::{check, directory};

/// The report for a file with this text.
fn told(text: &str) -> String {
    let files = directory(&[("rule.yaml", text)]);
    check(files.path(), &["rule.yaml"]).out
}

#[test]
fn fields() {
    insta::assert_snapshot!(told(
        "\
rule_id: R 1
rule_version: -1
nmae: x
description: 12
applies_to: command
match: find
emits:
- {tactic: TA7, confidence: 2}
- technique_id: T1548
  sub_technique_id: T1549.001
  tactic: TA0004
  confidence: '0.5'
evidence_fields: []
"
    ));
}

#[test]
fn values_that_the_two_yamls_read_differently() {
    insta::assert_snapshot!(told(
        "\
rule_id: 0o17
rule_version: 1_0
name: yes
applies_to: [off]
match:
  on: 12:30
  since: 2026-05-17
  size: 1e3
  mode: 010
  <<: {a: =}
emits:
- {tactic: TA0004, technique_id: T1548, confidence: 5e-1}
"
    ));
}

#[test]
fn mappings() {
    insta::assert_snapshot!(told(
        "\
rule_id: R1
rule_version: 1
name: n
name: m
applies_to: []
match:
  1: a
  a: &a [x]
  b: !!str 2
  c: {? d : e}
  pattern: '(?<name>a'
  big: 99999999999999999999
  no: .inf
emits: []
"
    ));
}

#[test]
fn text_that_is_no_yaml() {
    let texts = [
        "",
        "just text\n",
        "- a\n- b\n",
        "a: b\nc: [1, 2\nd: e\n",
        "name: a: b\n",
        "name b\nc: d\n",
        "pattern: \"\\bfind\\d\"\n",
        "name: 'it's'\n",
        "name: 'a\nb: c\n",
        "name: @home\n",
        "name:\tx\n",
        "a:\n\tb: c\n",
        "a:\n  b: c\n d: e\n",
        "pattern: [a-z]+\\d\n",
        "pattern: *.exe\n",
        "a: b\n---\nc: d\n",
        "%YAML 1.1\n---\na: b\n",
        "a: \u{85}b\n",
        "description: |\n  no end",
        "name: [\n",
    ];
    insta::assert_snapshot!(texts.map(told).join("\n========\n"));
}

#[test]
fn slips_that_people_make() {
    let texts = [
        "<<<<<<< HEAD\nname: a\n=======\nname: b\n>>>>>>> branch\n",
        "name: a\n<<<<<<< HEAD\nmatch: b\n",
        "match:\n\u{a0} field: a\n  pattern: b\n",
        "match:\n\u{a0}\u{a0}field: a\n",
        "match:\n\u{3000}field: a\n  pattern: b\n",
        "pattern: \"C:\\Users\"\n",
        "pattern: \"\\x4\"\n",
        "pattern: \"\\ud800\"\n",
        "name: a # it's fine\npattern: 'x\nemits: []\n",
        "name: \"a\nb: c\n",
        "emits:\n-tactic: TA0007\n technique_id: T1083\n",
        "emits:\n-tactic: TA0007\n",
        "applies_to:\n  -command\n",
        "name:x\nb: c\n",
        "name: {{ name }}\n",
        "name: {% if a %}b{% endif %}\n",
        "rule_version: {{ version }}\n",
    ];
    insta::assert_snapshot!(texts.map(told).join("\n========\n"));
}

#[test]
fn numbers() {
    let rule = |version: &str, confidence: &str| {
        format!(
            "rule_version: {version}\nemits:\n- {{tactic: TA0007, technique_id: T1083, confidence: {confidence}}}\n"
        )
    };
    let numbers = [("yes", "90"), ("v1", "90%"), ("2026-05-17", "'0,85'"), ("1.5", "1.5"), ("010", "-1")];
    insta::assert_snapshot!(numbers.map(|(version, share)| told(&rule(version, share))).join("\n========\n"));
}

#[test]
fn patterns() {
    let pattern = |pattern: &str| {
        format!(
            "rule_id: R1\nrule_version: 1\nname: n\napplies_to: [a]\nmatch:\n  pattern: {pattern}\nemits:\n\
             - {{tactic: TA0007, technique_id: T1083, confidence: 0.5}}\n"
        )
    };
    let patterns = [
        "find #old",
        "find # old\n  # older",
        "'find #old' # a comment",
        "'/find/i'",
        "'[[:alpha:]]+'",
        "“find”",
        "'\\N{NOPE}'",
        "'/(/i'",
        "'(a+)+$'",
    ];
    insta::assert_snapshot!(patterns.map(|text| told(&pattern(text))).join("\n========\n"));
}

#[test]
fn files_that_are_no_rules() {
    let sigma =
        "title: a\nid: 36a037c4\ndate: 2020-06-18\nlogsource: {product: linux}\ndetection: {condition: b}\n";
    insta::assert_snapshot!([told(sigma), told("- a\n"), told("a: b\n")].join("\n========\n"));
}

#[test]
fn other_encodings_are_named() {
    let wide = |text: &str, zeros: usize| -> Vec<u8> {
        text.bytes().flat_map(|byte| std::iter::once(byte).chain(std::iter::repeat_n(0, zeros))).collect()
    };
    for (bytes, expected) in [
        ([vec![0xff, 0xfe, 0, 0], wide("a: b\n", 3)].concat(), "the file is UTF-32;"),
        ([vec![0, 0, 0xfe, 0xff], vec![0, 0, 0, b'a']].concat(), "the file is UTF-32;"),
        ([vec![0xff, 0xfe], wide("a: b\n", 1)].concat(), "the file is UTF-16;"),
        (wide("a: b\n", 1), "the file is UTF-16 or UTF-32,"),
    ] {
        let files = directory(&[]);
        std::fs::write(files.path().join("rule.yaml"), bytes).unwrap();
        let run = check(files.path(), &["rule.yaml"]);
        assert_eq!(run.code, 1);
        assert!(run.out.starts_with(&format!("error[encoding]: {expected}")), "{}", run.out);
        assert!(run.out.contains("\n1 file: 1 error in 1 file, 0 warnings\n"), "{}", run.out);
    }
}
