//! Rules to write, and short descriptions of changes to compare with.

use rulesyncd::rule::{ContentDigest, RuleChange, RuleHeader, RuleId, RuleRow};

/// The text of a valid rule.
pub(crate) fn rule_text(rule_id: &str, version: i32) -> String {
    format!(
        "rule_id: {rule_id}\nrule_version: {version}\nname: rule {rule_id}\napplies_to: [command]\n\
         match:\n  field: command_text\n  pattern: 'v{version}'\n\
         emits:\n  - tactic: TA0007\n    technique_id: T1083\n    confidence: 0.85\n"
    )
}

/// A row as the master writes it.
pub(crate) fn rule_row(rule_id: &str, version: i32) -> RuleRow {
    let yaml_content = rule_text(rule_id, version);
    let header = RuleHeader {
        rule_id: rule_id.into(),
        rule_version: version.into(),
        source_path: format!("{rule_id}.yaml").into(),
        content_sha256: ContentDigest::of(&yaml_content),
        updated_at: rulesyncd::clock::Timestamp::MIN,
        updated_by: "filesystem".into(),
    };
    RuleRow { header, yaml_content }
}

pub(crate) fn id(text: &str) -> RuleId {
    RuleId::new(text).unwrap()
}

/// A short description of a change: `written R1 v2`, `deleted R1`, `state R1 disabled`, `expired R1`.
pub(crate) fn in_words(change: &RuleChange) -> String {
    match change {
        RuleChange::Written { rule, .. } => {
            format!("written {} v{}", rule.rule_id(), rule.header.rule_version)
        }
        RuleChange::Deleted { rule_id } => format!("deleted {rule_id}"),
        RuleChange::State { rule_id, auto_revert: true, .. } => format!("expired {rule_id}"),
        RuleChange::State { rule_id, state, .. } => format!("state {rule_id} {}", state.state),
    }
}
