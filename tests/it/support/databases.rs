//! Databases for tests, another program's connection to them, and a follower that describes changes.

use std::sync::Arc;
use std::time::Duration;

use rulesyncd::address::Address;
use rulesyncd::clock::{Clock, ManualClock, SharedClock, SystemClock, Timestamp};
use rulesyncd::config::DatabaseConfig;
use rulesyncd::rule::{Catalogue, RuleChange, TableDelta};
use rulesyncd::store::{
    Database, DatabaseFollower, Follow, FollowConfig, MasterSession, RuleStore, RuleWrite, StoreError,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};
use tempfile::TempDir;

use super::rules::{in_words, rule_row, rule_text};

/// How tests reach `address`.
pub(crate) fn config(address: &str) -> DatabaseConfig {
    DatabaseConfig {
        url_file: None,
        address: address.parse::<Address>().unwrap(),
        max_connections: 8,
        connect_timeout: Duration::from_secs(5),
        create_tables: true,
        allow_plaintext: false,
    }
}

pub(crate) fn system_clock() -> SharedClock {
    Arc::new(SystemClock)
}

/// A database at `address` with its tables.
pub(crate) async fn made(address: &str, clock: SharedClock) -> Database {
    let database = Database::open(&config(address), clock).await.unwrap();
    database.ensure_tables().await.unwrap();
    database
}

/// A connection that is not the daemon's: another program's, or a person's.
pub(crate) enum ExternalClient {
    Sqlite(sqlx::SqliteConnection),
    MySql(sqlx::MySqlConnection),
    Postgres(sqlx::PgConnection),
}

impl ExternalClient {
    /// Runs statements, and returns how many rows they wrote.
    pub(crate) async fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Sqlite(external) => sql.execute(external).await?.rows_affected(),
            Self::MySql(external) => sql.execute(external).await?.rows_affected(),
            Self::Postgres(external) => sql.execute(external).await?.rows_affected(),
        })
    }

    /// The first column of the first row of a query that casts it to text.
    pub(crate) async fn text(&mut self, sql: &str) -> Option<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        let found: Result<Option<Option<String>>, _> = match self {
            Self::Sqlite(external) => sqlx::query_scalar(sql).fetch_optional(external).await,
            Self::MySql(external) => sqlx::query_scalar(sql).fetch_optional(external).await,
            Self::Postgres(external) => sqlx::query_scalar(sql).fetch_optional(external).await,
        };
        found.unwrap().flatten()
    }

    /// The rows of a query that casts every column to text.
    pub(crate) async fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        macro_rules! rows {
            ($external:expr) => {{
                let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all($external).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|column| row.get(column)).collect()).collect()
            }};
        }
        match self {
            Self::Sqlite(external) => rows!(external),
            Self::MySql(external) => rows!(external),
            Self::Postgres(external) => rows!(external),
        }
    }

    pub(crate) async fn begin(&mut self) {
        self.run("BEGIN").await;
    }

    pub(crate) async fn commit(&mut self) {
        self.run("COMMIT").await;
    }

    /// Writes a rule as another program would, with any stamp.
    pub(crate) async fn put(&mut self, rule_id: &str, version: i32, stamp: Timestamp) {
        self.put_text(rule_id, version, &rule_text(rule_id, version), stamp).await;
    }

    pub(crate) async fn put_text(&mut self, rule_id: &str, version: i32, text: &str, stamp: Timestamp) {
        self.try_put_text(rule_id, version, text, stamp).await.unwrap();
    }

    pub(crate) async fn try_put(
        &mut self,
        rule_id: &str,
        version: i32,
        stamp: Timestamp,
    ) -> Result<(), sqlx::Error> {
        self.try_put_text(rule_id, version, &rule_text(rule_id, version), stamp).await
    }

    async fn try_put_text(
        &mut self,
        rule_id: &str,
        version: i32,
        text: &str,
        stamp: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let (text, stamp) = (text.replace('\'', "''"), stamp.to_sql_text());
        let columns = format!(
            "rule_version = {version}, yaml_content = '{text}', updated_at = '{stamp}', updated_by = 'admin'"
        );
        let update = format!("UPDATE ttp_rule SET {columns} WHERE rule_id = '{rule_id}'");
        // MySQL counts the rows that it changed, not those that it found.
        if self.try_run(&update).await? == 0 {
            let insert = format!(
                "INSERT INTO ttp_rule \
                 (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) \
                 VALUES ('{rule_id}', {version}, '{rule_id}.yaml', '{text}', '{stamp}', 'admin')"
            );
            self.try_run(&insert).await?;
        }
        Ok(())
    }

    /// Writes a state as another program would.
    pub(crate) async fn put_state(
        &mut self,
        rule_id: &str,
        state: &str,
        end: Option<Timestamp>,
        at: Timestamp,
    ) {
        let end = end.map_or("NULL".into(), |end| format!("'{}'", end.to_sql_text()));
        self.run(&format!("DELETE FROM ttp_rule_state WHERE rule_id = '{rule_id}'")).await;
        let insert = format!(
            "INSERT INTO ttp_rule_state (rule_id, state, expires_at, set_at) \
             VALUES ('{rule_id}', '{state}', {end}, '{}')",
            at.to_sql_text()
        );
        self.run(&insert).await;
    }
}

/// A database under test.
pub(crate) struct TestDatabase {
    pub(crate) database: Database,
    /// How another program connects to it.
    pub(crate) address: String,
    /// SQLite uses the host's clock, which a test sets; a server's clock runs.
    clock: Option<Arc<ManualClock>>,
    _directory: Option<TempDir>,
}

impl TestDatabase {
    async fn sqlite(address: String, directory: Option<TempDir>) -> Self {
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let database = made(&address, Arc::<ManualClock>::clone(&clock)).await;
        Self { database, address, clock: Some(clock), _directory: directory }
    }

    pub(crate) async fn sqlite_file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::sqlite(format!("sqlite://{}/rules.db", directory.path().display()), Some(directory)).await
    }

    pub(crate) async fn sqlite_memory() -> Self {
        Self::sqlite("sqlite::memory:".into(), None).await
    }

    /// A database of a server, with its tables.
    pub(crate) async fn server(address: &str) -> Self {
        let database = Database::open(&config(address), system_clock()).await.unwrap();
        database.ensure_tables().await.unwrap();
        Self { database, address: address.into(), clock: None, _directory: None }
    }

    pub(crate) fn is_memory(&self) -> bool {
        self.address == "sqlite::memory:"
    }

    /// Another program's connection.
    pub(crate) async fn external(&self) -> ExternalClient {
        let address = &self.address;
        match self.database.backend() {
            "sqlite" if self.is_memory() => {
                // No other process can open the memory of this process, so the name is read here.
                let shown = format!("{:?}", self.database);
                let name = shown.split("Memory(\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(name).vfs("memdb");
                ExternalClient::Sqlite(options.connect().await.unwrap())
            }
            "sqlite" => ExternalClient::Sqlite(sqlx::SqliteConnection::connect(address).await.unwrap()),
            "mysql" => ExternalClient::MySql(sqlx::MySqlConnection::connect(address).await.unwrap()),
            _ => ExternalClient::Postgres(sqlx::PgConnection::connect(address).await.unwrap()),
        }
    }

    pub(crate) async fn now(&self) -> Timestamp {
        self.database.now().await.unwrap()
    }

    /// Lets time pass on the database's clock.
    pub(crate) async fn pass(&self, span: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(span),
            None => tokio::time::sleep(span).await,
        }
    }

    /// Takes the lock once the server has released it: the end of a connection takes a moment.
    pub(crate) async fn session(&self) -> MasterSession {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(session) = self.database.try_lock().await.unwrap() {
                return session;
            }
            assert!(std::time::Instant::now() < deadline, "the lock is held");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Writes rules as the master does.
    pub(crate) async fn save(&self, rules: &[(&str, i32)]) {
        let writes: Vec<_> =
            rules.iter().map(|(id, version)| RuleWrite::Upsert(rule_row(id, *version))).collect();
        let mut session = self.session().await;
        let applied = session.apply(writes).await.unwrap();
        assert!(applied.rejected.is_empty(), "{applied:?}");
        session.close().await;
    }

    /// A follower that compares everything only at its first poll.
    pub(crate) async fn watcher(&self) -> Watcher {
        self.watcher_with(Duration::from_secs(3_600)).await
    }

    /// A follower that has polled once.
    pub(crate) async fn watcher_with(&self, full_scan_interval: Duration) -> Watcher {
        let follow = FollowConfig { overlap: OVERLAP, full_scan_interval, ..FollowConfig::default() };
        let mut watcher = Watcher {
            follower: self.database.clone().following(follow).follow(),
            catalogue: Arc::default(),
            rows: 0,
            missed_by_watermark: 0,
        };
        watcher.poll().await;
        watcher
    }
}

/// How far below the watermark the tests' followers poll.
pub(crate) const OVERLAP: Duration = Duration::from_secs(2);

/// After this time the overlap has passed, and the truncated part of a second.
pub(crate) const PAST_THE_OVERLAP: Duration = Duration::from_millis(3_200);

/// A worker's part that follows the tables.
pub(crate) struct Watcher {
    pub(crate) follower: DatabaseFollower,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Rows that the last poll read.
    pub(crate) rows: u64,
    /// Rows that the watermark had missed before the last poll.
    pub(crate) missed_by_watermark: u64,
}

impl Watcher {
    /// Polls, and describes the changes.
    pub(crate) async fn poll(&mut self) -> Vec<String> {
        let delta = self.follower.poll(&self.catalogue).await.unwrap();
        (self.rows, self.missed_by_watermark) = (delta.rows, delta.missed_by_watermark);
        taken_in(&mut self.catalogue, delta).iter().map(in_words).collect()
    }
}

/// Polls once, and applies the delta.
pub(crate) async fn poll(
    follower: &mut impl Follow,
    catalogue: &mut Arc<Catalogue>,
) -> Result<Vec<RuleChange>, StoreError> {
    let delta = follower.poll(catalogue).await?;
    Ok(taken_in(catalogue, delta))
}

fn taken_in(catalogue: &mut Arc<Catalogue>, delta: TableDelta) -> Vec<RuleChange> {
    // A poll that has ended holds no reference to it.
    Arc::get_mut(catalogue).unwrap().apply(delta)
}
