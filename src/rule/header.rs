//! A rule's row without its text.

use super::{ContentDigest, KnownRule};
use crate::clock::Timestamp;

/// A row of `ttp_rule` without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHeader {
    /// The row's `rule_id`; not checked.
    pub rule_id: String,
    /// The author's number.
    pub rule_version: i64,
    /// The path of the file, relative to the rules directory.
    pub source_path: String,
    /// The digest of the row's text.
    pub content_sha256: ContentDigest,
    /// When the row was written, by its writer's clock; [`Timestamp::MIN`] if the stamp is not a time.
    pub updated_at: Timestamp,
    /// The writer of the row.
    pub updated_by: String,
}

impl RuleHeader {
    /// The size in bytes.
    pub const fn memory(&self) -> usize {
        size_of::<Self>() + self.rule_id.len() + self.source_path.len() + self.updated_by.len()
    }
}

impl From<&KnownRule> for RuleHeader {
    fn from(rule: &KnownRule) -> Self {
        Self {
            rule_id: rule.rule_id.to_string(),
            rule_version: rule.rule_version,
            source_path: rule.source_path.to_string(),
            content_sha256: rule.content_sha256,
            updated_at: rule.updated_at,
            updated_by: rule.updated_by.to_string(),
        }
    }
}
