//! The statements about the row of `rulesyncd_lease`.

use std::time::Duration;

use super::super::connection::Connection;
use super::super::create;
use super::super::row::Cell;
use super::super::sql::Dialect;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow, ServerLock};
use crate::store::leasing::LeaseSession;

const READING: &str = "reading rulesyncd_lease";
pub(in super::super) const TAKING: &str = "taking the lease";
const ASKING: &str = "asking for the master's lock";

/// The most bytes of a text that is read.
const LONGEST: usize = 255 * 4;

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

/// The row; `None` if there is none.
pub(in super::super) async fn read(connection: &mut Connection) -> Result<Option<LeaseRow>, StoreError> {
    let dialect = connection.dialect();
    let texts =
        ["owner", "host", "session"].map(|column| (dialect.plain)(&format!("left({column}, {LONGEST})")));
    let numbers = ["lease_ms", "term", "beat", "since", "beat_at"].map(|column| (dialect.text)(column));
    let columns = [texts.as_slice(), numbers.as_slice()].concat().join(", ");
    let query = connection.query(format!("SELECT {columns} FROM rulesyncd_lease WHERE name = 'master'"));
    let Some(row) = connection.row(READING, query).await? else { return Ok(None) };
    let cell = |index: usize| row.0.get(index).map(|cell| cell.shown().to_owned()).unwrap_or_default();
    // A number that another program spoilt is as good as none: the lease is taken anew.
    let number = |index| cell(index).parse().unwrap_or(0);
    Ok(Some(LeaseRow {
        owner: cell(0),
        host: cell(1),
        session: cell(2),
        lease: Duration::from_millis(number(3)),
        term: number(4),
        beat: number(5),
        since: cell(6),
        beat_at: cell(7),
    }))
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
        let now = self.dialect().statement_time;
        let insert = format!(
            "INSERT INTO rulesyncd_lease (name, owner, host, session, lease_ms, term, since, beat, beat_at) \
             VALUES ('master', '', '', '', 0, 0, {now}, 0, {now})"
        );
        match self.run(TAKING, &insert).await {
            // Another session was faster.
            Err(StoreError::RowRejected { .. }) => Ok(()),
            inserted => inserted,
        }
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
