//! What a poll asks first, in one statement: the clock, what shows whether anything changed, and the counts.

use super::ManifestHint;
use crate::clock::Timestamp;
use crate::rule::{Limits, Table};
use crate::store::database::manifest;
use crate::store::database::row::Row;
use crate::store::database::sql::{Dialect, Query};
use crate::store::poll::{
    Beat, CountQuestion, Counts, KnownCount, TablesVersion, Window, WindowSum, WindowSums, unreadable,
};
use crate::store::watermark::Watermark;
use crate::store::{StoreError, lease};

/// What a server can be asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'s> {
    pub(super) has_version: bool,
    pub(super) has_lease: bool,
    pub(super) has_xor: bool,
    /// An expression of the server's role; `None` if the database is a file.
    pub(super) role: Option<&'s str>,
}

/// Pushes the SELECT that counts the rules of a window and sums them. The result is one text, because a scalar subquery
/// has one column.
fn push_window(query: Query, window: Window, has_xor: bool) -> Query {
    let (dialect, table) = (query.dialect, Table::Rules);
    let (stamp, low) = (table.stamp(), window.low.max(Watermark::FLOOR));
    let Some(row_hash) = dialect.row_hash.filter(|_| has_xor && window.is_summed) else {
        let count = format!("(SELECT {} FROM {} WHERE ", (dialect.text)("count(*)"), table.name());
        return query.push(&count).above(stamp, low).push(")");
    };
    // The columns of a header.
    let (length, hash) = ((dialect.length)("yaml_content"), (dialect.text_hash)("yaml_content"));
    let text = format!("CASE WHEN {length} <= {} THEN {hash} ELSE {length} END", Limits::LARGEST);
    let text = format!("CASE WHEN {} THEN {text} END", dialect.whole_second);
    let others = format!("rule_version, {}, updated_at, {text}", (dialect.exact)("source_path"));
    let hash = row_hash("rule_id", &others);
    if dialect.has_bells {
        // One argument: the rows above the low mark are compared with those that the last poll found above a lower one.
        let sums = format!(
            "(SELECT concat_ws(' ', count(*), count(*), bit_xor({hash}), 0) FROM {} WHERE ",
            table.name()
        );
        return query.push(&sums).above(stamp, low).push(")");
    }
    let query = query.push("(SELECT concat_ws(' ', count(CASE WHEN ").above(stamp, low);
    let query = query.push(" THEN 1 END), count(*), coalesce(bit_xor(CASE WHEN ").above(stamp, low);
    // Each row is hashed once, for one of the sums.
    let query = query.push(&format!(" THEN {hash} END), 0), coalesce(bit_xor(CASE WHEN {stamp} <= "));
    let query = query.time(Some(low)).push(&format!(" THEN {hash} END), 0)) FROM {} WHERE ", table.name()));
    query.above(stamp, window.last.max(Watermark::FLOOR)).push(")")
}

/// Selects the clock, the rules' version, the sign of deletions, the counts of both tables, the row of
/// `rulesyncd_version`, the server's role, the master's last beat, and the manifest's hint; counts of the rules that
/// [`KnownCount`] makes unnecessary are null.
pub(super) fn query(
    dialect: &'static Dialect,
    question: &CountQuestion<'_>,
    Shape { has_version, has_lease, has_xor, role }: Shape<'_>,
    hint: Option<&ManifestHint>,
) -> Query {
    let count = (dialect.text)("count(*)");
    let mut query = Query::new(dialect, "SELECT ").push(dialect.now.unwrap_or("NULL")).push(" AS n");
    // A derived table costs a server much, beside all else of an idle poll.
    query = query.push(if question.wants_signs { ", found.version, found.sign" } else { ", NULL, NULL" });
    for in_window in [false, true] {
        query = query.push(", CASE");
        if question.wants_signs {
            // What is null equals nothing, so the rules are counted. The text of the statement is always the same: a
            // server prepares it once.
            let KnownCount { version, deletions } = question.known;
            query = query.push(" WHEN found.version = ").optional_text(version.map(str::to_owned));
            query = query.push(" THEN NULL");
            if !in_window && has_version {
                let (sign, deleted) = deletions.unzip();
                query = query.push(" WHEN found.sign = ").optional_text(sign.map(str::to_owned));
                let deleted_now = tables_version(&(dialect.text)("max(deleted)"));
                query = query.push(&format!(" AND {deleted_now} = "));
                query = query.optional_text(deleted.map(|deleted| deleted.to_string()));
                query = query.push(" THEN NULL");
            }
        }
        query = query.push(" WHEN 1 = 1 THEN ");
        query = match in_window {
            true => push_window(query, question.rules, has_xor),
            false => query.push(&format!("(SELECT {count} FROM {})", Table::Rules.name())),
        };
        // MariaDB sends the whole expression as the name of a column that has none.
        query = query.push(" END AS n");
    }
    // States are few: they are counted once for both numbers.
    let (states, low) = (Table::States, question.states.low.max(Watermark::FLOOR));
    query = query.push(", (SELECT concat_ws(' ', count(*), count(CASE WHEN ").above(states.stamp(), low);
    query = query.push(&format!(" THEN 1 END)) FROM {}) AS n", states.name()));
    query = match has_version {
        true => {
            query.push(&format!(", {} AS n", tables_version("concat_ws(' ', max(version), max(deleted))")))
        }
        false => query.push(", NULL"),
    };
    query = query.push(&format!(", {} AS n", role.unwrap_or("NULL")));
    // In one text: each column costs a worker bytes at every poll.
    query = query.push(match has_lease {
        true => {
            // Two rows, in a table without a key, are no lease.
            ", (SELECT CASE count(*) WHEN 1 THEN max(concat_ws(' ', term, beat, beat_at, \
             CASE owner WHEN '' THEN '-' END)) END FROM rulesyncd_lease WHERE name = 'master') AS n"
        }
        false => ", NULL",
    });
    if let Some(ManifestHint { realm, .. }) = hint {
        query = manifest::push_hint(query, dialect, realm);
    }
    if !question.wants_signs {
        return query;
    }
    let version = dialect.rules_version.as_ref().map_or("NULL", |version| version.value);
    query.push(&format!(" FROM (SELECT {version} AS version, {} AS sign) AS found", dialect.deletions_sign))
}

/// A value of the row that this program's transactions raise; null if there is none.
fn tables_version(value: &str) -> String {
    format!("(SELECT {value} FROM rulesyncd_version WHERE name = 'tables')")
}

/// What the statement of [`query`] found.
pub(super) struct Answer {
    /// The database's clock; `None` if it is the host's.
    pub(super) clock: Option<Timestamp>,
    pub(super) rules_version: Option<String>,
    pub(super) deletions_sign: Option<String>,
    /// `None` if they are as they were at the last count.
    pub(super) rules: Option<Counts>,
    pub(super) states: Counts,
    pub(super) version: Option<TablesVersion>,
    pub(super) role: Option<String>,
    pub(super) beat: Option<Beat>,
    /// Empty if nothing was asked of a manifest.
    pub(super) manifest_hint: String,
}

impl Answer {
    /// # Errors
    /// The row is none of the statement's.
    pub(super) fn read(mut row: Row, has_clock: bool) -> Result<Self, StoreError> {
        let unreadable = |why: String| unreadable(&why);
        let clock = has_clock.then(|| row.time(0, "the clock")).transpose().map_err(unreadable)?;
        let rules_version = row.optional(1, "the version").map_err(unreadable)?;
        let deletions_sign = row.optional(2, "the sign of deletions").map_err(unreadable)?;
        let rules = row.optional(3, "a count").map_err(unreadable)?;
        let rules = rules.map(|rules| number(&rules)).transpose()?;
        let window = row.optional(4, "the window").map_err(unreadable)?;
        let rules = window.map(|found| counts_of(rules, &found)).transpose()?;
        let states = states_of(&row.text(5, "the states").map_err(unreadable)?)?;
        // A row that another program spoilt is as good as none.
        let version = row.optional(6, "the version").ok().flatten().and_then(|found| version_of(&found));
        let role = row.optional(7, "the server's role").ok().flatten();
        let beat = row.optional(8, "the lease").ok().flatten().and_then(|found| beat_of(&found));
        let manifest_hint = manifest::hint_of(row.0.get(9..).unwrap_or_default());
        Ok(Self { clock, rules_version, deletions_sign, rules, states, version, role, beat, manifest_hint })
    }
}

/// Reads a count.
fn number(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| unreadable("a count is no number"))
}

/// Reads what [`push_window`] selects.
fn counts_of(rows: Option<u64>, found: &str) -> Result<Counts, StoreError> {
    let numbers: Vec<&str> = found.split(' ').collect();
    // A server's integer of 64 bits, with or without a sign.
    let hash = |text: &str| text.parse::<i64>().or_else(|_| number(text).map(u64::cast_signed));
    match numbers[..] {
        [in_window] => Ok(Counts { rows, in_window: number(in_window)?, sums: None }),
        [in_window, in_all, hash_window, hash_others] => {
            let low = WindowSum { rows: number(in_window)?, hash: hash(hash_window)? };
            let last = WindowSum { rows: number(in_all)?, hash: low.hash ^ hash(hash_others)? };
            Ok(Counts { rows, in_window: low.rows, sums: Some(WindowSums { low, last }) })
        }
        _ => Err(unreadable("a count is missing")),
    }
}

fn states_of(found: &str) -> Result<Counts, StoreError> {
    let (rows, in_window) = found.split_once(' ').ok_or_else(|| unreadable("a count is missing"))?;
    Ok(Counts { rows: Some(number(rows)?), in_window: number(in_window)?, sums: None })
}

fn version_of(found: &str) -> Option<TablesVersion> {
    let (version, deleted) = found.split_once(' ')?;
    Some(TablesVersion { version: version.parse().ok()?, deleted: deleted.parse().ok()? })
}

/// The master's last beat: its term, its number, its time, and a sign if the lease has no owner. A row that another
/// program spoilt is as good as none.
pub(in crate::store::database) fn beat_of(found: &str) -> Option<Beat> {
    let (found, is_free) = found.strip_suffix(" -").map_or((found, false), |found| (found, true));
    let mut parts = found.splitn(3, ' ');
    let (term, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let is_released = lease::is_released(is_free, term);
    Some(Beat { term, count, at: Timestamp::parse(parts.next()?)?, is_released })
}
