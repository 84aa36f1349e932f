//! The table `rulesyncd_manifest`: the signed manifest of the release that the rows are, and its list in pieces.

use super::connection::Connection;
use super::create;
use super::row::Cell;
use super::sql::{Dialect, Query};
use crate::clock::Timestamp;
use crate::rule::FoundManifest;
use crate::store::StoreError;
use crate::trust::{MAX_LIST, MAX_MANIFEST, MAX_SIGNATURE, MAX_SIGNATURES};

const WHAT: &str = "reading the manifest";
const WRITING: &str = "writing the manifest";

/// The most bytes of the list in one row: no statement outgrows `max_allowed_packet`.
const PIECE: usize = 512 << 10;

/// The columns of part 0, within their limits: a longer one is null.
fn part_0(connection: &Connection, realm: &str) -> Query {
    let dialect = connection.dialect();
    let fitted = |column: &str, most: usize| {
        let (length, plain) = ((dialect.length)(column), (dialect.plain)(column));
        format!("CASE WHEN {length} <= {most} THEN {plain} END")
    };
    let signatures = MAX_SIGNATURES * (MAX_SIGNATURE + 1);
    let columns = format!(
        "{} AS body, {} AS signatures",
        fitted("body", MAX_MANIFEST),
        fitted("signatures", signatures)
    );
    of_part(connection, &columns, realm, 0)
}

fn of_part(connection: &Connection, columns: &str, realm: &str, part: i64) -> Query {
    let query = connection.query(format!("SELECT {columns} FROM rulesyncd_manifest WHERE realm = "));
    query.text(realm).push(" AND part = ").int(part)
}

/// Creates the table if it is missing.
pub(super) async fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let text = if connection.dialect().backend == "mysql" { "MEDIUMTEXT" } else { "TEXT" };
    let create = format!(
        "CREATE TABLE rulesyncd_manifest (realm VARCHAR(64) NOT NULL, part INTEGER NOT NULL, version VARCHAR(32) NOT \
         NULL, body {text} NOT NULL, signatures {text}, updated_at VARCHAR(32) NOT NULL, PRIMARY KEY (realm, part))"
    );
    create::if_missing(connection, "making the table rulesyncd_manifest", "rulesyncd_manifest", &create)
        .await
        .map(drop)
}

/// Whether any manifest is published; `false` if the table is missing or may not be read.
///
/// # Errors
/// The server does not say now.
pub(super) async fn is_filled(connection: &mut Connection) -> Result<bool, StoreError> {
    let query = connection.query("SELECT min(version) FROM rulesyncd_manifest");
    match connection.cell(WHAT, query).await {
        Ok(cell) => Ok(!cell.shown().is_empty()),
        Err(error) if error.is_lasting() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The realm of which a manifest is published; one database holds one realm.
pub(super) async fn realm(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let dialect = connection.dialect();
    let (length, plain) = ((dialect.length)("realm"), (dialect.plain)("min(realm)"));
    let sql = format!("SELECT {plain} FROM rulesyncd_manifest WHERE part = 0 AND {length} <= 64");
    let query = connection.query(sql);
    let cell = connection.cell(WHAT, query).await?;
    Ok(Some(cell.shown().to_owned()).filter(|realm| !realm.is_empty()))
}

/// The two columns that change whenever a manifest is published, within their limits.
fn hint_columns(dialect: &'static Dialect) -> [String; 2] {
    ["version", "updated_at"].map(|column| {
        format!("CASE WHEN {} <= 64 THEN {} END", (dialect.length)(column), (dialect.plain)(column))
    })
}

/// What changes whenever a manifest is published. A hint only: whoever can write the table can write it.
pub(super) async fn hint(connection: &mut Connection, realm: &str) -> Result<String, StoreError> {
    let query = of_part(connection, &hint_columns(connection.dialect()).join(", "), realm, 0);
    let row = connection.row(WHAT, query).await?;
    Ok(hint_of(row.as_ref().map_or(&[][..], |row| &row.0)))
}

/// The hint of its two columns; of none if there is no row.
pub(super) fn hint_of(cells: &[Cell]) -> String {
    let shown = |index: usize| cells.get(index).map_or("", Cell::shown);
    format!("{} {}", shown(0), shown(1))
}

/// Adds the two columns of the hint to a statement that is made anyway.
pub(super) fn push_hint(mut query: Query, dialect: &'static Dialect, realm: &str) -> Query {
    for (column, name) in hint_columns(dialect).iter().zip(["hint_1", "hint_2"]) {
        query = query.push(&format!(", (SELECT {column} FROM rulesyncd_manifest WHERE realm = "));
        // MariaDB sends the text of a column without a name with every answer.
        query = query.text(realm).push(&format!(" AND part = 0) AS {name}"));
    }
    query
}

/// Part 0, of which nothing is verified.
pub(super) async fn read(connection: &mut Connection, realm: &str) -> Result<FoundManifest, StoreError> {
    let query = part_0(connection, realm);
    let Some(mut row) = connection.row(WHAT, query).await? else {
        return Ok(FoundManifest::Missing(format!("rulesyncd_manifest has none for the realm `{realm}`")));
    };
    let body = row.text(0, "body").map(String::into_bytes);
    let signatures = row.text(1, "signatures");
    Ok(match (body, signatures) {
        (Ok(body), Ok(signatures)) => FoundManifest::Read { body, signatures },
        (Err(why), _) | (_, Err(why)) => FoundManifest::Malformed(format!("{why}, or too long")),
    })
}

/// The manifest of a table that could not be read.
pub(super) fn missing(error: &StoreError) -> FoundManifest {
    FoundManifest::Missing(why_missing(error))
}

/// Why there is no manifest, if the table could not be read.
pub(super) fn why_missing(error: &StoreError) -> String {
    match error {
        StoreError::NoTables { .. } => {
            "the table rulesyncd_manifest does not exist; a master with `trust` creates it".to_owned()
        }
        error => format!("the table rulesyncd_manifest cannot be read: {}", error.cause()),
    }
}

/// The list, whose signed length is `bytes`; `None` if a piece is missing, or is not as long as it was written.
pub(super) async fn read_list(
    connection: &mut Connection,
    realm: &str,
    bytes: usize,
) -> Result<Option<Vec<u8>>, StoreError> {
    let bytes = bytes.min(MAX_LIST);
    let (length, plain) = ((connection.dialect().length)("body"), (connection.dialect().plain)("body"));
    let mut list = Vec::with_capacity(bytes);
    let mut part = 0;
    while list.len() < bytes {
        part += 1;
        let piece = PIECE.min(bytes - list.len());
        let column = format!("CASE WHEN {length} = {piece} THEN {plain} END");
        let query = of_part(connection, &column, realm, part);
        let piece = connection.cell(WHAT, query).await?;
        if piece.shown().is_empty() {
            return Ok(None);
        }
        list.extend_from_slice(piece.shown().as_bytes());
    }
    Ok(Some(list))
}

/// A manifest to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestWrite {
    /// Which swarm it is for.
    pub realm: String,
    /// Its version.
    pub version: String,
    /// The bytes of `MANIFEST`.
    pub body: String,
    /// Its signatures, one after the other.
    pub signatures: String,
    /// The bytes of `MANIFEST.rules`.
    pub list: String,
}

/// Replaces the manifest of a realm, in the transaction of the caller.
pub(super) async fn write(
    connection: &mut Connection,
    manifest: &ManifestWrite,
    now: Timestamp,
) -> Result<(), StoreError> {
    let ManifestWrite { realm, version, body, signatures, list } = manifest;
    let old = connection.query("DELETE FROM rulesyncd_manifest WHERE realm = ").text(realm);
    connection.execute(WRITING, old).await?;
    // The list is ASCII.
    let pieces = list.as_bytes().chunks(PIECE).map(|piece| String::from_utf8_lossy(piece).into_owned());
    let parts =
        std::iter::once((body.clone(), Some(signatures.clone()))).chain(pieces.map(|piece| (piece, None)));
    for (part, (body, signatures)) in (0..).zip(parts) {
        let new = connection
            .query("INSERT INTO rulesyncd_manifest (realm, part, version, body, signatures, updated_at) VALUES (")
            .text(realm)
            .push(", ")
            .int(part)
            .push(", ")
            .text(version)
            .push(", ")
            .text(body)
            .push(", ")
            .optional_text(signatures)
            .push(", ")
            .text(now.to_sql_text())
            .push(")");
        connection.execute(WRITING, new).await?;
    }
    Ok(())
}
