//! One connection, whatever the dialect: statements and arguments in, rows of text out, with a time limit for every
//! wait.

mod open;
mod rows;

use std::sync::Arc;

use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, watch};

pub(super) use self::rows::Rows;
use self::rows::Stream;
use super::columns::Select;
use super::connector::Connector;
use super::pages::{Page, Pages};
use super::relay::Relay;
use super::row::{self, Cell, Row};
use super::sql::{Arg, Dialect, Query};
use super::sqlite;
use crate::address::SessionAttrs;
use crate::rule::Table;
use crate::store::StoreError;

/// The most bytes of an answer that is held in memory as a whole: a quarter of the memory that the units allow.
pub(super) const LONGEST_ANSWER: usize = 256 << 20;

/// A driver's connection.
enum Link {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

/// The transport of a connection.
struct Transport {
    /// `None` if the database is a file.
    relay: Option<Relay>,
    /// Whether the connection is lost, or in an unknown state.
    broken: bool,
    /// Which host of the address it goes to.
    host: usize,
}

/// One connection to the database. Once broken it stays broken: drop it and make another.
pub(super) struct Connection {
    link: Link,
    transport: Transport,
    connector: Arc<Connector>,
    /// Identifies the file of a SQLite database.
    file: Option<sqlite::FileIdentity>,
    server: open::About,
    /// Which servers the connection may use.
    wanted: SessionAttrs,
    permit: OwnedSemaphorePermit,
    /// Whether the session was made a listener, or tried to be.
    listens: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({:?})", self.connector.address)
    }
}

/// A statement with its arguments bound, for one of the drivers.
macro_rules! bound {
    ($query:expr) => {
        $query.args.into_iter().fold(sqlx::query(AssertSqlSafe($query.sql)), |query, arg| match arg {
            Arg::Text(text) => query.bind(text),
            Arg::Int(int) => query.bind(int),
            Arg::Real(real) => query.bind(real),
        })
    };
}

/// The rows that the last of the statements wrote.
macro_rules! last_of {
    ($results:expr) => {
        $results.try_fold(0, |_, done| std::future::ready(Ok(done.rows_affected()))).await
    };
}

impl Connection {
    pub(super) fn dialect(&self) -> &'static Dialect {
        self.connector.dialect()
    }

    pub(super) fn query(&self, sql: impl Into<String>) -> Query {
        Query::new(self.dialect(), sql)
    }

    /// Whether the server can xor hashes of rows: PostgreSQL can from version 14.
    pub(super) fn has_xor(&self) -> bool {
        match &self.link {
            Link::Sqlite(_) => false,
            Link::MySql(_) => true,
            Link::Postgres(link) => link.server_version_num().is_some_and(|version| version >= 140_000),
        }
    }

    /// Whether the connection is lost, or in an unknown state.
    pub(super) const fn is_broken(&self) -> bool {
        self.transport.broken
    }

    /// Which host of the address the connection goes to.
    pub(super) const fn host(&self) -> usize {
        self.transport.host
    }

    /// Whether another file has replaced the open SQLite file, or the file is read as immutable and has changed.
    pub(super) fn is_elsewhere(&self) -> bool {
        let frozen = self.file.is_some_and(|file| file.is_frozen());
        self.file != self.connector.sqlite_location().and_then(|place| place.identity(frozen))
    }

    /// Runs statements without arguments.
    pub(super) async fn run(&mut self, what: &'static str, sql: &str) -> Result<(), StoreError> {
        let sql = AssertSqlSafe(sql.to_owned());
        let running = async {
            match &mut self.link {
                Link::Sqlite(link) => sqlx::raw_sql(sql).execute(link).await.map(drop),
                Link::MySql(link) => sqlx::raw_sql(sql).execute(link).await.map(drop),
                Link::Postgres(link) => sqlx::raw_sql(sql).execute(link).await.map(drop),
            }
        };
        bounded(&self.connector, &mut self.transport, what, running).await
    }

    /// Runs statements without arguments, and returns how many rows the last one wrote.
    pub(super) async fn run_counted(&mut self, what: &'static str, sql: &str) -> Result<u64, StoreError> {
        let sql = AssertSqlSafe(sql.to_owned());
        let running = async {
            match &mut self.link {
                Link::Sqlite(link) => last_of!(sqlx::raw_sql(sql).execute_many(link)),
                Link::MySql(link) => last_of!(sqlx::raw_sql(sql).execute_many(link)),
                Link::Postgres(link) => last_of!(sqlx::raw_sql(sql).execute_many(link)),
            }
        };
        bounded(&self.connector, &mut self.transport, what, running).await
    }

    /// Runs a statement and returns how many rows it wrote.
    pub(super) async fn execute(&mut self, what: &'static str, query: Query) -> Result<u64, StoreError> {
        let bytes = query.bytes();
        let longest = self.longest_statement();
        if bytes > longest {
            return Err(StoreError::too_large(what, bytes, longest));
        }
        let running = async {
            match &mut self.link {
                Link::Sqlite(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
                Link::MySql(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
                Link::Postgres(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
            }
        };
        bounded(&self.connector, &mut self.transport, what, running).await
    }

    /// Starts a query, in pages if the driver has them.
    pub(super) fn rows(&mut self, what: &'static str, select: Select) -> Rows<'_> {
        // A page would round numbers with a fraction, and states are few.
        if matches!(self.link, Link::Sqlite(_)) && select.table == Table::Rules {
            return Rows::Pages(self, Pages::new(select), what);
        }
        self.row_by_row(what, select)
    }

    /// Starts a query whose rows the driver hands over one by one.
    pub(super) fn row_by_row(&mut self, what: &'static str, select: Select) -> Rows<'_> {
        Rows::Stream(self.stream(what, select.into_query()))
    }

    fn stream(&mut self, what: &'static str, query: Query) -> Stream<'_> {
        let rows = match &mut self.link {
            Link::Sqlite(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| sqlite::read(&row))).boxed()
            }
            Link::MySql(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| row::read(&row))).boxed()
            }
            Link::Postgres(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| row::read(&row))).boxed()
            }
        };
        Stream::new(rows, (&self.connector, &mut self.transport), what)
    }

    /// The result of a query for a page; `None` if it is not a page.
    async fn page(&mut self, what: &'static str, query: Query) -> Result<Option<Page>, StoreError> {
        let Link::Sqlite(link) = &mut self.link else { return Ok(None) };
        let reading = async { bound!(query).fetch_one(link).await.and_then(|row| Page::read(&row)) };
        bounded(&self.connector, &mut self.transport, what, reading).await
    }

    pub(super) async fn fetch(&mut self, what: &'static str, query: Query) -> Result<Vec<Row>, StoreError> {
        let (mut rows, mut size) = (Vec::new(), 0);
        let mut stream = self.stream(what, query);
        while let Some(row) = stream.next().await? {
            size += row.memory();
            if size > LONGEST_ANSWER {
                drop(stream);
                return Err(self.give_up(what));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Stops reading an answer that is longer than [`LONGEST_ANSWER`] or has no end, and gives up the connection.
    pub(super) fn give_up(&mut self, what: &'static str) -> StoreError {
        self.transport.broken = true;
        StoreError::Refused {
            what,
            detail: format!("the table has more than {LONGEST_ANSWER} bytes without the texts of rules"),
            remedy: "look for rows that nobody needs, and delete them".into(),
        }
    }

    /// The only row of an answer that has at most one. If a server sends more, they may have no end, so they are not
    /// read.
    pub(super) async fn row(&mut self, what: &'static str, query: Query) -> Result<Option<Row>, StoreError> {
        let mut rows = self.stream(what, query);
        let row = rows.next().await?;
        if row.is_some() && rows.next().await?.is_some() {
            drop(rows);
            self.transport.broken = true;
            return Err(StoreError::Unavailable { what, detail: "the answer has more than one row".into() });
        }
        Ok(row)
    }

    /// The first cell of the only row.
    pub(super) async fn cell(&mut self, what: &'static str, query: Query) -> Result<Cell, StoreError> {
        let row = self.row(what, query).await?;
        Ok(row.and_then(|row| row.0.into_iter().next()).unwrap_or(Cell::Null))
    }

    /// A value that changes when another connection commits; `None` if the database has none.
    pub(super) async fn data_version(&mut self) -> Result<Option<String>, StoreError> {
        let Some(question) = self.dialect().commits else { return Ok(None) };
        let query = self.query(question);
        match self.cell("asking for changes", query).await? {
            Cell::Text(version) => Ok(Some(version)),
            _ => Ok(None),
        }
    }

    /// Makes the session a listener, where the server has notifications. A standby has none until it is promoted.
    ///
    /// # Errors
    /// The connection is lost. Without notifications, everything else works.
    pub(super) async fn listen(&mut self) -> Result<(), StoreError> {
        let Some(listen) = self.dialect().listen else { return Ok(()) };
        if self.listens || self.role().is_standby {
            return Ok(());
        }
        self.listens = true;
        match self.run("listening for notifications", listen).await {
            Err(error) if self.is_broken() => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes when the session is notified from now on, and when the connection ends; `None` where the server has no
    /// notifications.
    pub(super) fn notified(&self) -> Option<watch::Receiver<()>> {
        self.dialect().listen.and(self.transport.relay.as_ref()).map(Relay::notified)
    }

    /// Closes the connection properly, so that the server frees the session's resources at once.
    pub(super) async fn close(self) {
        drop(self.end().await);
    }

    /// The same, and returns the permit.
    async fn end(self) -> OwnedSemaphorePermit {
        let closing = async {
            match self.link {
                Link::Sqlite(link) => link.close().await,
                Link::MySql(link) => link.close().await,
                Link::Postgres(link) => link.close().await,
            }
            .ok();
            if let Some(relay) = self.transport.relay {
                relay.ended().await;
            }
        };
        tokio::time::timeout(self.connector.timeout(), closing).await.ok();
        self.permit
    }
}

async fn bounded<T>(
    connector: &Connector,
    transport: &mut Transport,
    what: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    if transport.broken {
        return Err(StoreError::Unavailable { what, detail: "the connection was lost".into() });
    }
    // Marked as broken until the work ends: if the caller is cancelled, the state is unknown.
    transport.broken = true;
    match tokio::time::timeout(connector.limit(), work).await {
        Ok(Ok(done)) => {
            transport.broken = false;
            Ok(done)
        }
        Ok(Err(error)) => {
            let error = match &transport.relay {
                Some(relay) => relay.explain(error),
                None => error,
            };
            let said = match &error {
                sqlx::Error::Database(error) => Some(&**error),
                _ => None,
            };
            transport.broken = said.is_none_or(|error| connector.closes_connection(error));
            if said.is_some_and(|error| connector.is_wrong_host(error)) && connector.avoid(transport.host) {
                // Another host is tried instead.
                transport.broken = true;
                let detail = connector.classify_error(what, error).cause().into_owned();
                return Err(StoreError::Unavailable { what, detail });
            }
            Err(connector.classify_error(what, error))
        }
        Err(_) => Err(connector.timeout_error(what)),
    }
}
