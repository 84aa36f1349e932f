use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CompiledRule, Definition, RuleHeader, RuleId, RuleState};

/// The part of a rule that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The definition was written or deleted.
    Definition,
    /// The operator's state was set, cleared, or has expired.
    State,
}

impl ChangeKind {
    /// The word in the stream.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Definition => "definition",
            Self::State => "state",
        }
    }
}

/// A row of `ttp_rule` that was read and is valid.
///
/// It keeps the definition as the JSON for subscribers, which is encoded once and then copied as bytes, and takes a
/// fraction of the structure's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRule {
    /// The row without its text.
    pub header: RuleHeader<RuleId>,
    /// [`Definition`] as one JSON object.
    pub definition_json: Box<str>,
}

impl KnownRule {
    /// The rule's id.
    pub const fn rule_id(&self) -> &RuleId {
        &self.header.rule_id
    }

    /// The size of its texts in bytes.
    pub(crate) fn memory(&self) -> usize {
        // No other rule may have the same `updated_by`.
        let RuleHeader { rule_id, source_path, updated_by, .. } = &self.header;
        rule_id.as_str().len() + source_path.len() + updated_by.len() + self.definition_json.len()
    }

    /// The definition as a structure.
    ///
    /// # Errors
    /// Only if `definition_json` was not made from a [`Definition`].
    pub(crate) fn definition(&self) -> Result<Definition, serde_json::Error> {
        serde_json::from_str(&self.definition_json)
    }

    /// The definition with `state` as a structure.
    ///
    /// # Errors
    /// As [`KnownRule::definition`].
    pub(crate) fn compiled(&self, state: RuleState) -> Result<CompiledRule, serde_json::Error> {
        Ok(CompiledRule { definition: self.definition()?, state })
    }
}

/// One change of one rule.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleChange {
    /// The definition is new or changed.
    Written {
        /// The rule after the change.
        rule: Arc<KnownRule>,
        /// Its effective state.
        state: Arc<RuleState>,
    },
    /// The definition was deleted.
    Deleted {
        /// The deleted rule.
        rule_id: RuleId,
    },
    /// The effective state changed.
    State {
        /// The rule; it need not have a definition.
        rule_id: RuleId,
        /// The state after the change: the default if it was cleared or has expired.
        state: Arc<RuleState>,
        /// Whether the state ended by its expiry, and not by an operator.
        auto_revert: bool,
    },
}

impl RuleChange {
    /// The changed rule.
    pub(crate) fn rule_id(&self) -> &RuleId {
        match self {
            Self::Written { rule, .. } => rule.rule_id(),
            Self::Deleted { rule_id } | Self::State { rule_id, .. } => rule_id,
        }
    }

    /// The part of it that changed.
    pub(crate) const fn kind(&self) -> ChangeKind {
        match self {
            Self::Written { .. } | Self::Deleted { .. } => ChangeKind::Definition,
            Self::State { .. } => ChangeKind::State,
        }
    }
}
