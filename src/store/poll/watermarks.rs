//! What a poll has read so far, and what a follower remembers from one poll to the next.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reader::{Beat, Counted, KnownCount, TablesVersion};
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, RowFingerprint, Table, TableDelta};
use crate::store::rows::RowParser;
use crate::store::watermark::Watermark;

/// With many rules, a poll believes for this long that the server shows every deletion: its sign may be late.
pub(super) const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// What a follower remembers from one poll to the next.
#[derive(Debug, Clone)]
pub(in crate::store) struct Watermarks {
    rules: Watermark,
    states: Watermark,
    /// When the last poll began that compared every row; `None` if the next one does.
    pub(super) last_full: Option<Instant>,
    /// The last poll that counted the rules.
    pub(super) counted: Option<LastCount>,
    /// Whether the last poll counted them, or knew that none was changed.
    pub(in crate::store) is_counted: bool,
    /// The last version that was read.
    pub(in crate::store) version: Option<TablesVersion>,
    /// The last beat that was read.
    beat: Option<Beat>,
    /// The rules that did not fit into `worker.max_memory`, with the memory that each needs.
    pub(super) over_budget: Arc<BTreeMap<String, usize>>,
}

/// What a poll read when it counted the rules.
#[derive(Debug, Clone)]
pub(super) struct LastCount {
    at: Instant,
    /// The version of the rules if they were found unchanged.
    version: Option<String>,
    deletions_sign: Option<String>,
    deleted: Option<u64>,
}

impl LastCount {
    pub(super) fn new(at: Instant, counted: &Counted, is_idle: bool) -> Self {
        Self {
            at,
            version: counted.rules_version.clone().filter(|_| is_idle),
            deletions_sign: counted.deletions_sign.clone(),
            deleted: counted.version.map(|version| version.deleted),
        }
    }

    /// What of it still counts at a poll that begins at `at`. A version counts for `believed_for`.
    pub(super) fn known(&self, at: Instant, believed_for: Duration) -> KnownCount<'_> {
        let age = at.duration_since(self.at);
        let deletions = self.deletions_sign.as_deref().zip(self.deleted);
        KnownCount {
            version: self.version.as_deref().filter(|_| age < believed_for),
            deletions: deletions.filter(|_| age < COUNT_INTERVAL),
        }
    }
}

impl Watermarks {
    /// After the first poll.
    pub(super) fn new(now: Timestamp, rules: &ReadSoFar, states: &ReadSoFar) -> Self {
        let watermark = |found: &ReadSoFar| Watermark::new(now, found.high.unwrap_or(Timestamp::MIN));
        let (rules, states) = (watermark(rules), watermark(states));
        let over_budget = Arc::default();
        Self {
            rules,
            states,
            last_full: None,
            counted: None,
            is_counted: true,
            version: None,
            beat: None,
            over_budget,
        }
    }

    /// Whether a poll that begins at `at` compares every row.
    pub(in crate::store) fn is_full_due(&self, at: Instant, interval: Duration) -> bool {
        self.last_full.is_none_or(|last| at.duration_since(last) >= interval)
    }

    /// After a new connection, which may lead to another database or to an older copy: stamps do not tell which rows
    /// differ, so the next poll compares every row.
    pub(in crate::store) fn reconnected(self) -> Self {
        Self { last_full: None, ..self }
    }

    /// Rows with a greater stamp may be new.
    pub(super) fn low(&self, table: Table, overlap: Duration) -> Timestamp {
        match table {
            Table::Rules => self.rules.low(overlap),
            Table::States => self.states.low(overlap),
        }
    }

    /// How the tables moved since the last poll: forward by the version, or back by the version, the term or the beat;
    /// `None` if none is known. A first beat counts as back: nothing tells what the time of the polls before it was worth.
    pub(super) fn moved(&self, counted: &Counted) -> Option<Ordering> {
        let is_back = match (counted.beat, self.beat) {
            (Some(now), Some(before)) => now.term < before.term || now.count < before.count,
            (now, before) => now.is_some() != before.is_some(),
        };
        if is_back {
            return Some(Ordering::Less);
        }
        Some(counted.version?.version.cmp(&self.version?.version))
    }

    /// After a poll that read `counted`.
    pub(super) fn seen(self, counted: &Counted) -> Self {
        Self { version: counted.version.or(self.version), beat: counted.beat, ..self }
    }

    /// After a poll at `now` found that nothing was committed since the last one.
    pub(in crate::store) fn idle(self, now: Timestamp) -> Self {
        self.advanced(now, None, None)
    }

    pub(super) fn advanced(
        mut self,
        now: Timestamp,
        rules: Option<&ReadSoFar>,
        states: Option<&ReadSoFar>,
    ) -> Self {
        (self.counted, self.is_counted) = (None, true);
        for (watermark, found) in [(&mut self.rules, rules), (&mut self.states, states)] {
            let high = found.and_then(|found| found.high).unwrap_or(Timestamp::MIN);
            watermark.advance(now, high, found.is_some_and(|found| found.differing > 0));
        }
        self
    }
}

/// What a poll has read.
pub(super) struct Reading {
    pub(super) delta: TableDelta,
    pub(super) rules: ReadSoFar,
    pub(super) states: ReadSoFar,
    pub(super) parser: RowParser,
    pub(super) over_budget: Arc<BTreeMap<String, usize>>,
}

impl Reading {
    /// Whether every row that was read is in the index, and no row was deleted.
    pub(super) const fn found_nothing(&self) -> bool {
        self.rules.differing + self.states.differing == 0
    }
}

/// The result of reading one table.
#[derive(Debug, Default)]
pub(super) struct ReadSoFar {
    /// How many rows were read.
    pub(super) rows: u64,
    /// The greatest stamp.
    pub(super) high: Option<Timestamp>,
    /// How many rows differ from the index.
    pub(super) differing: u64,
    /// How many of them are not in the index.
    pub(super) new: u64,
    /// How many of them are below the window.
    pub(super) missed_by_watermark: u64,
    /// The keys, if every row was read.
    pub(super) keys: Option<Vec<String>>,
    /// The size of the keys, in bytes.
    pub(super) key_bytes: usize,
}

impl ReadSoFar {
    /// Records a row, and returns whether it differs from the index.
    pub(super) fn record(
        &mut self,
        key: &str,
        fingerprint: RowFingerprint,
        known: Option<RowFingerprint>,
        low: Timestamp,
    ) -> bool {
        self.rows += 1;
        self.high = self.high.max(Some(fingerprint.updated_at));
        if let Some(keys) = &mut self.keys {
            keys.push(key.to_owned());
            self.key_bytes += size_of::<String>() + key.len();
        }
        let differs = known != Some(fingerprint);
        if differs {
            self.differing += 1;
            self.new += u64::from(known.is_none());
            self.missed_by_watermark += u64::from(fingerprint.updated_at <= low);
        }
        differs
    }
}

/// The fingerprint of a row whose cells have the wrong types.
pub(super) fn unreadable_row(reason: &str) -> RowFingerprint {
    RowFingerprint::other(Timestamp::MIN, ContentDigest::of(reason))
}
