//! Which rows of the rules a master reads, and which it writes.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::rule::{RuleHeader, RuleRow};
use crate::store::StoreError;

/// The operation, in errors.
pub(super) const WRITING: &str = "writing the rules";

/// The most rows of one statement: every dialect accepts that many arguments.
const BATCH: usize = 1_000;

/// The most bytes in one statement, except for a single larger row.
const BATCH_BYTES: usize = 1 << 20;

/// The most rows of a transaction: it delays the beats of the lease, at other nodes of a cluster, too.
pub(super) const TRANSACTION_ROWS: usize = 10_000;

/// The most bytes of a transaction, except for a single larger row.
const TRANSACTION_BYTES: usize = 16 << 20;

/// More bytes than a row's arguments take in a statement beside their texts.
const ROW_OVERHEAD: usize = 128;

/// More bytes than a statement takes beside its rows.
const STATEMENT_OVERHEAD: usize = 1 << 10;

/// Which rows of `ttp_rule` to read.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Every row.
    All,
    /// The rows of these ids, compared as the table's key is: found by the key.
    Keys(&'a [String]),
    /// The rows of these ids, which are in lower case, and of every case variant of them. Reads the whole table.
    AnyCase(&'a [String]),
}

/// A [`Scope`] that can be sent to another thread.
#[derive(Debug)]
pub(super) enum OwnedScope {
    All,
    Keys(Vec<String>),
    AnyCase(Vec<String>),
}

impl From<Scope<'_>> for OwnedScope {
    fn from(scope: Scope<'_>) -> Self {
        match scope {
            Scope::All => Self::All,
            Scope::Keys(ids) => Self::Keys(ids.to_vec()),
            Scope::AnyCase(ids) => Self::AnyCase(ids.to_vec()),
        }
    }
}

impl OwnedScope {
    pub(super) fn borrowed(&self) -> Scope<'_> {
        match self {
            Self::All => Scope::All,
            Self::Keys(ids) => Scope::Keys(ids),
            Self::AnyCase(ids) => Scope::AnyCase(ids),
        }
    }
}

/// What was read of some keys, for [`super::MasterSession::apply_if_as_read`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsAsRead {
    /// The ids that were looked for.
    pub keys: BTreeSet<String>,
    /// The rows that [`Scope::Keys`] found.
    pub rows: Vec<RuleHeader>,
}

impl RowsAsRead {
    /// The same of the keys of these writes.
    pub(super) fn of(&self, writes: &[RuleWrite]) -> Self {
        let keys: BTreeSet<String> = writes.iter().map(|write| write.rule_id().to_owned()).collect();
        let rows = self.rows.iter().filter(|row| keys.contains(&row.rule_id)).cloned().collect();
        Self { keys, rows }
    }
}

/// What must still hold when rows are written.
#[derive(Debug, Clone)]
pub(super) enum Premise {
    /// These rows are as they were read.
    AsRead(RowsAsRead),
    /// This is not cancelled: who asked for the writes waits for them.
    AskedFor(CancellationToken),
}

impl Premise {
    /// The same of these writes alone.
    pub(super) fn of(&self, writes: &[RuleWrite]) -> Self {
        match self {
            Self::AsRead(read) => Self::AsRead(read.of(writes)),
            Self::AskedFor(gone) => Self::AskedFor(gone.clone()),
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

    /// At least so many bytes does the row take in a statement.
    fn bytes(&self) -> usize {
        ROW_OVERHEAD
            + match self {
                Self::Upsert(RuleRow { header, yaml_content }) => {
                    header.rule_id.len()
                        + header.source_path.len()
                        + yaml_content.len()
                        + header.updated_by.len()
                }
                // Compared twice: with the index, and with case.
                Self::Delete { rule_id, .. } => 2 * rule_id.len(),
            }
    }
}

/// Removes the rows that a server does not accept in a statement of their own, since it accepts only `longest` bytes,
/// and returns each with the reason.
pub(super) fn take_too_large(writes: &mut Vec<RuleWrite>, longest: usize) -> Vec<(String, StoreError)> {
    let most = longest.saturating_sub(STATEMENT_OVERHEAD);
    let too_large = writes.extract_if(.., |write| write.bytes() > most);
    too_large
        .map(|write| (write.rule_id().to_owned(), StoreError::too_large(WRITING, write.bytes(), longest)))
        .collect()
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

/// Splits writes into batches for one statement each, of at most `longest` bytes.
pub(super) fn batches(mut writes: &[RuleWrite], longest: usize) -> Vec<&[RuleWrite]> {
    let most = longest.saturating_sub(STATEMENT_OVERHEAD).min(BATCH_BYTES);
    let mut batches = Vec::new();
    while !writes.is_empty() {
        let mut bytes = 0;
        let fits = writes.iter().take(BATCH).take_while(|write| {
            bytes += write.bytes();
            bytes <= most
        });
        let (batch, rest) = writes.split_at(fits.count().max(1));
        batches.push(batch);
        writes = rest;
    }
    batches
}

/// Splits writes into transactions of at most [`TRANSACTION_ROWS`] and [`TRANSACTION_BYTES`].
pub(super) fn transactions(writes: &[RuleWrite]) -> Vec<&[RuleWrite]> {
    split(writes, TRANSACTION_ROWS, TRANSACTION_BYTES)
}

/// A deletion that makes room for a case variant of its id stays with it, so that no reader misses the rule in between.
fn split(mut writes: &[RuleWrite], most_rows: usize, most_bytes: usize) -> Vec<&[RuleWrite]> {
    let mut transactions = Vec::new();
    while !writes.is_empty() {
        let mut bytes = 0;
        let fits = writes.iter().take(most_rows).take_while(|write| {
            bytes += write.bytes();
            bytes <= most_bytes
        });
        let fits = fits.count().max(1);
        let are_variants = |at: usize| {
            let id = |at: usize| writes[at].rule_id().to_lowercase();
            at < writes.len() && id(at - 1) == id(at)
        };
        let whole = (1..=fits).rev().find(|&at| !are_variants(at)).unwrap_or(fits);
        let (transaction, rest) = writes.split_at(whole);
        transactions.push(transaction);
        writes = rest;
    }
    transactions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule::{ContentDigest, RuleHeader};

    fn upsert(rule_id: &str, bytes: usize) -> RuleWrite {
        let header = RuleHeader {
            rule_id: rule_id.to_owned(),
            rule_version: 1,
            source_path: "".into(),
            content_sha256: ContentDigest::of(b""),
            updated_at: Timestamp::MIN,
            updated_by: "".into(),
        };
        RuleWrite::Upsert(RuleRow { header, yaml_content: "x".repeat(bytes) })
    }

    fn delete(rule_id: &str) -> RuleWrite {
        RuleWrite::Delete { rule_id: rule_id.to_owned(), updated_by: String::new() }
    }

    fn writes() -> impl Strategy<Value = Vec<RuleWrite>> {
        let write = prop_oneof![
            ("[a-d]", 0_usize..600).prop_map(|(id, bytes)| vec![upsert(&id, bytes)]),
            "[a-d]".prop_map(|id| vec![delete(&id)]),
            ("[a-d]", 0_usize..600)
                .prop_map(|(id, bytes)| vec![delete(&id.to_uppercase()), upsert(&id, bytes)]),
        ];
        proptest::collection::vec(write, 0..20).prop_map(|writes| writes.concat())
    }

    proptest! {
        #[test]
        fn transactions_are_small_and_together_all_writes_in_order(writes in writes(), rows in 1_usize..6) {
            let transactions = split(&writes, rows, 1_000);
            prop_assert_eq!(transactions.concat(), writes.clone());
            for transaction in &transactions {
                let bytes: usize = transaction.iter().map(RuleWrite::bytes).sum();
                prop_assert!(!transaction.is_empty() && transaction.len() <= rows);
                prop_assert!(bytes <= 1_000 || transaction.len() == 1);
            }
        }

        #[test]
        fn a_deletion_stays_with_the_variant_that_it_makes_room_for(before in 0_usize..8, rows in 2_usize..6) {
            let mut writes: Vec<RuleWrite> = (0..before).map(|number| upsert(&format!("r{number}"), 1)).collect();
            writes.extend([delete("RULE"), upsert("Rule", 1)]);
            let transactions = split(&writes, rows, 1_000);
            let last = transactions.last().unwrap();
            prop_assert!(last.ends_with(&writes[before..]), "{:?}", last);
        }
    }
}
