//! One follower's place in a database.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::connection::Connection;
use super::connector::Purpose;
use super::hints::Hints;
use super::look::{Looking, WHAT, Watermarks};
use super::sql::Cell;
use super::{Database, carry};
use crate::rule::Look;
use crate::store::{Carried, Follow, Known, StoreError};
use crate::telemetry::trace;

/// How often a poll begins anew at once whose tables were altered meanwhile.
const ALTERED_RETRIES: usize = 3;

/// One follower's place in a database, with a connection of its own.
#[derive(Debug)]
pub struct DatabaseFollower {
    database: Database,
    hints: Hints,
    /// `None` before the first look, and after one that failed or was given up.
    connection: Option<Connection>,
    memory: Memory,
    traces: Vec<Carried>,
    /// Whether something hinted since the last look.
    hinted: bool,
}

/// What is remembered from one look to the next.
#[derive(Debug, Clone)]
struct Memory {
    watermarks: Option<Watermarks>,
    last_full: Option<Instant>,
    /// Of SQLite, what [`data_version`] answered before the last look.
    version: Option<String>,
    /// Whether the table of traces can be read; asked again with each full look.
    carries: bool,
}

/// A look on the database's thread, with all that it needs.
struct OneLook<K> {
    database: Database,
    connection: Option<Connection>,
    memory: Memory,
    hinted: bool,
    known: Arc<K>,
}

/// What a look leaves behind.
struct Looked {
    look: Look,
    connection: Connection,
    memory: Memory,
    traces: Vec<Carried>,
}

impl DatabaseFollower {
    pub(super) fn new(database: Database) -> Self {
        let hints = Hints::new(&database);
        let memory = Memory { watermarks: None, last_full: None, version: None, carries: true };
        Self { database, hints, connection: None, memory, traces: Vec::new(), hinted: false }
    }
}

impl<K: Known + Send + Sync> OneLook<K> {
    async fn look(mut self) -> Result<Looked, StoreError> {
        // Kept only if the look comes to its end: whoever gives it up leaves it in no known state.
        let mut connection = self.connection().await?;
        let interval = self.database.follow.full_scan_interval;
        let full = self.memory.last_full.is_none_or(|last| last.elapsed() >= interval);
        let now = self.database.clock.now();
        let version = data_version(&mut connection).await?;
        if !full && version.is_some() && version == self.memory.version {
            let watermarks = self.memory.watermarks.map(|watermarks| watermarks.idle(now));
            let memory = Memory { watermarks, ..self.memory };
            let look = Look { now, ..Look::default() };
            return Ok(Looked { look, connection, memory, traces: Vec::new() });
        }
        let looking = Looking {
            database: &self.database,
            connection: &mut connection,
            known: &*self.known,
            watermarks: self.memory.watermarks.clone(),
            full,
            expectant: self.hinted || version.is_some(),
            retried: HashSet::new(),
        };
        let (look, watermarks) = looking.look().await?;
        let traces = self.arrivals(&mut connection, &look).await;
        if connection.is_elsewhere() {
            let detail = "the file was replaced while it was read".into();
            return Err(StoreError::Unavailable { what: WHAT, detail });
        }
        let last_full = if full { Some(Instant::now()) } else { self.memory.last_full };
        let memory = Memory { watermarks: Some(watermarks), last_full, version, ..self.memory };
        Ok(Looked { look, connection, memory, traces })
    }

    /// The connection of the last look, if it still leads to the database.
    async fn connection(&mut self) -> Result<Connection, StoreError> {
        match self.connection.take() {
            Some(connection) if !connection.is_broken() && !connection.is_elsewhere() => Ok(connection),
            _ => {
                self.memory.version = None;
                // The database may have been put back to what it was at another time, or be another:
                // no stamp tells how its rows differ from what is known.
                self.memory.last_full = None;
                self.database.connector.connect(Purpose::Read).await
            }
        }
    }

    /// The traces in which what the look found was written; none on a first look, which is no news.
    async fn arrivals(&mut self, connection: &mut Connection, look: &Look) -> Vec<Carried> {
        self.memory.carries |= look.full;
        let rules = look.rules.iter().flatten().map(|rule| rule.rule_id.to_string());
        let states = look.states.iter().flatten().map(|(rule_id, _)| rule_id.to_string());
        let rule_ids: Vec<String> = rules.chain(states).collect();
        let is_first = self.memory.watermarks.is_none();
        if trace::now().is_none() || !self.memory.carries || rule_ids.is_empty() || is_first {
            return Vec::new();
        }
        let found = carry::arrive(connection, &rule_ids).await;
        self.memory.carries = found.is_ok();
        found.unwrap_or_default()
    }
}

impl DatabaseFollower {
    async fn look_once<K: Known + Send + Sync + 'static>(
        &mut self,
        known: &Arc<K>,
    ) -> Result<Looked, StoreError> {
        let one_look = OneLook {
            database: self.database.clone(),
            connection: self.connection.take(),
            memory: self.memory.clone(),
            hinted: self.hinted,
            known: Arc::clone(known),
        };
        let limit = self.database.poll_limit();
        self.database.on_thread(WHAT, limit, one_look.look()).await
    }
}

impl Follow for DatabaseFollower {
    async fn hint(&mut self) {
        self.hints.next().await;
        self.hinted = true;
    }

    async fn look<K: Known + Send + Sync + 'static>(&mut self, known: &Arc<K>) -> Result<Look, StoreError> {
        self.hints.start(&self.database);
        let mut looked = self.look_once(known).await;
        for _ in 0..ALTERED_RETRIES {
            if !matches!(looked, Err(StoreError::TablesAltered { .. })) {
                break;
            }
            looked = self.look_once(known).await;
        }
        if matches!(looked, Err(StoreError::Driver { .. })) {
            // The thread may have been left behind, and whoever listens with it.
            self.hints = Hints::new(&self.database);
        }
        let Looked { look, connection, memory, traces } = looked?;
        self.connection = Some(connection);
        self.memory = memory;
        self.traces.extend(traces);
        self.hinted = false;
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
