//! One look at the two tables, all of it in one snapshot.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Database;
use super::columns;
use super::connection::Connection;
use super::counts::{Counted, Counts};
use super::sql::{Query, Row, Select};
use super::tables::{self, Mark};
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, QuarantinedRow, RowFingerprint, RuleId, Table, TableDelta};
use crate::store::rows::{Budget, Reading, too_much};
use crate::store::watermark::Watermark;
use crate::store::{RowIndex, StoreError};

/// Of more rows than these it is first asked which are as they are known, and only the texts of the
/// others are read.
const FEW: u64 = 64;

/// Long rows that are read by their keys in one statement: it must not take long, and SQLite's driver holds
/// all of them.
const LONG_ROWS: usize = 2;

pub(super) const WHAT: &str = "reading the tables";

/// What is remembered from poll to poll.
#[derive(Debug, Clone)]
pub(super) struct Watermarks {
    rules: Watermark,
    states: Watermark,
    /// When the rules were last counted while nothing else was seen of them, and what
    /// [`super::sql::Dialect::rules_version`] then was.
    pub(super) counted: Option<(Instant, String)>,
    /// Rules that did not fit into `worker.max_memory`, with the memory that each needs.
    over_budget: Arc<BTreeMap<String, usize>>,
}

/// What was found of one table.
#[derive(Debug, Default)]
struct Found {
    /// Rows that were read.
    rows: u64,
    /// The greatest stamp.
    high: Option<Timestamp>,
    /// Rows that are not as they are known.
    differing: u64,
    /// Of these, rows that are not known at all.
    new: u64,
    /// Of these, rows that the window does not hold.
    missed_by_watermark: u64,
    /// The keys, where every row was looked at.
    keys: Option<Vec<String>>,
}

impl Found {
    /// Takes a row into account; tells whether it is another than is known.
    fn see(
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

/// A poll under way.
pub(super) struct Poll<'l, K> {
    pub(super) database: &'l Database,
    pub(super) connection: &'l mut Connection,
    pub(super) index: &'l K,
    /// `None` at the first poll.
    pub(super) watermarks: Option<Watermarks>,
    /// Whether everything is to be compared.
    pub(super) full: bool,
    /// Whether there was a sign of a change, so that it is not worth asking first.
    pub(super) woken: bool,
    /// Rules that did not fit into `worker.max_memory` at an earlier poll, and may now.
    pub(super) retried: HashSet<String>,
}

impl<K: RowIndex + Sync> Poll<'_, K> {
    /// What the tables hold that is not known.
    pub(super) async fn poll(mut self) -> Result<(TableDelta, Watermarks), StoreError> {
        if let (Some(watermarks), false, false) = (&self.watermarks, self.full, self.woken) {
            let watermarks = watermarks.clone();
            let version = self.connection.dialect().rules_version.as_ref();
            let believed_for = version.map_or(Duration::ZERO, |version| version.believed_for);
            let lately = watermarks.counted.as_ref().filter(|(at, _)| at.elapsed() < believed_for);
            let lately = lately.map(|(_, version)| version.clone());
            // One statement is one snapshot too: an idle poll is no more than this.
            let begun = Instant::now();
            let Counted { now, rules, states, rules_version } = self.counts(lately.as_deref()).await?;
            let is_quiet =
                |table, counts: Option<Counts>| counts.is_none_or(|counts| self.is_quiet(table, counts));
            if is_quiet(Table::Rules, rules) && is_quiet(Table::States, states) {
                let delta = TableDelta { now, ..TableDelta::default() };
                if rules.is_none() {
                    // Nothing was seen of the rules: what was known of them stays as old as it is.
                    return Ok((delta, watermarks));
                }
                let counted = rules_version.map(|version| (begun, version));
                return Ok((delta, Watermarks { counted, ..watermarks.idle(now) }));
            }
        }
        let begin = self.connection.dialect().begin_poll;
        self.connection.run(WHAT, begin).await?;
        let Counted { now, rules: rule_counts, states: state_counts, .. } = self.counts(None).await?;
        let (Some(rule_counts), Some(state_counts)) = (rule_counts, state_counts) else {
            return Err(unreadable("a count is null"));
        };
        ensure_few_enough(self.database, Table::Rules, rule_counts.rows)?;
        ensure_few_enough(self.database, Table::States, state_counts.rows)?;
        let mut delta = TableDelta { now, full: self.full, ..TableDelta::default() };

        let mut budget = Budget::new(self.database.follow.max_memory, self.index.memory());
        let mut over_budget = self.retry(&budget);
        let mut states = self.states(state_counts, &mut delta, &mut budget).await?;
        delta.state_keys = self.keys(Table::States, state_counts, &mut states).await?;
        let mut reading = Reading::new(self.index.texts(), budget);
        let mut rules = self.rules(rule_counts, &mut reading).await?;
        delta.rule_keys = self.keys(Table::Rules, rule_counts, &mut rules).await?;
        self.connection.run(WHAT, "COMMIT").await?;

        let read = reading.finish().await;
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

    /// Rows whose stamp is greater than this may be new.
    pub(super) fn low(&self, table: Table) -> Timestamp {
        let overlap = self.database.follow.overlap;
        self.watermarks.as_ref().map_or(Timestamp::MIN, |watermarks| watermarks.low(table, overlap))
    }

    /// The rules that did not fit into `worker.max_memory`, without those that are read again: at a poll
    /// at everything, those that fit now.
    fn retry(&mut self, budget: &Budget) -> Arc<BTreeMap<String, usize>> {
        let before = self.watermarks.as_ref().map(|watermarks| Arc::clone(&watermarks.over_budget));
        let mut over_budget = before.unwrap_or_default();
        if self.full && !over_budget.is_empty() {
            // Most are long.
            let mut free = budget.free().saturating_sub(self.database.follow.max_memory / 2);
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

    /// Where to put every key of a table that is compared as a whole; `None` where nothing is known that
    /// could be gone.
    fn wanted_keys(&self, table: Table) -> Option<Vec<String>> {
        (self.full && self.index.count(table) > 0).then(Vec::new)
    }

    fn is_quiet(&self, table: Table, counts: Counts) -> bool {
        counts.in_window == 0 && counts.rows == self.index.count(table)
    }

    async fn rules(&mut self, counts: Counts, reading: &mut Reading) -> Result<Found, StoreError> {
        let low = self.low(Table::Rules);
        let mut found = Found { keys: self.wanted_keys(Table::Rules), ..Found::default() };
        let rows = if self.full { counts.rows } else { counts.in_window };
        if rows == 0 {
            return Ok(found);
        }
        let dialect = self.connection.dialect();
        let (full, stamp) = (self.full, since("updated_at", low));
        let within = |select: Select| if full { select } else { select.and(stamp) };
        // Where everything is compared and the database has no digest, the text must come anyway.
        let marks_first =
            rows > FEW && self.index.count(Table::Rules) > 0 && (!full || dialect.digest.is_some());
        if marks_first {
            let differing =
                self.differing(within(tables::select_marks(dialect, full)), &mut found, low, reading);
            for keys in differing.await?.chunks(tables::CHUNK) {
                let among = |filter: Query| filter.push("rule_id IN ").texts(keys);
                self.read_rules(tables::select(dialect, Table::Rules).and(among), &mut found, low, reading)
                    .await?;
            }
        } else {
            self.read_rules(within(tables::select(dialect, Table::Rules)), &mut found, low, reading).await?;
        }
        Ok(found)
    }

    /// Of the rows whose marks are selected, the keys of those that are perhaps not as they are known.
    async fn differing(
        &mut self,
        marks: Select,
        found: &mut Found,
        low: Timestamp,
        reading: &mut Reading,
    ) -> Result<Vec<String>, StoreError> {
        let (dialect, full) = (self.connection.dialect(), self.full);
        let index = IndexWithoutRetried { index: self.index, retried: &self.retried };
        let mut differing = Vec::new();
        let mut rows = self.connection.rows(WHAT, marks);
        while let Some(mut row) = rows.next().await? {
            let shown = tables::key(&row);
            ensure_few_enough(self.database, Table::Rules, found.rows + differing.len() as u64)?;
            let known = index.rule(&shown);
            let is_whole = columns::missing(&mut row).map(|missing| missing.is_none());
            let key = row.text(0, "rule_id");
            let (key, is_whole) = match key.and_then(|key| Ok((key, is_whole?))) {
                Ok(read) => read,
                Err(reason) => {
                    // It cannot be asked for by its key, or need not be.
                    let fingerprint = unreadable_row(&reason);
                    if found.see(&shown, fingerprint, known, low) {
                        reading.reject(QuarantinedRow { key: shown, fingerprint, reason });
                    }
                    continue;
                }
            };
            let is_known = |known: &RowFingerprint| {
                tables::mark(&mut row, dialect).is_ok_and(|mark| {
                    let Mark { rule_version, source_path, updated_at, content } = mark;
                    match content {
                        Some(text) => {
                            *known == RowFingerprint::rule(updated_at, text, rule_version, &source_path)
                        }
                        None => !full && known.is_stamped(updated_at, rule_version, &source_path),
                    }
                })
            };
            match known.filter(|_| is_whole).filter(is_known) {
                Some(fingerprint) => drop(found.see(&key, fingerprint, known, low)),
                None => differing.push(key),
            }
        }
        Ok(differing)
    }

    /// Reads whole rows; those that are as they are known go no further.
    async fn read_rules(
        &mut self,
        select: Select,
        found: &mut Found,
        low: Timestamp,
        reading: &mut Reading,
    ) -> Result<(), StoreError> {
        let index = &IndexWithoutRetried { index: self.index, retried: &self.retried };
        let mut long = Vec::new();
        let dialect = self.connection.dialect();
        let mut rows = self.connection.rows(WHAT, select.of_short_rows());
        while let Some(row) = rows.next().await? {
            ensure_few_enough(self.database, Table::Rules, found.rows)?;
            long.extend(take_in(row, index, found, low, reading).await);
        }
        drop(rows);
        // Long rows come last, and few at a time: should the memory not do for all, it is they that miss out.
        // Half of it is left to the short ones that may yet come.
        let kept_free = self.database.follow.max_memory / 2;
        let mut left = kept_free;
        let mut wanted = Vec::new();
        for Long { key, length, updated_at } in long {
            let replaced = index.index.memory_of(Table::Rules, &key);
            if length <= left.min((reading.free() + replaced).saturating_sub(kept_free)) {
                left -= length;
                wanted.push(key);
                continue;
            }
            let reason = too_much(length, self.database.follow.max_memory);
            let fingerprint = RowFingerprint::other(updated_at, ContentDigest::of(&reason));
            if found.see(&key, fingerprint, index.rule(&key), low) {
                reading.reject_for_now(QuarantinedRow { key, fingerprint, reason }, length);
            }
        }
        for keys in wanted.chunks(LONG_ROWS) {
            let select = tables::select(dialect, Table::Rules);
            let select = select.and(|filter| filter.push("rule_id IN ").texts(keys));
            let mut rows = self.connection.row_by_row(WHAT, select);
            while let Some(row) = rows.next().await? {
                take_in(row, index, found, low, reading).await;
            }
        }
        Ok(())
    }

    async fn states(
        &mut self,
        counts: Counts,
        delta: &mut TableDelta,
        budget: &mut Budget,
    ) -> Result<Found, StoreError> {
        let low = self.low(Table::States);
        let mut found = Found { keys: self.wanted_keys(Table::States), ..Found::default() };
        if (if self.full { counts.rows } else { counts.in_window }) == 0 {
            return Ok(found);
        }
        let query = tables::select(self.connection.dialect(), Table::States);
        let query = if self.full { query } else { query.and(since("set_at", low)) };
        let mut rows = self.connection.rows(WHAT, query);
        while let Some(mut row) = rows.next().await? {
            let key = tables::key(&row);
            let row = tables::state_row(&mut row);
            let fingerprint =
                row.as_ref().map_or_else(|reason| unreadable_row(reason), RowFingerprint::state);
            if !found.see(&key, fingerprint, self.index.fingerprint(Table::States, &key), low) {
                continue;
            }
            ensure_few_enough(self.database, Table::States, found.rows)?;
            let state = row.and_then(|row| {
                budget.take(row.memory(), self.index.memory_of(Table::States, &key))?;
                let rule_id = RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
                Ok((rule_id, row.state().map_err(|error| error.to_string())?))
            });
            delta.states.push(state.map_err(|reason| Box::new(QuarantinedRow { key, fingerprint, reason })));
        }
        Ok(found)
    }

    /// Every key, where a row may have gone.
    async fn keys(
        &mut self,
        table: Table,
        counts: Counts,
        found: &mut Found,
    ) -> Result<Option<Vec<String>>, StoreError> {
        if found.keys.is_some() || self.index.count(table) + found.new == counts.rows {
            return Ok(found.keys.take());
        }
        found.differing += 1;
        let mut keys = Vec::new();
        let mut rows = self.connection.rows(WHAT, tables::select_keys(self.connection.dialect(), table));
        while let Some(row) = rows.next().await? {
            keys.push(tables::key(&row));
            ensure_few_enough(self.database, table, keys.len() as u64)?;
        }
        Ok(Some(keys))
    }
}

impl Watermarks {
    fn low(&self, table: Table, overlap: Duration) -> Timestamp {
        match table {
            Table::Rules => self.rules.low(overlap),
            Table::States => self.states.low(overlap),
        }
    }

    /// After it was found at `now` that nothing was committed since the last poll.
    pub(super) fn idle(self, now: Timestamp) -> Self {
        self.advanced(now, None, None)
    }

    fn advanced(mut self, now: Timestamp, rules: Option<&Found>, states: Option<&Found>) -> Self {
        self.counted = None;
        for (watermark, found) in [(&mut self.rules, rules), (&mut self.states, states)] {
            let high = found.and_then(|found| found.high).unwrap_or(Timestamp::MIN);
            watermark.advance(now, high, found.is_some_and(|found| found.differing > 0));
        }
        self
    }
}

/// What is known of rows, but for the rules that are read again.
struct IndexWithoutRetried<'l, K> {
    index: &'l K,
    retried: &'l HashSet<String>,
}

impl<K: RowIndex> IndexWithoutRetried<'_, K> {
    fn rule(&self, key: &str) -> Option<RowFingerprint> {
        self.index.fingerprint(Table::Rules, key).filter(|_| !self.retried.contains(key))
    }
}

/// Refuses a table that is longer than is wanted, and an answer that is longer than the server said.
fn ensure_few_enough(database: &Database, table: Table, rows: u64) -> Result<(), StoreError> {
    let most = database.follow.max_rules;
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

/// A row whose text did not come with it.
struct Long {
    key: String,
    /// The length of the text in bytes.
    length: usize,
    updated_at: Timestamp,
}

/// Takes in a row of the rules, if it is not as it is known; gives back one that is not all here.
async fn take_in(
    mut row: Row,
    index: &IndexWithoutRetried<'_, impl RowIndex>,
    found: &mut Found,
    low: Timestamp,
    reading: &mut Reading,
) -> Option<Long> {
    let key = tables::key(&row);
    let row = match columns::missing(&mut row) {
        Ok(Some(length)) => {
            let updated_at = tables::stamp(&mut row).unwrap_or(Timestamp::MIN);
            return Some(Long { key, length, updated_at });
        }
        Ok(None) => tables::rule_row(&mut row),
        Err(reason) => Err(reason),
    };
    let replaced = index.index.memory_of(Table::Rules, &key);
    let known = index.rule(&key);
    let fingerprint = match (&row, known) {
        (Ok(row), Some(_)) => {
            let text = ContentDigest::of(&row.yaml_content);
            RowFingerprint::rule(row.updated_at, text, row.rule_version, &row.source_path)
        }
        // It differs from what is known, which is nothing: the digest can wait.
        (Ok(row), None) => RowFingerprint::other(row.updated_at, ContentDigest::of("")),
        (Err(reason), _) => unreadable_row(reason),
    };
    if found.see(&key, fingerprint, known, low) {
        match row {
            Ok(row) => reading.push(row, replaced).await,
            Err(reason) => reading.reject(QuarantinedRow { key, fingerprint, reason }),
        }
    }
    None
}

/// Rows whose stamp is greater than `low`.
fn since(stamp: &str, low: Timestamp) -> impl FnOnce(Query) -> Query {
    move |filter| filter.push(&format!("{stamp} > ")).time(Some(low))
}

/// What is known of a row whose cells cannot be read as what they should be.
fn unreadable_row(reason: &str) -> RowFingerprint {
    RowFingerprint::other(Timestamp::MIN, ContentDigest::of(reason))
}

pub(super) fn unreadable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: WHAT, detail: detail.into() }
}
