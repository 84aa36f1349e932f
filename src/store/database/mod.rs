//! The store over a database: common behaviour, and one small file for each dialect.

mod bell;
mod columns;
mod connection;
mod connector;
mod create;
mod ensure;
mod expiry;
mod fleet;
mod fleet_rows;
mod follower;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod leading;
mod lease;
mod lock;
mod manifest;
mod master_session;
mod mysql;
mod operator;
mod pages;
mod postgres;
mod relay;
mod release;
mod revive;
mod row;
mod rules;
mod session;
mod snapshot;
mod sql;
mod sqlite;
mod state_rows;
mod states;
mod tables;
#[cfg(test)]
mod tests;
mod thread;
mod trace_context;
mod version;
mod wakeups;
mod workers;
mod writes;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use fleet::{FleetReader, FleetTables};
pub use follower::DatabaseFollower;
pub use manifest::ManifestWrite;
pub use master_session::MasterSession;
pub(crate) use thread::driver_failures;
pub use thread::quiet_driver_panics;
pub use writes::{Applied, RowsAsRead, RuleWrite, Scope};

use self::connection::Connection;
use self::connector::Connector;
use self::lease::SharedLease;
use self::lock::Lock;
use self::session::Session;
use self::sql::Purpose;
use self::thread::DatabaseThread;
use self::writes::OwnedScope;
use super::{FollowConfig, StoreError};
use crate::address::DatabaseConfig;
use crate::address::DatabasePlace;
use crate::clock::{RisingStamp, SharedClock, Timestamp};
use crate::rule::{FoundStateRow, RuleHeader, StateRow, Table};

/// A database with the two tables. Cheap to clone. Code outside this module does not depend on the dialect.
#[derive(Debug, Clone)]
pub struct Database {
    connector: Arc<Connector>,
    clock: SharedClock,
    follow: FollowConfig,
    /// The realm whose manifest followers read; `None` without trust.
    realm: Option<Arc<str>>,
    /// Where followers report whose server takes no writes; `None` is the host of `connector` that does.
    reports_to: Option<Arc<Connector>>,
    shared: Arc<Shared>,
}

/// What the clones of a database share.
#[derive(Debug)]
struct Shared {
    /// Notifies followers when something is committed through this process.
    committed: watch::Sender<()>,
    /// Keeps a database in memory alive.
    _anchor: Option<Mutex<Connection>>,
    memory_lock: Arc<AtomicBool>,
    /// Whether creating the missing indexes was tried.
    indexed: AtomicBool,
    /// Whether the server refused to create `rulesyncd_version`.
    has_refused_version: AtomicBool,
    /// Whether the server refused to create `rulesyncd_worker`.
    has_refused_workers: AtomicBool,
    set_at: Mutex<RisingStamp>,
    lease: SharedLease,
    /// Runs the driver.
    thread: DatabaseThread,
    /// How many operations are in progress.
    asked: Arc<AtomicUsize>,
    /// How many of them are writes of a master.
    writing: Arc<AtomicUsize>,
}

/// Counts an operation while it is in progress.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Database {
    /// Prepares connections to the database, but does not connect to a server yet, so that a daemon starts while the
    /// database is unavailable: every operation connects when it needs to. `connect_timeout` limits each statement.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for errors that waiting cannot cure: an unencrypted connection to another host, a
    /// certificate file that cannot be read, a file that is not a SQLite database.
    pub async fn open(config: &DatabaseConfig, clock: SharedClock) -> Result<Self, StoreError> {
        let connector = Arc::new(Connector::new(config)?);
        let anchor = match connector.sqlite_location() {
            Some(sqlite::Location::Memory(_)) => {
                Some(Mutex::new(Connection::open(&connector, Purpose::Create).await?))
            }
            _ => None,
        };
        let shared = Shared {
            committed: watch::Sender::new(()),
            _anchor: anchor,
            memory_lock: Arc::default(),
            indexed: AtomicBool::default(),
            has_refused_version: AtomicBool::default(),
            has_refused_workers: AtomicBool::default(),
            set_at: Mutex::default(),
            lease: SharedLease::new(),
            thread: DatabaseThread::new(),
            asked: Arc::default(),
            writing: Arc::default(),
        };
        let (follow, shared) = (FollowConfig::default(), Arc::new(shared));
        Ok(Self { connector, clock, follow, realm: None, reports_to: None, shared })
    }

    /// Makes followers whose server takes no writes report to this database.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) fn reporting_to(mut self, config: &DatabaseConfig) -> Result<Self, StoreError> {
        self.reports_to = Some(Arc::new(Connector::new(config)?));
        Ok(self)
    }

    /// Sets how followers poll.
    #[must_use]
    pub fn following(mut self, follow: FollowConfig) -> Self {
        self.follow = follow;
        self
    }

    /// Makes followers read the manifest of this realm, too.
    #[must_use]
    pub(crate) fn following_releases(mut self, realm: &str) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// `sqlite`, `mysql` or `postgresql`.
    pub fn backend(&self) -> &'static str {
        self.connector.dialect().backend
    }

    /// The address for logs and `status`.
    pub(crate) fn place(&self) -> DatabasePlace {
        DatabasePlace { url: self.connector.address.to_string(), url_file: self.connector.url_file.clone() }
    }

    /// Gives the password of `config` to all new connections; open ones are kept.
    ///
    /// `config` may differ from that of [`Database::open`] only in the password.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) fn change_password(&self, config: &DatabaseConfig) -> Result<(), StoreError> {
        self.connector.change_password(config)
    }

    /// Whether a write of a master's session is in progress.
    pub(crate) fn is_writing(&self) -> bool {
        self.shared.writing.load(Ordering::Relaxed) > 0
    }

    /// Whether any operation is in progress. Each statement has a time limit, so a daemon that waits does not hang.
    pub(crate) fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::Relaxed) > 0
    }

    fn writing(&self) -> UnderWay {
        UnderWay::begin(&self.shared.writing)
    }

    /// The longest that a whole poll, or any other read, may take.
    fn poll_limit(&self) -> Option<Duration> {
        Some(self.connector.poll_limit())
    }

    /// Runs `work` on the database's thread, within `limit` if there is one.
    fn on_thread<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> {
        let (connector, work) = (Arc::clone(&self.connector), Box::pin(work));
        let bounded = async move {
            let Some(limit) = limit else { return work.await };
            let ended = tokio::time::timeout(limit, work).await;
            ended.unwrap_or_else(|_| Err(connector.endless(what, limit)))
        };
        let asked = UnderWay::begin(&self.shared.asked);
        async move {
            let _asked = asked;
            self.shared.thread.run(what, self.connector.limit(), bounded).await
        }
    }

    /// Runs `work` on the database's thread, within the time limit of a poll.
    fn ask<T: Send + 'static, W>(
        &self,
        what: &'static str,
        work: impl FnOnce(Self) -> W,
    ) -> impl Future<Output = Result<T, StoreError>>
    where
        W: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.on_thread(what, self.poll_limit(), work(self.clone()))
    }

    /// The database's clock.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        self.ask("reading the database's clock", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let now = database.now_on(&mut connection).await?;
            connection.close().await;
            Ok(now)
        })
        .await
    }

    async fn now_on(&self, connection: &mut Connection) -> Result<Timestamp, StoreError> {
        let what = "reading the database's clock";
        let Some(now) = connection.dialect().now else { return Ok(self.clock.now()) };
        let query = connection.query(format!("SELECT {now}"));
        let now = connection.cell(what, query).await?;
        Timestamp::parse(now.shown())
            .ok_or_else(|| StoreError::Unavailable { what, detail: "the answer is no time".into() })
    }

    /// Makes this process the only writer; `None` while another master is.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn try_lock(&self) -> Result<Option<MasterSession>, StoreError> {
        self.try_lock_while(|| true).await
    }

    /// As [`Database::try_lock`], but the session lasts only while `is_alive`, which is asked every few seconds: a master
    /// that hangs must not keep others from writing.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn try_lock_while(
        &self,
        is_alive: impl FnMut() -> bool + Send + 'static,
    ) -> Result<Option<MasterSession>, StoreError> {
        let lock = match self.connector.sqlite_location() {
            Some(sqlite::Location::File(path)) => Some(Lock::file(path)?),
            Some(sqlite::Location::Memory(_)) => Some(Lock::memory(&self.shared.memory_lock)),
            None => None,
        };
        let session = self.ask("taking the master's lock", |database| async move {
            match lock {
                None => database.lead(is_alive).await,
                Some(None) => Ok(None),
                Some(Some(lock)) => {
                    let connection =
                        Connection::open(&database.connector, database.purpose_of_master()).await?;
                    Session::new(database, connection, lock, None).await.map(Some)
                }
            }
        });
        Ok(session.await?.map(|session| MasterSession::new(self.clone(), session)))
    }

    /// Who holds the master's lock, in words; `None` if nobody does, or the database does not say.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn lock_holder(&self) -> Result<Option<String>, StoreError> {
        if let Some(sqlite::Location::File(path)) = self.connector.sqlite_location() {
            return Ok(Lock::holder_of_file(path));
        }
        let what = "asking who holds the master's lock";
        self.ask(what, move |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let holder = lease::holder(&mut connection).await;
            connection.close().await;
            Ok(holder)
        })
        .await
    }

    /// The headers of the rows in `scope`, read without the lock.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rows(&self, scope: Scope<'_>) -> Result<Vec<RuleHeader>, StoreError> {
        let scope = OwnedScope::from(scope);
        self.ask("reading the rules", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let rows = tables::summaries(&mut connection, scope.borrowed()).await?;
            connection.close().await;
            Ok(rows)
        })
        .await
    }

    /// Every row of `ttp_rule_state`, including expired ones, by id. Leaves out a row that cannot be read.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn states(&self) -> Result<Vec<StateRow>, StoreError> {
        Ok(self.found_states().await?.into_iter().filter_map(|(_, row)| row.ok()).collect())
    }

    /// As [`Database::states`], with the rows that cannot be read.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn found_states(&self) -> Result<Vec<FoundStateRow>, StoreError> {
        let what = "reading the states";
        let rows = self.ask(what, move |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let query = tables::select(connection.dialect(), Table::States);
            let rows = connection.fetch(what, query.into_query()).await?;
            connection.close().await;
            Ok(rows)
        });
        let mut rows: Vec<_> = rows.await?.into_iter().map(tables::found_state_row).collect();
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(rows)
    }

    /// Wakes the followers of this process after a commit.
    fn wake_followers(&self) {
        self.shared.committed.send_replace(());
    }
}
