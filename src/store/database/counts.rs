//! What a poll begins with, and what an idle poll is: the clock, and how many rows there are to see.

use super::poll::{Poll, WHAT, unreadable};
use crate::clock::Timestamp;
use crate::rule::Table;
use crate::store::watermark::Watermark;
use crate::store::{RowIndex, StoreError};

/// So many rows are counted sooner than it is found out whether that is needed.
const CHEAP_TO_COUNT: u64 = 2_000;

/// What a table holds, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) in_window: u64,
}

/// What a poll begins with.
pub(super) struct Counted {
    /// The database's clock.
    pub(super) now: Timestamp,
    /// `None` where they were not counted.
    pub(super) rules: Option<Counts>,
    pub(super) states: Option<Counts>,
    /// See [`super::sql::Dialect::rules_version`].
    pub(super) rules_version: Option<String>,
}

impl<K: RowIndex + Sync> Poll<'_, K> {
    /// The database's clock, and what both tables hold; nothing of the rules while their version is
    /// `known`.
    pub(super) async fn counts(&mut self, known: Option<&str>) -> Result<Counted, StoreError> {
        let dialect = self.connection.dialect();
        let count = (dialect.text)("count(*)");
        let mut query =
            self.connection.query("SELECT ").push(dialect.now.unwrap_or("NULL")).push(", version");
        for table in [Table::Rules, Table::States] {
            let from = format!("(SELECT {count} FROM {}", table.name());
            let low = self.low(table).max(Watermark::FLOOR);
            let known = known.filter(|_| table == Table::Rules);
            for in_window in [false, true] {
                query = match known {
                    None => query.push(", "),
                    // A version that is null is none, and the rules are counted.
                    Some(version) => {
                        query.push(", CASE WHEN version = ").text(version).push(" THEN NULL ELSE ")
                    }
                };
                query = query.push(&from);
                if in_window {
                    query = query.push(&format!(" WHERE {} > ", table.stamp())).time(Some(low));
                }
                query = query.push(if known.is_some() { ") END" } else { ")" });
            }
        }
        let is_worth_it = self.index.count(Table::Rules) > CHEAP_TO_COUNT;
        let version = dialect.rules_version.as_ref().filter(|_| is_worth_it);
        let version = version.map_or("NULL", |version| version.value);
        let query = query.push(&format!(" FROM (SELECT {version} AS version) AS versions"));
        // Read before the snapshot where it is the host's: what is not seen is later than it.
        let now = self.database.clock.now();
        let row = self.connection.row(WHAT, query).await?;
        let mut row = row.ok_or_else(|| unreadable("no answer"))?;
        let now = match dialect.now {
            Some(_) => row.time(0, "the clock").map_err(|why| unreadable(&why))?,
            None => now,
        };
        let rules_version = row.optional(1, "the version").map_err(|why| unreadable(&why))?;
        let mut number = |index| -> Result<Option<u64>, StoreError> {
            let number = row.optional(index, "a count").map_err(|why| unreadable(&why))?;
            number.map(|number| number.parse().map_err(|_| unreadable("a count is no number"))).transpose()
        };
        let mut counts = |index| -> Result<Option<Counts>, StoreError> {
            let (rows, in_window) = (number(index)?, number(index + 1)?);
            Ok(rows.zip(in_window).map(|(rows, in_window)| Counts { rows, in_window }))
        };
        Ok(Counted { now, rules: counts(2)?, states: counts(4)?, rules_version })
    }
}
