//! What goes into the catalogue: one look at the tables.

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
pub struct Seen {
    /// The stamp that the row had.
    pub updated_at: Timestamp,
    /// The digest of all else that the row says; made by [`Seen::rule`] and [`Seen::state`] alone.
    pub content: ContentDigest,
}

impl Seen {
    /// What is known of a row of `ttp_rule` by its text's digest, its version and its path: the
    /// three that a change to subscribers is made of.
    pub fn rule(updated_at: Timestamp, text: ContentDigest, rule_version: i64, source_path: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(&rule_version.to_be_bytes());
        bytes.extend_from_slice(source_path.as_bytes());
        Self { updated_at, content: ContentDigest::of(bytes) }
    }

    /// What is known of a row of `ttp_rule_state`: all of its fields. A row without a stamp has
    /// [`Timestamp::MIN`].
    pub fn state(row: &StateRow) -> Self {
        let StateRow { rule_id: _, state, confidence_max, expires_at, reason, set_by, set_at } = row;
        let fields = format!("{state:?} {confidence_max:?} {expires_at:?} {reason:?} {set_by:?}");
        Self { updated_at: set_at.unwrap_or(Timestamp::MIN), content: ContentDigest::of(fields) }
    }
}

/// What one look at the tables found, all of it in one snapshot of the database.
///
/// Rows may come that are already known: a look is complete, not minimal, and the catalogue
/// compares by content.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The database's clock at the look.
    pub now: Timestamp,
    /// Rules that may be new or another than before, or why a row is none.
    pub rules: Vec<Result<KnownRule, Rejected>>,
    /// States that may be new or another than before, or why a row is none.
    pub states: Vec<Result<(RuleId, RuleState), Rejected>>,
    /// Every key that `ttp_rule` has: what is known and not in it is gone. `None`: none is gone.
    pub rule_keys: Option<Vec<String>>,
    /// The same of `ttp_rule_state`.
    pub state_keys: Option<Vec<String>>,
    /// How many rows were read, most of them to find that they are known.
    pub rows: u64,
    /// Whether everything was compared, not only what the watermark told.
    pub full: bool,
    /// Rows that only comparing everything found to be another than what was known.
    pub mended: u64,
}

/// A row that is no rule or no state; it is quarantined alone and every other row goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The row's key.
    pub key: String,
    /// The row's stamp and content, so that it is told of once and not at every look.
    pub seen: Seen,
    /// Why, for the log and for `status`.
    pub reason: String,
}
