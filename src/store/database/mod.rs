//! The store over a database: one behaviour, one small file a dialect.

mod session;

use std::time::Duration;

pub use session::{Applied, MasterSession, RowSummary, RuleWrite, Scope};

use super::{Follow, Known, RuleStore, StoreError};
use crate::clock::{SharedClock, Timestamp};
use crate::config::DatabaseConfig;
use crate::rule::{CompiledRule, Look, RuleId, RuleState, StateRow};

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
    clock: SharedClock,
    follow: FollowConfig,
}

impl Database {
    /// Prepares the way to the database. Nothing is connected yet, so that a daemon starts while
    /// the database is away; every operation connects when it needs to.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what cannot come right by waiting: an unencrypted connection to
    /// another host, a certificate file that cannot be read, a file that is no SQLite database.
    pub async fn open(config: &DatabaseConfig, clock: SharedClock) -> Result<Self, StoreError> {
        let _ = config;
        Ok(Self { clock, follow: FollowConfig::default() })
    }

    /// The same database, followed in another way.
    #[must_use]
    pub fn following(mut self, follow: FollowConfig) -> Self {
        self.follow = follow;
        self
    }

    /// `sqlite`, `mysql` or `postgresql`.
    pub fn backend(&self) -> &'static str {
        "sqlite"
    }

    /// The database's clock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    /// Creates the tables that are missing, and where it may their indexes; tables that stand are
    /// left as they are. A SQLite file is created if there is none.
    ///
    /// # Errors
    /// When the database does not answer or does not allow it.
    pub async fn ensure_tables(&self) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// Becomes the one writer; `None` while another is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn try_lock(&self) -> Result<Option<MasterSession>, StoreError> {
        Ok(None)
    }

    /// The rows of `ttp_rule` in `scope`, without the right to write them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&self, scope: Scope<'_>) -> Result<Vec<RowSummary>, StoreError> {
        let _ = scope;
        Err(StoreError::Closed)
    }

    /// Every row of `ttp_rule_state`, expired ones too, by id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn states(&self) -> Result<Vec<StateRow>, StoreError> {
        Err(StoreError::Closed)
    }
}

impl RuleStore for Database {
    type Follower = DatabaseFollower;

    async fn load_compiled(&self) -> Result<Vec<CompiledRule>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn get_state(&self, rule_id: &RuleId) -> Result<RuleState, StoreError> {
        let _ = rule_id;
        Err(StoreError::Closed)
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        let _ = (rule_id, state);
        Err(StoreError::Closed)
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let _ = rule_id;
        Err(StoreError::Closed)
    }

    fn follow(&self) -> DatabaseFollower {
        DatabaseFollower { _database: self.clone() }
    }
}

/// One follower's place in a database, with a connection of its own.
#[derive(Debug)]
pub struct DatabaseFollower {
    _database: Database,
}

impl Follow for DatabaseFollower {
    async fn hint(&mut self) {
        std::future::pending().await
    }

    async fn look<K: Known + Sync>(&mut self, known: &K) -> Result<Look, StoreError> {
        let _ = known;
        Err(StoreError::Closed)
    }
}
