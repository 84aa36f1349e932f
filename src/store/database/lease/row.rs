//! The statements about the row of `rulesyncd_lease`.

use std::time::Duration;

use super::super::connection::Connection;
use super::super::create;
use super::super::row::Cell;
use super::super::sql::Dialect;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow, ServerLock};

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

/// Inserts a released lease.
pub(in super::super) async fn insert(connection: &mut Connection) -> Result<(), StoreError> {
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
pub(in super::super) async fn take(
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

/// Asks for the server's lock, with its mark, and returns who holds it then.
pub(in super::super) async fn server_lock(connection: &mut Connection) -> Result<ServerLock, StoreError> {
    let Some(lock) = &connection.dialect().lock else { return Ok(ServerLock::Missing) };
    let query = connection.query(lock.try_marked);
    match connection.cell(ASKING, query).await {
        Ok(holder) => Ok(match holder.shown() {
            "ours" => ServerLock::Ours,
            "leased" => ServerLock::Leased,
            _ => ServerLock::Unleased,
        }),
        Err(error) if connection.is_broken() => Err(error),
        // A cluster may refuse it.
        Err(_) => Ok(ServerLock::Missing),
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

/// Takes the mark away from the server's lock of this session: it has no lease.
pub(in super::super) async fn unmark_lock(connection: &mut Connection) -> Result<(), StoreError> {
    let Some(lock) = &connection.dialect().lock else { return Ok(()) };
    let query = connection.query(lock.unmark);
    connection.cell(ASKING, query).await.map(drop)
}

/// Asks for the server's lock for a lease that was taken without, and says in the row that it is held.
pub(super) async fn claim_lock(
    connection: &mut Connection,
    mut lead: Lead,
) -> Result<ServerLock, StoreError> {
    let lock = server_lock(connection).await?;
    lead.asked_for_lock(lock);
    let session = lead.session(&server(connection).await?);
    if !session.is_empty() {
        let query = connection
            .query("UPDATE rulesyncd_lease SET session = ")
            .text(session)
            .push(" WHERE name = 'master' AND owner = ")
            .text(&*lead.owner)
            .push(" AND term = ")
            .int(i64::try_from(lead.term).unwrap_or(i64::MAX));
        connection.execute(TAKING, query).await?;
    }
    Ok(lock)
}

/// What names the server on which a session has a lock.
pub(in super::super) async fn server(connection: &mut Connection) -> Result<String, StoreError> {
    let Some(lock) = &connection.dialect().lock else { return Ok(String::new()) };
    let query = connection.query(lock.server);
    Ok(connection.cell(TAKING, query).await?.shown().to_owned())
}
