//! One follower's place in a database.

use tokio::time::Instant;

use super::connection::Connection;
use super::connector::Purpose;
use super::hints::Hints;
use super::look::{Looking, Watermarks};
use super::sql::Cell;
use super::{Database, carry};
use crate::rule::Look;
use crate::store::{Carried, Follow, Known, StoreError};
use crate::telemetry::trace;

/// One follower's place in a database, with a connection of its own.
#[derive(Debug)]
pub struct DatabaseFollower {
    database: Database,
    hints: Hints,
    /// `None` before the first look, and after one that failed or was given up.
    connection: Option<Connection>,
    watermarks: Option<Watermarks>,
    last_full: Option<Instant>,
    /// Of SQLite, what [`data_version`] answered before the last look.
    version: Option<String>,
    traces: Vec<Carried>,
    /// Whether the table of traces can be read; asked again with each full look.
    carries: bool,
    /// Whether something hinted since the last look.
    hinted: bool,
}

impl DatabaseFollower {
    pub(super) fn new(database: Database) -> Self {
        let hints = Hints::new(&database);
        Self {
            database,
            hints,
            connection: None,
            watermarks: None,
            last_full: None,
            version: None,
            traces: Vec::new(),
            carries: true,
            hinted: false,
        }
    }

    /// The connection of the last look, if it still leads to the database.
    async fn connection(&mut self) -> Result<Connection, StoreError> {
        match self.connection.take() {
            Some(connection) if !connection.is_broken() && !connection.is_elsewhere() => Ok(connection),
            _ => {
                self.version = None;
                // The database may have been put back to what it was at another time, or be another:
                // no stamp tells how its rows differ from what is known.
                self.last_full = None;
                self.database.connector.connect(Purpose::Read).await
            }
        }
    }
}

impl DatabaseFollower {
    /// The traces in which what the look found was written; none on a first look, which is no news.
    async fn arrivals(&mut self, connection: &mut Connection, look: &Look) -> Vec<Carried> {
        self.carries |= look.full;
        let rules = look.rules.iter().flatten().map(|rule| rule.rule_id.to_string());
        let states = look.states.iter().flatten().map(|(rule_id, _)| rule_id.to_string());
        let rule_ids: Vec<String> = rules.chain(states).collect();
        if trace::now().is_none() || !self.carries || rule_ids.is_empty() || self.watermarks.is_none() {
            return Vec::new();
        }
        let found = carry::arrive(connection, &rule_ids).await;
        self.carries = found.is_ok();
        found.unwrap_or_default()
    }
}

impl Follow for DatabaseFollower {
    async fn hint(&mut self) {
        self.hints.next().await;
        self.hinted = true;
    }

    async fn look<K: Known + Sync>(&mut self, known: &K) -> Result<Look, StoreError> {
        self.hints.start(&self.database);
        // Kept only if the look comes to its end: whoever gives it up leaves it in no known state.
        let mut connection = self.connection().await?;
        let interval = self.database.follow.full_scan_interval;
        let full = self.last_full.is_none_or(|last| last.elapsed() >= interval);
        let now = self.database.clock.now();
        let version = data_version(&mut connection).await?;
        if !full && version.is_some() && version == self.version {
            self.connection = Some(connection);
            self.watermarks = self.watermarks.take().map(|watermarks| watermarks.idle(now));
            return Ok(Look { now, ..Look::default() });
        }
        let looking = Looking {
            database: &self.database,
            connection: &mut connection,
            known,
            watermarks: self.watermarks.clone(),
            full,
            expectant: self.hinted || version.is_some(),
        };
        let (look, watermarks) = looking.look().await?;
        self.hinted = false;
        self.traces = self.arrivals(&mut connection, &look).await;
        if connection.is_elsewhere() {
            let detail = "the file was replaced while it was read".into();
            return Err(StoreError::Unavailable { what: "reading the tables", detail });
        }
        self.connection = Some(connection);
        self.version = version;
        self.watermarks = Some(watermarks);
        if full {
            self.last_full = Some(Instant::now());
        }
        Ok(look)
    }

    fn traces(&mut self) -> Vec<Carried> {
        std::mem::take(&mut self.traces)
    }
}

/// A value that is another once someone else has committed; `None` where the database has none.
pub(super) async fn data_version(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let Some(question) = connection.dialect().commits else { return Ok(None) };
    let query = connection.query(question);
    match connection.cell("asking for changes", query).await? {
        Cell::Text(version) => Ok(Some(version)),
        _ => Ok(None),
    }
}
