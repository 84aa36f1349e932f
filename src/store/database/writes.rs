//! What is asked of the rules' table and what is written to it.

use crate::clock::Timestamp;
use crate::rule::RuleRow;
use crate::store::StoreError;

/// Rows that go in one statement: every dialect takes their arguments.
const BATCH: usize = 1_000;

/// Bytes of text that go in one statement, but for a row that is larger by itself. MySQL breaks the
/// connection at what is above its `max_allowed_packet`, of which 4 MiB is the least in use.
const BATCH_BYTES: usize = 1 << 20;

/// Which rows of `ttp_rule` are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Every row.
    All,
    /// The rows that have one of these ids or one of these paths.
    Touching {
        /// Ids as [`crate::rule::RuleId::folded`] gives them; compared without case.
        rule_ids: &'a [String],
        /// Paths, relative to the rules directory; compared exactly.
        source_paths: &'a [String],
    },
}

/// A [`Scope`] that goes to another thread.
#[derive(Debug)]
pub(super) enum OwnedScope {
    All,
    Touching { rule_ids: Vec<String>, source_paths: Vec<String> },
}

impl From<Scope<'_>> for OwnedScope {
    fn from(scope: Scope<'_>) -> Self {
        match scope {
            Scope::All => Self::All,
            Scope::Touching { rule_ids, source_paths } => {
                Self::Touching { rule_ids: rule_ids.to_vec(), source_paths: source_paths.to_vec() }
            }
        }
    }
}

impl OwnedScope {
    pub(super) fn borrowed(&self) -> Scope<'_> {
        match self {
            Self::All => Scope::All,
            Self::Touching { rule_ids, source_paths } => Scope::Touching { rule_ids, source_paths },
        }
    }
}

/// One row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleWrite {
    /// Writes the row in place of what stands under its id. Its `updated_at` is not looked at: the
    /// store stamps it.
    Upsert(RuleRow),
    /// Deletes the row, if it is still owned.
    Delete {
        /// The row's key, compared with case.
        rule_id: String,
        /// The owner: a row that another has taken meanwhile stays.
        updated_by: String,
    },
}

impl RuleWrite {
    /// The row's key.
    pub fn rule_id(&self) -> &str {
        match self {
            Self::Upsert(row) => &row.rule_id,
            Self::Delete { rule_id, .. } => rule_id,
        }
    }
}

/// What became of writes.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows that were written or deleted.
    pub rows: u64,
    /// Rows that the database does not take, each with the reason; all others went on.
    pub refused: Vec<(String, StoreError)>,
    /// When the last rows were written, by this host's clock: what followed made them known. Only
    /// while spans are recorded.
    pub written: Option<Timestamp>,
}

/// Cuts writes into what goes in one statement.
pub(super) fn batches(mut writes: &[RuleWrite]) -> Vec<&[RuleWrite]> {
    let mut batches = Vec::new();
    while !writes.is_empty() {
        let mut bytes = 0;
        let fits = writes.iter().take(BATCH).take_while(|write| {
            bytes += match write {
                RuleWrite::Upsert(row) => row.yaml_content.len(),
                RuleWrite::Delete { .. } => 0,
            };
            bytes <= BATCH_BYTES
        });
        let (batch, rest) = writes.split_at(fits.count().max(1));
        batches.push(batch);
        writes = rest;
    }
    batches
}
