use serde_json::json;

use super::*;
use crate::fleet::{ExpectedRelease, Look, ReportedWorker, WorkerReport};
use crate::rule::{Definition, RuleState, StateKind};

fn rule(id: &str, emits: &[(&str, &str)], state: StateKind) -> CompiledRule {
    let emits: Vec<_> = emits
        .iter()
        .map(|(tactic, technique)| json!({"technique_id": technique, "sub_technique_id": null, "tactic": tactic, "confidence": 1.0}))
        .collect();
    let definition: Definition = serde_json::from_value(json!({
        "rule_id": id, "rule_version": 1, "name": id, "description": null, "applies_to": ["ssh"],
        "match_spec": {}, "evidence_fields": [], "emits": emits,
    }))
    .unwrap();
    CompiledRule { definition, state: RuleState { state, ..RuleState::default() } }
}

fn host(name: &str, state: HostState, reported_at: Timestamp) -> (Host, HostState) {
    let report = WorkerReport { rules: 59, program: "0.1.0".to_owned(), ..WorkerReport::default() };
    let worker = ReportedWorker { report, started_at: reported_at, reported_at };
    (Host { name: name.to_owned(), same_id_as: None, worker }, state)
}

fn shown(hosts: Vec<(Host, HostState)>, not_verified: Option<&str>) -> Shown {
    let look = Look {
        now: now(),
        version: None,
        changed_at: None,
        leader: None,
        no_master_since: None,
        expected: None,
        release: not_verified.map(|why| ExpectedRelease { served: None, not_verified: Some(why.to_owned()) }),
        workers: Vec::new(),
    };
    Shown { look, hosts }
}

fn now() -> Timestamp {
    Timestamp::parse("2026-05-01T12:00:00Z").unwrap()
}

#[test]
fn a_cell_counts_the_rules_of_its_technique_by_state() {
    let rules = [
        rule("R1", &[("TA0007", "T1083"), ("TA0007", "T1083")], StateKind::Enabled),
        rule("R2", &[("TA0007", "T1083")], StateKind::Clipped),
        rule("R3", &[("TA0007", "T1083"), ("TA0002", "T1059")], StateKind::Disabled),
        rule("R4", &[("TA9999", "T9999")], StateKind::Enabled),
    ];
    let html = page(&shown(Vec::new(), None), &rules, None, Attack::built_in());
    for expected in [
        "<h2>4 rules</h2>\n<p>2 enabled, 1 clipped, 1 disabled.",
        "<div class=\"cell heat2\" title=\"T1083 File and Directory Discovery; enabled: R1; clipped: R2; disabled: R3\">\
         <b>T1083</b> File and Directory Discovery<i>2, 1 clipped, 1 disabled</i></div>",
        "<div class=\"cell off\" title=\"T1059 Command and Scripting Interpreter; disabled: R3\">",
        "<h3>In no matrix</h3>",
        "title=\"TA9999 T9999 ; enabled: R4\"",
    ] {
        assert!(html.contains(expected), "no {expected}");
    }
    let order: Vec<_> = ["Reconnaissance<", "Initial Access<", "Discovery<", "Impact<"]
        .iter()
        .map(|name| html.find(name).unwrap())
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(!html.contains(", mobile</h3>"), "a matrix without rules");
}

#[test]
fn hosts_are_counted_by_state_and_the_oldest_report_is_named() {
    let hosts = vec![
        host("a", HostState::InSync, now()),
        host("b", HostState::InSync, now().before(std::time::Duration::from_secs(4))),
        host(
            "<script>alert(1)</script>\u{202e}",
            HostState::Silent { since_ms: Some(3_600_000) },
            now().before(std::time::Duration::from_secs(11_000)),
        ),
    ];
    let shown = shown(hosts, Some("<i>no keys</i>"));
    let html = page(&shown, &[], Some(&BTreeMap::new()), Attack::built_in());
    for expected in [
        "<h2>2 of 3 hosts in sync</h2>",
        "<rect class=\"silent\" x=\"2\" y=\"0\" width=\"1\" height=\"1\"/>",
        "<p>Oldest report: &lt;script&gt;alert(1)&lt;/script&gt;\\u202e, 3h 3m 20s ago</p>",
        "has recorded no change",
        "not verified: &lt;i&gt;no keys&lt;/i&gt;",
    ] {
        assert!(html.contains(expected), "no {expected}");
    }
    assert!(!html.contains("<script"), "a name is not markup");
}
