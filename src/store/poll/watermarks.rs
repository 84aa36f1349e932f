//! What a poll has read so far, and what a follower remembers from one poll to the next.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reader::{Beat, Counted, Counts, KnownCount, TablesVersion, Window, WindowSum};
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, MasterSilence, RowFingerprint, Table, TableDelta};
use crate::store::rows::RowParser;
use crate::store::watermark::Watermark;

/// With many rules, a poll believes for this long that the server shows every deletion: its sign may be late.
pub(super) const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// While the window has many rules, a poll reads it once in this time, and between only what is newer.
pub(super) const WINDOW_INTERVAL: Duration = Duration::from_secs(1);

/// A master that gives no sign of life for so long is silent: three of its beats.
const MASTER_SILENT: Duration = Duration::from_secs(6);

/// What a follower remembers from one poll to the next.
#[derive(Debug, Clone)]
pub(in crate::store) struct Watermarks {
    rules: Watermark,
    states: Watermark,
    /// What the last poll that read the window of each table found in it.
    rules_window: LastWindow,
    states_window: LastWindow,
    /// When the last poll began that read the windows; `None` at the first.
    read_at: Option<Instant>,
    /// Whether later polls read only newer rules.
    is_behind: bool,
    /// The version for whose rise such a poll found a change.
    explained: Option<TablesVersion>,
    /// When the last poll began that compared every row; `None` if the next one does.
    pub(super) last_full: Option<Instant>,
    /// The last poll that counted the rules.
    pub(super) counted: Option<LastCount>,
    /// Whether the last poll counted them, or knew that none was changed.
    pub(in crate::store) is_counted: bool,
    /// The last version that was read.
    pub(in crate::store) version: Option<TablesVersion>,
    /// The last beat that was read, or that there was none, and when that was first read.
    beat: Option<Beat>,
    beat_since: Option<Instant>,
    /// The rules that did not fit into `worker.max_memory`, with the memory that each needs.
    pub(super) over_budget: Arc<BTreeMap<String, usize>>,
}

/// What a poll found in the window of a table.
#[derive(Debug, Default, Clone, Copy)]
struct LastWindow {
    rows: u64,
    /// The low mark and the sum; `None` if the database computes none.
    sum: Option<(Timestamp, WindowSum)>,
}

impl LastWindow {
    fn new(low: Timestamp, counts: Counts) -> Self {
        Self { rows: counts.in_window, sum: counts.sums.map(|sums| (low, sums.low)) }
    }
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
            rules_window: LastWindow::default(),
            states_window: LastWindow::default(),
            read_at: None,
            is_behind: false,
            explained: None,
            last_full: None,
            counted: None,
            is_counted: true,
            version: None,
            beat: None,
            beat_since: None,
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

    /// The greatest stamp of a rule that was found.
    pub(super) const fn newest_rule(&self) -> Timestamp {
        self.rules.high()
    }

    /// The window above `low`, with the mark that it is compared at.
    pub(super) fn window(&self, table: Table, low: Timestamp) -> Window {
        let last = self.last_window(table).sum.map_or(low, |(last, _)| last.min(low));
        Window { low, last, is_summed: true }
    }

    /// Whether the rows above the last poll's low mark are those that it found, so that none above `window.low` is new.
    pub(super) fn is_unchanged(&self, table: Table, window: Window, counts: Counts) -> bool {
        let found = counts.sums.map(|sums| (window.last, sums.last));
        found.is_some() && found == self.last_window(table).sum
    }

    /// Records what a poll that began at `at` found in the windows above these marks.
    pub(super) fn remember_windows(&mut self, at: Instant, found: [(Timestamp, Option<Counts>); 2]) {
        (self.read_at, self.is_behind, self.explained) = (Some(at), false, None);
        [self.rules_window, self.states_window] = found.map(|(low, counts)| {
            counts.map_or_else(LastWindow::default, |counts| LastWindow::new(low, counts))
        });
    }

    /// Whether a poll that begins at `at` for a wake-up need not read a window of many rules, because one has just read
    /// it.
    pub(super) fn has_just_read(&self, at: Instant, many: u64) -> bool {
        let is_recent = |read_at| at.duration_since(read_at) < WINDOW_INTERVAL;
        self.rules_window.rows > many && self.read_at.is_some_and(is_recent)
    }

    /// When to read the windows, although nothing may wake the follower; `None` if the last poll read them.
    pub(in crate::store) fn window_due(&self) -> Option<Instant> {
        self.read_at.filter(|_| self.is_behind).map(|read_at| read_at + WINDOW_INTERVAL)
    }

    const fn last_window(&self, table: Table) -> LastWindow {
        match table {
            Table::Rules => self.rules_window,
            Table::States => self.states_window,
        }
    }

    /// How the tables moved since the last poll that found a change for it: forward by the version, or back by the
    /// version, the term or the beat; `None` if none is known. A first beat counts as back: nothing tells what the time of
    /// the polls before it was worth.
    pub(super) fn moved(&self, counted: &Counted) -> Option<Ordering> {
        let is_back = match (counted.beat, self.beat) {
            (Some(now), Some(before)) => now.term < before.term || now.count < before.count,
            (now, before) => now.is_some() != before.is_some(),
        };
        if is_back {
            return Some(Ordering::Less);
        }
        Some(counted.version?.version.cmp(&self.explained.or(self.version)?.version))
    }

    /// The last beat that was read.
    pub(in crate::store) const fn last_beat(&self) -> Option<Beat> {
        self.beat
    }

    /// Whether the version, the term or the beat is lower than one that was seen.
    pub(super) fn went_back(&self, counted: &Counted) -> bool {
        let beats = counted.beat.zip(self.beat);
        let versions = counted.version.zip(self.version);
        beats.is_some_and(|(now, before)| now.term < before.term || now.count < before.count)
            || versions.is_some_and(|(now, before)| now.version < before.version)
    }

    /// After a poll that began at `at` and read `counted`.
    pub(super) fn seen(self, counted: &Counted, at: Instant) -> Self {
        Self { version: counted.version.or(self.version), ..self }.with_beat(counted, at)
    }

    fn with_beat(self, counted: &Counted, at: Instant) -> Self {
        let since = self.beat_since.filter(|_| self.beat == counted.beat).unwrap_or(at);
        Self { beat: counted.beat, beat_since: Some(since), ..self }
    }

    /// How long there has been no sign of life of a master, for a poll that began at `at`.
    fn silent_for(&self, counted: &Counted, at: Instant) -> Duration {
        let still = self.beat_since.map_or(Duration::ZERO, |since| at.duration_since(since));
        self.beat.map_or(still, |beat| still.max(counted.now.since(beat.at)))
    }

    /// How old the tables may be that a poll, which began at `at`, found on a server that does not take the writes.
    /// Without a master's sign of life nobody can tell a replica that stands still from one where nothing happens.
    pub(super) fn behind(&self, counted: &Counted, at: Instant) -> Duration {
        let silent_for = self.silent_for(counted, at);
        if counted.may_be_late() && silent_for > MASTER_SILENT { silent_for } else { Duration::ZERO }
    }

    /// For how long the tables count as current that a poll, which began at `at`, found on a server that does not take the
    /// writes: until the master's last sign of life is so old that it is silent.
    pub(super) fn current_for(&self, counted: &Counted, at: Instant) -> Duration {
        match counted.may_be_late() {
            true => MASTER_SILENT.saturating_sub(self.silent_for(counted, at)),
            false => Duration::ZERO,
        }
    }

    /// How long the master has given no sign of life, if that is longer than it takes a running one.
    pub(super) fn master_silent(&self, counted: &Counted, at: Instant) -> MasterSilence {
        let Some(beat) = self.beat else { return MasterSilence::default() };
        let lasts = self.silent_for(counted, at);
        if lasts > MASTER_SILENT {
            MasterSilence { lasts, released_at: beat.is_released.then_some(beat.at) }
        } else {
            MasterSilence::default()
        }
    }

    /// After a poll that read only rules above the newest one that was known. What the windows hold is not known, so the
    /// next poll reads them from where this would have, and the version of the tables is not reached yet.
    pub(super) fn after_newest(mut self, counted: &Counted, rules: &ReadSoFar, at: Instant) -> Self {
        self.rules.found(counted.time(), rules.high.unwrap_or(Timestamp::MIN));
        (self.is_behind, self.explained) = (true, counted.version.or(self.explained));
        self.with_beat(counted, at)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Three beats, less the age of the one that the poll has read.
    #[test]
    fn the_tables_of_a_replica_count_as_current_until_the_beat_is_old() {
        let (at, now) = (Instant::now(), Timestamp::from_micros(1_777_620_000_000_000));
        let current_for = |takes_writes, beat_age| {
            let beat =
                Beat { term: 1, count: 7, at: now.before(Duration::from_secs(beat_age)), is_released: false };
            let counted = Counted {
                now,
                takes_writes,
                has_beats: true,
                beat: Some(beat),
                rules: None,
                states: Counts { rows: None, in_window: 0, sums: None },
                rules_version: None,
                deletions_sign: None,
                version: None,
                manifest_moved: false,
            };
            let read = ReadSoFar::default();
            Watermarks::new(now, &read, &read).seen(&counted, at).current_for(&counted, at).as_secs()
        };
        assert_eq!([0, 2, 6, 9].map(|beat_age| current_for(false, beat_age)), [6, 4, 0, 0]);
        assert_eq!(current_for(true, 2), 0);
    }
}
