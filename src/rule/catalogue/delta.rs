//! What goes into the catalogue: one poll at the tables.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::super::{ContentDigest, KnownRule, RuleId, RuleState, StateRow};
use crate::clock::Timestamp;

/// The two tables that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `ttp_rule`.
    Rules,
    /// `ttp_rule_state`.
    States,
}

/// What is known of a row without its content; enough to tell that it need not be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowFingerprint {
    /// The stamp that the row had.
    pub updated_at: Timestamp,
    /// Of a rule its text's digest, of a state that of all its fields.
    content: ContentDigest,
    /// Of a rule a hash of what else subscribers are told of it.
    metadata_hash: u64,
}

impl RowFingerprint {
    /// What is known of a row of `ttp_rule` by its text's digest, its version and its path: the
    /// three that a change to subscribers is made of.
    pub fn rule(updated_at: Timestamp, text: ContentDigest, rule_version: i64, source_path: &str) -> Self {
        Self { updated_at, content: text, metadata_hash: metadata_hash(rule_version, source_path) }
    }

    /// What is known of a row of `ttp_rule_state`: all of its fields. A row without a stamp has
    /// [`Timestamp::MIN`].
    pub fn state(row: &StateRow) -> Self {
        let StateRow { rule_id: _, state, confidence_max, expires_at, reason, set_by, set_at } = row;
        let fields = format!("{state:?} {confidence_max:?} {expires_at:?} {reason:?} {set_by:?}");
        Self::other(set_at.unwrap_or(Timestamp::MIN), ContentDigest::of(fields))
    }

    /// What is known of something that is neither, or cannot be read as either.
    pub const fn other(updated_at: Timestamp, content: ContentDigest) -> Self {
        Self { updated_at, content, metadata_hash: 0 }
    }

    /// Whether this is a rule's row of this stamp, version and path, whose text was then not looked
    /// at: who writes a row stamps it anew.
    pub fn is_stamped(&self, updated_at: Timestamp, rule_version: i64, source_path: &str) -> bool {
        self.updated_at == updated_at && self.metadata_hash == metadata_hash(rule_version, source_path)
    }
}

fn metadata_hash(rule_version: i64, source_path: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    (rule_version, source_path).hash(&mut hash);
    hash.finish()
}

/// What one poll at the tables found, all of it in one snapshot of the database.
///
/// Rows may come that are already known: a poll is complete, not minimal, and the catalogue
/// compares by content.
#[derive(Debug, Clone, Default)]
pub struct TableDelta {
    /// The database's clock at the poll.
    pub now: Timestamp,
    /// Rules that may be new or another than before, or why a row is none.
    pub rules: Vec<Result<Arc<KnownRule>, Box<QuarantinedRow>>>,
    /// States that may be new or another than before, or why a row is none.
    pub states: Vec<Result<(RuleId, RuleState), Box<QuarantinedRow>>>,
    /// Every key that `ttp_rule` has: what is known and not in it is gone. `None`: none is gone.
    pub rule_keys: Option<Vec<String>>,
    /// The same of `ttp_rule_state`.
    pub state_keys: Option<Vec<String>>,
    /// How many rows were read, most of them to find that they are known.
    pub rows: u64,
    /// Whether everything was compared, not only what the watermark told.
    pub full: bool,
    /// Rows that only comparing everything found to be another than what was known.
    pub missed_by_watermark: u64,
}

/// A row that is no rule or no state; it is quarantined alone and every other row goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The row's key.
    pub key: String,
    /// The row's stamp and content, so that it is told of once and not at every poll.
    pub fingerprint: RowFingerprint,
    /// Why, for the log and for `status`.
    pub reason: String,
}
