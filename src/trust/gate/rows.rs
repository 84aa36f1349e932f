//! The lines of a list that rows make.

use std::sync::Arc;

use super::super::ListedRule;
use crate::rule::{KnownRule, RuleHeader};

/// Where the text of a listed rule is.
pub(super) enum Text {
    Rule(Arc<KnownRule>),
    /// It is there, and this program cannot parse it.
    Unparsed,
    Missing,
}

impl Text {
    pub(super) fn rule(self) -> Option<Arc<KnownRule>> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Unparsed | Self::Missing => None,
        }
    }
}

/// A rule with the version and the path that the list gives it.
pub(super) fn as_listed(known: &Arc<KnownRule>, rule: &ListedRule) -> Arc<KnownRule> {
    if ListedRule::of(&known.header) == *rule {
        return Arc::clone(known);
    }
    let header = RuleHeader {
        rule_version: rule.rule_version.into(),
        source_path: rule.source_path.clone(),
        ..known.header.clone()
    };
    Arc::new(KnownRule { header, definition_json: known.definition_json.clone() })
}
