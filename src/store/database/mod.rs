//! The store over a database: one behaviour, one small file a dialect.

mod columns;
mod connection;
mod connector;
mod expiry;
mod follower;
mod lock;
mod master_session;
mod mysql;
mod pages;
mod postgres;
mod relay;
mod session;
mod snapshot;
mod sql;
mod sqlite;
mod states;
mod tables;
mod thread;
mod trace_context;
mod wakeups;
mod writes;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

pub use follower::DatabaseFollower;
pub use master_session::MasterSession;
pub use thread::{driver_failures, quiet_driver_panics};
pub use writes::{Applied, RuleWrite, Scope};

use self::connection::Connection;
use self::connector::{Connector, Purpose};
use self::lock::Lock;
use self::session::Session;
use self::thread::DatabaseThread;
use self::writes::OwnedScope;
use super::{FollowConfig, StoreError};
use crate::address::DatabaseConfig;
use crate::address::DatabasePlace;
use crate::clock::{RisingStamp, SharedClock, Timestamp};
use crate::rule::{RuleHeader, StateRow, Table};

/// A database with the two tables. Cheap to clone; nothing outside of here knows which it is.
#[derive(Debug, Clone)]
pub struct Database {
    connector: Arc<Connector>,
    clock: SharedClock,
    follow: FollowConfig,
    shared: Arc<Shared>,
}

/// What the clones of a database share.
#[derive(Debug)]
struct Shared {
    /// Moves when something is committed through this process.
    committed: watch::Sender<()>,
    /// What keeps a database in memory alive.
    _anchor: Option<Mutex<Connection>>,
    memory_lock: Arc<AtomicBool>,
    /// Whether it was tried to make what indexes are missing.
    indexed: AtomicBool,
    set_at: Mutex<RisingStamp>,
    /// Where the driver runs.
    thread: DatabaseThread,
    /// How many operations are on their way to the thread and back.
    asked: Arc<AtomicUsize>,
    /// How many writes of a master are among them.
    writing: Arc<AtomicUsize>,
}

/// Counts something for as long as it is under way.
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
    /// Prepares the way to the database. No server is connected to yet, so that a daemon starts
    /// while the database is unavailable; every operation connects when it needs to, and follows the
    /// interval of `connect_timeout` for each statement.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what cannot come right by waiting: an unencrypted connection to
    /// another host, a certificate file that cannot be read, a file that is no SQLite database.
    pub async fn open(config: &DatabaseConfig, clock: SharedClock) -> Result<Self, StoreError> {
        let connector = Arc::new(Connector::new(config)?);
        let anchor = match connector.place() {
            Some(sqlite::Place::Memory(_)) => Some(Mutex::new(connector.connect(Purpose::Create).await?)),
            _ => None,
        };
        let shared = Shared {
            committed: watch::Sender::new(()),
            _anchor: anchor,
            memory_lock: Arc::default(),
            indexed: AtomicBool::default(),
            set_at: Mutex::default(),
            thread: DatabaseThread::new(),
            asked: Arc::default(),
            writing: Arc::default(),
        };
        Ok(Self { connector, clock, follow: FollowConfig::default(), shared: Arc::new(shared) })
    }

    /// The same database, followed in another way.
    #[must_use]
    pub fn following(mut self, follow: FollowConfig) -> Self {
        self.follow = follow;
        self
    }

    /// `sqlite`, `mysql` or `postgresql`.
    pub fn backend(&self) -> &'static str {
        self.connector.dialect().backend
    }

    /// Where it is, for a daemon to tell.
    pub fn place(&self) -> DatabasePlace {
        DatabasePlace { url: self.connector.address.to_string(), url_file: self.connector.url_file.clone() }
    }

    /// Has connections that are made from now on give the password of `config`. Those that stand are kept.
    ///
    /// `config` must differ from the one of [`Database::open`] in the password alone.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn change_password(&self, config: &DatabaseConfig) -> Result<(), StoreError> {
        self.connector.change_password(config)
    }

    /// Whether a write of a master's session is under way.
    pub fn is_writing(&self) -> bool {
        self.shared.writing.load(Ordering::Relaxed) > 0
    }

    /// Whether whoever asked is waiting for the database. It is bounded, each statement by itself, so that a
    /// daemon which waits is not one that hangs.
    pub fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::Relaxed) > 0
    }

    fn writing(&self) -> UnderWay {
        UnderWay::begin(&self.shared.writing)
    }

    /// The longest that a whole poll may take, and whatever else only reads.
    fn poll_limit(&self) -> Option<Duration> {
        Some(self.connector.poll_limit())
    }

    /// Does `work` on the database's thread, within `limit` where there is one.
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

    /// Does `work` on the database's thread, within the time that a whole poll may take.
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
    /// When the database does not answer.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        self.ask("reading the database's clock", |database| async move {
            let mut connection = database.connector.connect(Purpose::Read).await?;
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

    /// Creates the tables that are missing; tables that stand are left as they are, but for an index
    /// where there is none and it can be made. That is tried once, for whoever may not create it would
    /// be told so at each try, in the server's log too. A SQLite file is created if there is none.
    ///
    /// # Errors
    /// When the database does not answer or does not allow it.
    pub async fn ensure_tables(&self) -> Result<(), StoreError> {
        // An index on a large table takes its time.
        let database = self.clone();
        self.on_thread("making the tables", None, async move {
            let mut connection = database.connector.connect(Purpose::Create).await?;
            let mut is_new = false;
            for table in [Table::Rules, Table::States] {
                is_new |= tables::ensure(&mut connection, table).await?;
            }
            if !database.shared.indexed.swap(true, Ordering::Relaxed) || is_new {
                for table in [Table::Rules, Table::States] {
                    // Everything works without it, only slower.
                    tables::index(&mut connection, table).await.ok();
                }
            }
            connection.close().await;
            Ok(())
        })
        .await
    }

    /// Becomes the one writer; `None` while another is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn try_lock(&self) -> Result<Option<MasterSession>, StoreError> {
        let lock = match self.connector.place() {
            Some(sqlite::Place::File(path)) => Lock::file(path)?,
            Some(sqlite::Place::Memory(_)) => Lock::memory(&self.shared.memory_lock),
            None => Some(Lock::Session),
        };
        let Some(lock) = lock else { return Ok(None) };
        let session = self.ask("taking the master's lock", |database| async move {
            let mut connection = database.connector.connect(Purpose::Master).await?;
            let lock = match connection.dialect().try_lock {
                Some(sql) => lock::lock_session(&mut connection, sql).await?,
                None => Some(lock),
            };
            match lock {
                Some(lock) => Session::new(database, connection, lock).await.map(Some),
                None => {
                    connection.close().await;
                    Ok(None)
                }
            }
        });
        Ok(session.await?.map(|session| MasterSession::new(self.clone(), session)))
    }

    /// Who holds the master's lock, in words; `None` where nobody does, or the database does not say.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lock_holder(&self) -> Result<Option<String>, StoreError> {
        if let Some(sqlite::Place::File(path)) = self.connector.place() {
            return Ok(Lock::holder_of_file(path));
        }
        let what = "asking who holds the master's lock";
        self.ask(what, move |database| async move {
            let mut connection = database.connector.connect(Purpose::Read).await?;
            let Some(sql) = connection.dialect().lock_holder else { return Ok(None) };
            let query = connection.query(sql);
            let holder = connection.cell(what, query).await?;
            connection.close().await;
            Ok(Some(holder.shown().to_owned()).filter(|holder| !holder.is_empty()))
        })
        .await
    }

    /// The rows of `ttp_rule` in `scope`, without the right to write them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&self, scope: Scope<'_>) -> Result<Vec<RuleHeader>, StoreError> {
        let scope = OwnedScope::from(scope);
        self.ask("reading the rules", |database| async move {
            let mut connection = database.connector.connect(Purpose::Read).await?;
            let rows = tables::summaries(&mut connection, scope.borrowed()).await?;
            connection.close().await;
            Ok(rows)
        })
        .await
    }

    /// Every row of `ttp_rule_state`, expired ones too, by id. A row that cannot be read is passed
    /// over: [`super::Follow::poll`] tells why.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn states(&self) -> Result<Vec<StateRow>, StoreError> {
        let what = "reading the states";
        let rows = self.ask(what, move |database| async move {
            let mut connection = database.connector.connect(Purpose::Read).await?;
            let query = tables::select(connection.dialect(), Table::States);
            let rows = connection.fetch(what, query.into_query()).await?;
            connection.close().await;
            Ok(rows)
        });
        let rows = rows.await?;
        let mut rows: Vec<_> =
            rows.into_iter().filter_map(|mut row| tables::state_row(&mut row).ok()).collect();
        rows.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        Ok(rows)
    }

    /// Tells the followers of this process that something was committed.
    fn tell(&self) {
        self.shared.committed.send_replace(());
    }
}

/// What follows the rows of an INSERT in SQLite and PostgreSQL.
fn on_conflict(columns: &[&str]) -> String {
    let sets: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    format!(" ON CONFLICT (rule_id) DO UPDATE SET {}", sets.join(", "))
}

#[cfg(test)]
mod tests;
