//! One look at the two tables, all of it in one snapshot.

use std::time::Duration;

use super::Database;
use super::connection::Connection;
use super::sql::Query;
use super::tables;
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, Look, Rejected, RuleId, Seen, Table};
use crate::store::rows::Reading;
use crate::store::watermark::Watermark;
use crate::store::{Known, StoreError};

/// Of more rows than these the digests are read first, and only the texts that differ.
const FEW: u64 = 256;

/// Texts that are read by their keys in one statement.
const CHUNK: usize = 500;

const WHAT: &str = "reading the tables";

/// What is remembered from look to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watermarks {
    rules: Watermark,
    states: Watermark,
}

/// What a table holds, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    rows: u64,
    in_window: u64,
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
    mended: u64,
    /// The keys, where every row was looked at.
    keys: Option<Vec<String>>,
}

impl Found {
    /// Takes a row into account; tells whether it is another than is known.
    fn see(&mut self, key: &str, seen: Seen, known: Option<Seen>, low: Timestamp) -> bool {
        self.rows += 1;
        self.high = self.high.max(Some(seen.updated_at));
        if let Some(keys) = &mut self.keys {
            keys.push(key.to_owned());
        }
        let differs = known != Some(seen);
        if differs {
            self.differing += 1;
            self.new += u64::from(known.is_none());
            self.mended += u64::from(seen.updated_at <= low);
        }
        differs
    }
}

/// A look under way.
pub(super) struct Looking<'l, K> {
    pub(super) database: &'l Database,
    pub(super) connection: &'l mut Connection,
    pub(super) known: &'l K,
    /// `None` at the first look.
    pub(super) watermarks: Option<Watermarks>,
    /// Whether everything is to be compared.
    pub(super) full: bool,
}

impl<K: Known + Sync> Looking<'_, K> {
    /// What the tables hold that is not known.
    pub(super) async fn look(mut self) -> Result<(Look, Watermarks), StoreError> {
        if let (Some(watermarks), false) = (self.watermarks, self.full) {
            // One statement is one snapshot too: an idle poll is no more than this.
            let (now, rules, states) = self.counts().await?;
            if self.is_quiet(Table::Rules, rules) && self.is_quiet(Table::States, states) {
                return Ok((Look { now, ..Look::default() }, watermarks.idle(now)));
            }
        }
        let begin = self.connection.dialect().begin_look;
        self.connection.run(WHAT, begin).await?;
        let (now, rule_counts, state_counts) = self.counts().await?;
        let mut look = Look { now, full: self.full, ..Look::default() };

        let mut reading = Reading::default();
        let mut rules = self.rules(rule_counts, &mut reading).await?;
        look.rule_keys = self.keys(Table::Rules, rule_counts, &mut rules).await?;
        let mut states = self.states(state_counts, &mut look).await?;
        look.state_keys = self.keys(Table::States, state_counts, &mut states).await?;
        self.connection.run(WHAT, "COMMIT").await?;

        look.rules = reading.finish().await;
        look.rows = rules.rows + states.rows;
        if self.watermarks.is_some() {
            look.mended = rules.mended + states.mended;
        }
        let watermarks = match self.watermarks {
            Some(watermarks) => watermarks.advanced(now, Some(&rules), Some(&states)),
            None => Watermarks {
                rules: Watermark::new(now, rules.high.unwrap_or(Timestamp::MIN)),
                states: Watermark::new(now, states.high.unwrap_or(Timestamp::MIN)),
            },
        };
        Ok((look, watermarks))
    }

    /// Rows whose stamp is greater than this may be new.
    fn low(&self, table: Table) -> Timestamp {
        let overlap = self.database.follow.overlap;
        self.watermarks.map_or(Timestamp::MIN, |watermarks| watermarks.low(table, overlap))
    }

    fn is_quiet(&self, table: Table, counts: Counts) -> bool {
        counts.in_window == 0 && counts.rows == self.known.count(table)
    }

    /// The database's clock, and what both tables hold.
    async fn counts(&mut self) -> Result<(Timestamp, Counts, Counts), StoreError> {
        let dialect = self.connection.dialect();
        let count = (dialect.text)("count(*)");
        let mut query = self.connection.query("SELECT ").push(dialect.now.unwrap_or("NULL"));
        for table in [Table::Rules, Table::States] {
            let from = format!("(SELECT {count} FROM {}", table.name());
            query = query.push(&format!(", {from}), {from} WHERE {} > ", table.stamp()));
            query = query.time(Some(self.low(table).max(Watermark::FLOOR))).push(")");
        }
        // Read before the snapshot where it is the host's: what is not seen is later than it.
        let now = self.database.clock.now();
        let row = self.connection.fetch(WHAT, query).await?.pop();
        let row = row.ok_or_else(|| unreadable("no answer"))?;
        let cell = |index: usize| row.0.get(index).map_or("", |cell| cell.shown());
        let now = match dialect.now {
            Some(_) => Timestamp::parse(cell(0)).ok_or_else(|| unreadable("the clock is no time"))?,
            None => now,
        };
        let number = |index| cell(index).parse().map_err(|_| unreadable("a count is no number"));
        let rules = Counts { rows: number(1)?, in_window: number(2)? };
        let states = Counts { rows: number(3)?, in_window: number(4)? };
        Ok((now, rules, states))
    }

    async fn rules(&mut self, counts: Counts, reading: &mut Reading) -> Result<Found, StoreError> {
        let low = self.low(Table::Rules);
        let mut found = Found { keys: self.full.then(Vec::new), ..Found::default() };
        let rows = if self.full { counts.rows } else { counts.in_window };
        if rows == 0 {
            return Ok(found);
        }
        let dialect = self.connection.dialect();
        let digests_first = dialect.digest.is_some() && rows > FEW && self.known.count(Table::Rules) > 0;
        if !digests_first {
            let query = tables::select(dialect, Table::Rules);
            let query = if self.full { query } else { query.push(" WHERE updated_at > ").time(Some(low)) };
            self.read_rules(query, Some((&mut found, low)), reading).await?;
            return Ok(found);
        }
        let query = tables::select_summaries(dialect);
        let query = if self.full { query } else { query.push(" WHERE updated_at > ").time(Some(low)) };
        let mut differing = Vec::new();
        let mut rows = self.connection.stream(WHAT, query);
        while let Some(mut row) = rows.next().await? {
            let key = tables::key(&row);
            let seen = tables::summary(&mut row, dialect)
                .map(|row| Seen::rule(row.updated_at, row.content, row.rule_version, &row.source_path))
                .unwrap_or_else(|reason| unreadable_row(&reason));
            if found.see(&key, seen, self.known.seen(Table::Rules, &key), low) {
                differing.push(key);
            }
        }
        drop(rows);
        for keys in differing.chunks(CHUNK) {
            let query = tables::select(dialect, Table::Rules).push(" WHERE rule_id IN ").texts(keys);
            self.read_rules(query, None, reading).await?;
        }
        Ok(found)
    }

    /// Reads whole rows; those that are as they are known go no further.
    async fn read_rules(
        &mut self,
        query: Query,
        mut found: Option<(&mut Found, Timestamp)>,
        reading: &mut Reading,
    ) -> Result<(), StoreError> {
        let mut rows = self.connection.stream(WHAT, query);
        while let Some(mut row) = rows.next().await? {
            let key = tables::key(&row);
            let known = self.known.seen(Table::Rules, &key);
            let row = tables::rule_row(&mut row);
            let seen = match (&row, known) {
                (Ok(row), Some(_)) => {
                    let text = ContentDigest::of(&row.yaml_content);
                    Seen::rule(row.updated_at, text, row.rule_version, &row.source_path)
                }
                // It differs from what is known, which is nothing: the digest can wait.
                (Ok(row), None) => Seen { updated_at: row.updated_at, ..unreadable_row("") },
                (Err(reason), _) => unreadable_row(reason),
            };
            let differs = match &mut found {
                Some((found, low)) => found.see(&key, seen, known, *low),
                None => true,
            };
            match row {
                Ok(row) if differs => reading.push(row).await,
                Err(reason) if differs => reading.reject(Rejected { key, seen, reason }),
                _ => {}
            }
        }
        Ok(())
    }

    async fn states(&mut self, counts: Counts, look: &mut Look) -> Result<Found, StoreError> {
        let low = self.low(Table::States);
        let mut found = Found { keys: self.full.then(Vec::new), ..Found::default() };
        if (if self.full { counts.rows } else { counts.in_window }) == 0 {
            return Ok(found);
        }
        let query = tables::select(self.connection.dialect(), Table::States);
        let query = if self.full { query } else { query.push(" WHERE set_at > ").time(Some(low)) };
        let mut rows = self.connection.stream(WHAT, query);
        while let Some(mut row) = rows.next().await? {
            let key = tables::key(&row);
            let row = tables::state_row(&mut row);
            let seen = row.as_ref().map_or_else(|reason| unreadable_row(reason), Seen::state);
            if !found.see(&key, seen, self.known.seen(Table::States, &key), low) {
                continue;
            }
            let state = row.and_then(|row| {
                let rule_id = RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
                Ok((rule_id, row.state().map_err(|error| error.to_string())?))
            });
            look.states.push(state.map_err(|reason| Rejected { key, seen, reason }));
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
        if found.keys.is_some() || self.known.count(table) + found.new == counts.rows {
            return Ok(found.keys.take());
        }
        found.differing += 1;
        let query = self.connection.query(format!("SELECT rule_id FROM {}", table.name()));
        let rows = self.connection.fetch(WHAT, query).await?;
        Ok(Some(rows.iter().map(tables::key).collect()))
    }
}

impl Watermarks {
    fn low(&self, table: Table, overlap: Duration) -> Timestamp {
        match table {
            Table::Rules => self.rules.low(overlap),
            Table::States => self.states.low(overlap),
        }
    }

    /// After it was found at `now` that nothing was committed since the last look.
    pub(super) fn idle(self, now: Timestamp) -> Self {
        self.advanced(now, None, None)
    }

    fn advanced(mut self, now: Timestamp, rules: Option<&Found>, states: Option<&Found>) -> Self {
        for (watermark, found) in [(&mut self.rules, rules), (&mut self.states, states)] {
            let high = found.and_then(|found| found.high).unwrap_or(Timestamp::MIN);
            watermark.advance(now, high, found.is_some_and(|found| found.differing > 0));
        }
        self
    }
}

/// What is known of a row whose cells cannot be read as what they should be.
fn unreadable_row(reason: &str) -> Seen {
    Seen { updated_at: Timestamp::MIN, content: ContentDigest::of(reason) }
}

fn unreadable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: WHAT, detail: detail.into() }
}
