//! One connection, whatever the dialect: statements and arguments in, rows of text out, and every
//! wait bounded.

use std::sync::Arc;
use std::task::Poll;

use futures_util::stream::{BoxStream, StreamExt as _};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::OwnedSemaphorePermit;

use super::connector::Connector;
use super::pages::{Page, Pages};
use super::relay::Relay;
use super::sql::{Arg, Cell, Dialect, Query, Row, Select};
use super::{mysql, postgres, sqlite};
use crate::rule::Table;
use crate::store::StoreError;

/// How many bytes an answer may have that is held as a whole: a quarter of the memory that the units allow.
pub(super) const LONGEST_ANSWER: usize = 256 << 20;

/// A driver's connection.
pub(super) enum Link {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

/// What a link's bytes go through.
struct Transport {
    /// `None` where the database is a file.
    relay: Option<Relay>,
    /// Whether the link is lost, or in an unknown state.
    broken: bool,
}

/// One connection to the database. Once broken it stays so: drop it and make another.
pub(super) struct Connection {
    link: Link,
    transport: Transport,
    connector: Arc<Connector>,
    /// Of a SQLite file, which one it is.
    file: Option<sqlite::Identity>,
    _permit: OwnedSemaphorePermit,
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

impl Connection {
    pub(super) const fn new(
        link: Link,
        relay: Option<Relay>,
        connector: Arc<Connector>,
        file: Option<sqlite::Identity>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { link, transport: Transport { relay, broken: false }, connector, file, _permit: permit }
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        self.connector.dialect()
    }

    pub(super) fn query(&self, sql: impl Into<String>) -> Query {
        Query::new(self.dialect(), sql)
    }

    /// Whether the connection is lost, or in an unknown state.
    pub(super) const fn is_broken(&self) -> bool {
        self.transport.broken
    }

    /// Whether another file stands now in the place of the SQLite file that is open, or the file is
    /// read as if it could not change and did.
    pub(super) fn is_elsewhere(&self) -> bool {
        let frozen = self.file.is_some_and(|file| file.is_frozen());
        self.file != self.connector.place().and_then(|place| place.identity(frozen))
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

    /// Runs a statement and tells how many rows it wrote.
    pub(super) async fn execute(&mut self, what: &'static str, query: Query) -> Result<u64, StoreError> {
        let running = async {
            match &mut self.link {
                Link::Sqlite(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
                Link::MySql(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
                Link::Postgres(link) => bound!(query).execute(link).await.map(|done| done.rows_affected()),
            }
        };
        bounded(&self.connector, &mut self.transport, what, running).await
    }

    /// Rows, as they are asked for.
    pub(super) fn rows(&mut self, what: &'static str, select: Select) -> Rows<'_> {
        // Numbers with a fraction lose digits on their way through a page, and states are few.
        if matches!(self.link, Link::Sqlite(_)) && select.table == Table::Rules {
            return Rows::Pages(self, Pages::new(select), what);
        }
        self.row_by_row(what, select)
    }

    /// Rows, as the driver hands them over one by one.
    pub(super) fn row_by_row(&mut self, what: &'static str, select: Select) -> Rows<'_> {
        Rows::Stream(self.stream(what, select.into_query()))
    }

    fn stream(&mut self, what: &'static str, query: Query) -> Stream<'_> {
        let rows = match &mut self.link {
            Link::Sqlite(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| sqlite::read(&row))).boxed()
            }
            Link::MySql(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| mysql::read(&row))).boxed()
            }
            Link::Postgres(link) => {
                bound!(query).fetch(link).map(|row| row.and_then(|row| postgres::read(&row))).boxed()
            }
        };
        Stream { rows, connector: &self.connector, transport: &mut self.transport, what }
    }

    /// The answer to a question for a page; `None` where it is none.
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

    /// Reads no more of an answer that is longer than [`LONGEST_ANSWER`], or has no end: the connection is lost.
    pub(super) fn give_up(&mut self, what: &'static str) -> StoreError {
        self.transport.broken = true;
        StoreError::Refused {
            what,
            detail: format!("the table has more than {LONGEST_ANSWER} bytes without the texts of rules"),
            remedy: "look for rows that nobody needs, and delete them".into(),
        }
    }

    /// The only row of an answer that has at most one. A server that sends more may send them without
    /// end, so that they are not read.
    pub(super) async fn row(&mut self, what: &'static str, query: Query) -> Result<Option<Row>, StoreError> {
        let mut rows = self.stream(what, query);
        let row = rows.next().await?;
        if row.is_some() && rows.next().await?.is_some() {
            rows.transport.broken = true;
            return Err(StoreError::Unavailable { what, detail: "the answer has more than one row".into() });
        }
        Ok(row)
    }

    /// The first cell of the only row.
    pub(super) async fn cell(&mut self, what: &'static str, query: Query) -> Result<Cell, StoreError> {
        let row = self.row(what, query).await?;
        Ok(row.and_then(|row| row.0.into_iter().next()).unwrap_or(Cell::Null))
    }

    /// Says goodbye, so that the server frees what the session holds at once.
    pub(super) async fn close(self) {
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
    }
}

/// Rows on their way.
pub(super) enum Rows<'c> {
    Stream(Stream<'c>),
    Pages(&'c mut Connection, Pages, &'static str),
    Ended,
}

impl Rows<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        loop {
            match self {
                Self::Ended => return Ok(None),
                Self::Stream(stream) => return stream.next().await,
                Self::Pages(connection, pages, what) => {
                    if let Some(row) = pages.pop() {
                        return Ok(Some(row));
                    }
                    let Some(query) = pages.next() else { return Ok(None) };
                    match connection.page(what, query).await {
                        Ok(Some(page)) => {
                            if pages.take(page) {
                                continue;
                            }
                        }
                        Err(error) if connection.is_broken() => return Err(error),
                        Ok(None) | Err(_) => {}
                    }
                }
            }
            if let Self::Pages(connection, pages, what) = std::mem::replace(self, Self::Ended) {
                *self = Self::Stream(connection.stream(what, pages.row_by_row()));
            }
        }
    }
}

/// Rows that the driver hands over one by one.
pub(super) struct Stream<'c> {
    rows: BoxStream<'c, Result<Row, sqlx::Error>>,
    connector: &'c Arc<Connector>,
    transport: &'c mut Transport,
    what: &'static str,
}

impl Stream<'_> {
    async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        let rows = &mut self.rows;
        let next = std::future::poll_fn(|context| match rows.poll_next_unpin(context) {
            Poll::Ready(row) => Poll::Ready(row.transpose()),
            Poll::Pending => Poll::Pending,
        });
        bounded(self.connector, self.transport, self.what, next).await
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
    // Until the work is done the connection is in no known state, should whoever waits go away.
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
            transport.broken =
                !matches!(&error, sqlx::Error::Database(error) if !connector.closes_connection(&**error));
            Err(connector.judge(what, error))
        }
        Err(_) => Err(connector.timeout_error(what)),
    }
}
