//! The layer for MITRE's ATT&CK Navigator, read by MITRE's own reader.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text};

/// A rule with these emits: tactic, technique, sub-technique, confidence.
pub(super) fn rule(id: &str, emits: &[(&str, &str, &str, &str)]) -> String {
    let (head, _) =
        rule_text(id, 1).split_once("emits:").map(|(head, tail)| (head.to_owned(), tail.len())).unwrap();
    let emits: String = emits
        .iter()
        .map(|(tactic, technique, sub, confidence)| {
            let sub = if sub.is_empty() { String::new() } else { format!("    sub_technique_id: {sub}\n") };
            format!(
                "  - tactic: {tactic}\n    technique_id: {technique}\n{sub}    confidence: {confidence}\n"
            )
        })
        .collect();
    format!("{head}emits:\n{emits}")
}

fn swarm() -> Swarm {
    let swarm = Swarm::on_sqlite();
    swarm.save(
        "A1.yaml",
        rule("A1", &[("TA0007", "T1083", "", "0.6"), ("TA0001", "T1078", "T1078.001", "0.29")]),
    );
    swarm.save("A2.yaml", rule("A2", &[("TA0007", "T1083", "", "0.85")]));
    swarm.save("A3.yaml", rule("A3", &[("TA0011", "T1071", "", "0.9")]));
    swarm.save("A4.yaml", rule("A4", &[("TA0002", "T1059", "T1059.004", "0.9")]));
    swarm.save("M1.yaml", rule("M1", &[("TA0035", "T1429", "", "0.5")]));
    swarm.succeed(&["sync"]);
    swarm.succeed(&["state", "set", "A2", "disabled", "--set-by", "alice", "--reason", "noisy"]);
    swarm.succeed(&["state", "set", "A3", "disabled"]);
    swarm.succeed(&["state", "set", "A4", "clipped", "--confidence-max", "0.3"]);
    swarm
}

#[test]
fn a_technique_has_the_highest_confidence_of_the_rules_that_count() {
    let swarm = swarm();
    let run = swarm.run(&["layer"]);
    let layer: Value = serde_json::from_slice(&run.stdout).unwrap();
    let techniques = layer["techniques"].as_array().unwrap();
    let told: Vec<String> = techniques
        .iter()
        .map(|technique| {
            let effect = if technique["enabled"] == false {
                "disabled".into()
            } else {
                technique["score"].to_string()
            };
            format!("{} {} {effect}", technique["techniqueID"], technique["tactic"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        told,
        [
            "T1059.004 execution 30",
            "T1071 command-and-control disabled",
            "T1078.001 initial-access 29",
            "T1083 discovery 60",
        ]
    );
    let comment = techniques[3]["comment"].as_str().unwrap();
    assert_eq!(comment.lines().count(), 2);
    assert!(comment.contains("A1 rule A1: 0.6\nA2 rule A2: 0.85, disabled by alice: noisy"), "{comment}");
    let warned = text(&run.stderr);
    assert!(warned.contains("1 technique of the mobile matrix left out"), "{warned}");

    let mobile: Value = serde_json::from_str(&swarm.succeed(&["layer", "--matrix", "mobile"])).unwrap();
    assert_eq!(mobile["domain"], "mobile-attack");
    assert_eq!(mobile["techniques"][0]["techniqueID"], "T1429");
}

#[test]
#[ignore = "needs target/venv: tests/run"]
fn mitres_own_reader_takes_it() {
    let swarm = swarm();
    let file = swarm.path("layer.json");
    fs::write(&file, swarm.succeed(&["layer"])).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = Command::new(root.join("target/venv/bin/python"))
        .arg(root.join("tests/python/navigator.py"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", text(&read.stderr));
    assert_eq!(
        text(&read.stdout),
        "T1059.004 execution 30\nT1071 command-and-control disabled\nT1078.001 initial-access 29\nT1083 discovery 60\n"
    );
}
