//! What a poll asks of the tables.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::rule::{ContentDigest, RuleRow, StateRow, Table};
use crate::store::StoreError;

/// How many rows a table has, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Counts {
    pub(in crate::store) rows: u64,
    /// Those above the watermark.
    pub(in crate::store) in_window: u64,
}

/// What a poll asks first.
#[derive(Debug)]
pub(in crate::store) struct CountQuestion<'q> {
    /// Rows of the rules above this stamp are in the window.
    pub(in crate::store) rules_low: Timestamp,
    /// The same of the states.
    pub(in crate::store) states_low: Timestamp,
    /// A version of the rules: while it is the same, the rules need not be counted.
    pub(in crate::store) known_version: Option<&'q str>,
    /// Whether to tell the version.
    pub(in crate::store) wants_version: bool,
}

/// The answer.
#[derive(Debug)]
pub(in crate::store) struct Counted {
    /// The database's clock.
    pub(in crate::store) now: Timestamp,
    /// `None` where the rules have the known version.
    pub(in crate::store) rules: Option<Counts>,
    pub(in crate::store) states: Option<Counts>,
    /// A value that is another once anyone has committed to the rules; `None` where the database does not tell.
    pub(in crate::store) rules_version: Option<String>,
}

/// Which rows to read.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Which<'w> {
    All,
    /// Those whose stamp is greater.
    Above(Timestamp),
    /// Those with these keys, at most [`super::CHUNK`].
    Keys(&'w [String]),
}

/// What of a row of the rules tells whether it is as it is known.
#[derive(Debug)]
pub(in crate::store) struct Header {
    pub(in crate::store) rule_version: i64,
    pub(in crate::store) source_path: String,
    pub(in crate::store) updated_at: Timestamp,
    /// `None` where the stamp tells, and where there is no text.
    pub(in crate::store) content: Option<ContentDigest>,
}

/// A row of the rules without its text.
#[derive(Debug)]
pub(in crate::store) struct HeaderRow {
    /// Its key, as well as it can be shown.
    pub(in crate::store) shown: String,
    /// The key to read the row by, or why the row cannot be valid.
    pub(in crate::store) key: Result<String, String>,
    /// `None` where it cannot be read, or is not all here: the row must be read to know it.
    pub(in crate::store) header: Option<Header>,
}

/// A row of the rules.
#[derive(Debug)]
pub(in crate::store) struct WholeRow {
    /// Its key, as well as it can be shown.
    pub(in crate::store) key: String,
    pub(in crate::store) content: RowContent,
}

/// What came of a row of the rules.
#[derive(Debug)]
pub(in crate::store) enum RowContent {
    Row(RuleRow),
    /// The row has not the columns of a rule; why.
    Unreadable(String),
    /// The row is too long to come among others, and was stamped then.
    Long {
        bytes: usize,
        updated_at: Timestamp,
    },
}

/// A row of the states.
#[derive(Debug)]
pub(in crate::store) struct StateFound {
    /// Its key, as well as it can be shown.
    pub(in crate::store) key: String,
    /// The row, or why it cannot be read.
    pub(in crate::store) row: Result<StateRow, String>,
}

/// What a poll asks of the tables. All that it reads between [`TableReader::begin`] and [`TableReader::end`] is one
/// snapshot.
pub(in crate::store) trait TableReader: Send {
    /// Rows on their way.
    type Rows<'r>: Rows
    where
        Self: 'r;

    /// How long the same version of the rules is believed to mean the same rules, without counting them: a version may
    /// be a proof, or no more than a sign.
    fn believed_for(&self) -> Duration;

    /// Whether headers have digests without their texts being sent.
    fn has_digests(&self) -> bool;

    /// Counts, in a snapshot of its own where none has begun.
    fn count(
        &mut self,
        question: CountQuestion<'_>,
    ) -> impl Future<Output = Result<Counted, StoreError>> + Send;

    fn begin(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn end(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Headers of rules; with `thorough` each has its digest, whatever its stamp.
    fn headers(&mut self, which: Which<'_>, thorough: bool) -> Self::Rows<'_>;

    /// Rules, of which long ones are only named.
    fn short_rules(&mut self, which: Which<'_>) -> Self::Rows<'_>;

    /// Rules, however long, one at a time.
    fn long_rules(&mut self, keys: &[String]) -> Self::Rows<'_>;

    fn states(&mut self, which: Which<'_>) -> Self::Rows<'_>;

    fn keys(&mut self, table: Table) -> Self::Rows<'_>;
}

/// Rows on their way; whoever asked for them reads them as what they are.
pub(in crate::store) trait Rows: Send {
    fn header(&mut self) -> impl Future<Output = Result<Option<HeaderRow>, StoreError>> + Send;

    fn rule(&mut self) -> impl Future<Output = Result<Option<WholeRow>, StoreError>> + Send;

    fn state(&mut self) -> impl Future<Output = Result<Option<StateFound>, StoreError>> + Send;

    fn key(&mut self) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;
}
