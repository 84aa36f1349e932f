//! The interface between a poll and the tables.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::rule::{ContentDigest, FoundManifest, RuleRow, StateRow, Table};
use crate::store::StoreError;

/// How many rows a table has, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Counts {
    /// `None` if they were not counted, because nothing was deleted.
    pub(in crate::store) rows: Option<u64>,
    /// The rows above the low mark.
    pub(in crate::store) in_window: u64,
    /// The rows above both marks; `None` if they were not to be summed, or the database computes no hashes.
    pub(in crate::store) sums: Option<WindowSums>,
}

/// What a database says of many rows in one short answer: equal sums mean equal rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct WindowSum {
    pub(in crate::store) rows: u64,
    /// The xor of a hash of each row: of everything that tells whether a row differs from the index, and where the stamp
    /// is a whole second, which two writes may share, of the text, too.
    pub(in crate::store) hash: i64,
}

/// The sums of a table's rows above the two marks of a [`Window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct WindowSums {
    /// Above [`Window::low`].
    pub(in crate::store) low: WindowSum,
    /// Above [`Window::last`].
    pub(in crate::store) last: WindowSum,
}

/// Which rows of a table a poll counts, and may sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Window {
    /// Rows with a greater stamp may be new.
    pub(in crate::store) low: Timestamp,
    /// The low mark of the last poll that summed, if it is lower.
    pub(in crate::store) last: Timestamp,
    /// Whether to sum: a first poll compares nothing, and a sum of all rows would keep its rules waiting.
    pub(in crate::store) is_summed: bool,
}

/// The first question of a poll.
#[derive(Debug)]
pub(in crate::store) struct CountQuestion<'q> {
    pub(in crate::store) rules: Window,
    pub(in crate::store) states: Window,
    /// What may make counting the rules unnecessary.
    pub(in crate::store) known: KnownCount<'q>,
    /// Whether to return what may do so at the next poll.
    pub(in crate::store) wants_signs: bool,
}

/// What was read when the rules were last counted; `None` if it is not known, or too old.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::store) struct KnownCount<'q> {
    /// A version of the rules: if it is still the same, no rule was changed.
    pub(in crate::store) version: Option<&'q str>,
    /// The server's sign of deletions, and the version at which this program last deleted: if both are still the same,
    /// the rules above the watermark are counted, and not all.
    pub(in crate::store) deletions: Option<(&'q str, u64)>,
}

/// The row of `rulesyncd_version`: how many transactions of this program changed rules or states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct TablesVersion {
    pub(in crate::store) version: u64,
    /// The version of the last transaction that deleted rows.
    pub(in crate::store) deleted: u64,
}

/// The row of `rulesyncd_lease`: the last sign of life of a master. It is committed every few seconds, and a replica shows
/// commits in their order: what it does not show yet was committed after the beat that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Beat {
    /// Rises with every new master.
    pub(in crate::store) term: u64,
    /// Rises with every beat.
    pub(in crate::store) count: u64,
    /// By the clock of the server that took it.
    pub(in crate::store) at: Timestamp,
    /// Whether it was the last one of a master that released its lease.
    pub(in crate::store) is_released: bool,
}

/// The answer to a [`CountQuestion`].
#[derive(Debug)]
pub(in crate::store) struct Counted {
    /// The server's clock.
    pub(in crate::store) now: Timestamp,
    /// Whether this server alone takes the writes; a replica or a node of a cluster may show a commit late.
    pub(in crate::store) takes_writes: bool,
    /// Whether masters give signs of life: their table can be read, or it is not known.
    pub(in crate::store) has_beats: bool,
    /// `None` if there was none yet, or the table is missing or may not be read.
    pub(in crate::store) beat: Option<Beat>,
    /// `None` if the rules still have the known version.
    pub(in crate::store) rules: Option<Counts>,
    pub(in crate::store) states: Counts,
    /// A value that changes when anyone commits to the rules; `None` if the database has none.
    pub(in crate::store) rules_version: Option<String>,
    /// A value that changes soon after anyone deletes rules; `None` if it was not asked for, or the database has none at
    /// the moment.
    pub(in crate::store) deletions_sign: Option<String>,
    /// `None` if the table is missing or may not be read.
    pub(in crate::store) version: Option<TablesVersion>,
    /// Whether the manifest is another one than at the last poll, so that the poll reads it.
    pub(in crate::store) manifest_moved: bool,
}

impl Counted {
    /// A time by the writers' clock: what the snapshot does not show is committed later. If nothing tells one, every row may
    /// be.
    pub(super) fn time(&self) -> Timestamp {
        match self.beat {
            Some(beat) if !self.takes_writes => self.now.min(beat.at),
            None if self.may_be_late() => Timestamp::MIN,
            _ => self.now,
        }
    }

    /// Whether the server may show a commit late, and beats tell how late.
    pub(super) const fn may_be_late(&self) -> bool {
        self.has_beats && !self.takes_writes
    }
}

/// Which rows to read.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Which<'w> {
    All,
    /// Rows with a greater stamp.
    Above(Timestamp),
    /// Rows with these keys, at most [`super::CHUNK`].
    Keys(&'w [String]),
}

/// The part of a rule's row that tells whether it differs from the index.
#[derive(Debug)]
pub(in crate::store) struct Header {
    pub(in crate::store) rule_version: i64,
    pub(in crate::store) source_path: String,
    pub(in crate::store) updated_at: Timestamp,
    /// `None` if the stamp identifies the text, and if there is no text.
    pub(in crate::store) content: Option<ContentDigest>,
}

/// A row of the rules without its text.
#[derive(Debug)]
pub(in crate::store) struct HeaderRow {
    /// The key, in a form that can be shown.
    pub(in crate::store) shown: String,
    /// The key to read the row by, or why the row cannot be valid.
    pub(in crate::store) key: Result<String, String>,
    /// `None` if it is incomplete or cannot be read: the whole row must be read.
    pub(in crate::store) header: Option<Header>,
}

/// A row of the rules.
#[derive(Debug)]
pub(in crate::store) struct WholeRow {
    /// The key, in a form that can be shown.
    pub(in crate::store) key: String,
    pub(in crate::store) content: RowContent,
}

/// The result of reading a rule's row.
#[derive(Debug)]
pub(in crate::store) enum RowContent {
    Row(RuleRow),
    /// The row's columns cannot be read as a rule's; why.
    Unreadable(String),
    /// The row is too long to come together with others; its stamp.
    Long {
        bytes: usize,
        updated_at: Timestamp,
    },
}

/// A row of the states.
#[derive(Debug)]
pub(in crate::store) struct StateFound {
    /// The key, in a form that can be shown.
    pub(in crate::store) key: String,
    /// The row, or why it cannot be read.
    pub(in crate::store) row: Result<StateRow, String>,
}

/// What a poll asks of the tables. Everything that it reads between [`TableReader::begin`] and [`TableReader::end`]
/// is one snapshot.
pub(in crate::store) trait TableReader: Send {
    /// Rows in progress.
    type Rows<'r>: Rows
    where
        Self: 'r;

    /// How long an equal version of the rules means equal rules, without counting them: a version may be a proof, or
    /// only a sign.
    fn believed_for(&self) -> Duration;

    /// Whether headers have digests without sending the texts.
    fn has_digests(&self) -> bool;

    /// Counts, in a snapshot of its own if none has begun.
    fn count(
        &mut self,
        question: CountQuestion<'_>,
    ) -> impl Future<Output = Result<Counted, StoreError>> + Send;

    /// The manifest of the signed release; `None` if this poll does not read it.
    fn manifest(&mut self) -> impl Future<Output = Result<Option<FoundManifest>, StoreError>> + Send {
        async { Ok(None) }
    }

    fn begin(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn end(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Headers of rules; with `thorough`, each has its digest, whatever its stamp.
    fn headers(&mut self, which: Which<'_>, thorough: bool) -> Self::Rows<'_>;

    /// Rules; of long ones only their keys.
    fn short_rules(&mut self, which: Which<'_>) -> Self::Rows<'_>;

    /// Rules of any length, one at a time.
    fn long_rules(&mut self, keys: &[String]) -> Self::Rows<'_>;

    fn states(&mut self, which: Which<'_>) -> Self::Rows<'_>;

    fn keys(&mut self, table: Table) -> Self::Rows<'_>;
}

/// Rows in progress; the method that is called must match the query.
pub(in crate::store) trait Rows: Send {
    fn header(&mut self) -> impl Future<Output = Result<Option<HeaderRow>, StoreError>> + Send;

    fn rule(&mut self) -> impl Future<Output = Result<Option<WholeRow>, StoreError>> + Send;

    fn state(&mut self) -> impl Future<Output = Result<Option<StateFound>, StoreError>> + Send;

    fn key(&mut self) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;
}
