//! Which rows of the rules a master reads, and which it writes.

use crate::clock::Timestamp;
use crate::rule::RuleRow;
use crate::store::StoreError;

/// The most rows of one statement: every dialect accepts that many arguments.
const BATCH: usize = 1_000;

/// The most bytes of text in one statement, except for a single larger row. MySQL closes the connection at a
/// statement above its `max_allowed_packet`, which is at least 4 MiB in practice.
const BATCH_BYTES: usize = 1 << 20;

/// Which rows of `ttp_rule` to read.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Every row.
    All,
    /// The rows that have one of these ids or one of these paths.
    Touching {
        /// Ids as `RuleId::folded` gives them; compared without case.
        rule_ids: &'a [String],
        /// Paths, relative to the rules directory; compared exactly.
        source_paths: &'a [String],
    },
}

/// A [`Scope`] that can be sent to another thread.
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

/// One row to write or to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleWrite {
    /// Writes the row, and replaces the row of its id. The store sets `updated_at` itself.
    Upsert(RuleRow),
    /// Deletes the row if it still has this owner.
    Delete {
        /// The row's key, compared with case.
        rule_id: String,
        /// The owner: a row that another program has overwritten stays.
        updated_by: String,
    },
}

impl RuleWrite {
    /// The row's key.
    pub(crate) fn rule_id(&self) -> &str {
        match self {
            Self::Upsert(row) => &row.header.rule_id,
            Self::Delete { rule_id, .. } => rule_id,
        }
    }
}

/// The result of [`super::MasterSession::apply`].
#[derive(Debug, Default)]
pub struct Applied {
    /// How many rows were written or deleted.
    pub rows: u64,
    /// The ids of rows that the database rejected, each with the reason; all others were written.
    pub rejected: Vec<(String, StoreError)>,
    /// When the last rows were written, by this host's clock, before the commit. Only while spans are recorded.
    pub written: Option<Timestamp>,
}

impl Applied {
    /// Adds a transaction: how many rows it wrote, and when.
    pub(super) fn add(&mut self, (rows, written): (u64, Option<Timestamp>)) {
        self.rows += rows;
        self.written = written;
    }
}

/// Splits writes into batches for one statement each.
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
