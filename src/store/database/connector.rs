//! What a connection to one database needs: where the database is, how to log in, permits, time limits, and what its
//! errors mean. [`Connection::open`](super::connection::Connection::open) connects.

mod hosts;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::relay::{Protocol, Relay, Route};
use super::sql::{Dialect, ErrorClass, POLL_STATEMENTS};
use super::{mysql, postgres, sqlite};
use crate::address::DatabaseConfig;
use crate::address::{Address, Server};
use crate::paint::{sanitize, shorten};
use crate::store::StoreError;

/// How much longer than a lock or a statement's own limit the daemon waits, so that the database's more precise error
/// comes first.
const GRACE: Duration = Duration::from_secs(1);

/// The most bytes of a server's error message that are shown.
const LONGEST_ERROR: usize = 1 << 10;

/// The operation, in errors.
pub(super) const CONNECTING: &str = "connecting to the database";

/// How to connect to one database.
#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    /// The address; its password may change.
    pub(super) address: Address,
    pub(super) url_file: Option<PathBuf>,
    /// Whether a master creates missing tables and indexes.
    pub(super) create_tables: bool,
    timeout: Duration,
    permits: Arc<Semaphore>,
    /// Whether the hosts keep a session for each connection.
    keeps_sessions: AtomicBool,
    /// One more than the host that lately refused a statement; 0 if none did.
    avoided: AtomicUsize,
}

#[derive(Debug)]
enum Target {
    Sqlite(sqlite::Location),
    MySql(RwLock<Arc<Login<MySqlConnectOptions>>>),
    Postgres(RwLock<Arc<Login<PgConnectOptions>>>),
}

/// Where one connection goes.
pub(super) enum Endpoint<'c> {
    Sqlite(&'c sqlite::Location),
    MySql(MySqlConnectOptions, Relay),
    Postgres(PgConnectOptions, Relay),
}

/// How to log in to a server.
#[derive(Debug)]
struct Login<O> {
    address: Address,
    options: O,
    /// One for each host of the address.
    routes: Vec<Arc<Route>>,
}

impl<O> Login<O> {
    /// The relay for one more connection to this host of the address; the driver connects to its socket.
    fn relay(&self, host: usize, socket: impl FnOnce(&O, &Path) -> O) -> Result<(O, Relay), sqlx::Error> {
        let relay = Relay::start(Arc::clone(&self.routes[host]))?;
        Ok((socket(&self.options, relay.socket()), relay))
    }
}

fn routes(
    server: &Server,
    protocol: Protocol,
    config: &DatabaseConfig,
) -> Result<Vec<Arc<Route>>, StoreError> {
    server.hosts.iter().map(|host| Route::to(server, host, protocol, config).map(Arc::new)).collect()
}

fn mysql_login(server: &Server, config: &DatabaseConfig) -> Result<Login<MySqlConnectOptions>, StoreError> {
    let routes = routes(server, Protocol::MySql, config)?;
    Ok(Login { address: config.address.clone(), options: mysql::options(server), routes })
}

fn postgres_login(server: &Server, config: &DatabaseConfig) -> Result<Login<PgConnectOptions>, StoreError> {
    let routes = routes(server, Protocol::Postgres, config)?;
    Ok(Login { address: config.address.clone(), options: postgres::options(server), routes })
}

fn current<O>(login: &RwLock<Arc<Login<O>>>) -> Arc<Login<O>> {
    Arc::clone(&login.read().unwrap_or_else(PoisonError::into_inner))
}

fn replace<O>(login: &RwLock<Arc<Login<O>>>, new: Login<O>) {
    *login.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
}

impl Connector {
    pub(super) fn new(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let timeout = config.connect_timeout;
        let target = match &config.address {
            Address::Directory(_) => {
                return Err(StoreError::Refused {
                    what: "opening the database",
                    detail: format!(
                        "{} is a directory of rules, without tables and operator states",
                        config.address
                    ),
                    remedy: "only a worker follows one, and `verify` and `why` read it: name a database"
                        .into(),
                });
            }
            Address::SqliteFile(path) => Target::Sqlite(sqlite::Location::File(path.clone())),
            Address::SqliteMemory => Target::Sqlite(sqlite::Location::memory()),
            Address::MySql(server) => Target::MySql(RwLock::new(Arc::new(mysql_login(server, config)?))),
            Address::Postgres(server) => {
                Target::Postgres(RwLock::new(Arc::new(postgres_login(server, config)?)))
            }
        };
        if let Target::Sqlite(place) = &target {
            place.check()?;
        }
        // A master has two: that of its session, and that of its beats.
        let permits = Arc::new(Semaphore::new(usize::try_from(config.max_connections).unwrap_or(2).max(2)));
        Ok(Self {
            target,
            address: config.address.clone(),
            url_file: config.url_file.clone(),
            create_tables: config.create_tables,
            timeout,
            permits,
            keeps_sessions: AtomicBool::new(false),
            avoided: AtomicUsize::new(0),
        })
    }

    /// Gives the password of `config`, which differs in nothing else, to all new connections.
    pub(super) fn change_password(&self, config: &DatabaseConfig) -> Result<(), StoreError> {
        match (&self.target, &config.address) {
            (Target::MySql(login), Address::MySql(server)) => replace(login, mysql_login(server, config)?),
            (Target::Postgres(login), Address::Postgres(server)) => {
                replace(login, postgres_login(server, config)?);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        match self.target {
            Target::Sqlite(_) => &sqlite::DIALECT,
            Target::MySql(_) => &mysql::DIALECT,
            Target::Postgres(_) => &postgres::DIALECT,
        }
    }

    /// Where a SQLite database is; `None` for a server.
    pub(super) fn sqlite_location(&self) -> Option<&sqlite::Location> {
        match &self.target {
            Target::Sqlite(place) => Some(place),
            _ => None,
        }
    }

    /// The longest that a statement may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where one more connection to this host of the address goes: a server's driver connects to the socket of a relay.
    pub(super) fn endpoint(&self, host: usize) -> Result<Endpoint<'_>, sqlx::Error> {
        Ok(match &self.target {
            Target::Sqlite(place) => Endpoint::Sqlite(place),
            Target::MySql(login) => {
                let (options, relay) =
                    current(login).relay(host, |options, socket| options.clone().socket(socket))?;
                Endpoint::MySql(options, relay)
            }
            Target::Postgres(login) => {
                let (options, relay) =
                    current(login).relay(host, |options, socket| options.clone().socket(socket))?;
                Endpoint::Postgres(options, relay)
            }
        })
    }

    /// A permit for one of the `database.max_connections` connections.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(self.timeout, permit).await {
            Ok(permit) => permit.map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Unavailable {
                what: CONNECTING,
                detail: "all connections that `database.max_connections` allows are in use".into(),
            }),
        }
    }

    /// How long to wait for an answer.
    pub(super) fn limit(&self) -> Duration {
        self.timeout + GRACE
    }

    /// The longest that a whole poll may take.
    pub(super) fn poll_limit(&self) -> Duration {
        self.timeout.saturating_mul(POLL_STATEMENTS)
    }

    /// The error of a database that answers without end.
    pub(super) fn endless(&self, what: &'static str, limit: Duration) -> StoreError {
        let of_what = match limit == self.poll_limit() {
            true => format!(", {POLL_STATEMENTS} times `database.connect_timeout`"),
            false => String::new(),
        };
        let detail = format!("not at its end after {}{of_what}", humantime::format_duration(limit));
        StoreError::Unavailable { what, detail: self.at(&detail) }
    }

    /// Adds the address to an error, since an operator may have several databases.
    fn at(&self, detail: &str) -> String {
        format!("{detail} ({})", self.address)
    }

    /// A message of the server or the driver for people: short, on one line, without the password.
    fn quote(&self, said: &str) -> String {
        sanitize(&shorten(&self.redact(said), LONGEST_ERROR)).into_owned()
    }

    /// Removes the password from `text`, in case the driver put it there.
    fn redact(&self, text: &str) -> String {
        match &self.target {
            Target::Sqlite(_) => text.to_owned(),
            Target::MySql(login) => current(login).address.redact(text),
            Target::Postgres(login) => current(login).address.redact(text),
        }
    }

    /// The error of a database that does not answer in time.
    pub(super) fn timeout_error(&self, what: &'static str) -> StoreError {
        let detail = format!("no answer within {:?}, the `database.connect_timeout`", self.timeout);
        StoreError::Unavailable { what, detail: self.at(&detail) }
    }

    /// Whether the server refused because it takes no writes, or none at the moment.
    pub(super) fn is_wrong_host(&self, error: &dyn DatabaseError) -> bool {
        (self.dialect().is_wrong_host)(&code(error))
    }

    /// Whether the server closes the connection after this error.
    pub(super) fn closes_connection(&self, error: &dyn DatabaseError) -> bool {
        use sqlx::postgres::{PgDatabaseError, PgSeverity};
        let severity = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
        matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
            || (self.dialect().ends_connection)(&code(error))
    }

    /// Classifies an error of the driver.
    pub(super) fn classify_error(&self, what: &'static str, error: sqlx::Error) -> StoreError {
        let detail = self.at(&self.quote(&error.to_string()));
        let unavailable = |detail| StoreError::Unavailable { what, detail };
        let error = match error {
            sqlx::Error::Database(error) => error,
            // Errors of the handshake come in both forms.
            sqlx::Error::Tls(_) | sqlx::Error::Io(_) if detail.contains("certificate") => {
                let remedy = "check the server's certificate, and `sslrootcert`, `sslcert` and `sslkey` in `database.url`".into();
                return StoreError::Refused { what, detail, remedy };
            }
            _ => return unavailable(detail),
        };
        let code = code(&*error);
        let class = (self.dialect().classify_error)(&code, error.message());
        let message = self.at(&self.quote(error.message()));
        match class {
            ErrorClass::Transient => unavailable(message),
            ErrorClass::NoTable => self.no_tables(what, &message),
            ErrorClass::NoFile => match self.sqlite_location().and_then(sqlite::Location::file) {
                Some(path) if matches!(std::fs::exists(path), Ok(false)) => {
                    self.no_tables(what, &format!("{} does not exist", path.display()))
                }
                _ => StoreError::Refused {
                    what,
                    detail: message,
                    remedy: "give the service's user the right to the file and its directory".into(),
                },
            },
            ErrorClass::RowRejected => StoreError::RowRejected { what, detail: message },
            ErrorClass::CharacterRejected(remedy) => {
                StoreError::RowRejected { what, detail: format!("{message}; {remedy}") }
            }
            ErrorClass::Locked => StoreError::RowLocked { what, detail: message },
            ErrorClass::Conflict => StoreError::Conflict { what, detail: message },
            ErrorClass::Altered => StoreError::TablesAltered { what, detail: message },
            ErrorClass::Refused(remedy) => {
                StoreError::Refused { what, detail: message, remedy: remedy.into() }
            }
        }
    }
}

impl Connector {
    fn no_tables(&self, what: &'static str, why: &str) -> StoreError {
        let maker = if self.create_tables {
            "a master creates them"
        } else {
            "the program that owns them creates them, since `database.create_tables` is false"
        };
        StoreError::NoTables { what, detail: format!("{why}; {maker}") }
    }
}

/// The code that identifies an error in a dialect: in MySQL its own number, not the standard's.
fn code(error: &dyn DatabaseError) -> String {
    match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        Some(error) => error.number().to_string(),
        None => error.code().unwrap_or_default().into_owned(),
    }
}
