use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CompiledRule, ContentDigest, Definition, RuleId, RuleState};
use crate::clock::Timestamp;

/// What of a rule changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The definition was written or deleted.
    Definition,
    /// The operator's state was set, cleared, or has expired.
    State,
}

impl ChangeKind {
    /// The word that the stream uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Definition => "definition",
            Self::State => "state",
        }
    }
}

/// A row of `ttp_rule` that was read and found valid.
///
/// The definition is kept as the JSON that goes to subscribers: it is made once and copied as
/// bytes from then on, and takes a fraction of the structure's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRule {
    /// The rule's id.
    pub rule_id: RuleId,
    /// The row's version.
    pub rule_version: i64,
    /// Path of the file, relative to the rules directory.
    pub source_path: Box<str>,
    /// When the row was written, by its writer's clock.
    pub updated_at: Timestamp,
    /// Who wrote it.
    pub updated_by: Arc<str>,
    /// The digest of the row's text.
    pub content_sha256: ContentDigest,
    /// [`Definition`] as one JSON object.
    pub definition_json: Box<str>,
}

impl KnownRule {
    /// The bytes of its texts.
    pub fn memory(&self) -> usize {
        // Nobody else may have the same `updated_by`.
        self.rule_id.as_str().len()
            + self.source_path.len()
            + self.updated_by.len()
            + self.definition_json.len()
    }

    /// The definition as a structure.
    ///
    /// # Errors
    /// Only when `definition_json` was not made from a [`Definition`].
    pub fn definition(&self) -> Result<Definition, serde_json::Error> {
        serde_json::from_str(&self.definition_json)
    }

    /// The definition with `state` as a structure.
    ///
    /// # Errors
    /// As [`KnownRule::definition`].
    pub fn compiled(&self, state: RuleState) -> Result<CompiledRule, serde_json::Error> {
        Ok(CompiledRule { definition: self.definition()?, state })
    }

    /// Whether both say the same: a row that was touched, or written by another, and is equal in
    /// text, version and path is no change to a subscriber.
    pub fn same_content(&self, other: &Self) -> bool {
        self.content_sha256 == other.content_sha256
            && self.rule_version == other.rule_version
            && self.source_path == other.source_path
    }
}

/// One change of one rule.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleChange {
    /// The definition is new or another than before.
    Written {
        /// The rule as it is now.
        rule: Arc<KnownRule>,
        /// Its effective state.
        state: Arc<RuleState>,
    },
    /// The definition is gone.
    Deleted {
        /// Whose definition.
        rule_id: RuleId,
    },
    /// The effective state changed.
    State {
        /// Whose state; a rule of that id need not exist.
        rule_id: RuleId,
        /// The state as it is now: the default when it was cleared or has expired.
        state: Arc<RuleState>,
        /// Whether the state ended by its expiry, not by someone's hand.
        auto_revert: bool,
    },
}

impl RuleChange {
    /// The rule that changed.
    pub fn rule_id(&self) -> &RuleId {
        match self {
            Self::Written { rule, .. } => &rule.rule_id,
            Self::Deleted { rule_id } | Self::State { rule_id, .. } => rule_id,
        }
    }

    /// What of it changed.
    pub const fn kind(&self) -> ChangeKind {
        match self {
            Self::Written { .. } | Self::Deleted { .. } => ChangeKind::Definition,
            Self::State { .. } => ChangeKind::State,
        }
    }
}
