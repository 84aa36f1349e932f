//! `check` compares ids with ATT&CK.

use std::fs;

use super::{GOOD, check, directory};

/// The findings of `check --format json` for a rule with these lines of `emits`: code and message.
fn findings(emits: &str, arguments: &[&str]) -> Vec<(String, String)> {
    let rule = format!("{}emits:\n{emits}", GOOD.split("emits:").next().unwrap());
    let files = directory(&[("a.yaml", &rule)]);
    let run = check(files.path(), &[&["--format", "json", "a.yaml"], arguments].concat());
    assert_eq!(run.err, "");
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    report["findings"].as_array().unwrap().iter().map(|f| (text(&f["code"]), text(&f["message"]))).collect()
}

fn emit(tactic: &str, technique: &str) -> String {
    format!("- {{tactic: {tactic}, technique_id: {technique}, confidence: 0.5}}\n")
}

fn codes(emits: &str) -> Vec<String> {
    findings(emits, &[]).into_iter().map(|(code, _)| code).collect()
}

#[test]
fn each_way_to_miss_attack_has_its_code() {
    assert_eq!(codes(&emit("TA0007", "T1083")), [""; 0]);
    assert_eq!(codes(&emit("TA0007", "T9999")), ["attack-unknown"]);
    assert_eq!(codes(&emit("TA0999", "T1083")), ["attack-unknown"]);
    assert_eq!(codes(&emit("TA0002", "T1086")), ["attack-revoked"]);
    assert_eq!(codes(&emit("TA0007", "T1108")), ["attack-deprecated", "attack-tactic"]);
    assert_eq!(codes(&emit("TA0011", "T1029")), ["attack-tactic"]);
    // Discovery of the mobile matrix.
    assert_eq!(codes(&emit("TA0032", "T1083")), ["attack-domain"]);
    assert_eq!(codes(&(emit("TA0007", "T1083") + &emit("TA0032", "T1420"))), ["attack-domain"]);
    // Ids of another shape belong to another catalogue, which one finding says.
    assert_eq!(codes(&emit("TA0007", "CAPEC-1")), ["attack-id"]);
}

#[test]
fn a_sub_technique_has_its_own_tactics_and_its_own_end() {
    let sub = |tactic, sub| {
        codes(&format!(
            "- {{tactic: {tactic}, technique_id: T1548, sub_technique_id: {sub}, confidence: 0.5}}\n"
        ))
    };
    assert_eq!(sub("TA0004", "T1548.001"), [""; 0]);
    assert_eq!(sub("TA0004", "T1548.999"), ["attack-unknown"]);
    assert_eq!(sub("TA0004", "T1053.001"), ["sub-technique"]);
}

#[test]
fn a_message_says_what_to_write() {
    let [(_, revoked)] = &findings(&emit("TA0002", "T1086"), &[])[..] else { panic!() };
    assert!(revoked.contains("has revoked `T1086` (PowerShell)"), "{revoked}");
    let [(_, tactic)] = &findings(&emit("TA0011", "T1029"), &[])[..] else { panic!() };
    let expected =
        "`T1029` (Scheduled Transfer) belongs to TA0010 (Exfiltration), not to TA0011 (Command and Control)";
    assert_eq!(tactic, expected);
}

#[test]
fn a_newer_publication_is_taken_in_place_of_the_table() {
    let bundles = tempfile::tempdir().unwrap();
    let bundle = bundles.path().join("enterprise-attack.json");
    let text = r#"{"type":"bundle","objects":[
        {"type":"x-mitre-tactic","name":"Discovery","x_mitre_shortname":"discovery",
         "external_references":[{"source_name":"mitre-attack","external_id":"TA0007"}]},
        {"type":"attack-pattern","name":"New Way","modified":"2031-04-05T00:00:00Z",
         "kill_chain_phases":[{"kill_chain_name":"mitre-attack","phase_name":"discovery"}],
         "external_references":[{"source_name":"mitre-attack","external_id":"T9999"}]}]}"#;
    fs::write(&bundle, text).unwrap();
    let attack = ["--attack", bundle.to_str().unwrap()];
    assert_eq!(findings(&emit("TA0007", "T9999"), &attack), []);
    let [(code, message)] = &findings(&emit("TA0007", "T1083"), &attack)[..] else { panic!() };
    assert_eq!((&**code, &**message), ("attack-unknown", "ATT&CK of 2031-04-05 has no technique `T1083`"));

    let files = directory(&[("a.yaml", GOOD)]);
    let run = check(files.path(), &["a.yaml", "--attack", "a.yaml"]);
    assert_eq!(run.code, 3);
    assert!(run.err.contains("a.yaml: not a STIX bundle"), "{}", run.err);
}
