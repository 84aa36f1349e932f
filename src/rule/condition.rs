//! Conditions that choose rules for a command.

use std::fmt;
use std::str::FromStr;

use super::attack::{is_sub_technique, is_tactic, is_technique};
use super::{Definition, Emit};

/// A condition on the definition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The rule emits a technique in this tactic.
    Tactic(String),
    /// The rule emits this technique or, unless it is a sub-technique itself, one of its sub-techniques.
    Technique(String),
    /// The rule's name contains this text; case does not matter.
    Name(String),
}

/// Why a text is not a condition; the message says what was found and expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCondition {
    /// It has neither of the three forms.
    #[error("expected `tactic=TA0007`, `technique=T1059` or `name~TEXT`")]
    Form,
    /// The value is not a tactic's id.
    #[error("`{0}` is not the id of a tactic; expected one such as `TA0007`")]
    Tactic(String),
    /// The value is not a technique's id.
    #[error("`{0}` is not the id of a technique; expected one such as `T1059` or `T1059.004`")]
    Technique(String),
    /// Every name contains an empty text.
    #[error("the text after `name~` is empty; expected a part of the rules' names")]
    Name,
}

impl Condition {
    /// What each condition begins with.
    pub(crate) const FORMS: [&'static str; 3] = ["tactic=", "technique=", "name~"];

    /// Whether the condition holds for a rule.
    pub(crate) fn holds(&self, rule: &Definition) -> bool {
        match self {
            Self::Tactic(id) => rule.emits.iter().any(|emit| emit.tactic == *id),
            Self::Technique(id) => rule.emits.iter().any(|emit| is_of_technique(emit, id)),
            Self::Name(text) => rule.name.to_lowercase().contains(&text.to_lowercase()),
        }
    }
}

fn is_of_technique(emit: &Emit, id: &str) -> bool {
    match is_sub_technique(id) {
        true => emit.sub_technique_id.as_deref() == Some(id),
        false => emit.technique_id == id,
    }
}

impl FromStr for Condition {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(id) = text.strip_prefix("tactic=") {
            return match is_tactic(id) {
                true => Ok(Self::Tactic(id.to_owned())),
                false => Err(InvalidCondition::Tactic(id.to_owned())),
            };
        }
        if let Some(id) = text.strip_prefix("technique=") {
            return match is_technique(id) {
                true => Ok(Self::Technique(id.to_owned())),
                false => Err(InvalidCondition::Technique(id.to_owned())),
            };
        }
        match text.strip_prefix("name~").map(str::trim) {
            Some("") => Err(InvalidCondition::Name),
            Some(part) => Ok(Self::Name(part.to_owned())),
            None => Err(InvalidCondition::Form),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tactic(id) => write!(f, "tactic={id}"),
            Self::Technique(id) => write!(f, "technique={id}"),
            Self::Name(text) => write!(f, "name~{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule() -> Definition {
        serde_json::from_value(json!({
            "rule_id": "R1", "rule_version": 1, "name": "XMRig Miner über SSH", "description": null,
            "applies_to": ["ssh"], "match_spec": {}, "evidence_fields": [],
            "emits": [
                {"technique_id": "T1496", "sub_technique_id": null, "tactic": "TA0040", "confidence": 0.5},
                {"technique_id": "T1059", "sub_technique_id": "T1059.004", "tactic": "TA0002", "confidence": 1.0},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_condition_holds_for_what_the_rule_emits_and_is_called() {
        for (text, expected) in [
            ("tactic=TA0040", true),
            ("tactic=TA0002", true),
            ("tactic=TA0007", false),
            ("technique=T1059", true),
            ("technique=T1059.004", true),
            ("technique=T1059.001", false),
            ("technique=T1496", true),
            ("technique=T1496.001", false),
            ("technique=T1049", false),
            ("name~miner", true),
            ("name~ÜBER ssh", true),
            ("name~R1", false),
            ("name~miner ssh", false),
        ] {
            let condition: Condition = text.parse().unwrap();
            assert_eq!(condition.holds(&rule()), expected, "{text}");
            assert_eq!(condition.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_condition_is_answered_with_what_is_expected() {
        for (text, expected) in [
            ("", "expected `tactic=TA0007`, `technique=T1059` or `name~TEXT`"),
            ("tactics=TA0007", "expected `tactic=TA0007`, `technique=T1059` or `name~TEXT`"),
            ("name=miner", "expected `tactic=TA0007`, `technique=T1059` or `name~TEXT`"),
            ("tactic=discovery", "`discovery` is not the id of a tactic; expected one such as `TA0007`"),
            ("tactic=TA00071", "`TA00071` is not the id of a tactic; expected one such as `TA0007`"),
            (
                "technique=t1059",
                "`t1059` is not the id of a technique; expected one such as `T1059` or `T1059.004`",
            ),
            ("name~ ", "the text after `name~` is empty; expected a part of the rules' names"),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap_err().to_string(), expected, "{text}");
        }
    }
}
