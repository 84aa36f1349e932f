//! Writes lines directly, without building a structure for each rule.

use std::sync::LazyLock;

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
    // No character of an id is escaped.
    quoted(out, rule.header.rule_id.as_str().as_bytes());
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
    /// Almost every rule has it.
    static DEFAULT: LazyLock<(RuleState, Vec<u8>)> = LazyLock::new(|| {
        let (state, mut text) = (RuleState::default(), Vec::new());
        json(&mut text, &state);
        (state, text)
    });
    let open = rule.definition_json.strip_suffix('}').unwrap_or(&rule.definition_json);
    out.extend_from_slice(open.as_bytes());
    out.extend_from_slice(br#","state":"#);
    match *state == DEFAULT.0 {
        true => out.extend_from_slice(&DEFAULT.1),
        false => json(out, state),
    }
    out.push(b'}');
}

fn provenance(out: &mut Vec<u8>, rule: &KnownRule) {
    let header = &rule.header;
    out.extend_from_slice(br#","rule_version":"#);
    json(out, &header.rule_version);
    out.extend_from_slice(br#","content_sha256":"#);
    quoted(out, &header.content_sha256.to_ascii());
    out.extend_from_slice(br#","source_path":"#);
    text(out, &header.source_path);
    out.extend_from_slice(br#","updated_at":"#);
    quoted(out, &header.updated_at.to_ascii());
    out.extend_from_slice(br#","updated_by":"#);
    text(out, &header.updated_by);
}

/// Appends a text as JSON.
fn text(out: &mut Vec<u8>, text: &str) {
    // The only ones that JSON escapes.
    let is_escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    // Not ended at the first, so that the compiler compares many bytes at once.
    match text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        true => json(out, text),
        false => quoted(out, text.as_bytes()),
    }
}

/// Appends a text that JSON does not escape.
fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

#[expect(
    clippy::expect_used,
    reason = "a Vec takes all bytes, and no key of these types is anything but a text"
)]
fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("plain data is written to memory");
}
