//! A rule's row without its text.

use std::sync::Arc;

use serde::Serialize;

use super::{ContentDigest, RuleId};
use crate::clock::Timestamp;

/// A row of `ttp_rule` without its text. The plan, the catalogue, rows and `why` embed it.
///
/// `I` is the id: a text, which is not checked, or a [`RuleId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleHeader<I = String> {
    /// The row's `rule_id`.
    pub rule_id: I,
    /// The author's number.
    pub rule_version: i64,
    /// The path of the file, relative to the rules directory.
    pub source_path: Box<str>,
    /// The digest of the row's text.
    pub content_sha256: ContentDigest,
    /// When the row was written, by its writer's clock; [`Timestamp::MIN`] if the stamp is not a time.
    pub updated_at: Timestamp,
    /// The writer of the row.
    pub updated_by: Arc<str>,
}

impl<I> RuleHeader<I> {
    /// Whether both have the same text, version and path. A row that was only touched, or written by another program,
    /// is no change to a subscriber.
    pub(crate) fn same_content<J>(&self, other: &RuleHeader<J>) -> bool {
        self.content_sha256 == other.content_sha256
            && self.rule_version == other.rule_version
            && self.source_path == other.source_path
    }

    /// Whether `owner` wrote the row.
    pub fn is_owned_by(&self, owner: &str) -> bool {
        *self.updated_by == *owner
    }

    /// The same with another id.
    pub(crate) fn with_id<J>(self, rule_id: J) -> RuleHeader<J> {
        let Self { rule_id: _, rule_version, source_path, content_sha256, updated_at, updated_by } = self;
        RuleHeader { rule_id, rule_version, source_path, content_sha256, updated_at, updated_by }
    }
}

impl RuleHeader {
    /// The size in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.rule_id.len() + self.source_path.len() + self.updated_by.len()
    }
}

impl RuleHeader<RuleId> {
    /// The same with the id as a text.
    pub(crate) fn unchecked(&self) -> RuleHeader {
        self.clone().with_id(self.rule_id.to_string())
    }
}
