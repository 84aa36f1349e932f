use super::Database;
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, RuleRow, StateRow};
use crate::store::StoreError;

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

/// A row of `ttp_rule` without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSummary {
    /// The row's key; not checked.
    pub rule_id: String,
    /// The author's number.
    pub rule_version: i64,
    /// Path of the file, relative to the rules directory.
    pub source_path: String,
    /// Who wrote it.
    pub updated_by: String,
    /// When it was written, by its writer's clock; [`Timestamp::MIN`] where it is no time.
    pub updated_at: Timestamp,
    /// The digest of the row's text.
    pub content: ContentDigest,
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
}

/// The one writer of a database's rules, for as long as its connection and its lock stand.
///
/// Everything goes through the connection that holds the lock. After [`StoreError::LockLost`]
/// nothing is written any more: drop the session and ask for another.
#[derive(Debug)]
pub struct MasterSession {
    _database: Database,
}

impl MasterSession {
    /// The rows of `ttp_rule` in `scope`.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] when the connection is gone.
    pub async fn rows(&mut self, scope: Scope<'_>) -> Result<Vec<RowSummary>, StoreError> {
        let _ = scope;
        Err(StoreError::Closed)
    }

    /// How many rows `updated_by` owns; what the guard against mass deletion compares with.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn owned(&mut self, updated_by: &str) -> Result<u64, StoreError> {
        let _ = updated_by;
        Err(StoreError::Closed)
    }

    /// Writes rules in one transaction, stamped with `updated_at` rising strictly.
    ///
    /// A row that the database does not take (a text too long for its column) is left out and
    /// reported; the others are written then each in a transaction of its own.
    ///
    /// # Errors
    /// Nothing was written, or it is not known whether all was: compare again.
    pub async fn apply(&mut self, writes: &[RuleWrite]) -> Result<Applied, StoreError> {
        let _ = writes;
        Err(StoreError::Closed)
    }

    /// Deletes the states that have expired by the database's clock, each only if it still has the
    /// `expires_at` that was read, and returns them.
    ///
    /// # Errors
    /// As [`MasterSession::rows`].
    pub async fn remove_expired_states(&mut self) -> Result<Vec<StateRow>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Tells whether the lock is still held, and keeps the connection awake: call it every few
    /// seconds (a server takes the lock of a session that is silent for 15 s).
    ///
    /// # Errors
    /// [`StoreError::LockLost`] when it is not.
    pub async fn alive(&mut self) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// Gives the lock back, so that a standby takes over at once.
    pub async fn close(self) {}
}
