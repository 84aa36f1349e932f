//! Writes lines directly, without building a structure for each rule.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::rule::{ChangeKind, KnownRule, RuleChange, RuleId, RuleState};
use crate::telemetry::trace::Traceparent;

/// Appends any line and its LF.
pub(crate) fn line(out: &mut Vec<u8>, line: &impl Serialize) {
    json(out, line);
    out.push(b'\n');
}

/// Appends a `rule` line and its LF.
pub(crate) fn rule_line(out: &mut Vec<u8>, rule: &KnownRule, state: &RuleState) {
    out.extend_from_slice(br#"{"type":"rule","rule_id":"#);
    json(out, &rule.header.rule_id);
    out.extend_from_slice(br#","new_value":"#);
    compiled(out, rule, state);
    provenance(out, rule);
    out.extend_from_slice(b"}\n");
}

/// Appends a `state` line and its LF.
pub(crate) fn state_line(out: &mut Vec<u8>, rule_id: &RuleId, state: &RuleState) {
    out.extend_from_slice(br#"{"type":"state","rule_id":"#);
    json(out, rule_id);
    out.extend_from_slice(br#","new_value":"#);
    json(out, state);
    out.extend_from_slice(b"}\n");
}

/// Appends a `change` line and its LF.
pub(crate) fn change_line(
    out: &mut Vec<u8>,
    seq: u64,
    change: &RuleChange,
    emitted_at: Timestamp,
    traceparent: Option<&Traceparent>,
) {
    out.extend_from_slice(br#"{"type":"change","seq":"#);
    json(out, &seq);
    out.extend_from_slice(match change.kind() {
        ChangeKind::Definition => br#","change_kind":"definition","rule_id":"#.as_slice(),
        ChangeKind::State => br#","change_kind":"state","rule_id":"#.as_slice(),
    });
    json(out, change.rule_id());
    out.extend_from_slice(br#","new_value":"#);
    match change {
        RuleChange::Written { rule, state } => {
            compiled(out, rule, state);
            provenance(out, rule);
        }
        RuleChange::Deleted { .. } => out.extend_from_slice(b"null"),
        RuleChange::State { state, auto_revert, .. } => {
            json(out, state);
            if *auto_revert {
                out.extend_from_slice(br#","auto_revert":true"#);
            }
        }
    }
    out.extend_from_slice(br#","emitted_at":"#);
    json(out, &emitted_at);
    if let Some(traceparent) = traceparent {
        out.extend_from_slice(br#","traceparent":"#);
        json(out, &traceparent.to_string());
    }
    out.extend_from_slice(b"}\n");
}

/// Appends the definition's bytes with the state as their last field.
fn compiled(out: &mut Vec<u8>, rule: &KnownRule, state: &RuleState) {
    let open = rule.definition_json.strip_suffix('}').unwrap_or(&rule.definition_json);
    out.extend_from_slice(open.as_bytes());
    out.extend_from_slice(br#","state":"#);
    json(out, state);
    out.push(b'}');
}

fn provenance(out: &mut Vec<u8>, rule: &KnownRule) {
    out.extend_from_slice(br#","rule_version":"#);
    json(out, &rule.header.rule_version);
    out.extend_from_slice(br#","content_sha256":"#);
    json(out, &rule.header.content_sha256);
    out.extend_from_slice(br#","source_path":"#);
    json(out, &rule.header.source_path);
    out.extend_from_slice(br#","updated_at":"#);
    json(out, &rule.header.updated_at);
    out.extend_from_slice(br#","updated_by":"#);
    json(out, &rule.header.updated_by);
}

#[expect(
    clippy::expect_used,
    reason = "a Vec takes all bytes, and no key of these types is anything but a text"
)]
fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("plain data is written to memory");
}
