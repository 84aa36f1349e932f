//! The algorithm of a poll: it finds what changed in the two tables, as cheaply as is possible without missing
//! anything.
//!
//! 1. *Idle check.* Unless the follower was woken, one statement counts the rows of both tables and those above their
//!    watermarks. If the counts equal the index and no row is above a watermark, the poll ends. If the database can tell
//!    that nobody committed to the rules ([`TableReader::believed_for`]), it need not even count them.
//!
//!    Whatever woke it, a poll counts many rules only once in `COUNT_INTERVAL`, and after a deletion. A deletion by this
//!    program raises `deleted` in `rulesyncd_version`; for others the server has a sign, which may be late.
//! 2. *Window.* If not, the poll takes a snapshot and reads the rows above each watermark ([`super::watermark`]
//!    proves that this misses none); a full poll reads every row. After many rows were loaded, the window has them all
//!    for some seconds. The first statement sums them ([`WindowSum`]) above the last poll's low mark: if the sum is what
//!    the last poll found there, nothing is read. A wake-up for an edit first reads the rules above the greatest stamp
//!    that is known; if a change is among them, the window is left to a poll that begins within `WINDOW_INTERVAL`.
//! 3. *Headers, then texts.* If there are many rows, the poll first reads their headers (version, path, stamp and
//!    digest), and then the texts of only those rows that differ from the index. Long texts come last, few at a time,
//!    within the memory budget.
//! 4. *Keys.* If the counts still differ from the index, rows were deleted: the poll reads all keys, and the
//!    catalogue deletes what is not among them.
//! 5. *Version and beat.* The first statement also reads the version that this program's transactions raise. If it rose
//!    and nothing was found, the same poll compares every row; so it does if the version, the term or the beat of the
//!    master fell, as in a restored backup. The time of a poll is the server's clock where the server takes the writes,
//!    and elsewhere not later than the beat that it shows ([`Beat`]). While there has been no beat, nothing tells the time
//!    there: the window of each poll has every row, and the tables count as stale. Where the table of the lease is missing,
//!    as with a master of version 0.1, or may not be read, the time is the server's clock, and a full poll finds what a poll
//!    missed.
//!
//! The algorithm contains no SQL: [`TableReader`] is its interface to a database, or to a model of one.

mod config;
mod reader;
mod rules;
mod tables;
#[cfg(test)]
mod tests;
mod watermarks;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::config::FollowConfig;
pub(super) use self::reader::{
    Beat, CountQuestion, Counted, Counts, Header, HeaderRow, KnownCount, RowContent, Rows, StateFound,
    TableReader, TablesVersion, Which, WholeRow, Window, WindowSum, WindowSums,
};
pub(super) use self::watermarks::Watermarks;
use self::watermarks::{LastCount, Reading};
use super::budget::{Budget, ensure_few};
use super::rows::RowParser;
use super::{READING, RowIndex, StoreError};
use crate::clock::Timestamp;
use crate::rule::{Table, TableDelta};

/// If there are more rows than this, the poll reads their headers first.
const FEW: u64 = 64;

/// The most rows that one statement reads by their keys: every dialect accepts that many arguments.
pub(super) const CHUNK: usize = 500;

/// The most long rows that one statement reads by their keys: the statement must not take long, and SQLite's driver
/// holds all of them.
pub(super) const LONG_ROWS: usize = 2;

/// With at most this many rules, counting them is cheaper than asking for signs that they need not be counted.
const CHEAP_TO_COUNT: u64 = 2_000;

/// A poll in progress.
pub(super) struct Poll<'p, T, K> {
    pub(super) tables: &'p mut T,
    pub(super) config: &'p FollowConfig,
    pub(super) index: &'p K,
    /// `None` at the first poll.
    pub(super) watermarks: Option<Watermarks>,
    /// When the poll begins.
    at: Instant,
    /// Whether to compare every row.
    pub(super) full: bool,
    /// Whether a wake-up came, so that an idle check is not worth its statement.
    pub(super) woken: bool,
    /// Whether a wake-up came that says that something was written, and not where.
    pub(super) hurried: bool,
    /// Whether to read only the rules above the greatest stamp that is known.
    newest_only: bool,
    /// The rules that did not fit into `worker.max_memory` at an earlier poll, and may fit now.
    retried: HashSet<String>,
}

impl<'p, T: TableReader, K: RowIndex + Sync> Poll<'p, T, K> {
    /// A poll that continues from `watermarks`, and compares every row if that is due; `None` reads everything.
    pub(super) fn new(
        tables: &'p mut T,
        config: &'p FollowConfig,
        index: &'p K,
        watermarks: Option<Watermarks>,
        at: Instant,
    ) -> Self {
        let full = watermarks.as_ref().is_none_or(|known| known.is_full_due(at, config.full_scan_interval));
        Self {
            tables,
            config,
            index,
            watermarks,
            at,
            full,
            woken: false,
            hurried: false,
            newest_only: false,
            retried: HashSet::new(),
        }
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
        let last = self.last_count().filter(|_| !self.full);
        let known = last.as_ref().map(|last| last.known(self.at, Duration::ZERO)).unwrap_or_default();
        if let Some((counted, reading)) = self.read_newest(known).await? {
            self.tables.end().await?;
            return self.finish(counted, reading, last).await;
        }
        let mut counted = self.count(known).await?;
        let moved = self.watermarks.as_ref().and_then(|watermarks| watermarks.moved(&counted));
        if moved == Some(Ordering::Less) {
            counted = self.count_for_everything().await?;
        }
        let mut reading = self.read(&counted).await?;
        if !self.full && moved == Some(Ordering::Greater) && reading.found_nothing() {
            counted = self.count_for_everything().await?;
            reading = self.read(&counted).await?;
        }
        self.tables.end().await?;
        self.finish(counted, reading, last).await
    }

    /// Makes this a full poll, which needs every count.
    async fn count_for_everything(&mut self) -> Result<Counted, StoreError> {
        self.full = true;
        self.count(KnownCount::default()).await
    }

    /// The rules above the greatest stamp that is known, if a change is among them and nothing else was changed, as far
    /// as the first statement shows; `None` if the poll has to read the windows.
    async fn read_newest(&mut self, known: KnownCount<'_>) -> Result<Option<(Counted, Reading)>, StoreError> {
        let Some(watermarks) = &self.watermarks else { return Ok(None) };
        if !self.hurried || self.full || !watermarks.has_just_read(self.at, FEW) {
            return Ok(None);
        }
        self.newest_only = true;
        let counted = self.count(known).await?;
        let has_fallen = |watermarks: &Watermarks| watermarks.moved(&counted) == Some(Ordering::Less);
        if counted.rules.is_some_and(|rules| rules.in_window > 0)
            && self.is_quiet(Table::States, Some(counted.states))
            && !self.watermarks.as_ref().is_some_and(has_fallen)
        {
            let reading = self.read(&counted).await?;
            if reading.rules.differing > 0 {
                return Ok(Some((counted, reading)));
            }
        }
        self.newest_only = false;
        Ok(None)
    }

    /// Whether a table is as the index has it, as far as its counts and sums show.
    fn is_quiet(&self, table: Table, counts: Option<Counts>) -> bool {
        let has_all = |rows| rows == self.index.count(table);
        counts.is_none_or(|counts| !self.is_to_read(table, counts) && counts.rows.is_none_or(has_all))
    }

    /// Whether rows of the window may be new.
    fn is_to_read(&self, table: Table, counts: Counts) -> bool {
        let is_unchanged =
            |watermarks: &Watermarks| watermarks.is_unchanged(table, self.window_of(table), counts);
        counts.in_window > 0 && !self.watermarks.as_ref().is_some_and(is_unchanged)
    }

    fn last_count(&self) -> Option<LastCount> {
        self.watermarks.as_ref()?.counted.clone()
    }

    /// Reads what the window, or a full poll, asks for.
    async fn read(&mut self, counted: &Counted) -> Result<Reading, StoreError> {
        let rule_counts = counted.rules.ok_or_else(|| unreadable("a count is null"))?;
        let state_counts = counted.states;
        for (table, counts) in [(Table::Rules, rule_counts), (Table::States, state_counts)] {
            if self.full && counts.rows.is_none() {
                return Err(unreadable("a count is null"));
            }
            ensure_few(self.config.max_rules, table, counts.rows.unwrap_or_default())?;
        }
        let mut delta = TableDelta { now: counted.now, full: self.full, ..TableDelta::default() };
        delta.manifest = self.tables.manifest().await?;

        // In a full poll, quarantined rows that still exist are counted once the keys are known.
        let quarantined = |table| match self.full {
            true => 0,
            false => self.index.quarantined_memory(table, None),
        };
        let quarantined = quarantined(Table::Rules) + quarantined(Table::States);
        let mut budget = Budget::new(self.config.max_memory, self.index.memory(), quarantined);
        let over_budget = self.retry(&budget);
        let mut states;
        (delta.states, states) = self.states(state_counts, &mut budget).await?;
        delta.state_keys = self.keys(Table::States, state_counts, &mut states).await?;
        let parser = RowParser::new(self.index.texts(), budget);
        let (mut rules, parser) = self.rules(rule_counts, parser).await?;
        delta.rule_keys = self.keys(Table::Rules, rule_counts, &mut rules).await?;
        Ok(Reading { delta, rules, states, parser, over_budget })
    }

    /// Parses what was read.
    async fn finish(
        self,
        counted: Counted,
        reading: Reading,
        last: Option<LastCount>,
    ) -> Result<(TableDelta, Watermarks), StoreError> {
        let Reading { mut delta, rules, states, mut parser, mut over_budget } = reading;
        if self.full {
            for (table, keys) in [(Table::States, &delta.state_keys), (Table::Rules, &delta.rule_keys)] {
                if let Some(keys) = keys {
                    parser.budget().quarantine(self.index.quarantined_memory(table, Some(keys)));
                }
            }
            parser.budget().ensure_room(Table::Rules, 0)?;
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
        delta.rolled_back = self.watermarks.as_ref().is_some_and(|watermarks| watermarks.went_back(&counted));
        let windows = self.found_in_windows(&counted);
        let mut watermarks = match self.watermarks {
            Some(watermarks) if self.newest_only => watermarks.after_newest(&counted, &rules, self.at),
            Some(watermarks) => {
                watermarks.advanced(counted.time(), Some(&rules), Some(&states)).seen(&counted, self.at)
            }
            None => Watermarks::new(counted.time(), &rules, &states).seen(&counted, self.at),
        };
        delta.behind = watermarks.behind(&counted, self.at);
        delta.current_for = watermarks.current_for(&counted, self.at);
        delta.master_silent = watermarks.master_silent(&counted, self.at);
        if self.full {
            watermarks.last_full = Some(self.at);
        }
        watermarks.over_budget = over_budget;
        if !self.newest_only {
            watermarks.remember_windows(self.at, windows);
        }
        watermarks.is_counted = counted.rules.is_some_and(|rules| rules.rows.is_some());
        watermarks.counted = match watermarks.is_counted {
            true => Some(LastCount::new(self.at, &counted, false)),
            false => last,
        };
        Ok((delta, watermarks))
    }

    /// The empty delta of a poll that finds nothing to read; `None` if there may be something.
    async fn is_idle(
        &mut self,
        watermarks: Watermarks,
    ) -> Result<Option<(TableDelta, Watermarks)>, StoreError> {
        let last = watermarks.counted.clone();
        let believed_for = self.tables.believed_for();
        let known = last.as_ref().map(|last| last.known(self.at, believed_for)).unwrap_or_default();
        // One statement is one snapshot, so an idle poll needs no transaction.
        let counted = self.count(known).await?;
        if watermarks.moved(&counted).is_some_and(Ordering::is_ne) || counted.manifest_moved {
            return Ok(None);
        }
        let mut watermarks = watermarks.seen(&counted, self.at);
        let behind = watermarks.behind(&counted, self.at);
        let current_for = watermarks.current_for(&counted, self.at);
        let master_silent = watermarks.master_silent(&counted, self.at);
        let Counted { now, rules, states, .. } = counted;
        if !self.is_quiet(Table::Rules, rules) || !self.is_quiet(Table::States, Some(states)) {
            return Ok(None);
        }
        let delta = TableDelta { now, behind, current_for, master_silent, ..TableDelta::default() };
        let Some(rules) = rules else {
            // The rules were not counted, so the time of the last count stays.
            watermarks.is_counted = true;
            return Ok(Some((delta, watermarks)));
        };
        let mut watermarks = watermarks.idle(counted.time());
        watermarks.remember_windows(self.at, self.found_in_windows(&counted));
        watermarks.is_counted = rules.rows.is_some();
        watermarks.counted = match watermarks.is_counted {
            true => Some(LastCount::new(self.at, &counted, true)),
            false => last,
        };
        Ok(Some((delta, watermarks)))
    }

    async fn count(&mut self, known: KnownCount<'_>) -> Result<Counted, StoreError> {
        let question = CountQuestion {
            rules: self.window_of(Table::Rules),
            states: self.window_of(Table::States),
            known,
            wants_signs: self.index.count(Table::Rules) > CHEAP_TO_COUNT,
        };
        self.tables.count(question).await
    }

    /// Rows with a greater stamp may be new.
    fn low(&self, table: Table) -> Timestamp {
        let overlap = self.config.overlap;
        self.watermarks.as_ref().map_or(Timestamp::MIN, |watermarks| match table {
            Table::Rules if self.newest_only => watermarks.newest_rule(),
            table => watermarks.low(table, overlap),
        })
    }

    /// What the first statement counts and sums of a table.
    fn window_of(&self, table: Table) -> Window {
        let low = self.low(table);
        match &self.watermarks {
            Some(watermarks) if !self.newest_only => watermarks.window(table, low),
            _ => Window { low, last: low, is_summed: false },
        }
    }

    fn found_in_windows(&self, counted: &Counted) -> [(Timestamp, Option<Counts>); 2] {
        [(self.low(Table::Rules), counted.rules), (self.low(Table::States), Some(counted.states))]
    }
}

/// The error for an answer that makes no sense.
pub(super) fn unreadable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: READING, detail: detail.into() }
}
