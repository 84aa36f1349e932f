//! The statements about the row of `rulesyncd_lease`.

use std::time::Duration;

use super::super::connection::Connection;
use super::super::create;
use super::super::row::{Cell, Row};
use super::super::sql::Dialect;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow, ServerLock};
use crate::store::leasing::LeaseSession;

const READING: &str = "reading rulesyncd_lease";
pub(in super::super) const TAKING: &str = "taking the lease";
const ASKING: &str = "asking for the master's lock";

/// The most characters of a text that are read.
const LONGEST: usize = 255;

/// A greater term or beat was not counted by a master, and cannot be raised for ever.
const GREATEST: u64 = 1 << 62;

/// Writes the row if it is still this lease, and no master without one has the server's lock. The owner is a UUID.
pub(in super::super) fn beat(dialect: &Dialect, lead: &Lead) -> String {
    let (now, Lead { owner, term, .. }) = (dialect.statement_time, lead);
    let unleased = dialect.lock.as_ref().filter(|_| lead.minds_lock()).map(|lock| lock.is_unleased);
    let is_alone = unleased.map_or_else(String::new, |unleased| format!(" AND NOT {unleased}"));
    format!(
        "UPDATE rulesyncd_lease SET beat = beat + 1, beat_at = {now} \
         WHERE name = 'master' AND owner = '{owner}' AND term = {term}{is_alone}"
    )
}

/// Creates the table if it is missing.
pub(in super::super) async fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let Some(create) = connection.dialect().create_lease else { return Ok(()) };
    create::if_missing(connection, READING, "rulesyncd_lease", create).await.map(drop)
}

/// The row; `None` if there is none, or none that a master can take: another program spoilt it.
///
/// # Errors
/// [`StoreError::Refused`] if there are several, as there may be in a table that was made by hand without a key.
pub(in super::super) async fn read(connection: &mut Connection) -> Result<Option<LeaseRow>, StoreError> {
    Ok(find(connection).await?.and_then(|row| lease_of(&row)))
}

/// Expressions of what tells one lease from another: owner, term and beat.
fn identity(dialect: &Dialect) -> [String; 3] {
    [shortened(dialect, "owner"), (dialect.text)("term"), (dialect.text)("beat")]
}

fn shortened(dialect: &Dialect, column: &str) -> String {
    (dialect.plain)(&format!("left({column}, {LONGEST})"))
}

/// The row as it is.
async fn find(connection: &mut Connection) -> Result<Option<Row>, StoreError> {
    let dialect = connection.dialect();
    let texts = ["host", "session"].map(|column| shortened(dialect, column));
    let others = ["lease_ms", "since", "beat_at"].map(dialect.text);
    let columns = [identity(dialect).as_slice(), &texts, &others].concat().join(", ");
    let sql = format!("SELECT {columns} FROM rulesyncd_lease WHERE name = 'master' LIMIT 2");
    let query = connection.query(sql);
    let mut rows = connection.fetch(READING, query).await?;
    if rows.len() > 1 {
        return Err(StoreError::Refused {
            what: READING,
            detail: "rulesyncd_lease has several rows of the name master".into(),
            remedy: "delete all of them, and make `name` the table's primary key".into(),
        });
    }
    Ok(rows.pop())
}

fn lease_of(row: &Row) -> Option<LeaseRow> {
    let text = |index: usize| row.0.get(index).map(|cell| cell.shown().to_owned()).unwrap_or_default();
    let counter = |index| text(index).parse().ok().filter(|counter| *counter <= GREATEST);
    let owner = match row.0.first() {
        Some(Cell::Text(owner)) if owner.chars().count() < LONGEST => owner.clone(),
        _ => return None,
    };
    Some(LeaseRow {
        owner,
        term: counter(1)?,
        beat: counter(2)?,
        host: text(3),
        session: text(4),
        lease: Duration::from_millis(text(5).parse().unwrap_or(0)),
        since: text(6),
        beat_at: text(7),
    })
}

/// Makes a row that no master can take one that nobody has taken yet, if it is still as it was read.
async fn reset(connection: &mut Connection, spoilt: &Row) -> Result<(), StoreError> {
    let dialect = connection.dialect();
    let now = dialect.statement_time;
    let mut query = connection.query(format!(
        "UPDATE rulesyncd_lease SET owner = '', host = '', session = '', lease_ms = 0, term = 0, since = {now}, \
         beat = 0, beat_at = {now} WHERE name = 'master'"
    ));
    for (expression, cell) in identity(dialect).iter().zip(&spoilt.0) {
        query = match cell {
            Cell::Null => query.push(&format!(" AND {expression} IS NULL")),
            cell => query.push(&format!(" AND {expression} = ")).text(cell.shown()),
        };
    }
    connection.execute(TAKING, query).await.map(drop)
}

/// Whether a reader can read the row.
///
/// # Errors
/// The server does not say now.
pub(in super::super) async fn is_readable(connection: &mut Connection) -> Result<bool, StoreError> {
    if connection.dialect().create_lease.is_none() {
        return Ok(false);
    }
    let probe = connection
        .query("SELECT owner, term, beat, beat_at FROM rulesyncd_lease WHERE name = 'master' AND 1 = 0");
    match connection.row(READING, probe).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_lasting() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which session has the server's lock, and the same in words if it is that of a master without a lease; nothing if none
/// has it, or it is not known.
pub(in super::super) async fn lock_holder(connection: &mut Connection) -> (Option<String>, Option<String>) {
    let Some(lock) = &connection.dialect().lock else { return (None, None) };
    let sql = format!("SELECT CASE WHEN {} THEN '1' ELSE '0' END, ({})", lock.is_unleased, lock.holder);
    let query = connection.query(sql);
    let Ok(Some(row)) = connection.row(ASKING, query).await else { return (None, None) };
    let mut cells = row.0.iter().map(Cell::shown);
    let (is_unleased, session) = (cells.next() == Some("1"), cells.next().unwrap_or_default());
    let unleased = match session {
        "" => "a master without a lease".to_owned(),
        session => format!("a master without a lease ({session})"),
    };
    (Some(session.to_owned()).filter(|session| !session.is_empty()), is_unleased.then_some(unleased))
}

impl LeaseSession for Connection {
    async fn server_lock(&mut self) -> Result<(String, ServerLock), StoreError> {
        let missing = Ok((String::new(), ServerLock::Missing));
        let Some(lock) = &self.dialect().lock else { return missing };
        let query = self.query(format!("{}, ({})", lock.try_marked, lock.server));
        let row = match self.row(ASKING, query).await {
            Err(error) if self.is_broken() => return Err(error),
            // A cluster may refuse it.
            Err(_) => return missing,
            Ok(row) => row,
        };
        let mut cells = row.iter().flat_map(|row| &row.0).map(Cell::shown);
        let holder = match cells.next() {
            Some("ours") => ServerLock::Ours,
            Some("leased") => ServerLock::Leased,
            _ => ServerLock::Unleased,
        };
        Ok((cells.next().unwrap_or_default().to_owned(), holder))
    }

    async fn unmark_lock(&mut self) -> Result<(), StoreError> {
        let Some(lock) = &self.dialect().lock else { return Ok(()) };
        let query = self.query(lock.unmark);
        self.cell(ASKING, query).await.map(drop)
    }

    async fn lease_row(&mut self) -> Result<Option<LeaseRow>, StoreError> {
        read(self).await
    }

    async fn insert_lease(&mut self) -> Result<(), StoreError> {
        let spoilt = find(self).await?;
        if spoilt.as_ref().and_then(lease_of).is_some() {
            // Another session was faster.
            return Ok(());
        }
        let now = self.dialect().statement_time;
        let insert = format!(
            "INSERT INTO rulesyncd_lease (name, owner, host, session, lease_ms, term, since, beat, beat_at) \
             VALUES ('master', '', '', '', 0, 0, {now}, 0, {now})"
        );
        let written = match &spoilt {
            Some(spoilt) => reset(self, spoilt).await,
            None => self.run(TAKING, &insert).await,
        };
        let detail = match written {
            Ok(()) => "its row cannot be read".to_owned(),
            // Another session was faster, or the table takes no such row.
            Err(StoreError::RowRejected { detail, .. }) => detail,
            Err(error) => return Err(error),
        };
        if read(self).await?.is_some() {
            return Ok(());
        }
        Err(StoreError::Refused {
            what: TAKING,
            detail: format!("rulesyncd_lease: {detail}"),
            remedy: "delete its row, and compare the table with the one that the README shows".into(),
        })
    }

    async fn take_lease(&mut self, seen: &LeaseRow, lead: &Lead, server: &str) -> Result<u64, StoreError> {
        let now = self.dialect().statement_time;
        let host: String = rustix::system::uname().nodename().to_string_lossy().chars().take(255).collect();
        let lasts = i64::try_from(lead.lease.as_millis()).unwrap_or(i64::MAX);
        let query = self
            .query("UPDATE rulesyncd_lease SET owner = ")
            .text(&*lead.owner)
            .push(", host = ")
            .text(host)
            .push(", session = ")
            .text(server)
            .push(", lease_ms = ")
            .int(lasts)
            .push(", term = ")
            .int(number(lead.term))
            .push(&format!(
                ", since = {now}, beat = beat + 1, beat_at = {now} WHERE name = 'master' AND owner = "
            ))
            .text(&*seen.owner)
            .push(" AND term = ")
            .int(number(seen.term))
            .push(" AND beat = ")
            .int(number(seen.beat));
        self.execute(TAKING, query).await
    }

    async fn beat(&mut self, lead: &Lead) -> Result<u64, StoreError> {
        let query = self.query(beat(self.dialect(), lead));
        self.execute("confirming the lease", query).await
    }

    async fn claim_lock(&mut self, lead: &Lead, server: &str) -> Result<(), StoreError> {
        let now = self.dialect().statement_time;
        let query = self
            .query("UPDATE rulesyncd_lease SET session = ")
            .text(server)
            .push(&format!(", beat = beat + 1, beat_at = {now}"))
            .push(" WHERE name = 'master' AND owner = ")
            .text(&*lead.owner)
            .push(" AND term = ")
            .int(number(lead.term));
        self.execute(TAKING, query).await.map(drop)
    }

    async fn release_lease(&mut self, lead: &Lead) -> Result<(), StoreError> {
        let (now, Lead { owner, term, .. }) = (self.dialect().statement_time, lead);
        let release = format!(
            "UPDATE rulesyncd_lease SET owner = '', session = '', beat = beat + 1, beat_at = {now} \
             WHERE name = 'master' AND owner = '{owner}' AND term = {term}"
        );
        self.run("releasing the lease", &release).await
    }

    fn is_lost(&self) -> bool {
        self.is_broken()
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
