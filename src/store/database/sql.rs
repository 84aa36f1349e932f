//! The differences between the dialects, and queries with their arguments.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::rule::Table;

/// How many times longer than one statement a whole poll may take.
pub(super) const POLL_STATEMENTS: u32 = 12;

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Only `SELECT`.
    Read,
    /// An operator's states.
    Write,
    /// The only writer of the rules, whose lease lasts so long.
    Master(Duration),
    /// Creating the tables, and a missing SQLite file.
    Create,
}

impl Purpose {
    /// How long a session may be silent in a transaction: a writer that is frozen must not keep the rows that all
    /// others write, and a reader neither its snapshot, which the server keeps for it, nor the tables, for whose owner all
    /// later readers wait. A poll that is silent for so long is given up anyway.
    pub(super) const fn longest_silence(self, timeout: Duration) -> Duration {
        match self {
            Self::Read | Self::Create => timeout.saturating_mul(POLL_STATEMENTS),
            Self::Write => Duration::from_secs(5),
            Self::Master(lease) => lease,
        }
    }
}

/// How a dialect tells that `ttp_rule` did not change.
pub(super) struct RulesVersion {
    /// A value that changes when anyone commits to the table; null if it is not reliable at the moment.
    pub(super) value: &'static str,
    /// How long an equal value is believed without counting the rows: it may be a proof, or only a sign.
    pub(super) believed_for: Duration,
}

/// One dialect of SQL.
pub(super) struct Dialect {
    /// The name that [`super::Database::backend`] gives.
    pub(super) backend: &'static str,
    /// Statements that create the tables.
    pub(super) create_rules: &'static str,
    pub(super) create_states: &'static str,
    pub(super) create_version: &'static str,
    /// `None` if a file's lock takes the place of the lease.
    pub(super) create_lease: Option<&'static str>,
    /// `None` if workers do not report into the database.
    pub(super) create_workers: Option<&'static str>,
    /// Finds an index that begins with a column of a table.
    pub(super) find_index: fn(&str, &str) -> String,
    /// Makes the session wait at most a second for a table's lock.
    pub(super) wait_briefly: Option<&'static str>,
    /// In a session that writes, lets the next transaction see one snapshot.
    pub(super) isolate_poll: Option<&'static str>,
    /// Begins a read-only transaction that sees one snapshot.
    pub(super) begin_poll: &'static str,
    /// Begins a writing transaction.
    pub(super) begin_write: &'static str,
    /// The end of a SELECT that locks its rows; empty if the transaction locks everything.
    pub(super) lock_rows: &'static str,
    /// An UPDATE that fails without the right to it, and changes nothing.
    pub(super) try_update: fn(&str) -> String,
    /// The time of the statement, in UTC.
    pub(super) statement_time: &'static str,
    /// The database's clock as text; `None` if it is the host's.
    pub(super) now: Option<&'static str>,
    /// Returns a value that changes when another session commits.
    pub(super) commits: Option<&'static str>,
    /// Tells without counting that nobody has committed to `ttp_rule`.
    pub(super) rules_version: Option<RulesVersion>,
    /// A value that changes soon after anyone deletes from `ttp_rule`; null if there is none at the moment.
    pub(super) deletions_sign: &'static str,
    /// The hexadecimal SHA-256 of `yaml_content` as UTF-8; `None` if the database cannot compute it.
    pub(super) digest: Option<&'static str>,
    /// Whether `updated_at` may be a whole second.
    pub(super) whole_second: &'static str,
    /// Of an expression of the key and one of a row's other values: a hash with 64 bits of both, whatever their types.
    /// `None` if the database has none, or need not be asked.
    pub(super) row_hash: Option<fn(&str, &str) -> String>,
    /// A hash of a column's text.
    pub(super) text_hash: fn(&str) -> String,
    /// The placeholder of the n-th argument, from 1.
    pub(super) placeholder: fn(usize) -> String,
    /// Ends a condition that a stamp is above an argument: a bound above all stamps. Without statistics of a table that
    /// was just loaded, PostgreSQL takes a range with one end for a third of the rows, and reads the whole table.
    pub(super) upper_bound: fn(&str) -> String,
    /// A placeholder for a time that is passed as text.
    pub(super) time: fn(String) -> String,
    /// An expression as text.
    pub(super) text: fn(&str) -> String,
    /// A column of a text type.
    pub(super) plain: fn(&str) -> String,
    /// The length of a column's text in bytes, if possible without reading all of it.
    pub(super) length: fn(&str) -> String,
    /// Concatenates expressions to a text.
    pub(super) concat: fn(&[&str]) -> String,
    /// A short text, padded so that the server sends it without waiting for more rows.
    pub(super) flushed: fn(&str) -> String,
    /// A column that is compared with case and trailing spaces, whatever its collation.
    pub(super) exact: fn(&str) -> String,
    /// The master's lock; `None` if there is no server.
    pub(super) lock: Option<ServerLockSql>,
    /// The end of an INSERT into a table of the daemon's own that replaces these columns where the key exists.
    pub(super) replace: fn(&str, &[&str]) -> String,
    /// The end of an INSERT that replaces existing rows.
    pub(super) upsert: fn(&[&str]) -> String,
    /// Whether user locks can wake followers.
    pub(super) has_bells: bool,
    /// Whether several statements without arguments may be sent as one.
    pub(super) takes_several: bool,
    /// Notifies listeners when this transaction commits.
    pub(super) notify: Option<&'static str>,
    /// Makes this session a listener. A standby refuses it.
    pub(super) listen: Option<&'static str>,
    /// Whether the server closes the connection after an error with this code.
    pub(super) ends_connection: fn(&str) -> bool,
    /// Whether an error with this code means that another host of the address is to be used.
    pub(super) is_wrong_host: fn(&str) -> bool,
    /// Classifies an error of the database by its code and message.
    pub(super) classify_error: fn(&str, &str) -> ErrorClass,
}

/// The lock of a server that a master's session holds, and its mark, a second lock that only a master with a lease holds.
pub(super) struct ServerLockSql {
    /// Takes both for this session, and returns who has the lock then: `ours`, `leased` or `unleased`. The mark comes first,
    /// so that nobody sees the lock of a master with a lease without it.
    pub(super) try_marked: &'static str,
    /// Releases the mark of this session, and keeps the lock.
    pub(super) unmark: &'static str,
    /// A condition: a session has the lock without the mark.
    pub(super) is_unleased: &'static str,
    /// Returns whether this session has the lock.
    pub(super) is_ours: &'static str,
    /// Returns which session has the lock; no text if none has, or it is not known.
    pub(super) holder: &'static str,
    /// Names the server, until it is started again.
    pub(super) server: &'static str,
}

/// How long to wait for a row that another session has locked.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(1);

/// What to do where a right is missing.
pub(super) const GRANT_RIGHTS: &str = "grant the service's user what the README lists";

/// What an error of a database means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// A retry may succeed.
    Transient,
    /// A table does not exist (yet).
    NoTable,
    /// The file cannot be opened, or does not exist (yet).
    NoFile,
    /// The database rejects this row; it may accept others.
    RowRejected,
    /// The database rejects this row because a column's character set lacks a character; what to do.
    CharacterRejected(&'static str),
    /// Another session holds a row of the statement.
    Locked,
    /// Another transaction was in the way of this one, which was rolled back.
    Conflict,
    /// A table was altered since the transaction began.
    Altered,
    /// A retry fails until someone does this.
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

impl Query {
    pub(super) fn new(dialect: &'static Dialect, sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), args: Vec::new(), dialect }
    }

    pub(super) fn push(mut self, sql: &str) -> Self {
        self.sql.push_str(sql);
        self
    }

    /// The bytes of the statement or of its arguments, which a driver sends one after the other: whichever is more.
    pub(super) fn bytes(&self) -> usize {
        // A length or a number has at most 9 bytes, and a type 2.
        let arg = |arg: &Arg| match arg {
            Arg::Text(Some(text)) => text.len() + 11,
            Arg::Text(None) | Arg::Int(_) | Arg::Real(_) => 11,
        };
        self.sql.len().max(self.args.iter().map(arg).sum())
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

    /// A time in the same spelling as it was read.
    pub(super) fn time_as_read(self, time: String) -> Self {
        let wrap = self.dialect.time;
        self.arg(Arg::Text(Some(time)), wrap)
    }

    /// The condition that a column's time is above `time`.
    pub(super) fn above(self, column: &str, time: Timestamp) -> Self {
        let bound = (self.dialect.upper_bound)(column);
        self.push(&format!("{column} > ")).time(Some(time)).push(&bound)
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

/// The end of an INSERT that replaces these columns in SQLite and PostgreSQL where `key` exists.
pub(super) fn replace_on_conflict(key: &str, columns: &[&str]) -> String {
    let sets: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    format!(" ON CONFLICT ({key}) DO UPDATE SET {}", sets.join(", "))
}

/// The same for a table of rules or states.
pub(super) fn on_conflict(columns: &[&str]) -> String {
    replace_on_conflict("rule_id", columns)
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
