//! One connection, whatever the dialect: statements and arguments in, rows of text out, every
//! wait bounded, every error judged and free of secrets.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt as _};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sql::{Arg, Cell, Dialect, Query, Row, Verdict};
use super::{mysql, postgres, sqlite};
use crate::config::DatabaseConfig;
use crate::store::{Address, Host, Server, StoreError, TlsMode};

/// A database waits this much longer than it was told to before its silence is an error, so that
/// its own, better, message comes first.
const GRACE: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `SELECT` alone.
    Read,
    /// An operator's states.
    Write,
    /// The one writer of the rules.
    Master,
    /// Making what is missing, a SQLite file among it.
    Create,
}

/// How connections to one database are made.
#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    pub(super) address: Address,
    timeout: Duration,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
enum Target {
    Sqlite(sqlite::Place),
    MySql(Box<MySqlConnectOptions>),
    Postgres(Box<PgConnectOptions>),
}

enum Link {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

impl Connector {
    pub(super) fn new(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let timeout = config.connect_timeout;
        let target = match &config.address {
            Address::SqliteFile(path) => Target::Sqlite(sqlite::Place::File(path.clone())),
            Address::SqliteMemory => Target::Sqlite(sqlite::Place::memory()),
            Address::MySql(server) => {
                Target::MySql(Box::new(mysql::options(server, tls(server, config.allow_plaintext)?)))
            }
            Address::Postgres(server) => Target::Postgres(Box::new(postgres::options(
                server,
                tls(server, config.allow_plaintext)?,
                timeout,
            ))),
        };
        if let Target::Sqlite(place) = &target {
            place.check()?;
        }
        let permits = Arc::new(Semaphore::new(usize::try_from(config.max_connections).unwrap_or(1).max(1)));
        Ok(Self { target, address: config.address.clone(), timeout, permits })
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        match self.target {
            Target::Sqlite(_) => &sqlite::DIALECT,
            Target::MySql(_) => &mysql::DIALECT,
            Target::Postgres(_) => &postgres::DIALECT,
        }
    }

    /// Where a SQLite database is; `None` for a server.
    pub(super) fn place(&self) -> Option<&sqlite::Place> {
        match &self.target {
            Target::Sqlite(place) => Some(place),
            _ => None,
        }
    }

    /// The longest that a statement may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How PostgreSQL is listened to; `None` for another database.
    pub(super) fn postgres(&self) -> Option<&PgConnectOptions> {
        match &self.target {
            Target::Postgres(options) => Some(options),
            _ => None,
        }
    }

    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(self.timeout, permit).await {
            Ok(permit) => permit.map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Unavailable {
                what: "connecting to the database",
                detail: "all connections that `database.max_connections` allows are in use".into(),
            }),
        }
    }

    pub(super) async fn connect(self: &Arc<Self>, purpose: Purpose) -> Result<Connection, StoreError> {
        let what = "connecting to the database";
        let permit = self.permit().await?;
        let limit = self.timeout + GRACE;
        let connecting = async {
            match &self.target {
                Target::Sqlite(place) => {
                    let (link, frozen) = place.connect(purpose, self.timeout).await?;
                    Ok((Link::Sqlite(link), place.identity(frozen)))
                }
                Target::MySql(options) => {
                    Ok((Link::MySql(mysql::connect(options, purpose, self.timeout).await?), None))
                }
                Target::Postgres(options) => Ok((Link::Postgres(options.connect().await?), None)),
            }
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok((link, file))) => {
                let connector = Arc::clone(self);
                Ok(Connection { link, connector, broken: false, file, _permit: permit })
            }
            Ok(Err(error)) => Err(self.judge(what, error)),
            Err(_) => Err(self.silent(what)),
        }
    }

    fn silent(&self, what: &'static str) -> StoreError {
        StoreError::Unavailable { what, detail: format!("no answer within {:?}", self.timeout) }
    }

    /// What an error of the driver means to whoever asked.
    pub(super) fn judge(&self, what: &'static str, error: sqlx::Error) -> StoreError {
        let detail = self.address.redact(&error.to_string());
        let unavailable = |detail| StoreError::Unavailable { what, detail };
        let error = match error {
            sqlx::Error::Database(error) => error,
            sqlx::Error::Tls(error) if error.to_string().contains("certificate") => {
                let remedy = "check the server's certificate, and `sslrootcert` in `database.url`".into();
                return StoreError::Refused { what, detail, remedy };
            }
            _ => return unavailable(detail),
        };
        let code = match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            Some(error) => error.number().to_string(),
            None => error.code().unwrap_or_default().into_owned(),
        };
        let message = self.address.redact(error.message());
        match (self.dialect().judge)(&code, &message) {
            Verdict::Transient => unavailable(message),
            Verdict::NoTable => {
                unavailable(format!("waiting for the tables ({message}); a master makes them"))
            }
            Verdict::NoFile => match self.place().and_then(sqlite::Place::file) {
                Some(path) if matches!(std::fs::exists(path), Ok(false)) => {
                    unavailable(format!("waiting for {}; a master makes it", path.display()))
                }
                _ => StoreError::Refused {
                    what,
                    detail: message,
                    remedy: "give the service's user the right to the file and its directory".into(),
                },
            },
            Verdict::Row => StoreError::Row { what, detail: message },
            Verdict::Refused(remedy) => StoreError::Refused { what, detail: message, remedy: remedy.into() },
        }
    }
}

/// What the connection to a server is encrypted with.
fn tls(server: &Server, allow_plaintext: bool) -> Result<TlsMode, StoreError> {
    let refused = |detail: String, remedy: &str| StoreError::Refused {
        what: "opening the database",
        detail,
        remedy: remedy.into(),
    };
    if let Some(ca) = &server.tls_ca {
        std::fs::File::open(ca).map_err(|error| {
            refused(format!("{}: {error}", ca.display()), "name a readable file in `sslrootcert`")
        })?;
    }
    let mode = match (server.tls, server.host.is_local()) {
        (Some(mode), _) => mode,
        (None, _) if server.tls_ca.is_some() => TlsMode::VerifyFull,
        (None, true) => TlsMode::Prefer,
        (None, false) if allow_plaintext => TlsMode::Prefer,
        (None, false) => TlsMode::VerifyFull,
    };
    match (mode, &server.host) {
        (_, Host::Socket(_)) => Ok(TlsMode::Disable),
        (TlsMode::Disable | TlsMode::Prefer, Host::Tcp(name, _))
            if !server.host.is_local() && !allow_plaintext =>
        {
            Err(refused(
                format!(
                    "`sslmode={}` would send rules and password to {name} unencrypted",
                    match mode {
                        TlsMode::Disable => "disable",
                        _ => "prefer",
                    }
                ),
                "take sslmode=verify-full, or set `database.allow_plaintext`",
            ))
        }
        (mode, _) => Ok(mode),
    }
}

/// One connection to the database. Once broken it stays so: drop it and make another.
pub(super) struct Connection {
    link: Link,
    connector: Arc<Connector>,
    broken: bool,
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
    pub(super) fn dialect(&self) -> &'static Dialect {
        self.connector.dialect()
    }

    pub(super) fn query(&self, sql: impl Into<String>) -> Query {
        Query::new(self.dialect(), sql)
    }

    /// Whether the connection is lost, or in an unknown state.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
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
        bounded(&self.connector, &mut self.broken, what, running).await
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
        bounded(&self.connector, &mut self.broken, what, running).await
    }

    /// Runs a query whose rows come as they are asked for.
    pub(super) fn stream(&mut self, what: &'static str, query: Query) -> Rows<'_> {
        let stream = match &mut self.link {
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
        Rows { stream, connector: &self.connector, broken: &mut self.broken, what }
    }

    pub(super) async fn fetch(&mut self, what: &'static str, query: Query) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut stream = self.stream(what, query);
        while let Some(row) = stream.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// The first cell of the first row.
    pub(super) async fn cell(&mut self, what: &'static str, query: Query) -> Result<Cell, StoreError> {
        let row = self.fetch(what, query).await?.into_iter().next();
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
        };
        tokio::time::timeout(self.connector.timeout, closing).await.ok();
    }
}

/// Rows on their way.
pub(super) struct Rows<'c> {
    stream: BoxStream<'c, Result<Row, sqlx::Error>>,
    connector: &'c Arc<Connector>,
    broken: &'c mut bool,
    what: &'static str,
}

impl Rows<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        let stream = &mut self.stream;
        let next = std::future::poll_fn(|context| match Pin::new(&mut *stream).poll_next(context) {
            Poll::Ready(row) => Poll::Ready(row.transpose()),
            Poll::Pending => Poll::Pending,
        });
        bounded(self.connector, self.broken, self.what, next).await
    }
}

async fn bounded<T>(
    connector: &Connector,
    broken: &mut bool,
    what: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    if *broken {
        return Err(StoreError::Unavailable { what, detail: "the connection was lost".into() });
    }
    // Until the work is done the connection is in no known state, should whoever waits go away.
    *broken = true;
    match tokio::time::timeout(connector.timeout + GRACE, work).await {
        Ok(Ok(done)) => {
            *broken = false;
            Ok(done)
        }
        Ok(Err(error)) => {
            *broken = !matches!(error, sqlx::Error::Database(_));
            Err(connector.judge(what, error))
        }
        Err(_) => Err(connector.silent(what)),
    }
}
