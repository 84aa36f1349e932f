//! Selects columns only up to a length. A program that may write the tables may write texts of any length, and a
//! compressed text takes almost no space on the server; so the server compares the lengths, and does not send a text
//! that is longer than its column may be.

use super::row::{BadCell, Row};
use super::sql::{Dialect, Query};
use crate::rule::{LONGEST_TEXT, Limits, Table};

/// The longest id, in bytes.
const LONGEST_ID: usize = 255;

/// Stands in the SQL of a [`Select`] for the longest `yaml_content` that comes with its row.
const CONTENT: &str = "{content}";

/// The same for every other text.
const TEXT: &str = "{text}";

/// The most bytes of a row that comes together with others.
const SHORT_ROW: usize = 64 << 10;

/// A query for rows.
pub(super) struct Select {
    /// Expressions without arguments; [`fitted`] completes them.
    pub(super) columns: Vec<String>,
    pub(super) table: Table,
    /// The filter; empty for all rows.
    pub(super) filter: Query,
    /// The most bytes of a row that comes whole; `None` if only the columns have limits.
    pub(super) longest_row: Option<usize>,
}

impl Select {
    pub(super) fn new(dialect: &'static Dialect, table: Table, columns: Vec<String>) -> Self {
        Self { columns, table, filter: Query::new(dialect, ""), longest_row: None }
    }

    /// Adds a condition to the filter.
    pub(super) fn and(mut self, condition: impl FnOnce(Query) -> Query) -> Self {
        let separator = if self.filter.sql.is_empty() { "" } else { " AND " };
        self.filter = condition(self.filter.push(separator));
        self
    }

    /// Selects short rows only whole: [`missing`] names what is missing of longer ones.
    pub(super) fn of_short_rows(self) -> Self {
        Self { longest_row: Some(SHORT_ROW), ..self }
    }

    /// The query, for rows of any allowed length.
    pub(super) fn into_query(self) -> Query {
        let Self { columns, table, mut filter, longest_row } = self;
        let columns: Vec<String> = columns.iter().map(|column| fitted(column, longest_row)).collect();
        let filtered = if filter.sql.is_empty() { "" } else { " WHERE " };
        filter.sql = format!("SELECT {} FROM {}{filtered}{}", columns.join(", "), table.name(), filter.sql);
        filter
    }
}

/// The longest allowed value of a column, in bytes.
const fn longest(column: &str) -> usize {
    match column.as_bytes() {
        b"rule_id" => LONGEST_ID,
        b"yaml_content" => Limits::LARGEST,
        _ => LONGEST_TEXT,
    }
}

/// Selects from `table` the key, these expressions, each null if its column is too long, and, for [`missing`], the
/// first column that is.
pub(super) fn select(dialect: &'static Dialect, table: Table, expressions: &[(&str, String)]) -> Select {
    let length = dialect.length;
    let mut columns = vec![key(dialect)];
    let mut too_long = format!(
        "CASE WHEN {length} > {LONGEST_ID} THEN {found}",
        length = length("rule_id"),
        found = described(dialect, "rule_id")
    );
    for (column, expression) in expressions {
        let (length, wanted) = (length(column), if *column == "yaml_content" { CONTENT } else { TEXT });
        columns.push(format!("CASE WHEN {length} <= {wanted} THEN {expression} END"));
        let found = described(dialect, column);
        too_long += &format!(" WHEN {length} > {wanted} THEN {found}");
    }
    columns.push(too_long + " END");
    Select::new(dialect, table, columns)
}

/// The name and the length of a column that did not come with its row.
fn described(dialect: &Dialect, column: &str) -> String {
    let length = (dialect.length)(column);
    (dialect.flushed)(&(dialect.concat)(&[&format!("'{column} '"), &length]))
}

/// The key of a row; if it is too long, its beginning and its length.
pub(super) fn key(dialect: &Dialect) -> String {
    let (text, length) = ((dialect.plain)("rule_id"), (dialect.length)("rule_id"));
    let beginning = format!("substr({text}, 1, 60)");
    let shortened = (dialect.concat)(&[&beginning, "'... ('", &length, "' bytes)'"]);
    format!("CASE WHEN {length} > {LONGEST_ID} THEN {shortened} ELSE {text} END")
}

/// The SQL of a column for rows of at most `row` bytes; `None` allows every column its full length.
pub(super) fn fitted(column: &str, row: Option<usize>) -> String {
    let content = Limits::LARGEST.min(row.unwrap_or(usize::MAX));
    let text = LONGEST_TEXT.min(row.map_or(usize::MAX, |row| row / 8));
    column.replace(CONTENT, &content.to_string()).replace(TEXT, &text.to_string())
}

/// Reads the last column of [`select`]: the length of the first column that did not come with its row, but can be
/// read by the row's key. `None` if the row is complete.
///
/// # Errors
/// The column that is longer than it may be.
pub(super) fn missing(row: &mut Row) -> Result<Option<usize>, BadCell> {
    let last = row.0.len().saturating_sub(1);
    let Some(found) = row.optional(last, "the length")? else { return Ok(None) };
    let (column, length) = found.trim_end().split_once(' ').unwrap_or((&found, ""));
    let known = Table::Rules.columns().iter().chain(Table::States.columns()).find(|known| **known == column);
    let (Some(column), Ok(length)) = (known, length.parse::<usize>()) else {
        return Err("its length cannot be read".into());
    };
    let longest = longest(column);
    if length > longest {
        return Err(format!("{column} has {length} bytes; at most {longest} are possible"));
    }
    Ok(Some(length))
}
