//! The parser against the real PyYAML and a pydantic model of a rule.

mod generate;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use rulesyncd::rule::{self, Limits};
use serde_json::{Value, json};

use generate::Dice;

/// How many texts are held against each other.
const TEXTS: usize = 40_000;

/// `tests/python/run` makes the environment and runs this; see `differential.py` for what holds.
#[test]
#[ignore = "needs target/venv with PyYAML and pydantic: tests/python/run"]
fn whatever_is_accepted_python_loads_alike() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cases = tempfile::NamedTempFile::new().unwrap();
    let mut dice = Dice::new(1);
    for _ in 0..TEXTS {
        writeln!(cases, "{}", case(&generate::rule(&mut dice))).unwrap();
    }
    let judged = Command::new(root.join("target/venv/bin/python"))
        .arg(root.join("tests/python/differential.py"))
        .arg(cases.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&judged.stdout);
    println!("{told}");
    assert!(judged.status.success(), "{told}{}", String::from_utf8_lossy(&judged.stderr));
}

fn case(text: &[u8]) -> Value {
    let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
    match rule::parse(text, &Limits::default()) {
        Ok(rule) => json!({ "text": hex, "rule": rule.definition, "codes": [] }),
        Err(findings) => {
            let codes: Vec<_> = findings.iter().map(|finding| finding.code.as_str()).collect();
            json!({ "text": hex, "rule": null, "codes": codes })
        }
    }
}
