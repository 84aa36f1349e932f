//! Reads rows of SQLite in pages. The driver passes each row from its own thread to the caller, which takes longer
//! than reading it; here a page of rows comes as one value.
//!
//! A page has for each column the lengths of its values in bytes, and the concatenated values. Nothing is escaped, so
//! any content of a cell comes back unchanged.

use std::collections::VecDeque;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::columns;
use super::columns::Select;
use super::row::{Cell, Row};
use super::sql::Query;

/// The rows of the first page if the whole table is read.
const FIRST: usize = 64;

/// The rows of the first page with a filter: usually all rows, because each page searches again.
const FIRST_FOUND: usize = 1_024;

/// The most rows of a page.
const MOST: usize = 4_096;

/// The wanted size of a page in bytes.
const BYTES: usize = 1 << 20;

/// The most bytes of the texts of a page; its other columns have fewer. SQLite and the driver hold a page several
/// times.
const MOST_BYTES: usize = 8 << 20;

/// The pages of one query. They are one snapshot if the transaction is.
pub(super) struct Pages {
    select: Select,
    size: usize,
    /// The greatest `rowid` that was read.
    after: i64,
    ready: VecDeque<Row>,
    ended: bool,
}

/// One page.
pub(super) struct Page {
    last: Option<i64>,
    rows: VecDeque<Row>,
    bytes: usize,
}

impl Pages {
    pub(super) fn new(select: Select) -> Self {
        let size = if select.filter.sql.is_empty() { FIRST } else { FIRST_FOUND };
        Self { select, size, after: i64::MIN, ready: VecDeque::new(), ended: false }
    }

    /// The next row of the pages that were read.
    pub(super) fn pop(&mut self) -> Option<Row> {
        self.ready.pop_front()
    }

    /// The query for the next page; `None` after the last.
    pub(super) fn next(&self) -> Option<Query> {
        if self.ended {
            return None;
        }
        let Select { columns, table, filter, longest_row } = &self.select;
        let longest_row = longest_row.unwrap_or(usize::MAX).min(MOST_BYTES / self.size);
        let (mut outer, mut inner) = (String::new(), String::new());
        for (index, column) in columns.iter().enumerate() {
            let column = columns::fitted(column, Some(longest_row));
            outer +=
                &format!(", group_concat(coalesce(octet_length(c{index}), -1)), group_concat(c{index}, '')");
            inner += &format!(", {column} AS c{index}");
        }
        // With a filter, its index must be used instead of the order of the rows: the `+` ensures that.
        let (filtered, rowid) = match filter.sql.as_str() {
            "" => (String::new(), "_rowid_"),
            filter => (format!("({filter}) AND "), "+_rowid_"),
        };
        let mut query = Query::new(
            filter.dialect,
            format!(
                "SELECT max(r){outer} FROM (SELECT _rowid_ AS r{inner} FROM {} WHERE {filtered}{rowid} > ",
                table.name()
            ),
        );
        query.args = filter.args.clone();
        Some(query.int(self.after).push(&format!(" ORDER BY {rowid} LIMIT {})", self.size)))
    }

    /// Adds the page that [`Pages::next`] asked for. Returns whether reading can go on: it cannot if a column of the
    /// table is named `_rowid_`.
    pub(super) fn take(&mut self, page: Page) -> bool {
        self.ended = page.rows.len() < self.size;
        if page.last.is_none_or(|last| last <= self.after) && !page.rows.is_empty() {
            return false;
        }
        let fit = BYTES * page.rows.len() / page.bytes.max(1);
        self.size = fit.clamp(1, MOST).min(self.size * 8);
        self.after = page.last.unwrap_or(self.after);
        self.ready = page.rows;
        true
    }

    /// The query for the remaining rows, one by one, if pages do not work: the table has no `rowid`, the database is
    /// not in UTF-8, or a page is larger than SQLite allows.
    pub(super) fn row_by_row(self) -> Query {
        match self.after {
            i64::MIN => self.select.into_query(),
            after => self.select.and(|filter| filter.push("_rowid_ > ").int(after)).into_query(),
        }
    }
}

impl Page {
    /// Splits a page into rows; `None` if its last row has no number, or the values do not have the lengths that it
    /// says.
    pub(super) fn read(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let Ok(last) = row.try_get(0) else { return Ok(None) };
        let (mut columns, mut bytes) = (Vec::new(), 0);
        for index in (1..row.len()).step_by(2) {
            let lengths: Option<String> = row.try_get_unchecked(index)?;
            let values: Option<Vec<u8>> = row.try_get_unchecked(index + 1)?;
            bytes += values.as_ref().map_or(0, Vec::len);
            match cells(&lengths.unwrap_or_default(), &values.unwrap_or_default()) {
                Some(cells) => columns.push(cells.into_iter()),
                None => return Ok(None),
            }
        }
        let count = columns.first().map_or(0, ExactSizeIterator::len);
        if columns.iter().any(|column| column.len() != count) {
            return Ok(None);
        }
        let row = |_| Row(columns.iter_mut().filter_map(Iterator::next).collect());
        Ok(Some(Self { last, rows: (0..count).map(row).collect(), bytes }))
    }
}

/// The values of one column.
fn cells(lengths: &str, mut values: &[u8]) -> Option<Vec<Cell>> {
    let mut cells = Vec::new();
    for length in lengths.split(',').filter(|length| !length.is_empty()) {
        let Ok(length) = length.parse::<usize>() else {
            cells.push(Cell::Null);
            continue;
        };
        let (value, rest) = values.split_at_checked(length)?;
        cells.push(Cell::from_bytes(value.to_vec()));
        values = rest;
    }
    values.is_empty().then_some(cells)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::connection::Connection;
    use super::super::connector::Connector;
    use super::super::sql::Purpose;
    use super::super::{sqlite, tables};
    use super::*;
    use crate::address::DatabaseConfig;

    const TABLE: &str = "CREATE TABLE ttp_rule (rule_id VARCHAR NOT NULL PRIMARY KEY, rule_version INTEGER, \
         source_path VARCHAR, yaml_content TEXT, updated_at DATETIME, updated_by VARCHAR)";

    /// Cells of every kind, with many rows between them.
    const ROWS: &str = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9000) \
         INSERT INTO ttp_rule SELECT 'R' || n, n, 'p' || n, printf('%.*c', n % 700, 'x'), '2026-01-01', 'me' \
         FROM numbers; \
         INSERT INTO ttp_rule VALUES ('null', NULL, NULL, NULL, NULL, NULL), ('empty', 0, '', '', '', ''), \
         ('signs', -1, '1,2,-1', 'a' || char(0) || 'b', 17.5, ',,'), ('é', 2.5, '→', 'ü', 5, '\u{1F980}'), \
         ('blob', x'00ff', x'', x'c328', x'2c', 'x'); \
         DELETE FROM ttp_rule WHERE rule_version BETWEEN 100 AND 1500";

    async fn read(mut rows: super::super::connection::Rows<'_>) -> Vec<Row> {
        let mut read = Vec::new();
        while let Some(row) = rows.next().await.unwrap() {
            read.push(row);
        }
        read.sort_unstable_by_key(|row| format!("{row:?}"));
        read
    }

    async fn made(sql: &str) -> (Connection, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let config = DatabaseConfig {
            address: format!("sqlite://{}/t.db", directory.path().display()).parse().unwrap(),
            url_file: None,
            max_connections: 1,
            connect_timeout: Duration::from_secs(5),
            create_tables: true,
            allow_plaintext: false,
        };
        let connector = Arc::new(Connector::new(&config).unwrap());
        let mut connection = Connection::open(&connector, Purpose::Create).await.unwrap();
        connection.run("preparing", sql).await.unwrap();
        (connection, directory)
    }

    #[tokio::test]
    async fn what_comes_by_the_page_is_what_comes_row_by_row() {
        let encodings =
            ["UTF-8", "UTF-16le"].map(|name| format!("PRAGMA encoding = '{name}'; {TABLE}; {ROWS}"));
        let without_rowid = format!("{TABLE} WITHOUT ROWID; {ROWS}");
        for sql in encodings.iter().chain([&without_rowid]) {
            let (mut connection, _directory) = made(sql).await;
            let all = || tables::select(&sqlite::DIALECT, crate::rule::Table::Rules);
            let some = || {
                all().and(|filter| filter.push("rule_id >= ").text("R3").push(" OR rule_id < ").text("R2"))
            };
            for select in [&all as &dyn Fn() -> Select, &some] {
                let paged = read(connection.rows("reading", select())).await;
                let single = read(connection.row_by_row("reading", select())).await;
                assert!(paged.len() > 5_000, "{}", paged.len());
                assert!(paged == single, "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn rows_that_are_looked_for_are_found_by_their_index() {
        let (mut connection, _directory) =
            made(&format!("{TABLE}; CREATE INDEX ix ON ttp_rule (updated_at); {ROWS}")).await;
        let select = tables::select(&sqlite::DIALECT, crate::rule::Table::Rules);
        let pages = Pages::new(select.and(|filter| filter.push("updated_at > ").text("2026-01-02")));
        let mut plan = pages.next().unwrap();
        plan.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
        let plan = format!("{:?}", connection.fetch("asking for the plan", plan).await.unwrap());
        assert!(plan.contains("USING INDEX ix (updated_at>?)"), "{plan}");
    }

    #[tokio::test]
    async fn a_column_that_is_called_as_the_rows_own_number_is_not_taken_for_it() {
        let table = TABLE.replace("updated_by VARCHAR", "updated_by VARCHAR, _rowid_ TEXT");
        let rows = ROWS.replace(
            "INSERT INTO ttp_rule",
            "INSERT INTO ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by)",
        );
        let (mut connection, _directory) =
            made(&format!("{table}; {rows}; UPDATE ttp_rule SET _rowid_ = 'x'")).await;
        let all = || tables::select(&sqlite::DIALECT, crate::rule::Table::Rules);
        let paged = read(connection.rows("reading", all())).await;
        assert!(paged == read(connection.row_by_row("reading", all())).await);
    }

    #[test]
    fn values_that_have_not_their_lengths_are_no_page() {
        assert_eq!(cells("1,-1,2", b"abc").map(|cells| cells.len()), Some(3));
        for (lengths, values) in [("4", "abc"), ("2", "abc"), ("", "a"), ("1,-1,3", "abc")] {
            assert_eq!(cells(lengths, values.as_bytes()), None, "{lengths}: {values}");
        }
    }
}
