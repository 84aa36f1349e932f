//! The algorithm of a poll: it finds what changed in the two tables, as cheaply as is possible without missing
//! anything.
//!
//! 1. *Idle check.* Unless the follower was woken, one statement counts the rows of both tables and those above their
//!    watermarks. If the counts equal the index and no row is above a watermark, the poll ends. If the database can tell
//!    that nobody committed to the rules ([`TableReader::believed_for`]), it need not even count them.
//! 2. *Window.* If not, the poll takes a snapshot and reads the rows above each watermark ([`super::watermark`]
//!    proves that this misses none); a full poll reads every row.
//! 3. *Headers, then texts.* If there are many rows, the poll first reads their headers (version, path, stamp and
//!    digest), and then the texts of only those rows that differ from the index. Long texts come last, few at a time,
//!    within the memory budget.
//! 4. *Keys.* If the counts still differ from the index, rows were deleted: the poll reads all keys, and the
//!    catalogue deletes what is not among them.
//!
//! The algorithm contains no SQL: [`TableReader`] is its interface to a database, or to a model of one.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::reader::{
    CountQuestion, Counted, Counts, Header, HeaderRow, RowContent, Rows, StateFound, TableReader, Which,
    WholeRow,
};
use super::rows::{Budget, RowParser, too_much};
use super::watermark::Watermark;
use super::{RowIndex, StoreError};
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, QuarantinedRow, RowFingerprint, RuleId, RuleRow, Table, TableDelta};

/// If there are more rows than this, the poll reads their headers first.
const FEW: u64 = 64;

/// The most rows that one statement reads by their keys: every dialect accepts that many arguments.
pub(super) const CHUNK: usize = 500;

/// The most long rows that one statement reads by their keys: the statement must not take long, and SQLite's driver
/// holds all of them.
pub(super) const LONG_ROWS: usize = 2;

/// With at most this many rows, counting them is cheaper than asking for their version.
const CHEAP_TO_COUNT: u64 = 2_000;

/// The operation, in errors.
pub(super) const WHAT: &str = "reading the tables";

/// How a follower polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowConfig {
    /// How far below the watermark a row may still appear.
    pub overlap: Duration,
    /// How often a poll compares every row.
    pub full_scan_interval: Duration,
    /// The most rows of each table: of a longer table nothing is read.
    pub max_rules: usize,
    /// The most memory of all definitions together, in bytes; rules that do not fit are quarantined.
    pub max_memory: usize,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self {
            overlap: Duration::from_secs(5),
            full_scan_interval: Duration::from_secs(60),
            max_rules: 200_000,
            max_memory: 64 << 20,
        }
    }
}

/// What a follower remembers from one poll to the next.
#[derive(Debug, Clone)]
pub(super) struct Watermarks {
    rules: Watermark,
    states: Watermark,
    /// When the rules were last counted and found unchanged, and their version then.
    counted: Option<(Instant, String)>,
    /// The rules that did not fit into `worker.max_memory`, with the memory that each needs.
    over_budget: Arc<BTreeMap<String, usize>>,
}

/// The result of reading one table.
#[derive(Debug, Default)]
struct ReadSoFar {
    /// How many rows were read.
    rows: u64,
    /// The greatest stamp.
    high: Option<Timestamp>,
    /// How many rows differ from the index.
    differing: u64,
    /// How many of them are not in the index.
    new: u64,
    /// How many of them are below the window.
    missed_by_watermark: u64,
    /// The keys, if every row was read.
    keys: Option<Vec<String>>,
    /// The size of the keys, in bytes.
    key_bytes: usize,
}

impl ReadSoFar {
    /// Records a row, and returns whether it differs from the index.
    fn record(
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

/// A poll in progress.
pub(super) struct Poll<'p, T, K> {
    pub(super) tables: &'p mut T,
    pub(super) config: &'p FollowConfig,
    pub(super) index: &'p K,
    /// `None` at the first poll.
    pub(super) watermarks: Option<Watermarks>,
    /// Whether to compare every row.
    pub(super) full: bool,
    /// Whether a wake-up came, so that an idle check is not worth its statement.
    pub(super) woken: bool,
    /// The rules that did not fit into `worker.max_memory` at an earlier poll, and may fit now.
    retried: HashSet<String>,
}

impl<'p, T: TableReader, K: RowIndex + Sync> Poll<'p, T, K> {
    /// A poll that continues from `watermarks`; `None` reads everything.
    pub(super) fn new(
        tables: &'p mut T,
        config: &'p FollowConfig,
        index: &'p K,
        watermarks: Option<Watermarks>,
    ) -> Self {
        Self { tables, config, index, watermarks, full: false, woken: false, retried: HashSet::new() }
    }

    /// Finds the rows that differ from the index.
    pub(super) async fn run(mut self) -> Result<(TableDelta, Watermarks), StoreError> {
        if !self.full
            && !self.woken
            && let Some(watermarks) = self.watermarks.clone()
            && let Some(idle) = self.is_idle(watermarks).await?
        {
            return Ok(idle);
        }
        self.tables.begin().await?;
        let Counted { now, rules: rule_counts, states: state_counts, .. } = self.count(None).await?;
        let (Some(rule_counts), Some(state_counts)) = (rule_counts, state_counts) else {
            return Err(unreadable("a count is null"));
        };
        self.ensure_few_enough(Table::Rules, rule_counts.rows)?;
        self.ensure_few_enough(Table::States, state_counts.rows)?;
        let mut delta = TableDelta { now, full: self.full, ..TableDelta::default() };

        // In a full poll, quarantined rows that still exist are counted once the keys are known.
        let quarantined = |table| match self.full {
            true => 0,
            false => self.index.quarantined_memory(table, None),
        };
        let quarantined = quarantined(Table::Rules) + quarantined(Table::States);
        let mut budget = Budget::new(self.config.max_memory, self.index.memory(), quarantined);
        let mut over_budget = self.retry(&budget);
        let mut states = self.states(state_counts, &mut delta, &mut budget).await?;
        delta.state_keys = self.keys(Table::States, state_counts, &mut states).await?;
        let mut parser = RowParser::new(self.index.texts(), budget);
        let mut rules = self.rules(rule_counts, &mut parser).await?;
        delta.rule_keys = self.keys(Table::Rules, rule_counts, &mut rules).await?;
        self.tables.end().await?;
        if self.full {
            for (table, keys) in [(Table::States, &delta.state_keys), (Table::Rules, &delta.rule_keys)] {
                if let Some(keys) = keys {
                    parser.budget().quarantine(self.index.quarantined_memory(table, Some(keys)));
                }
            }
            ensure_room(Table::Rules, 0, parser.budget())?;
        }

        let read = parser.finish().await;
        delta.rules = read.rules;
        if !read.over_budget.is_empty() {
            Arc::make_mut(&mut over_budget).extend(read.over_budget);
        }
        delta.rows = rules.rows + states.rows;
        if self.watermarks.is_some() {
            delta.missed_by_watermark = rules.missed_by_watermark + states.missed_by_watermark;
        }
        let watermarks = match self.watermarks {
            Some(watermarks) => {
                Watermarks { over_budget, ..watermarks.advanced(now, Some(&rules), Some(&states)) }
            }
            None => Watermarks {
                counted: None,
                over_budget,
                rules: Watermark::new(now, rules.high.unwrap_or(Timestamp::MIN)),
                states: Watermark::new(now, states.high.unwrap_or(Timestamp::MIN)),
            },
        };
        Ok((delta, watermarks))
    }

    /// The empty delta of a poll that finds nothing to read; `None` if there may be something.
    async fn is_idle(
        &mut self,
        watermarks: Watermarks,
    ) -> Result<Option<(TableDelta, Watermarks)>, StoreError> {
        let believed_for = self.tables.believed_for();
        let lately = watermarks.counted.as_ref().filter(|(at, _)| at.elapsed() < believed_for);
        let version = lately.map(|(_, version)| version.clone());
        // One statement is one snapshot, so an idle poll needs no transaction.
        let begun = Instant::now();
        let Counted { now, rules, states, rules_version } = self.count(version.as_deref()).await?;
        let is_quiet = |table, counts: Option<Counts>| {
            counts.is_none_or(|counts| counts.in_window == 0 && counts.rows == self.index.count(table))
        };
        if !is_quiet(Table::Rules, rules) || !is_quiet(Table::States, states) {
            return Ok(None);
        }
        let delta = TableDelta { now, ..TableDelta::default() };
        if rules.is_none() {
            // The rules were not counted, so the time of the last count stays.
            return Ok(Some((delta, watermarks)));
        }
        let counted = rules_version.map(|version| (begun, version));
        Ok(Some((delta, Watermarks { counted, ..watermarks.idle(now) })))
    }

    async fn count(&mut self, known_version: Option<&str>) -> Result<Counted, StoreError> {
        let question = CountQuestion {
            rules_low: self.low(Table::Rules),
            states_low: self.low(Table::States),
            known_version,
            wants_version: self.index.count(Table::Rules) > CHEAP_TO_COUNT,
        };
        self.tables.count(question).await
    }

    /// Rows with a greater stamp may be new.
    fn low(&self, table: Table) -> Timestamp {
        let overlap = self.config.overlap;
        self.watermarks.as_ref().map_or(Timestamp::MIN, |watermarks| watermarks.low(table, overlap))
    }

    fn window(&self, table: Table) -> Which<'static> {
        if self.full { Which::All } else { Which::Above(self.low(table)) }
    }

    /// The rules that did not fit into `worker.max_memory`, except those that a full poll reads again because they
    /// fit now.
    fn retry(&mut self, budget: &Budget) -> Arc<BTreeMap<String, usize>> {
        let before = self.watermarks.as_ref().map(|watermarks| Arc::clone(&watermarks.over_budget));
        let mut over_budget = before.unwrap_or_default();
        if self.full && !over_budget.is_empty() {
            // Most of them are long.
            let mut free = budget.free().saturating_sub(self.config.max_memory / 2);
            let rules = Arc::make_mut(&mut over_budget);
            rules.retain(|key, _| self.index.fingerprint(Table::Rules, key).is_some());
            rules.retain(|key, size| match free.checked_sub(*size) {
                Some(rest) => {
                    free = rest;
                    self.retried.insert(key.clone());
                    false
                }
                None => true,
            });
        }
        over_budget
    }

    /// The result before the first row; it collects keys if every row is read and rows of the index may be deleted.
    fn nothing_of(&self, table: Table) -> ReadSoFar {
        let keys = (self.full && self.index.count(table) > 0).then(Vec::new);
        ReadSoFar { keys, ..ReadSoFar::default() }
    }

    async fn rules(&mut self, counts: Counts, parser: &mut RowParser) -> Result<ReadSoFar, StoreError> {
        let mut found = self.nothing_of(Table::Rules);
        let rows = if self.full { counts.rows } else { counts.in_window };
        if rows == 0 {
            return Ok(found);
        }
        let window = self.window(Table::Rules);
        // Without digests, a full poll needs the texts anyway.
        let headers_first =
            rows > FEW && self.index.count(Table::Rules) > 0 && (!self.full || self.tables.has_digests());
        if headers_first {
            for keys in self.differing(window, &mut found, parser).await?.chunks(CHUNK) {
                self.read_rules(Which::Keys(keys), &mut found, parser).await?;
            }
        } else {
            self.read_rules(window, &mut found, parser).await?;
        }
        Ok(found)
    }

    /// The keys of those rows that may differ from the index.
    async fn differing(
        &mut self,
        which: Which<'_>,
        found: &mut ReadSoFar,
        parser: &mut RowParser,
    ) -> Result<Vec<String>, StoreError> {
        let (full, low, max_rules) = (self.full, self.low(Table::Rules), self.config.max_rules);
        let index = IndexWithoutRetried { index: self.index, retried: &self.retried };
        let mut differing = Vec::new();
        let mut rows = self.tables.headers(which, full);
        while let Some(HeaderRow { shown, key, header }) = rows.header().await? {
            few_enough(max_rules, Table::Rules, found.rows + differing.len() as u64)?;
            ensure_room(Table::Rules, found.key_bytes, parser.budget())?;
            let known = index.rule(&shown);
            let key = match key {
                Ok(key) => key,
                Err(reason) => {
                    // The row cannot be read by its key, or need not be.
                    let fingerprint = unreadable_row(&reason);
                    if found.record(&shown, fingerprint, known, low) {
                        parser.quarantine(QuarantinedRow { key: shown, fingerprint, reason });
                    }
                    continue;
                }
            };
            let is_known = |known: &RowFingerprint| {
                header.as_ref().is_some_and(|header| {
                    let Header { rule_version, source_path, updated_at, content } = header;
                    let is_same_text = content.map_or(!full, |text| known.has_content(&text));
                    is_same_text && known.is_stamped(*updated_at, *rule_version, source_path)
                })
            };
            match known.filter(is_known) {
                Some(fingerprint) => drop(found.record(&key, fingerprint, known, low)),
                None => differing.push(key),
            }
        }
        Ok(differing)
    }

    /// Reads whole rows, and parses those that differ from the index.
    async fn read_rules(
        &mut self,
        which: Which<'_>,
        found: &mut ReadSoFar,
        parser: &mut RowParser,
    ) -> Result<(), StoreError> {
        let low = self.low(Table::Rules);
        let max_memory = self.config.max_memory;
        let index = &IndexWithoutRetried { index: self.index, retried: &self.retried };
        let mut long = Vec::new();
        let mut rows = self.tables.short_rules(which);
        while let Some(WholeRow { key, content }) = rows.rule().await? {
            few_enough(self.config.max_rules, Table::Rules, found.rows)?;
            ensure_room(Table::Rules, found.key_bytes, parser.budget())?;
            match content {
                RowContent::Long { bytes, updated_at } => long.push((key, bytes, updated_at)),
                RowContent::Row(row) => take_in(key, Ok(row), index, found, low, parser).await,
                RowContent::Unreadable(reason) => {
                    take_in(key, Err(reason), index, found, low, parser).await;
                }
            }
        }
        drop(rows);
        // Long rows come last and few at a time, so that they are quarantined if the memory is not enough for all.
        // Half of the memory stays free for short rows that may come later.
        let kept_free = max_memory / 2;
        let mut left = kept_free;
        let mut wanted = Vec::new();
        for (key, bytes, updated_at) in long {
            let replaced = index.index.memory_of(Table::Rules, &key);
            if bytes <= left.min((parser.budget().free() + replaced).saturating_sub(kept_free)) {
                left -= bytes;
                wanted.push(key);
                continue;
            }
            let reason = too_much(bytes, max_memory);
            let fingerprint = RowFingerprint::other(updated_at, ContentDigest::of(&reason));
            if found.record(&key, fingerprint, index.rule(&key), low) {
                parser.quarantine_for_now(QuarantinedRow { key, fingerprint, reason }, bytes);
            }
        }
        for keys in wanted.chunks(LONG_ROWS) {
            let mut rows = self.tables.long_rules(keys);
            while let Some(WholeRow { key, content }) = rows.rule().await? {
                match content {
                    RowContent::Row(row) => take_in(key, Ok(row), index, found, low, parser).await,
                    RowContent::Unreadable(reason) => {
                        take_in(key, Err(reason), index, found, low, parser).await;
                    }
                    RowContent::Long { .. } => {}
                }
            }
        }
        Ok(())
    }

    async fn states(
        &mut self,
        counts: Counts,
        delta: &mut TableDelta,
        budget: &mut Budget,
    ) -> Result<ReadSoFar, StoreError> {
        let low = self.low(Table::States);
        let mut found = self.nothing_of(Table::States);
        if (if self.full { counts.rows } else { counts.in_window }) == 0 {
            return Ok(found);
        }
        let window = self.window(Table::States);
        let mut rows = self.tables.states(window);
        while let Some(StateFound { key, row }) = rows.state().await? {
            let fingerprint =
                row.as_ref().map_or_else(|reason| unreadable_row(reason), RowFingerprint::state);
            few_enough(self.config.max_rules, Table::States, found.rows)?;
            ensure_room(Table::States, found.key_bytes, budget)?;
            if !found.record(&key, fingerprint, self.index.fingerprint(Table::States, &key), low) {
                continue;
            }
            let state = row.and_then(|row| {
                budget.take(row.memory(), self.index.memory_of(Table::States, &key))?;
                let rule_id = RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
                Ok((rule_id, row.state().map_err(|error| error.to_string())?))
            });
            delta.states.push(state.map_err(|reason| {
                let rejected = QuarantinedRow { key, fingerprint, reason };
                budget.quarantine(rejected.memory());
                Box::new(rejected)
            }));
        }
        Ok(found)
    }

    /// Every key, if rows may have been deleted.
    async fn keys(
        &mut self,
        table: Table,
        counts: Counts,
        found: &mut ReadSoFar,
    ) -> Result<Option<Vec<String>>, StoreError> {
        if found.keys.is_some() || self.index.count(table) + found.new == counts.rows {
            return Ok(found.keys.take());
        }
        found.differing += 1;
        let mut keys = Vec::new();
        let ids_alone = Budget::new(self.config.max_memory, 0, 0);
        let mut rows = self.tables.keys(table);
        while let Some(key) = rows.key().await? {
            found.key_bytes += size_of::<String>() + key.len();
            keys.push(key);
            few_enough(self.config.max_rules, table, keys.len() as u64)?;
            ensure_room(table, found.key_bytes, &ids_alone)?;
        }
        Ok(Some(keys))
    }

    fn ensure_few_enough(&self, table: Table, rows: u64) -> Result<(), StoreError> {
        few_enough(self.config.max_rules, table, rows)
    }
}

impl Watermarks {
    fn low(&self, table: Table, overlap: Duration) -> Timestamp {
        match table {
            Table::Rules => self.rules.low(overlap),
            Table::States => self.states.low(overlap),
        }
    }

    /// After a poll at `now` found that nothing was committed since the last one.
    pub(super) fn idle(self, now: Timestamp) -> Self {
        self.advanced(now, None, None)
    }

    fn advanced(mut self, now: Timestamp, rules: Option<&ReadSoFar>, states: Option<&ReadSoFar>) -> Self {
        self.counted = None;
        for (watermark, found) in [(&mut self.rules, rules), (&mut self.states, states)] {
            let high = found.and_then(|found| found.high).unwrap_or(Timestamp::MIN);
            watermark.advance(now, high, found.is_some_and(|found| found.differing > 0));
        }
        self
    }
}

/// The index without the rules that are read again.
struct IndexWithoutRetried<'l, K> {
    index: &'l K,
    retried: &'l HashSet<String>,
}

impl<K: RowIndex> IndexWithoutRetried<'_, K> {
    fn rule(&self, key: &str) -> Option<RowFingerprint> {
        self.index.fingerprint(Table::Rules, key).filter(|_| !self.retried.contains(key))
    }
}

/// Refuses a table with more than `most` rows, and an answer with more rows than the server counted.
fn few_enough(most: usize, table: Table, rows: u64) -> Result<(), StoreError> {
    if rows <= most as u64 {
        return Ok(());
    }
    Err(StoreError::Refused {
        what: WHAT,
        detail: format!("{} has {rows} rows; at most {most} are read (`worker.max_rules`)", table.name()),
        remedy:
            "what was read before stays served: delete rows that nobody needs, or raise `worker.max_rules`, \
                 and the memory that the unit allows"
                .into(),
    })
}

/// Refuses a table whose ids take too much memory together with all quarantined rows.
fn ensure_room(table: Table, key_bytes: usize, budget: &Budget) -> Result<(), StoreError> {
    if !budget.is_overrun(key_bytes) {
        return Ok(());
    }
    Err(StoreError::Refused {
        what: WHAT,
        detail: format!(
            "the ids of {} and all quarantined rows take more than {} bytes, a quarter of `worker.max_memory`",
            table.name(),
            budget.quarter()
        ),
        remedy: "what was read before stays served: delete rows that are no rules, or raise \
                 `worker.max_memory` and the memory that the unit allows"
            .into(),
    })
}

/// Parses a rule's row if it differs from the index.
async fn take_in(
    key: String,
    row: Result<RuleRow, String>,
    index: &IndexWithoutRetried<'_, impl RowIndex>,
    found: &mut ReadSoFar,
    low: Timestamp,
    parser: &mut RowParser,
) {
    let replaced = index.index.memory_of(Table::Rules, &key);
    let known = index.rule(&key);
    let fingerprint = match &row {
        Ok(row) => RowFingerprint::rule(&row.header),
        Err(reason) => unreadable_row(reason),
    };
    if found.record(&key, fingerprint, known, low) {
        match row {
            Ok(row) => parser.push(row, replaced).await,
            Err(reason) => parser.quarantine(QuarantinedRow { key, fingerprint, reason }),
        }
    }
}

/// The fingerprint of a row whose cells have the wrong types.
fn unreadable_row(reason: &str) -> RowFingerprint {
    RowFingerprint::other(Timestamp::MIN, ContentDigest::of(reason))
}

/// The error for an answer that makes no sense.
pub(super) fn unreadable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: WHAT, detail: detail.into() }
}
