//! What the dialects do not agree on, a query of text and arguments, and a row as it comes back.
//!
//! Every cell is read as text, whatever its column's type: the statements cast, so that no
//! driver's idea of a type stands between a found table and the daemon.

use std::time::Duration;

use super::columns;
use crate::clock::Timestamp;
use crate::rule::Table;

/// What tells that `ttp_rule` is as it was.
pub(super) struct RulesVersion {
    /// A value that is another once anyone has committed to the table; null while it does not tell.
    pub(super) value: &'static str,
    /// How long it is believed without counting the rows: it may be a proof, or no more than a sign.
    pub(super) believed_for: Duration,
}

/// How one dialect says what all have to say.
pub(super) struct Dialect {
    /// The name that [`super::Database::backend`] gives.
    pub(super) backend: &'static str,
    /// Statements that create the tables.
    pub(super) create_rules: &'static str,
    pub(super) create_states: &'static str,
    /// Finds an index that begins with a column of a table.
    pub(super) find_index: fn(&str, &str) -> String,
    /// Makes the session wait for a table's lock for a second at most.
    pub(super) wait_briefly: Option<&'static str>,
    /// Begins a transaction that sees one snapshot and writes nothing.
    pub(super) begin_poll: &'static str,
    /// Begins a transaction that writes.
    pub(super) begin_write: &'static str,
    /// The database's clock as text; `None` where it is the host's own.
    pub(super) now: Option<&'static str>,
    /// Answers with a value that is another once another session has committed anything.
    pub(super) commits: Option<&'static str>,
    /// What tells without counting that nobody has committed to `ttp_rule`.
    pub(super) rules_version: Option<RulesVersion>,
    /// The hexadecimal SHA-256 of `yaml_content` as UTF-8; `None` where the database cannot.
    pub(super) digest: Option<&'static str>,
    /// Whether `updated_at` may be a whole second.
    pub(super) whole_second: &'static str,
    /// The placeholder of the n-th argument, from 1.
    pub(super) placeholder: fn(usize) -> String,
    /// A placeholder that is given a time as text.
    pub(super) time: fn(String) -> String,
    /// An expression as text.
    pub(super) text: fn(&str) -> String,
    /// A column of texts, of whatever kin to that type it is.
    pub(super) plain: fn(&str) -> String,
    /// The length of a column's text in bytes, without reading all of it where the database can tell.
    pub(super) length: fn(&str) -> String,
    /// Expressions one after the other, as a text.
    pub(super) concat: fn(&[&str]) -> String,
    /// A short text, made so long that the server sends it without waiting for more rows.
    pub(super) flushed: fn(&str) -> String,
    /// A column that is compared with case and trailing spaces, whatever its collation.
    pub(super) exact: fn(&str) -> String,
    /// Takes the master's lock for this session and answers whether it could; `None` where the
    /// lock is not the database's.
    pub(super) try_lock: Option<&'static str>,
    /// Answers whether this session holds the master's lock.
    pub(super) holds_lock: Option<&'static str>,
    /// Says which session holds the master's lock; no text where that is not known, or nobody does.
    pub(super) lock_holder: Option<&'static str>,
    /// What follows the rows of an INSERT so that rows that stand are written over.
    pub(super) upsert: fn(&[&str]) -> String,
    /// Tells listeners that something is committed with this transaction.
    pub(super) notify: Option<&'static str>,
    /// Whether an error of this code is the server's last word on a connection.
    pub(super) ends_connection: fn(&str) -> bool,
    /// What an error of the database means, by its code and message.
    pub(super) judge: fn(&str, &str) -> Verdict,
}

/// How many bytes a row has, at most, that comes among others.
const SHORT_ROW: usize = 64 << 10;

/// How long a row that another session holds is waited for.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(1);

/// What an error of a database means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may come right by itself.
    Transient,
    /// A table is not there (yet).
    NoTable,
    /// The file cannot be opened, or is not there (yet).
    NoFile,
    /// This row is not taken; another may be.
    Row,
    /// Another session holds a row of the statement.
    Locked,
    /// A table was altered since the transaction began.
    Altered,
    /// It does not come right until someone does this.
    Refused(&'static str),
}

/// An argument of a query.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arg {
    Text(Option<String>),
    Int(i64),
    Real(Option<f64>),
}

/// A statement under construction.
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) args: Vec<Arg>,
    pub(super) dialect: &'static Dialect,
}

/// Rows that are asked for.
pub(super) struct Select {
    /// Expressions, without arguments; [`columns::fitted`] completes them.
    pub(super) columns: Vec<String>,
    pub(super) table: Table,
    /// Which rows; empty is all of them.
    pub(super) filter: Query,
    /// How many bytes a row may have that comes whole; `None` is as many as its columns may.
    pub(super) longest_row: Option<usize>,
}

impl Select {
    pub(super) fn new(dialect: &'static Dialect, table: Table, columns: Vec<String>) -> Self {
        Self { columns, table, filter: Query::new(dialect, ""), longest_row: None }
    }

    /// Of these rows, those for which this holds, too.
    pub(super) fn and(mut self, condition: impl FnOnce(Query) -> Query) -> Self {
        let separator = if self.filter.sql.is_empty() { "" } else { " AND " };
        self.filter = condition(self.filter.push(separator));
        self
    }

    /// The same, but that longer rows do not come whole: [`columns::missing`] tells which.
    pub(super) fn of_short_rows(self) -> Self {
        Self { longest_row: Some(SHORT_ROW), ..self }
    }

    /// The rows, of which each may be as long as its columns may.
    pub(super) fn into_query(self) -> Query {
        let Self { columns, table, mut filter, longest_row } = self;
        let columns: Vec<String> =
            columns.iter().map(|column| columns::fitted(column, longest_row)).collect();
        let filtered = if filter.sql.is_empty() { "" } else { " WHERE " };
        filter.sql = format!("SELECT {} FROM {}{filtered}{}", columns.join(", "), table.name(), filter.sql);
        filter
    }
}

impl Query {
    pub(super) fn new(dialect: &'static Dialect, sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), args: Vec::new(), dialect }
    }

    pub(super) fn push(mut self, sql: &str) -> Self {
        self.sql.push_str(sql);
        self
    }

    fn arg(mut self, arg: Arg, wrap: fn(String) -> String) -> Self {
        self.args.push(arg);
        self.sql.push_str(&wrap((self.dialect.placeholder)(self.args.len())));
        self
    }

    pub(super) fn text(self, text: impl Into<String>) -> Self {
        self.arg(Arg::Text(Some(text.into())), |placeholder| placeholder)
    }

    pub(super) fn optional_text(self, text: Option<String>) -> Self {
        self.arg(Arg::Text(text), |placeholder| placeholder)
    }

    pub(super) fn int(self, int: i64) -> Self {
        self.arg(Arg::Int(int), |placeholder| placeholder)
    }

    pub(super) fn real(self, real: Option<f64>) -> Self {
        self.arg(Arg::Real(real), |placeholder| placeholder)
    }

    pub(super) fn time(self, time: Option<Timestamp>) -> Self {
        let wrap = self.dialect.time;
        self.arg(Arg::Text(time.map(Timestamp::to_sql_text)), wrap)
    }

    /// A time in the words in which it was read.
    pub(super) fn time_as_read(self, time: String) -> Self {
        let wrap = self.dialect.time;
        self.arg(Arg::Text(Some(time)), wrap)
    }

    /// `(?, ?, …)`
    pub(super) fn texts<'t>(self, texts: impl IntoIterator<Item = &'t String>) -> Self {
        let mut separator = "";
        let list = texts.into_iter().fold(self.push("("), |query, text| {
            let query = query.push(separator).text(text);
            separator = ", ";
            query
        });
        list.push(")")
    }
}

/// A cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    /// What is not UTF-8, as well as it can be shown.
    NotUtf8(String),
}

impl Cell {
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(
            |error| Self::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned()),
            Self::Text,
        )
    }

    /// The text, for what stands in for a key where there is none.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Text(text) | Self::NotUtf8(text) => text,
        }
    }
}

/// A row as it came back; whoever reads it names its columns in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<Cell>);

/// Why a row cannot be read, in words for the log.
pub(super) type BadCell = String;

impl Row {
    /// The bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.0.iter().map(|cell| size_of::<Cell>() + cell.shown().len()).sum()
    }

    /// Takes a cell that may be null.
    pub(super) fn optional(&mut self, index: usize, column: &str) -> Result<Option<String>, BadCell> {
        match self.0.get_mut(index).map(|cell| std::mem::replace(cell, Cell::Null)) {
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::NotUtf8(_)) => Err(format!("{column} is not UTF-8")),
            Some(Cell::Null) | None => Ok(None),
        }
    }

    /// Takes a cell that may not be null.
    pub(super) fn text(&mut self, index: usize, column: &str) -> Result<String, BadCell> {
        self.optional(index, column)?.ok_or_else(|| format!("{column} is null"))
    }

    pub(super) fn int(&mut self, index: usize, column: &str) -> Result<i64, BadCell> {
        let text = self.text(index, column)?;
        text.parse().map_err(|_| format!("{column} is `{}`; expected an integer", shortened(&text)))
    }

    /// Reads a time that may be null. One that PostgreSQL calls infinite is none.
    pub(super) fn optional_time(&mut self, index: usize, column: &str) -> Result<Option<Timestamp>, BadCell> {
        let text = self.optional(index, column)?.filter(|text| text != "infinity");
        text.map(|text| read_time(&text, column)).transpose()
    }

    pub(super) fn time(&mut self, index: usize, column: &str) -> Result<Timestamp, BadCell> {
        read_time(&self.text(index, column)?, column)
    }

    /// Reads a number. What a 32-bit column can hold is read as the shortest number that such a
    /// column reads back as the same, so that 0.85 is 0.85 again.
    pub(super) fn real(&mut self, index: usize, column: &str) -> Result<Option<f64>, BadCell> {
        let Some(text) = self.optional(index, column)? else { return Ok(None) };
        let wide: f64 =
            text.parse().map_err(|_| format!("{column} is `{}`; expected a number", shortened(&text)))?;
        #[expect(clippy::cast_possible_truncation, reason = "whether it is cut off is what is asked")]
        let narrow = wide as f32;
        let held_by_32_bits = f64::from(narrow) == wide;
        Ok(Some(if held_by_32_bits { narrow.to_string().parse().unwrap_or(wide) } else { wide }))
    }
}

fn read_time(text: &str, column: &str) -> Result<Timestamp, BadCell> {
    Timestamp::parse(text).ok_or_else(|| format!("{column} is `{}`; expected a time", shortened(text)))
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl Table {
    pub(in crate::store) const fn name(self) -> &'static str {
        match self {
            Self::Rules => "ttp_rule",
            Self::States => "ttp_rule_state",
        }
    }

    pub(super) const fn stamp(self) -> &'static str {
        match self {
            Self::Rules => "updated_at",
            Self::States => "set_at",
        }
    }

    pub(super) const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Rules => {
                &["rule_id", "rule_version", "source_path", "yaml_content", "updated_at", "updated_by"]
            }
            Self::States => {
                &["rule_id", "state", "confidence_max", "expires_at", "reason", "set_by", "set_at"]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_a_32_bit_column_is_read_as_it_was_written() {
        for (found, read) in [
            ("0.85", 0.85),
            ("0.8500000238418579", 0.85),
            ("0.30000000000000004", 0.300_000_000_000_000_04),
            ("1", 1.0),
            ("0.5", 0.5),
        ] {
            let mut row = Row(vec![Cell::Text(found.into())]);
            assert_eq!(row.real(0, "confidence_max"), Ok(Some(read)), "{found}");
        }
    }
}
