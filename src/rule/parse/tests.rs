use super::*;
use crate::rule::Code;

/// A rule that is right, to be spoiled.
const GOOD: &str = "\
rule_id: R0015
rule_version: 3
name: suid_search
description: |
  find with a SUID predicate.
applies_to: [shell, command, shell]
match:
  pattern: '\\bfind\\s+-perm'
  field: command_text
  weights: [1, 1.0, -2, 18446744073709551615, null, true]
emits:
  - tactic: TA0007
    technique_id: T1083
    confidence: 0.85
  - tactic: TA0004
    technique_id: T1548
    sub_technique_id: T1548.001
    confidence: 1
evidence_fields: [command_id]
";

fn codes(text: impl AsRef<[u8]>) -> Vec<Code> {
    match parse(text.as_ref(), &Limits::default()) {
        Ok(rule) => rule.warnings.iter().map(|finding| finding.code).collect(),
        Err(findings) => findings.iter().map(|finding| finding.code).collect(),
    }
}

#[test]
fn a_rule_is_read_as_it_stands() {
    let rule = parse(GOOD.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(rule.warnings, []);
    assert_eq!(
        serde_json::to_string(&rule.definition).unwrap(),
        concat!(
            r#"{"rule_id":"R0015","rule_version":3,"name":"suid_search","#,
            r#""description":"find with a SUID predicate.\n","applies_to":["command","shell"],"#,
            r#""match_spec":{"pattern":"\\bfind\\s+-perm","field":"command_text","#,
            r#""weights":[1,1.0,-2,18446744073709551615,null,true]},"#,
            r#""emits":[{"technique_id":"T1083","sub_technique_id":null,"tactic":"TA0007","confidence":0.85},"#,
            r#"{"technique_id":"T1548","sub_technique_id":"T1548.001","tactic":"TA0004","confidence":1.0}],"#,
            r#""evidence_fields":["command_id"]}"#
        )
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_text() {
    let text = "rule_id: R 1\nrule_version: 010\nname: yes\nmatch: {a: .nan}\nemits:\n- {tactic: TA1, confidence: 2}\nnme: x\n";
    let found = codes(text);
    let expected = [
        Code::MissingField,
        Code::RuleId,
        Code::AmbiguousValue,
        Code::AmbiguousValue,
        Code::Number,
        Code::MissingField,
        Code::AttackId,
        Code::OutOfRange,
        Code::UnknownKey,
    ];
    assert_eq!(found, expected);
}
