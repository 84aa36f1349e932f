use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::rule::{Code, Severity};

mod defences;
mod readings;

/// A valid rule, to be spoiled.
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

fn found(text: impl AsRef<[u8]>) -> Vec<Diagnostic> {
    match parse(text.as_ref(), &Limits::default()) {
        Ok(rule) => rule.warnings,
        Err(findings) => findings,
    }
}

fn codes(text: impl AsRef<[u8]>) -> Vec<Code> {
    found(text).iter().map(|finding| finding.code).collect()
}

#[test]
fn a_rule_is_read_as_it_stands() {
    let rule = parse(GOOD.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(rule.warnings, []);
    assert_eq!((&GOOD[rule.id_span], &GOOD[rule.version_span]), ("R0015", "3"));
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
    let text = "\
rule_id: R 1
rule_version: 010
name: yes
match: {a: .nan}
emits:
- {tactic: TA1, confidence: 2}
nme: x
";
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
    assert_eq!(codes(text), expected);
}

#[test]
fn a_place_is_a_line_and_a_column_of_characters() {
    let text = format!("\u{feff}{}", GOOD.replace("suid_search", "ünïcode # ü\nowner: é\nö: ~"));
    let places: Vec<_> =
        found(&text).iter().map(|found| (found.line, found.column, found.span.clone())).collect();
    assert_eq!(places.len(), 2);
    assert_eq!((places[0].0, places[0].1, &text[places[0].2.clone()]), (4, 1, "owner"));
    assert_eq!((places[1].0, places[1].1, &text[places[1].2.clone()]), (5, 1, "ö"));
    let text = "rule_id: é 1\n";
    let finding = found(text).remove(1);
    assert_eq!((finding.code, finding.line, finding.column), (Code::RuleId, 1, 10));
    // A byte order mark has no width.
    let finding = found("\u{feff}name: yes\n").remove(1);
    assert_eq!((finding.line, finding.column), (1, 7));
}

#[test]
fn what_would_take_all_time_or_memory_is_refused_quickly() {
    let wide =
        |piece: &str| format!("{GOOD}x: {}\n", piece.repeat((256 * 1024 - GOOD.len() - 4) / piece.len()));
    let bomb = (0..20).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
        text + &format!("a{0}: &a{0} [{1}]\n", at + 1, vec![format!("*a{at}"); 100].join(","))
    });
    let nested_bomb = (0..100)
        .fold("a0: &a0 [x]\n".to_owned(), |text, at| text + &format!("a{0}: &a{0} [*a{at}]\n", at + 1));
    let block = (0..500).fold(String::new(), |text, at| text + &format!("{}a:\n", " ".repeat(at)));
    let texts = [
        wide("["),
        wide("[],"),
        wide("[[],"),
        wide("{a: "),
        wide("{"),
        wide("&a "),
        wide("*a,"),
        wide("- "),
        wide("? "),
        wide("!!x "),
        wide("'a' "),
        wide("\"\\u0041\" "),
        wide("a: "),
        wide("\n\n"),
        wide("\n#"),
        wide("\n? a"),
        wide("\na: 1"),
        wide("\nyes: 010"),
        wide("\n- {b: 010, b: 1}"),
        wide("\t"),
        wide("|\n  a\n"),
        wide("\n--- "),
        wide("\u{85}"),
        wide("a ? b : c # "),
        format!("{GOOD}x: [{}]\n", "[],".repeat(80_000)),
        format!("{GOOD}x: [{}]\n", "a,".repeat(120_000)),
        format!("{GOOD}x: [{}]\n", "{a: 1, a: 2},".repeat(15_000)),
        format!("{GOOD}x: [{}]\n", "&a a, *a, ".repeat(20_000)),
        format!("{GOOD}x: {{{}}}\n", "? a\n#\n : b,".repeat(15_000)),
        format!("{GOOD}x: \"{}\"\n", "\\\n".repeat(100_000)),
        format!("{GOOD}x: {}\n", "a\n  ".repeat(60_000)),
        GOOD.replace("'\\bfind\\s+-perm'", &format!("'{}'", "(?<=(a|".repeat(30_000))),
        GOOD.replace("'\\bfind\\s+-perm'", &format!("'{}'", "(?(1)a|b)".repeat(25_000))),
        format!("{GOOD}{bomb}"),
        format!("{GOOD}{nested_bomb}"),
        format!("{GOOD}x:\n{block}"),
    ];
    for text in texts {
        let begin = Instant::now();
        let outcome = parse(text.as_bytes(), &Limits::default());
        let what: String = text.chars().skip(GOOD.len()).take(40).collect();
        // A build without optimisation on a busy machine; what is quadratic takes minutes.
        assert!(begin.elapsed() < Duration::from_mins(1), "{:?} for {what:?}", begin.elapsed());
        if let Err(findings) = outcome {
            assert!(findings.len() <= 100, "{} findings for {what:?}", findings.len());
            assert!(findings.iter().all(|found| found.code != Code::TooLarge), "not even read: {what:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_bytes_the_findings_are_in_order_and_in_place(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0..GOOD.len(),
        cut in 0..40_usize,
        words in proptest::collection::vec("[ -~\n\t]{0,8}|[:\\-?,\\[\\]{}#&*!|>'\"%@`~<=\n ]{1,3}|\\PC", 0..6),
    ) {
        let mut spoiled = GOOD.as_bytes().to_vec();
        spoiled.splice(at..(at + cut).min(GOOD.len()), words.concat().bytes());
        for text in [bytes, spoiled, words.concat().into_bytes()] {
            let findings = match parse(&text, &Limits::default()) {
                Ok(rule) => {
                    prop_assert!(rule.warnings.iter().all(|found| found.severity == Severity::Warning));
                    rule.warnings
                }
                Err(findings) => {
                    prop_assert!(findings.iter().any(|found| found.severity == Severity::Error));
                    findings
                }
            };
            prop_assert!(findings.is_sorted_by_key(|found| found.span.start));
            for found in &findings {
                prop_assert!(found.span.start <= found.span.end && found.span.end <= text.len());
                prop_assert!(found.line >= 1 && found.column >= 1);
                if let Ok(text) = std::str::from_utf8(&text) {
                    prop_assert!(text.get(found.span.clone()).is_some(), "{:?} cuts a character", found.span);
                }
            }
        }
    }
}

#[test]
fn the_corpus_and_mutations_of_it_are_rules_or_have_an_error_in_place() {
    crate::testing::replay("rule", 1, 20_000, laws::rule);
}
