//! What a poll asks about the rows that are already known.

use std::sync::Arc;

use super::{ContentDigest, KnownRule, RowFingerprint, Table};

/// The known rows, so that a poll reads only new and changed ones.
pub trait RowIndex {
    /// How many rows of the table are known, quarantined ones included.
    fn count(&self, table: Table) -> u64;
    /// The fingerprint of a row, quarantined or not; `None` if the row is not known.
    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint>;
    /// About how many bytes of memory the known rules and states take.
    fn memory(&self) -> usize {
        0
    }
    /// The same of one row; 0 if it is not known.
    fn memory_of(&self, _table: Table, _key: &str) -> usize {
        0
    }
    /// About how many bytes of memory the quarantined rows of the table take; if keys are given, those with these
    /// keys.
    fn quarantined_memory(&self, _table: Table, _keys: Option<&[String]>) -> usize {
        0
    }
    /// Whether a poll reads the manifest of the signed release, where it is followed.
    fn manifest_wish(&self) -> ManifestWish {
        ManifestWish::IfChanged
    }
    /// Where a poll puts the texts of the rules that it reads; `None` if nobody needs them.
    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        None
    }
}

/// When a poll reads the manifest of the signed release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestWish {
    /// If it seems to have changed, and in a full poll.
    IfChanged,
    /// In any case.
    Now,
    /// Not in this poll, whatever changed: the last one was refused a moment ago.
    NotYet,
}

/// Receives the texts of valid rules as a poll reads them.
pub trait TextSink: Send + Sync {
    /// Receives a text and its digest.
    fn put(&self, content: ContentDigest, text: &str);

    /// The rule that this process already parsed from a text of this digest; `None` if it did not, or no longer has
    /// it.
    fn parsed(&self, _rule_id: &str, _content: &ContentDigest) -> Option<Arc<KnownRule>> {
        None
    }
}
