//! Reads the tables for a poll, in SQL: one transaction that sees one snapshot.

use std::sync::Arc;
use std::time::Duration;

use super::columns::Select;
use super::connection::{self, Connection};
use super::fleet_rows::FleetRows;
use super::sql::{Dialect, Query};
use super::{columns, manifest, tables};
use crate::clock::{SharedClock, Timestamp, since_boot};
use crate::rule::{FoundManifest, Limits, Table};
use crate::store::poll::{
    Beat, CountQuestion, Counted, Counts, HeaderRow, KnownCount, RowContent, Rows, StateFound, TableReader,
    TablesVersion, Which, WholeRow, Window, WindowSum, WindowSums, unreadable,
};
use crate::store::watermark::Watermark;
use crate::store::{READING, StoreError, lease};

/// The tables, read through one connection.
pub(super) struct Snapshot {
    pub(super) connection: Connection,
    /// The host's clock, if it is the database's, too.
    pub(super) clock: SharedClock,
    /// The realm whose manifest is read in this snapshot; `None` to read none.
    pub(super) realm: Option<Arc<str>>,
    /// Whether `rulesyncd_version` can be read.
    pub(super) has_version: bool,
    /// Whether `rulesyncd_lease` can be read.
    pub(super) has_lease: bool,
    /// Whether it can be read, or the server does not say.
    pub(super) has_beats: bool,
    /// The master's last beat where it cannot be read now; `None` if it can, or never could.
    pub(super) last_beat: Option<Beat>,
    /// What the first count asks of the manifest; `None` for nothing.
    pub(super) hint: Option<ManifestHint>,
    /// When the transaction was begun, since the host was booted; `None` before.
    pub(super) begun: Option<Duration>,
    /// The hint that it found, or why there is no manifest.
    pub(super) found_hint: Option<Result<String, FoundManifest>>,
    /// Where to put what the fleet says, if that is read in the same snapshot.
    pub(super) fleet: Option<FleetRows>,
}

/// A question whether the manifest's row is still the same.
#[derive(Debug)]
pub(super) struct ManifestHint {
    pub(super) realm: Arc<str>,
    /// The hint when the manifest was last read.
    pub(super) known: String,
}

impl Snapshot {
    fn dialect(&self) -> &'static Dialect {
        self.connection.dialect()
    }

    fn rows(&mut self, select: Select) -> SnapshotRows<'_> {
        let dialect = self.dialect();
        SnapshotRows { rows: self.connection.rows(READING, select), dialect }
    }
}

impl TableReader for Snapshot {
    type Rows<'r>
        = SnapshotRows<'r>
    where
        Self: 'r;

    fn believed_for(&self) -> Duration {
        self.dialect().rules_version.as_ref().map_or(Duration::ZERO, |version| version.believed_for)
    }

    fn has_digests(&self) -> bool {
        self.dialect().digest.is_some()
    }

    async fn count(&mut self, question: CountQuestion<'_>) -> Result<Counted, StoreError> {
        let dialect = self.dialect();
        let hint = self.hint.take();
        let role = self.connection.role_probe().map(str::to_owned);
        let shape = Shape {
            has_version: self.has_version,
            has_lease: self.has_lease,
            has_xor: self.connection.has_xor(),
            role: role.as_deref(),
        };
        let query = count(dialect, &question, shape, hint.as_ref());
        // The host's clock is read before the snapshot: rows that the snapshot does not contain are committed later.
        let now = self.clock.now();
        let row = match self.connection.row(READING, query).await {
            // A table that is missing, or may not be read, must not end the poll. In a transaction PostgreSQL answers no
            // further statement.
            Err(error) if hint.is_some() && self.begun.is_none() && !self.connection.is_broken() => {
                self.found_hint = Some(Err(manifest::missing(&error)));
                let query = count(dialect, &question, shape, None);
                self.connection.row(READING, query).await?
            }
            row => row?,
        };
        let mut row = row.ok_or_else(|| unreadable("no answer"))?;
        let now = match dialect.now {
            Some(_) => {
                let now = row.time(0, "the clock").map_err(|why| unreadable(&why))?;
                // The snapshot may be as old as the transaction, or as a process that was frozen meanwhile: what was
                // committed after it must not seem to be older than the poll.
                let age = self.begun.map_or(Duration::ZERO, |begun| since_boot().saturating_sub(begun));
                now.before(age)
            }
            None => now,
        };
        let rules_version = row.optional(1, "the version").map_err(|why| unreadable(&why))?;
        let deletions_sign = row.optional(2, "the sign of deletions").map_err(|why| unreadable(&why))?;
        let rules = row.optional(3, "a count").map_err(|why| unreadable(&why))?;
        let rules = rules.map(|rules| number(&rules)).transpose()?;
        let window = row.optional(4, "the window").map_err(|why| unreadable(&why))?;
        let rules = window.map(|found| counts_of(rules, &found)).transpose()?;
        let states = row.text(5, "the states").map_err(|why| unreadable(&why))?;
        let (rows, in_window) = states.split_once(' ').ok_or_else(|| unreadable("a count is missing"))?;
        let states = Counts { rows: Some(number(rows)?), in_window: number(in_window)?, sums: None };
        // A row that another program spoilt is as good as none.
        let version = row.optional(6, "the version").ok().flatten();
        let version = version.and_then(|found| {
            let (version, deleted) = found.split_once(' ')?;
            Some(TablesVersion { version: version.parse().ok()?, deleted: deleted.parse().ok()? })
        });
        if let Ok(Some(role)) = row.optional(7, "the server's role") {
            self.connection.note_role(READING, &role)?;
        }
        let beat = row.optional(8, "the lease").ok().flatten();
        let beat = beat.and_then(|beat| beat_of(&beat)).or(self.last_beat);
        if let Some(ManifestHint { realm, known }) = hint.filter(|_| self.found_hint.is_none()) {
            let found = manifest::hint_of(row.0.get(9..).unwrap_or_default());
            self.realm = (found != known).then_some(realm);
            self.found_hint = Some(Ok(found));
        }
        let manifest_moved = self.realm.is_some();
        Ok(Counted {
            now,
            takes_writes: self.connection.role().is_the_writer(),
            has_beats: self.has_beats,
            beat,
            rules,
            states,
            rules_version,
            deletions_sign,
            version,
            manifest_moved,
        })
    }

    async fn manifest(&mut self) -> Result<Option<FoundManifest>, StoreError> {
        match self.realm.clone() {
            Some(realm) => manifest::read(&mut self.connection, &realm).await.map(Some),
            None => Ok(None),
        }
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.begun = Some(since_boot());
        self.connection.run(READING, self.dialect().begin_poll).await
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        if let Some(rows) = &mut self.fleet {
            *rows = FleetRows::read(&mut self.connection).await?;
        }
        self.connection.run(READING, "COMMIT").await
    }

    fn headers(&mut self, which: Which<'_>, thorough: bool) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select_marks(self.dialect(), thorough), which))
    }

    fn short_rules(&mut self, which: Which<'_>) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select(self.dialect(), Table::Rules), which).of_short_rows())
    }

    fn long_rules(&mut self, keys: &[String]) -> SnapshotRows<'_> {
        let dialect = self.dialect();
        let select = filtered(tables::select(dialect, Table::Rules), Which::Keys(keys));
        SnapshotRows { rows: self.connection.row_by_row(READING, select), dialect }
    }

    fn states(&mut self, which: Which<'_>) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select(self.dialect(), Table::States), which))
    }

    fn keys(&mut self, table: Table) -> SnapshotRows<'_> {
        self.rows(tables::select_keys(self.dialect(), table))
    }
}

fn filtered(select: Select, which: Which<'_>) -> Select {
    let stamp = select.table.stamp();
    match which {
        Which::All => select,
        Which::Above(low) => select.and(|filter| filter.above(stamp, low)),
        Which::Keys(keys) => select.and(|filter| filter.push("rule_id IN ").texts(keys)),
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

/// The master's last beat: its term, its number, its time, and a sign if the lease has no owner. A row that another
/// program spoilt is as good as none.
pub(super) fn beat_of(found: &str) -> Option<Beat> {
    let (found, is_free) = found.strip_suffix(" -").map_or((found, false), |found| (found, true));
    let mut parts = found.splitn(3, ' ');
    let (term, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let is_released = lease::is_released(is_free, term);
    Some(Beat { term, count, at: Timestamp::parse(parts.next()?)?, is_released })
}

/// What a server can be asked.
#[derive(Debug, Clone, Copy)]
struct Shape<'s> {
    has_version: bool,
    has_lease: bool,
    has_xor: bool,
    /// An expression of the server's role; `None` if the database is a file.
    role: Option<&'s str>,
}

/// Pushes the SELECT that counts the rules of a window and sums them. The result is one text, because a scalar subquery
/// has one column.
fn push_window(query: Query, window: Window, has_xor: bool) -> Query {
    let (dialect, table) = (query.dialect, Table::Rules);
    let (stamp, low) = (table.stamp(), window.low.max(Watermark::FLOOR));
    let Some(row_hash) = dialect.row_hash.filter(|_| has_xor) else {
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
fn count(
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
                let deleted_now = tables_version(&(dialect.text)("deleted"));
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
        true => query.push(&format!(", {} AS n", tables_version("concat_ws(' ', version, deleted)"))),
        false => query.push(", NULL"),
    };
    query = query.push(&format!(", {} AS n", role.unwrap_or("NULL")));
    // In one text: each column costs a worker bytes at every poll.
    query = query.push(match has_lease {
        true => {
            ", (SELECT concat_ws(' ', term, beat, beat_at, CASE owner WHEN '' THEN '-' END) FROM rulesyncd_lease \
             WHERE name = 'master') AS n"
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

/// Rows of a [`Snapshot`].
pub(super) struct SnapshotRows<'r> {
    rows: connection::Rows<'r>,
    dialect: &'static Dialect,
}

impl Rows for SnapshotRows<'_> {
    async fn header(&mut self) -> Result<Option<HeaderRow>, StoreError> {
        let Some(mut row) = self.rows.next().await? else { return Ok(None) };
        let shown = tables::key(&row);
        let missing = columns::missing(&mut row);
        let key = row.text(0, "rule_id");
        let (key, header) = match missing {
            Ok(None) => (key, tables::mark(&mut row, self.dialect).ok()),
            Ok(Some(_)) => (key, None),
            Err(reason) => (key.and(Err(reason)), None),
        };
        Ok(Some(HeaderRow { shown, key, header }))
    }

    async fn rule(&mut self) -> Result<Option<WholeRow>, StoreError> {
        let Some(mut row) = self.rows.next().await? else { return Ok(None) };
        let key = tables::key(&row);
        let content = match columns::missing(&mut row) {
            Ok(Some(bytes)) => {
                let updated_at = tables::stamp(&mut row).unwrap_or(Timestamp::MIN);
                RowContent::Long { bytes, updated_at }
            }
            Ok(None) => tables::rule_row(&mut row).map_or_else(RowContent::Unreadable, RowContent::Row),
            Err(reason) => RowContent::Unreadable(reason),
        };
        Ok(Some(WholeRow { key, content }))
    }

    async fn state(&mut self) -> Result<Option<StateFound>, StoreError> {
        let row = self.rows.next().await?;
        Ok(row.map(|mut row| StateFound { key: tables::key(&row), row: tables::state_row(&mut row) }))
    }

    async fn key(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.rows.next().await?.map(|row| tables::key(&row)))
    }
}
