//! The store over a database: one behaviour, one small file a dialect.

mod carry;
mod connection;
mod connector;
mod counts;
mod expiry;
mod follower;
mod hints;
mod lock;
mod look;
mod mysql;
mod pages;
mod postgres;
mod session;
mod sql;
mod sqlite;
mod tables;
mod writes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use carry::Departure;
pub use follower::DatabaseFollower;
pub use session::MasterSession;
pub use writes::{Applied, RowSummary, RuleWrite, Scope};

use self::connection::Connection;
use self::connector::{Connector, Purpose};
use self::lock::Lock;
use super::{RuleStore, StoreError};
use crate::clock::{RisingStamp, SharedClock, Timestamp};
use crate::config::DatabaseConfig;
use crate::rule::{CompiledRule, RuleId, RuleState, StateKind, StateRow, Table};
use crate::telemetry::metrics;
use crate::telemetry::trace::{self, Span};

/// How tables are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowConfig {
    /// How far below the watermark a row may still appear.
    pub overlap: Duration,
    /// How often everything is compared.
    pub full_scan_interval: Duration,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self { overlap: Duration::from_secs(5), full_scan_interval: Duration::from_secs(60) }
    }
}

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
}

impl Database {
    /// Prepares the way to the database. No server is connected to yet, so that a daemon starts
    /// while the database is away; every operation connects when it needs to, and follows the
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

    /// The database's clock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let mut connection = self.connector.connect(Purpose::Read).await?;
        let now = self.now_on(&mut connection).await?;
        connection.close().await;
        Ok(now)
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
        let mut connection = self.connector.connect(Purpose::Create).await?;
        let mut is_new = false;
        for table in [Table::Rules, Table::States] {
            is_new |= tables::ensure(&mut connection, table).await?;
        }
        if !self.shared.indexed.swap(true, Ordering::Relaxed) || is_new {
            for table in [Table::Rules, Table::States] {
                // Everything works without it, only slower.
                tables::index(&mut connection, table).await.ok();
            }
        }
        connection.close().await;
        Ok(())
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
        let mut connection = self.connector.connect(Purpose::Master).await?;
        let lock = match connection.dialect().try_lock {
            Some(sql) => lock::lock_session(&mut connection, sql).await?,
            None => Some(lock),
        };
        match lock {
            Some(lock) => MasterSession::new(self.clone(), connection, lock).await.map(Some),
            None => {
                connection.close().await;
                Ok(None)
            }
        }
    }

    /// The rows of `ttp_rule` in `scope`, without the right to write them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&self, scope: Scope<'_>) -> Result<Vec<RowSummary>, StoreError> {
        let mut connection = self.connector.connect(Purpose::Read).await?;
        let rows = tables::summaries(&mut connection, scope).await?;
        connection.close().await;
        Ok(rows)
    }

    /// Every row of `ttp_rule_state`, expired ones too, by id. A row that cannot be read is passed
    /// over: [`super::Follow::look`] tells why.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn states(&self) -> Result<Vec<StateRow>, StoreError> {
        let mut connection = self.connector.connect(Purpose::Read).await?;
        let query = tables::select(connection.dialect(), Table::States);
        let rows = connection.fetch("reading the states", query.into_query()).await?;
        connection.close().await;
        let mut rows: Vec<_> =
            rows.into_iter().filter_map(|mut row| tables::state_row(&mut row).ok()).collect();
        rows.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        Ok(rows)
    }

    /// Tells the followers of this process that something was committed.
    fn tell(&self) {
        self.shared.committed.send_replace(());
    }

    /// Does `work` in a transaction of an operator's connection.
    async fn write_state<T>(
        &self,
        what: &'static str,
        (change, departure): (&Span, Option<Departure>),
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let writing = change.child("ttp.store.write_state", trace::now());
        let mut connection = self.connector.connect(Purpose::Write).await?;
        if let Some(departure) = departure {
            // Where the table is missing or closed to this user, the trace ends here.
            carry::depart(&mut connection, &[departure]).await.ok();
        }
        connection.run(what, connection.dialect().begin_write).await?;
        // Should it fail, the connection ends and the transaction with it.
        let done = work(&mut connection).await?;
        let written = trace::now();
        writing.end(written);
        let publishing = change.child("ttp.rule.publish", written);
        if let Some(notify) = connection.dialect().notify {
            connection.run(what, notify).await?;
        }
        connection.run(what, "COMMIT").await?;
        self.tell();
        publishing.end(trace::now());
        connection.close().await;
        Ok(done)
    }

    /// A stamp above every one that this process gave and that the row has, within
    /// [`RisingStamp::REACH`] of `now`.
    fn set_at(&self, now: Timestamp, standing: Option<Timestamp>) -> Timestamp {
        let mut stamp = self.shared.set_at.lock().unwrap_or_else(PoisonError::into_inner);
        stamp.rise_above(standing.unwrap_or(Timestamp::MIN), now);
        stamp.next(now)
    }
}

impl RuleStore for Database {
    type Follower = DatabaseFollower;

    async fn load_compiled(&self) -> Result<Vec<CompiledRule>, StoreError> {
        super::subscription::load(self.follow()).await
    }

    async fn get_state(&self, rule_id: &RuleId) -> Result<RuleState, StoreError> {
        let mut connection = self.connector.connect(Purpose::Read).await?;
        let row = tables::state_of(&mut connection, rule_id).await?;
        let now = self.now_on(&mut connection).await?;
        connection.close().await;
        Ok(row.map(|row| row.state()).transpose()?.unwrap_or_default().effective(now))
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        state.validate()?;
        let change = state_change(rule_id, state.state, state.set_by.as_deref());
        let departure = Departure::of_state(rule_id.as_str(), state.fingerprint(), &change);
        let write = self.write_state("setting a state", (&change, departure), async |connection| {
            let now = self.now_on(connection).await?;
            tables::refuse_another_case(connection, "setting a state", rule_id).await?;
            let standing = tables::state_of(connection, rule_id).await?;
            let set_at = self.set_at(now, standing.and_then(|row| row.set_at));
            tables::write_state(connection, &StateRow::new(rule_id, &state), set_at).await?;
            // As the columns hold it: a whole-second column cuts the fraction off.
            let written = tables::state_of(connection, rule_id).await?;
            Ok(written.map(|row| row.state()).transpose()?.unwrap_or_default())
        });
        let done = metrics::timed("set_state", write).await;
        finish(change, done)
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let change = state_change(rule_id, StateKind::default(), None);
        let departure = Departure::of_state(rule_id.as_str(), RuleState::default().fingerprint(), &change);
        let write = self.write_state("clearing a state", (&change, departure), async |connection| {
            tables::refuse_another_case(connection, "clearing a state", rule_id).await?;
            tables::delete_state(connection, rule_id).await
        });
        let done = metrics::timed("clear_state", write).await;
        finish(change, done)
    }

    fn follow(&self) -> DatabaseFollower {
        DatabaseFollower::new(self.clone())
    }
}

/// The span of a state that is set or cleared.
fn state_change(rule_id: &RuleId, state: StateKind, set_by: Option<&str>) -> Span {
    let mut change = Span::root("ttp.rule.state.change", trace::now());
    change.set("rule_id", rule_id.to_string());
    change.set("state", state.as_str());
    if let Some(set_by) = set_by {
        change.set("set_by", set_by.to_owned());
    }
    change
}

fn finish<T>(mut change: Span, done: Result<T, StoreError>) -> Result<T, StoreError> {
    if done.is_err() {
        change.fail();
    }
    change.end(trace::now());
    done
}

/// What follows the rows of an INSERT in SQLite and PostgreSQL.
fn on_conflict(columns: &[&str]) -> String {
    let sets: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    format!(" ON CONFLICT (rule_id) DO UPDATE SET {}", sets.join(", "))
}
