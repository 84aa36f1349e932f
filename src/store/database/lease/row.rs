//! The statements about the row of `rulesyncd_lease`.

use std::time::Duration;

use super::super::connection::Connection;
use super::super::create;
use super::super::lock;
use super::super::sql::Dialect;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow, ServerLock};

const READING: &str = "reading rulesyncd_lease";
pub(super) const TAKING: &str = "taking the lease";

/// The most bytes of a text that is read.
const LONGEST: usize = 255 * 4;

/// Writes the row if it is still this lease. The owner is a UUID.
pub(in super::super) fn beat(dialect: &Dialect, lead: &Lead) -> String {
    let (now, Lead { owner, term, .. }) = (dialect.statement_time, lead);
    format!(
        "UPDATE rulesyncd_lease SET beat = beat + 1, beat_at = {now} \
         WHERE name = 'master' AND owner = '{owner}' AND term = {term}"
    )
}

/// Creates the table if it is missing.
pub(super) async fn create(connection: &mut Connection) -> Result<(), StoreError> {
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
pub(in super::super) async fn is_readable(connection: &mut Connection) -> bool {
    if connection.dialect().create_lease.is_none() {
        return false;
    }
    let probe = connection
        .query("SELECT owner, term, beat, beat_at FROM rulesyncd_lease WHERE name = 'master' AND 1 = 0");
    connection.row(READING, probe).await.is_ok()
}

/// Inserts a released lease.
pub(super) async fn insert(connection: &mut Connection) -> Result<(), StoreError> {
    let now = connection.dialect().statement_time;
    let insert = format!(
        "INSERT INTO rulesyncd_lease (name, owner, host, session, lease_ms, term, since, beat, beat_at) \
         VALUES ('master', '', '', '', 0, 0, {now}, 0, {now})"
    );
    match connection.run(TAKING, &insert).await {
        // Another session was faster.
        Ok(()) | Err(StoreError::RowRejected { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes the lease if the row is still `seen`. Returns whether it is.
pub(super) async fn take(
    connection: &mut Connection,
    seen: &LeaseRow,
    lead: &Lead,
    session: &str,
) -> Result<bool, StoreError> {
    let now = connection.dialect().statement_time;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let host: String = rustix::system::uname().nodename().to_string_lossy().chars().take(255).collect();
    let lasts = i64::try_from(lead.lease.as_millis()).unwrap_or(i64::MAX);
    let query = connection
        .query("UPDATE rulesyncd_lease SET owner = ")
        .text(&*lead.owner)
        .push(", host = ")
        .text(host)
        .push(", session = ")
        .text(session)
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
    Ok(connection.execute(TAKING, query).await? > 0)
}

/// Whether this session holds the server's lock, or another one, or the server has none.
pub(super) async fn server_lock(connection: &mut Connection) -> Result<ServerLock, StoreError> {
    let Some(sql) = connection.dialect().try_lock else { return Ok(ServerLock::Missing) };
    match lock::lock_session(connection, sql).await {
        Ok(Some(_)) => Ok(ServerLock::Ours),
        Ok(None) => Ok(ServerLock::Others),
        Err(error) if connection.is_broken() => Err(error),
        // A cluster may refuse it.
        Err(_) => Ok(ServerLock::Missing),
    }
}

/// Tries to get the server's lock for a lease that was taken without, and says so in the row.
pub(super) async fn claim_lock(connection: &mut Connection, lead: &Lead) -> Result<bool, StoreError> {
    if server_lock(connection).await? != ServerLock::Ours {
        return Ok(false);
    }
    let server = server(connection).await?;
    let query = connection
        .query("UPDATE rulesyncd_lease SET session = ")
        .text(server)
        .push(" WHERE name = 'master' AND owner = ")
        .text(&*lead.owner)
        .push(" AND term = ")
        .int(i64::try_from(lead.term).unwrap_or(i64::MAX));
    Ok(connection.execute(TAKING, query).await? > 0)
}

/// What names the server on which a session has a lock.
pub(super) async fn server(connection: &mut Connection) -> Result<String, StoreError> {
    let Some(sql) = connection.dialect().server_session else { return Ok(String::new()) };
    let query = connection.query(sql);
    Ok(connection.cell(TAKING, query).await?.shown().to_owned())
}
