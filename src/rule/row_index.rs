//! What a poll may ask of what is already known.

use std::sync::Arc;

use super::{ContentDigest, KnownRule, RowFingerprint, Table};

/// What is already known, so that a poll need not read it again.
pub trait RowIndex {
    /// How many rows of the table are known, rejected ones too.
    fn count(&self, table: Table) -> u64;
    /// What is known of the row, rejected ones too; `None` when it is not known.
    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint>;
    /// What the rules and states take that are known, in bytes, about.
    fn memory(&self) -> usize {
        0
    }
    /// The same of one row; 0 when it is not known.
    fn memory_of(&self, _table: Table, _key: &str) -> usize {
        0
    }
    /// Where the texts of rules go that a poll reads; `None` where nobody wants them.
    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        None
    }
}

/// Takes the texts of valid rules as they are read.
pub trait TextSink: Send + Sync {
    /// Takes a text and its digest.
    fn put(&self, content: ContentDigest, text: &str);

    /// The rule that this process has already parsed from a text of this digest; `None` where it has not, or
    /// does not remember.
    fn parsed(&self, _rule_id: &str, _content: &ContentDigest) -> Option<Arc<KnownRule>> {
        None
    }
}
