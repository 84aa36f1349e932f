//! Compares the parser with the real PyYAML and a pydantic model of a rule.

mod generate;

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use rulesyncd::python_re::spell_for_fancy_regex;
use rulesyncd::rule::{self, Code, Limits};
use serde_json::{Value, json};

use generate::Dice;

/// How many texts are compared.
const TEXTS: usize = 30_000;

/// How many patterns are compared.
const PATTERNS: usize = 60_000;

/// `tests/python/run` creates the environment and runs this; `differential.py` describes the laws.
#[test]
#[ignore = "needs target/venv with PyYAML and pydantic: tests/python/run"]
fn python_loads_alike_whatever_is_accepted() {
    let mut dice = Dice::new(1);
    judged_by_python("differential.py", (0..TEXTS).map(|_| case(&generate::rule(&mut dice))));
}

/// The check warns of a pattern exactly if Python's `re.compile` fails.
#[test]
#[ignore = "needs target/venv: tests/python/run"]
fn python_compiles_the_patterns_that_are_not_warned_of() {
    let mut dice = Dice::new(1);
    judged_by_python("patterns.py", (0..PATTERNS).map(|_| pattern_case(&generate::pattern(&mut dice))));
}

/// `rulesyncd test` finds the same with and without Python.
#[test]
#[ignore = "needs target/venv: tests/python/run"]
fn python_finds_what_the_crate_finds_by_our_spelling() {
    let mut dice = Dice::new(2);
    judged_by_python("matches.py", (0..PATTERNS / 4).filter_map(|_| match_case(&mut dice)));
}

/// PyYAML reads the same rule before and after `check --fix`.
#[test]
#[ignore = "needs target/venv with PyYAML and pydantic: tests/python/run"]
fn a_fixed_file_is_the_same_rule_to_pyyaml() {
    let mut dice = Dice::new(3);
    let cases = (0..TEXTS / 3).filter_map(|_| {
        let before = generate::fixable(&mut dice);
        let after = rule::fix(&before, &Limits::default())?;
        assert_eq!(rule::fix(&after, &Limits::default()), None, "{:?}", String::from_utf8_lossy(&after));
        Some(json!({ "before": hex(&before), "after": hex(&after) }))
    });
    judged_by_python("fixed.py", cases);
}

/// The check warns of a pattern in public rule sets exactly if Python's `re` is slow on it.
#[test]
#[ignore = "needs target/venv and target/rule-sets: tests/run"]
fn python_takes_long_on_the_patterns_that_are_warned_of() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rule_sets = root.join("target/rule-sets");
    python(
        "backtracking.py",
        &[Path::new(env!("CARGO_BIN_EXE_rulesyncd")), &rule_sets, &root.join("config")],
    );
}

fn judged_by_python(script: &str, cases: impl Iterator<Item = Value>) {
    let mut file = BufWriter::new(tempfile::NamedTempFile::new().unwrap());
    for case in cases {
        writeln!(file, "{case}").unwrap();
    }
    python(script, &[file.into_inner().unwrap().path()]);
}

/// Runs one of the scripts, which must succeed.
fn python(script: &str, arguments: &[&Path]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judged = Command::new(root.join("target/venv/bin/python"))
        .arg(root.join("tests/python").join(script))
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&judged.stdout);
    #[expect(clippy::print_stdout, reason = "the counts are what one wants to see")]
    {
        println!("{told}");
    }
    assert!(judged.status.success(), "{told}{}", String::from_utf8_lossy(&judged.stderr));
}

/// The match of the crate in a text; `None` for a pattern that it cannot run.
fn match_case(dice: &mut Dice) -> Option<Value> {
    const LETTERS: &[char] = &[
        'a', 'b', 'c', 'x', 'A', 'B', '_', '1', ' ', '\n', '\t', '\u{1c}', 'é', '-', '[', ']', '&', '{', '}',
        '^', '$',
    ];
    let pattern = generate::pattern(dice);
    let spelled = spell_for_fancy_regex(&pattern).ok()?;
    let compiled = fancy_regex::Regex::new(&spelled).ok()?;
    let text: String = (0..dice.roll(10)).map(|_| LETTERS[dice.roll(LETTERS.len())]).collect();
    let characters = |at: usize| text[..at].chars().count();
    let found = compiled.find(&text).ok()?.map(|found| [characters(found.start()), characters(found.end())]);
    Some(json!({ "pattern": pattern, "text": text, "found": found }))
}

fn pattern_case(pattern: &str) -> Value {
    // JSON's escapes of a text are YAML's.
    let quoted = serde_json::to_string(pattern).unwrap();
    let text = format!(
        "rule_id: R\nrule_version: 1\nname: n\napplies_to: [a]\nmatch:\n  pattern: {quoted}\n\
         emits: [{{tactic: TA0001, technique_id: T1001, confidence: 1}}]\n"
    );
    let rule = rule::parse(text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(rule.definition.match_spec["pattern"], pattern);
    let fault = rule.warnings.iter().find(|finding| finding.code == Code::Pattern);
    json!({ "pattern": pattern, "fault": fault.map(|finding| &finding.message) })
}

fn hex(text: &[u8]) -> String {
    text.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn case(text: &[u8]) -> Value {
    let hex = hex(text);
    match rule::parse(text, &Limits::default()) {
        Ok(rule) => json!({ "text": hex, "rule": rule.definition, "codes": [] }),
        Err(findings) => {
            let codes: Vec<_> = findings.iter().map(|finding| finding.code.as_str()).collect();
            json!({ "text": hex, "rule": null, "codes": codes })
        }
    }
}
