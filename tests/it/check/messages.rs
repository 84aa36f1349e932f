//! The messages, word for word.

use super::{check, directory};

/// What people read when a file is this text.
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
    ];
    insta::assert_snapshot!(texts.map(told).join("\n========\n"));
}
