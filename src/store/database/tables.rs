//! The statements on the two tables, and their rows as structures.

use super::columns;
use super::columns::Select;
use super::connection::{Connection, LONGEST_ANSWER};
use super::create;
use super::row::{BadCell, Row};
use super::sql::{Dialect, Query};
use super::writes::Scope;
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, FoundStateRow, RuleHeader, RuleRow, StateRow, Table};
use crate::store::StoreError;
use crate::store::poll::{CHUNK, Header, LONG_ROWS};

/// All columns of a table as text, and whether they are complete. The caller adds a filter.
pub(super) fn select(dialect: &'static Dialect, table: Table) -> Select {
    let expression = |column: &&'static str| match *column {
        "rule_version" | "updated_at" | "set_at" | "expires_at" => (dialect.text)(column),
        // As the server prints it, which is what other readers of a 32-bit column get. SQLite has no such column, and
        // its own text of a number has fewer digits than the number.
        "confidence_max" if dialect.now.is_some() => (dialect.text)("confidence_max"),
        "confidence_max" => "confidence_max".to_owned(),
        column => (dialect.plain)(column),
    };
    let others = &table.columns()[1..];
    let expressions: Vec<_> = others.iter().map(|column| (*column, expression(column))).collect();
    columns::select(dialect, table, &expressions)
}

/// The keys of a table.
pub(super) fn select_keys(dialect: &'static Dialect, table: Table) -> Select {
    Select::new(dialect, table, vec![columns::key(dialect)])
}

/// The rows of `ttp_rule` without their text, if the database can compute its digest. The caller adds a filter.
pub(super) fn select_summaries(dialect: &'static Dialect) -> Select {
    let digest = dialect.digest.unwrap_or("yaml_content").to_owned();
    columns::select(
        dialect,
        Table::Rules,
        &[
            ("rule_version", (dialect.text)("rule_version")),
            ("source_path", (dialect.plain)("source_path")),
            ("yaml_content", digest),
            ("updated_at", (dialect.text)("updated_at")),
            ("updated_by", (dialect.plain)("updated_by")),
        ],
    )
}

/// The headers of rows of `ttp_rule`: id, version, path, stamp, and the text's digest unless the stamp identifies the
/// text. The caller adds a filter.
///
/// A clock gives a stamp with a fraction of a second only once; two writes may share a whole second. With `thorough`,
/// every row has its digest.
pub(super) fn select_marks(dialect: &'static Dialect, thorough: bool) -> Select {
    let digest = dialect.digest.unwrap_or("yaml_content");
    let digest = match thorough {
        true => digest.to_owned(),
        false => format!("CASE WHEN {} THEN {digest} END", dialect.whole_second),
    };
    columns::select(
        dialect,
        Table::Rules,
        &[
            ("rule_version", (dialect.text)("rule_version")),
            ("source_path", (dialect.plain)("source_path")),
            ("updated_at", (dialect.text)("updated_at")),
            ("yaml_content", digest),
        ],
    )
}

/// Reads a row of [`select_marks`], except its key.
pub(super) fn mark(row: &mut Row, dialect: &Dialect) -> Result<Header, BadCell> {
    let rule_version = row.int(1, "rule_version")?;
    let source_path = row.text(2, "source_path")?;
    let updated_at = row.time(3, "updated_at")?;
    let digest = |text: String| match dialect.digest {
        Some(_) => ContentDigest::from_hex(&text),
        None => Some(ContentDigest::of(text)),
    };
    let content = row.optional(4, "yaml_content")?.and_then(digest);
    Ok(Header { rule_version, source_path, updated_at, content })
}

/// Reads a complete row of [`select_summaries`].
pub(super) fn summary(row: &mut Row, dialect: &Dialect) -> Result<RuleHeader, BadCell> {
    let rule_id = row.text(0, "rule_id")?;
    let rule_version = row.int(1, "rule_version")?;
    let source_path = row.text(2, "source_path")?.into();
    let text = row.text(3, "yaml_content")?;
    let content_sha256 = match dialect.digest {
        Some(_) => ContentDigest::from_hex(&text).ok_or("yaml_content has no digest")?,
        None => ContentDigest::of(text),
    };
    let updated_at = row.time(4, "updated_at")?;
    let updated_by = row.text(5, "updated_by")?.into();
    Ok(RuleHeader { rule_id, rule_version, source_path, content_sha256, updated_at, updated_by })
}

/// The key of a row, in a form that can be shown.
pub(super) fn key(row: &Row) -> String {
    row.0.first().map_or("", |cell| cell.shown()).to_owned()
}

/// The stamp of a rule's row.
pub(super) fn stamp(row: &mut Row) -> Result<Timestamp, BadCell> {
    row.time(4, "updated_at")
}

/// Reads a complete row of [`select`] of the rules.
pub(super) fn rule_row(row: &mut Row) -> Result<RuleRow, BadCell> {
    let (rule_id, rule_version) = (row.text(0, "rule_id")?, row.int(1, "rule_version")?);
    let source_path = row.text(2, "source_path")?.into();
    let yaml_content = row.text(3, "yaml_content")?;
    let content_sha256 = ContentDigest::of(&yaml_content);
    let (updated_at, updated_by) = (row.time(4, "updated_at")?, row.text(5, "updated_by")?.into());
    let header = RuleHeader { rule_id, rule_version, source_path, content_sha256, updated_at, updated_by };
    Ok(RuleRow { header, yaml_content })
}

/// A row of [`select`] of the states by its key, or why it cannot be read.
pub(super) fn found_state_row(mut row: Row) -> FoundStateRow {
    (key(&row), state_row(&mut row))
}

/// Reads a row of [`select`] of the states.
pub(super) fn state_row(row: &mut Row) -> Result<StateRow, BadCell> {
    columns::missing(row)?;
    Ok(StateRow {
        rule_id: row.text(0, "rule_id")?,
        state: row.text(1, "state")?,
        confidence_max: row.real(2, "confidence_max")?,
        expires_at: row.optional_time(3, "expires_at")?,
        reason: row.optional(4, "reason")?,
        set_by: row.optional(5, "set_by")?,
        set_at: row.optional_time(6, "set_at")?,
    })
}

/// Stands for a row that cannot be read: it has no owner and differs from every file, so that a file with its id
/// overwrites it.
fn out_of_order(rule_id: String) -> RuleHeader {
    RuleHeader {
        rule_id,
        rule_version: -1,
        source_path: "".into(),
        updated_by: "".into(),
        updated_at: Timestamp::MIN,
        content_sha256: ContentDigest::of(""),
    }
}

/// The headers of the rows in `scope`.
pub(super) async fn summaries(
    connection: &mut Connection,
    scope: Scope<'_>,
) -> Result<Vec<RuleHeader>, StoreError> {
    let dialect = connection.dialect();
    let mut found = Vec::new();
    let (column, ids) = match scope {
        Scope::All => {
            read_summaries(connection, select_summaries(dialect), &mut found).await?;
            return Ok(found);
        }
        Scope::Keys(ids) => ("rule_id", ids),
        Scope::AnyCase(ids) => ("lower(rule_id)", ids),
    };
    for chunk in ids.chunks(CHUNK) {
        let among = |filter: Query| filter.push(&format!("{column} IN ")).texts(chunk);
        read_summaries(connection, select_summaries(dialect).and(among), &mut found).await?;
    }
    Ok(found)
}

/// The headers of the rows of these keys, which no other session changes until the end of this transaction.
pub(super) async fn locked_summaries(
    connection: &mut Connection,
    keys: &[String],
) -> Result<Vec<RuleHeader>, StoreError> {
    let dialect = connection.dialect();
    let mut found = Vec::new();
    for chunk in keys.chunks(CHUNK) {
        let among = |filter: Query| filter.push("rule_id IN ").texts(chunk).push(dialect.lock_rows);
        read_summaries(connection, select_summaries(dialect).and(among), &mut found).await?;
    }
    Ok(found)
}

/// Reads headers in one snapshot.
async fn read_summaries(
    connection: &mut Connection,
    select: Select,
    found: &mut Vec<RuleHeader>,
) -> Result<(), StoreError> {
    let (what, dialect) = ("reading the rules", connection.dialect());
    // A filter selects few rows, which need no transaction.
    let is_long = select.filter.sql.is_empty();
    if is_long {
        if let Some(isolate) = dialect.isolate_poll {
            connection.run(what, isolate).await?;
        }
        connection.run(what, dialect.begin_poll).await?;
    }
    let mut size = 0;
    let mut rows = connection.rows(what, select);
    let read = async {
        let mut long = Vec::new();
        while let Some(mut row) = rows.next().await? {
            if size > LONGEST_ANSWER {
                break;
            }
            let key = key(&row);
            let row = match columns::missing(&mut row) {
                Ok(Some(_)) => {
                    size += size_of::<String>() + key.len();
                    long.push(key);
                    continue;
                }
                Ok(None) => summary(&mut row, dialect).unwrap_or_else(|_| out_of_order(key)),
                Err(_) => out_of_order(key),
            };
            size += row.memory();
            found.push(row);
        }
        Ok(long)
    };
    let read = read.await;
    drop(rows);
    let read = match read {
        Ok(_) if size > LONGEST_ANSWER => Err(connection.give_up(what)),
        Ok(long) => read_long_summaries(connection, &long, found).await,
        Err(error) => Err(error),
    };
    if is_long {
        let ended = connection.run(what, "COMMIT").await;
        return read.and(ended);
    }
    read
}

/// Reads rows that are too long to come together with others.
async fn read_long_summaries(
    connection: &mut Connection,
    keys: &[String],
    found: &mut Vec<RuleHeader>,
) -> Result<(), StoreError> {
    let dialect = connection.dialect();
    // Where the database has no digest the texts come, and the driver holds all that a statement selects.
    let at_once = if dialect.digest.is_some() { CHUNK } else { LONG_ROWS };
    for keys in keys.chunks(at_once) {
        let select = select_summaries(dialect).and(|filter| filter.push("rule_id IN ").texts(keys));
        let mut rows = connection.row_by_row("reading the rules", select);
        while let Some(mut row) = rows.next().await? {
            let key = key(&row);
            found.push(summary(&mut row, dialect).unwrap_or_else(|_| out_of_order(key)));
        }
    }
    Ok(())
}

/// Writes rows of `table`, and replaces those with the same keys.
pub(super) fn upsert<R>(
    dialect: &'static Dialect,
    table: Table,
    rows: &[R],
    values: impl Fn(Query, &R) -> Query,
) -> Query {
    let columns = table.columns();
    let start = Query::new(dialect, format!("INSERT INTO {} ({}) VALUES ", table.name(), columns.join(", ")));
    let mut separator = "(";
    let query = rows.iter().fold(start, |query, row| {
        let query = values(query.push(separator), row).push(")");
        separator = ", (";
        query
    });
    query.push(&(dialect.upsert)(columns))
}

/// Whether a table's stamp has only whole seconds, as it may on MySQL.
pub(super) async fn has_whole_seconds(connection: &mut Connection, table: Table) -> Result<bool, StoreError> {
    if connection.dialect().backend != "mysql" {
        return Ok(false);
    }
    let query = connection
        .query(
            "SELECT CAST(datetime_precision AS CHAR) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = ",
        )
        .text(table.name())
        .push(" AND column_name = ")
        .text(table.stamp());
    Ok(connection.cell("reading the tables' columns", query).await?.shown() == "0")
}

/// Creates a table if it is missing. Returns whether it was.
pub(super) async fn ensure(connection: &mut Connection, table: Table) -> Result<bool, StoreError> {
    let what = "creating the tables";
    let dialect = connection.dialect();
    let create = match table {
        Table::Rules => dialect.create_rules,
        Table::States => dialect.create_states,
    };
    create::if_missing(connection, what, table.name(), create).await
}

/// Fails with [`StoreError::NoTables`] if a table is missing.
pub(super) async fn expect(connection: &mut Connection, table: Table) -> Result<(), StoreError> {
    let probe = connection.query(format!("SELECT 1 FROM {} WHERE 1 = 0", table.name()));
    connection.row("looking for the tables", probe).await.map(drop)
}

/// Creates an index on a table's stamp if there is none. Waits at most a second for the table's other users, because
/// users that come later wait as long.
pub(super) async fn index(connection: &mut Connection, table: Table) -> Result<(), StoreError> {
    let what = "creating an index";
    let dialect = connection.dialect();
    let (name, stamp) = (table.name(), table.stamp());
    let query = connection.query((dialect.find_index)(name, stamp));
    if connection.fetch(what, query).await?.is_empty() {
        if let Some(wait_briefly) = dialect.wait_briefly {
            connection.run(what, wait_briefly).await?;
        }
        connection.run(what, &format!("CREATE INDEX ix_{name}_{stamp} ON {name} ({stamp})")).await?;
    }
    Ok(())
}
