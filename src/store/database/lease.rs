//! The table `rulesyncd_lease`: its row says which master leads. [`crate::store::lease`] decides. SQLite has none: it is
//! one host, and locks a file.
//!
//! Without the table, or without the right to it, the server's lock alone makes a master the only writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::lock::{self, Lock};
use super::session::Session;
use super::sql::{Dialect, Purpose};
use super::{Database, version};
use crate::clock::since_boot;
use crate::store::StoreError;
use crate::store::lease::{BEAT_INTERVAL, LEASE, Lead, LeaseRow, ServerLock, Standby};

const READING: &str = "reading rulesyncd_lease";
const TAKING: &str = "taking the lease";
const BEATING: &str = "confirming the lease";

/// The rights of a master.
const RIGHTS: &str = "SELECT, INSERT, UPDATE";

/// The most bytes of a text that is read.
const LONGEST: usize = 255 * 4;

/// What the clones of a database know of the lease.
#[derive(Debug)]
pub(super) struct SharedLease {
    /// This process.
    owner: String,
    /// How long the lease lasts without a beat.
    lasts: Mutex<Duration>,
    standby: Mutex<Standby>,
    /// Whether creating the table failed.
    has_no_table: AtomicBool,
    /// The lease in the hands of this process.
    held: Mutex<Weak<HeldState>>,
    /// Whether the lease was taken from this process while it held the server's lock: then that lock proves nothing.
    was_robbed: Arc<AtomicBool>,
}

impl SharedLease {
    pub(super) fn new() -> Self {
        Self {
            owner: uuid::Uuid::new_v4().to_string(),
            lasts: Mutex::new(LEASE),
            standby: Mutex::default(),
            has_no_table: AtomicBool::default(),
            held: Mutex::default(),
            was_robbed: Arc::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lease while it is held. Its beats end when it is dropped.
#[derive(Debug)]
pub(super) struct HeldLease {
    state: Arc<HeldState>,
    _beats: AbortOnDropHandle<()>,
}

/// What a session and its beats share.
type HeldState = Mutex<LeaseState>;

#[derive(Debug)]
struct LeaseState {
    lead: Lead,
    /// How the loss of the lease was noticed.
    lost: Option<String>,
    was_robbed: Arc<AtomicBool>,
    has_lock: bool,
}

impl LeaseState {
    /// The row is not ours any more.
    fn robbed(&mut self) -> StoreError {
        if self.has_lock {
            self.was_robbed.store(true, Ordering::Relaxed);
        }
        let detail = "another master has taken the lease".to_owned();
        self.lost.get_or_insert_with(|| detail.clone());
        StoreError::LockLost { detail }
    }
}

impl HeldLease {
    /// Checks that nobody can have taken the lease over, and reads the row if that is not certain.
    ///
    /// # Errors
    /// [`StoreError::LockLost`]; or the database does not answer.
    pub(super) async fn ensure_held(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let sent = since_boot();
        {
            let state = lock(&self.state);
            if let Some(detail) = &state.lost {
                return Err(StoreError::LockLost { detail: detail.clone() });
            }
            if state.lead.is_confirmed(sent) {
                return Ok(());
            }
        }
        let row = read(connection).await?;
        let mut state = lock(&self.state);
        match row {
            Some(row) if state.lead.is(&row) => {
                state.lead.confirm(sent);
                Ok(())
            }
            _ => Err(state.robbed()),
        }
    }

    /// The last statement of a transaction: it matches one row while the lease is ours.
    pub(super) fn fence(&self, dialect: &Dialect) -> String {
        beat(dialect, &lock(&self.state).lead)
    }

    /// What the fence, sent at `sent`, says by the number of rows that it matched.
    ///
    /// # Errors
    /// [`StoreError::LockLost`].
    pub(super) fn fenced(&self, matched: u64, sent: Duration) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        match matched {
            0 => Err(state.robbed()),
            _ => {
                state.lead.confirm(sent);
                Ok(())
            }
        }
    }

    /// The session writes no more: a connection was lost, so its last transaction may be committed later. The lease is
    /// taken again, with a new term, before anything else is written.
    pub(super) fn lose(&self, detail: &str) {
        lock(&self.state).lost.get_or_insert_with(|| detail.to_owned());
    }

    /// How long ago the lease was confirmed.
    pub(super) fn age(&self) -> Duration {
        lock(&self.state).lead.age(since_boot())
    }

    pub(super) fn term(&self) -> u64 {
        lock(&self.state).lead.term
    }
}

/// Writes the row if it is still this lease. The owner is a UUID.
fn beat(dialect: &Dialect, lead: &Lead) -> String {
    let (now, Lead { owner, term, .. }) = (dialect.statement_time, lead);
    format!(
        "UPDATE rulesyncd_lease SET beat = beat + 1, beat_at = {now} \
         WHERE name = 'master' AND owner = '{owner}' AND term = {term}"
    )
}

/// Creates the table if it is missing, unless that failed before.
pub(super) async fn create_once(connection: &mut Connection, shared: &SharedLease) {
    let Some(create) = connection.dialect().create_lease else { return };
    if shared.has_no_table.load(Ordering::Relaxed) {
        return;
    }
    // Not CREATE IF NOT EXISTS, which needs a right even if the table exists.
    let probe = connection.query("SELECT 1 FROM rulesyncd_lease WHERE 1 = 0");
    if connection.row(READING, probe).await.is_err() {
        shared.has_no_table.store(connection.run(READING, create).await.is_err(), Ordering::Relaxed);
    }
}

/// The row; `None` if there is none.
async fn read(connection: &mut Connection) -> Result<Option<LeaseRow>, StoreError> {
    let dialect = connection.dialect();
    let texts =
        ["owner", "host", "session"].map(|column| (dialect.plain)(&format!("left({column}, {LONGEST})")));
    let numbers = ["lease_ms", "term", "beat", "since"].map(|column| (dialect.text)(column));
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
    }))
}

/// Whether a reader can read the row.
pub(super) async fn is_readable(connection: &mut Connection) -> bool {
    if connection.dialect().create_lease.is_none() {
        return false;
    }
    let probe =
        connection.query("SELECT term, beat, beat_at FROM rulesyncd_lease WHERE name = 'master' AND 1 = 0");
    connection.row(READING, probe).await.is_ok()
}

/// Inserts a released lease.
async fn insert(connection: &mut Connection) -> Result<(), StoreError> {
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
async fn take(
    connection: &mut Connection,
    seen: &LeaseRow,
    lead: &Lead,
    (session, lasts): (&str, Duration),
) -> Result<bool, StoreError> {
    let now = connection.dialect().statement_time;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let host: String = rustix::system::uname().nodename().to_string_lossy().chars().take(255).collect();
    let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
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
async fn server_lock(connection: &mut Connection) -> Result<ServerLock, StoreError> {
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
async fn claim_lock(connection: &mut Connection, lead: &Lead) -> Result<bool, StoreError> {
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
async fn server(connection: &mut Connection) -> Result<String, StoreError> {
    let Some(sql) = connection.dialect().server_session else { return Ok(String::new()) };
    let query = connection.query(sql);
    Ok(connection.cell(TAKING, query).await?.shown().to_owned())
}

impl Database {
    /// Sets how long a master's lease lasts without a sign of life.
    #[must_use]
    pub fn leasing(self, lasts: Duration) -> Self {
        *lock(&self.shared.lease.lasts) = lasts;
        self
    }

    /// The purpose of a master's connections: a frozen one keeps no row for longer than its lease.
    pub(super) fn purpose_of_master(&self) -> Purpose {
        Purpose::Master(*lock(&self.shared.lease.lasts))
    }

    /// Takes the lease and, where it can, the server's lock. Its beats are sent while `is_alive`.
    pub(super) async fn lead(
        self,
        is_alive: impl FnMut() -> bool + Send + 'static,
    ) -> Result<Option<Session>, StoreError> {
        let held = lock(&self.shared.lease.held).upgrade();
        if held.is_some_and(|held| lock(&held).lost.is_none()) {
            return Ok(None);
        }
        let mut connection = Connection::open(&self.connector, self.purpose_of_master()).await?;
        let server_lock = server_lock(&mut connection).await?;
        match self.try_lease(&mut connection, server_lock).await {
            Ok(Some((lead, has_lock))) => {
                let state = LeaseState {
                    lead,
                    lost: None,
                    was_robbed: Arc::clone(&self.shared.lease.was_robbed),
                    has_lock,
                };
                let state = Arc::new(Mutex::new(state));
                // It keeps the server's lock.
                let beats = keep_beating(connection, Arc::downgrade(&state), is_alive);
                let beats = self.shared.thread.spawn(beats).map(AbortOnDropHandle::new);
                let no_thread = || StoreError::Unavailable { what: TAKING, detail: "no thread".into() };
                *lock(&self.shared.lease.held) = Arc::downgrade(&state);
                let held = HeldLease { state, _beats: beats.ok_or_else(no_thread)? };
                let connection = Connection::open(&self.connector, self.purpose_of_master()).await?;
                Session::new(self, connection, Lock::Lease(held), None).await.map(Some)
            }
            Ok(None) => {
                connection.close().await;
                Ok(None)
            }
            Err(error) if connection.is_broken() || !is_missing(&error) => Err(error),
            // The lock alone, as version 0.1 has it.
            Err(error) if server_lock == ServerLock::Ours => {
                let problem = version::with_grant(connection.dialect(), "rulesyncd_lease", &error, RIGHTS);
                Session::new(self, connection, Lock::Session, Some(problem)).await.map(Some)
            }
            Err(_) => {
                connection.close().await;
                Ok(None)
            }
        }
    }

    /// Takes the lease if it can be taken now, and returns whether with the server's lock.
    async fn try_lease(
        &self,
        connection: &mut Connection,
        server_lock: ServerLock,
    ) -> Result<Option<(Lead, bool)>, StoreError> {
        let shared = &self.shared.lease;
        let mut row = read(connection).await?;
        if row.is_none() && server_lock == ServerLock::Ours {
            insert(connection).await?;
            row = read(connection).await?;
        }
        let Some(row) = row else { return Ok(None) };
        let server = server(connection).await?;
        let sent = since_boot();
        let term = lock(&shared.standby).look(&row, &shared.owner, (&server, server_lock), sent);
        let Some(term) = term else { return Ok(None) };
        let has_lock = server_lock == ServerLock::Ours && !shared.was_robbed.load(Ordering::Relaxed);
        let session = if has_lock { &*server } else { "" };
        let lasts = *lock(&shared.lasts);
        let lead = Lead::new(shared.owner.clone(), term, lasts, sent);
        let is_taken = take(connection, &row, &lead, (session, lasts)).await?;
        Ok(is_taken.then_some((lead, has_lock)))
    }

    /// Releases the lease if this process holds it, so that a standby takes over at once. A failure only lets the
    /// standby wait longer.
    pub(crate) async fn release_lease(&self) {
        if self.connector.dialect().create_lease.is_none() {
            return;
        }
        let released = self.ask("releasing the lease", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Write).await?;
            let now = connection.dialect().statement_time;
            let owner = &database.shared.lease.owner;
            let release = format!(
                "UPDATE rulesyncd_lease SET owner = '', session = '', beat = beat + 1, beat_at = {now} \
                 WHERE name = 'master' AND owner = '{owner}'"
            );
            let released = connection.run("releasing the lease", &release).await;
            connection.close().await;
            released
        });
        if let Err(error) = released.await {
            tracing::debug!(%error, "the lease was not released");
        }
    }

    /// Which master leads, in words; `None` if none does, or it is not known.
    pub(super) async fn leader(&self) -> Result<Option<String>, StoreError> {
        let mut connection = Connection::open(&self.connector, Purpose::Read).await?;
        let row = read(&mut connection).await;
        connection.close().await;
        Ok(row.ok().flatten().and_then(|row| row.leader()))
    }
}

/// Whether the table, its row or the right to it is missing.
const fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NoTables { .. } | StoreError::Refused { .. })
}

/// Confirms the lease until it is lost.
async fn keep_beating(
    mut connection: Connection,
    state: Weak<HeldState>,
    mut is_alive: impl FnMut() -> bool,
) {
    loop {
        tokio::time::sleep(BEAT_INTERVAL).await;
        if !is_alive() {
            continue;
        }
        let Some(beat) = state.upgrade().map(|state| beat(connection.dialect(), &lock(&state).lead)) else {
            return;
        };
        let (sent, query) = (since_boot(), connection.query(beat));
        let beaten = connection.execute(BEATING, query).await;
        let Some(held) = state.upgrade() else { return };
        let Some(unlocked) = note_beat(&held, &connection, beaten, sent) else { return };
        if let Some(lead) = unlocked
            && matches!(claim_lock(&mut connection, &lead).await, Ok(true))
        {
            lock(&held).has_lock = true;
        }
    }
}

/// Records the outcome of a beat that was sent at `sent`; `None` if the lease is lost. Returns the lease if it has no
/// server's lock yet, and may have.
fn note_beat(
    held: &HeldState,
    connection: &Connection,
    beaten: Result<u64, StoreError>,
    sent: Duration,
) -> Option<Option<Lead>> {
    let mut state = lock(held);
    match beaten {
        Ok(0) => {
            state.robbed();
            None
        }
        Ok(_) => {
            state.lead.confirm(sent);
            let wants_lock = !state.has_lock && !state.was_robbed.load(Ordering::Relaxed);
            Some(wants_lock.then(|| state.lead.clone()))
        }
        Err(error) if connection.is_broken() => {
            state.lost.get_or_insert_with(|| error.to_string());
            None
        }
        // Our own transaction is about to end, or the next beat says more.
        Err(_) => Some(None),
    }
}
