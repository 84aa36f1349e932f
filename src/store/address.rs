use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

/// A database's address, in sqlx's or SQLAlchemy's spelling. Shown without its password.
///
/// For SQLite the two disagree. `sqlite:///x` is the absolute `/x`, as sqlx has it; only with a
/// driver's name, which is SQLAlchemy's alone, are three slashes relative: `sqlite+aiosqlite:///x`
/// is `x`, and `sqlite+aiosqlite:////x` is `/x`. `sqlite:x` and `sqlite://x` are relative.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A SQLite file.
    SqliteFile(PathBuf),
    /// A SQLite database in this process's memory.
    SqliteMemory,
    /// MySQL, MariaDB, or what speaks their protocol.
    MySql(Server),
    /// PostgreSQL, or what speaks its protocol.
    Postgres(Server),
}

/// Where a database server is and as whom it is entered.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// The way to it.
    pub host: Host,
    /// `None` is the name of the user of this process.
    pub user: Option<String>,
    /// `None` where the server wants none.
    pub password: Option<String>,
    /// The database's name.
    pub database: String,
    /// `None` leaves it to what is safe for the host.
    pub tls: Option<TlsMode>,
    /// A file of certificates that may sign the server's; `None` is the built-in roots.
    pub tls_ca: Option<PathBuf>,
}

/// The way to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A Unix socket: the file for MySQL, the file or its directory for PostgreSQL.
    Socket(PathBuf),
    /// A name or an address, and a port.
    Tcp(String, u16),
}

impl Host {
    /// Whether what is sent never leaves this host.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp(name, _) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

/// How a connection is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server can; nothing is verified.
    Prefer,
    /// Always; nothing is verified.
    Require,
    /// Always; the certificate's signer is verified.
    VerifyCa,
    /// Always; the certificate's signer and the host's name are verified.
    VerifyFull,
}

impl TlsMode {
    fn parse(text: &str) -> Result<Self, InvalidAddress> {
        match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "disable" | "disabled" | "false" => Ok(Self::Disable),
            "allow" | "prefer" | "preferred" => Ok(Self::Prefer),
            "require" | "required" | "true" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" | "verify-identity" => Ok(Self::VerifyFull),
            _ => Err(InvalidAddress(format!(
                "`{text}` is no TLS mode; expected disable, prefer, require, verify-ca or verify-full"
            ))),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Why a text is no address; the message has no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(pub String);

/// Parameters that other programs put into an address and that change nothing here.
const PASSED_OVER: &[&str] = &[
    "application_name",
    "autocommit",
    "charset",
    "check_same_thread",
    "collation",
    "command_timeout",
    "connect_timeout",
    "prepared_statement_cache_size",
    "read_timeout",
    "statement-cache-capacity",
    "timeout",
    "uri",
    "write_timeout",
];

impl Address {
    /// `text` with the password taken out, should a driver have put it there.
    pub(crate) fn redact(&self, text: &str) -> String {
        match self {
            Self::MySql(Server { password: Some(password), .. })
            | Self::Postgres(Server { password: Some(password), .. })
                if !password.is_empty() =>
            {
                text.replace(password.as_str(), "***")
            }
            _ => text.to_owned(),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scheme = text.split(':').next().unwrap_or_default();
        let (dialect, driver) = match scheme.split_once('+') {
            Some((dialect, driver)) => (dialect, Some(driver)),
            None => (scheme, None),
        };
        match dialect {
            "sqlite" => sqlite(&text[scheme.len()..], driver.is_some()),
            "mysql" | "mariadb" => server(text, 3306).and_then(|server| match server.user {
                Some(_) => Ok(Self::MySql(server)),
                None => Err(InvalidAddress("the address names no user: `mysql://USER@HOST/DATABASE`".into())),
            }),
            "postgres" | "postgresql" => server(text, 5432).map(Self::Postgres),
            _ => Err(InvalidAddress(
                "the address begins with no known database; expected `sqlite:///FILE`, \
                 `mysql://USER:PASSWORD@HOST/DATABASE` or `postgresql://USER:PASSWORD@HOST/DATABASE`"
                    .into(),
            )),
        }
    }
}

/// Reads what stands after `sqlite` or `sqlite+driver`.
fn sqlite(rest: &str, sqlalchemy: bool) -> Result<Address, InvalidAddress> {
    let rest = rest.strip_prefix(':').unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    let mut memory = path.trim_start_matches('/') == ":memory:" || sqlalchemy && path.is_empty();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "mode" => memory |= value == "memory",
            "cache" => {}
            _ => passed_over(&name)?,
        }
    }
    let path = if sqlalchemy {
        path.strip_prefix('/').unwrap_or(path).to_owned()
    } else {
        let not_utf8 = |_| InvalidAddress("the path is not UTF-8 once its `%` are decoded".into());
        percent_decode_str(path).decode_utf8().map_err(not_utf8)?.into_owned()
    };
    match path.trim_start_matches('/') {
        _ if memory => Ok(Address::SqliteMemory),
        "" => Err(InvalidAddress(
            "the address names no file; expected `sqlite:///FILE` or `sqlite::memory:`".into(),
        )),
        relative if path.starts_with('/') => Ok(Address::SqliteFile(format!("/{relative}").into())),
        relative => Ok(Address::SqliteFile(relative.into())),
    }
}

fn server(text: &str, default_port: u16) -> Result<Server, InvalidAddress> {
    let url = Url::parse(&with_host(text))
        .map_err(|error| InvalidAddress(format!("the address cannot be read: {error}")))?;
    let decoded = |part: &str| {
        percent_decode_str(part)
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| InvalidAddress("a part of the address is not UTF-8 once its `%` are decoded".into()))
    };
    let given = |text: String| (!text.is_empty()).then_some(text);
    let mut user = given(decoded(url.username())?);
    let mut password = url.password().map(decoded).transpose()?;
    let mut database = given(decoded(url.path().trim_start_matches('/'))?);
    let mut name = given(decoded(url.host_str().unwrap_or_default())?);
    let mut port = url.port();
    let (mut tls, mut tls_ca, mut socket) = (None, None, None);
    for (key, value) in url.query_pairs() {
        let value = value.into_owned();
        match key.replace('-', "_").as_str() {
            "unix_socket" | "socket" => socket = Some(PathBuf::from(value)),
            "host" if value.starts_with('/') => socket = Some(PathBuf::from(value)),
            "host" => name = Some(value),
            "port" => {
                port = Some(value.parse().map_err(|_| InvalidAddress(format!("`{value}` is no port")))?);
            }
            "user" => user = Some(value),
            "password" => password = Some(value),
            "dbname" => database = Some(value),
            "sslmode" | "ssl_mode" | "ssl" => tls = Some(TlsMode::parse(&value)?),
            "ssl_disabled" if value == "true" => tls = Some(TlsMode::Disable),
            "ssl_verify_cert" | "ssl_verify_identity" if value == "true" => tls = Some(TlsMode::VerifyFull),
            "sslrootcert" | "ssl_ca" => tls_ca = Some(PathBuf::from(value)),
            _ => passed_over(&key)?,
        }
    }
    // A socket's path may stand in the place of the host: `postgresql://%2Frun%2Fpostgresql/rules`.
    let name_is_socket = name.as_ref().is_some_and(|name| name.starts_with('/'));
    let host = match (socket, name) {
        (None, Some(name)) if name_is_socket => Host::Socket(socket_at(name.into(), port)),
        (Some(socket), _) => Host::Socket(socket_at(socket, port.filter(|_| default_port == 5432))),
        (None, name) => {
            let name = name.unwrap_or_else(|| "localhost".into());
            Host::Tcp(name.trim_matches(['[', ']']).to_owned(), port.unwrap_or(default_port))
        }
    };
    let database = database.ok_or_else(|| {
        InvalidAddress("the address names no database; it stands after the host: `…@HOST/DATABASE`".into())
    })?;
    Ok(Server { host, user, password, database, tls, tls_ca })
}

/// PostgreSQL's sockets are named by their port.
fn socket_at(path: PathBuf, port: Option<u16>) -> PathBuf {
    port.map_or_else(|| path.clone(), |port| path.join(format!(".s.PGSQL.{port}")))
}

/// `user@/database?host=/run/postgresql` has no host in its place, which URLs do not know.
fn with_host(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest.split_at(end) {
        (user, rest) if user.ends_with('@') => format!("{scheme}://{user}localhost{rest}"),
        _ => text.to_owned(),
    }
}

fn passed_over(name: &str) -> Result<(), InvalidAddress> {
    if PASSED_OVER.contains(&name) {
        return Ok(());
    }
    Err(InvalidAddress(format!(
        "the address has the unknown parameter `{name}`; known are host, port, user, password, dbname, \
         unix_socket, sslmode (ssl-mode) and sslrootcert (ssl-ca)"
    )))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, server) = match self {
            Self::SqliteFile(path) if path.is_absolute() => return write!(f, "sqlite://{}", path.display()),
            Self::SqliteFile(path) => return write!(f, "sqlite:{}", path.display()),
            Self::SqliteMemory => return f.write_str("sqlite::memory:"),
            Self::MySql(server) => ("mysql", server),
            Self::Postgres(server) => ("postgresql", server),
        };
        write!(f, "{scheme}://")?;
        if let Some(user) = &server.user {
            let password = if server.password.is_some() { ":***" } else { "" };
            write!(f, "{user}{password}@")?;
        }
        let mut separator = '?';
        let mut parameter = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            let before = std::mem::replace(&mut separator, '&');
            write!(f, "{before}{name}={value}")
        };
        match &server.host {
            Host::Socket(path) => {
                write!(f, "/{}", server.database)?;
                parameter(f, "unix_socket", &path.display())?;
            }
            Host::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}/{}", server.database)?,
            Host::Tcp(name, port) => write!(f, "{name}:{port}/{}", server.database)?,
        }
        if let Some(tls) = server.tls {
            parameter(f, "sslmode", &tls.as_str())?;
        }
        if let Some(ca) = &server.tls_ca {
            parameter(f, "sslrootcert", &ca.display())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.host, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Address>().map_or_else(|error| format!("error: {error}"), |address| address.to_string())
    }

    #[test]
    fn sqlite_is_read_in_both_spellings() {
        for (text, expected) in [
            ("sqlite:///var/lib/rules.db", "sqlite:///var/lib/rules.db"),
            ("sqlite:////var/lib/rules.db", "sqlite:///var/lib/rules.db"),
            ("sqlite+aiosqlite:////var/lib/rules.db", "sqlite:///var/lib/rules.db"),
            ("sqlite+aiosqlite:///rules.db", "sqlite:rules.db"),
            ("sqlite:rules.db?mode=rwc", "sqlite:rules.db"),
            ("sqlite://dir/rules%20x.db", "sqlite:dir/rules x.db"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("sqlite:///:memory:", "sqlite::memory:"),
            ("sqlite+pysqlite://", "sqlite::memory:"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert!(shown("sqlite://").starts_with("error"));
    }

    #[test]
    fn servers_are_read_in_both_spellings_and_shown_without_the_password() {
        for (text, expected) in [
            ("mysql+asyncmy://u:s3cret@db/rules?charset=utf8mb4", "mysql://u:***@db:3306/rules"),
            ("mariadb+pymysql://u@h:33/r?unix_socket=/run/my.sock", "mysql://u@/r?unix_socket=/run/my.sock"),
            ("mysql://u@h/r?ssl-mode=VERIFY_IDENTITY", "mysql://u@h:3306/r?sslmode=verify-full"),
            ("postgres://u:p%40ss@[::1]:5433/r", "postgresql://u:***@[::1]:5433/r"),
            ("postgresql+asyncpg:///r?host=/run/postgresql", "postgresql:///r?unix_socket=/run/postgresql"),
            (
                "postgresql+psycopg://u:p@/r?host=/run/postgresql",
                "postgresql://u:***@/r?unix_socket=/run/postgresql",
            ),
            (
                "postgresql://u@localhost/r?host=/run/postgresql&port=5433",
                "postgresql://u@/r?unix_socket=/run/postgresql/.s.PGSQL.5433",
            ),
            ("postgresql://u@%2Frun%2Fpg/r", "postgresql://u@/r?unix_socket=/run/pg"),
            (
                "postgresql://u@h/r?sslmode=verify-full&sslrootcert=/ca.pem",
                "postgresql://u@h:5432/r?sslmode=verify-full&sslrootcert=/ca.pem",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
            assert_eq!(shown(expected), expected, "read back");
        }
        for (text, word) in [
            ("mysql://h/r", "no user"),
            ("mysql://u@h", "no database"),
            ("postgresql://u@h/r?sslmod=verify-full", "`sslmod`"),
            ("postgresql://u@h/r?sslmode=on", "verify-full"),
            ("oracle://u@h/r", "no known database"),
        ] {
            assert!(shown(text).contains(word), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn no_form_of_an_address_has_the_password_in_it() {
        let address: Address = "postgresql://u:p%40ssw0rd@h/r".parse().unwrap();
        let Address::Postgres(server) = &address else { panic!("{address}") };
        assert_eq!(server.password.as_deref(), Some("p@ssw0rd"));
        for shown in [format!("{address:?}"), format!("{server:?}"), address.redact("bad p@ssw0rd!")] {
            assert!(!shown.contains("ssw0rd"), "{shown}");
        }
    }
}
