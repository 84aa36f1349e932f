//! Parses an address in either spelling.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::hosts::{self, Written};
use super::{Address, ClientCertificate, Host, InvalidAddress, Server, SessionAttrs, TlsMode};

/// Parameters that other programs put into an address and that have no effect here.
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

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scheme = text.split(':').next().unwrap_or_default();
        let (dialect, driver) = match scheme.split_once('+') {
            Some((dialect, driver)) => (dialect, Some(driver)),
            None => (scheme, None),
        };
        match dialect {
            "dir" if driver.is_none() => directory(&text[scheme.len()..]),
            "sqlite" => sqlite(&text[scheme.len()..], driver.is_some()),
            "mysql" | "mariadb" => server(text, 3306).and_then(|server| match server.user {
                Some(_) => Ok(Self::MySql(server)),
                None => Err(InvalidAddress("the address names no user: `mysql://USER@HOST/DATABASE`".into())),
            }),
            "postgres" | "postgresql" => server(text, 5432).map(Self::Postgres),
            _ => Err(InvalidAddress(
                "the address begins with no known database; expected `sqlite:///FILE`, `dir:///DIRECTORY`, \
                 `mysql://USER:PASSWORD@HOST/DATABASE` or `postgresql://USER:PASSWORD@HOST/DATABASE`"
                    .into(),
            )),
        }
    }
}

/// Parses the part after `dir`.
fn directory(rest: &str) -> Result<Address, InvalidAddress> {
    let path = rest.strip_prefix(':').unwrap_or_default();
    match path.strip_prefix("//").unwrap_or(path) {
        "" => Err(InvalidAddress("the address names no directory; expected `dir:///DIRECTORY`".into())),
        path => Ok(Address::Directory(path.into())),
    }
}

/// Parses the part after `sqlite` or `sqlite+driver`.
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
        path_of_sqlalchemy(path.strip_prefix('/').unwrap_or(path))?
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

/// Reads a path with a driver's name. SQLAlchemy decodes a `%` from version 2.1 on, and takes it as it is before; which is
/// meant, shows in what is there: one of the two files, or else one of their directories.
fn path_of_sqlalchemy(written: &str) -> Result<String, InvalidAddress> {
    let decoded = percent_decode_str(written).decode_utf8().unwrap_or(written.into());
    let place = |path: &str| {
        let directory = Path::new(path).parent().filter(|parent| *parent != Path::new(""));
        (Path::new(path).exists(), directory.is_none_or(Path::exists))
    };
    match place(written).cmp(&place(&decoded)) {
        Ordering::Equal if decoded != written => Err(InvalidAddress(
            "the path has a `%`, which one version of SQLAlchemy decodes and another does not, and what is there does not \
             show which is meant; write the address as `sqlite:///FILE`, with `%25` for a `%`"
                .into(),
        )),
        Ordering::Less => Ok(decoded.into_owned()),
        Ordering::Equal | Ordering::Greater => Ok(written.to_owned()),
    }
}

/// Whether a character of the password was taken for the end of the host: `u:12/secret@host/rules` would have the
/// host `u`, and the secret would be shown as the database's name.
fn is_cut_in_its_password(url: &Url) -> bool {
    url.path().contains('@')
        || url.query_pairs().any(|(key, _)| key.contains('@'))
        || url.fragment().is_some_and(|fragment| fragment.contains('@'))
}

/// An address with a fault and an `@` behind a `?` may be cut in its password, too: `u:12?secret=x@host/rules`. What such
/// parameters are called, or have, is not shown.
fn server(text: &str, default_port: u16) -> Result<Server, InvalidAddress> {
    let may_be_cut = text.split_once('?').is_some_and(|(_, rest)| rest.contains('@'));
    read_server(text, default_port).map_err(|error| if may_be_cut { cut_in_its_password() } else { error })
}

fn cut_in_its_password() -> InvalidAddress {
    InvalidAddress(
        "the address has an `@` after its host, as where a password is not encoded: write `/` in it as `%2F`, `?` as \
         `%3F`, `#` as `%23`, `@` as `%40`"
            .into(),
    )
}

fn read_server(text: &str, default_port: u16) -> Result<Server, InvalidAddress> {
    let is_postgres = default_port == 5432;
    let (text, written) = without_hosts(text);
    let url =
        Url::parse(&text).map_err(|error| InvalidAddress(format!("the address cannot be read: {error}")))?;
    let decoded = |part: &str| {
        percent_decode_str(part)
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| InvalidAddress("a part of the address is not UTF-8 once its `%` are decoded".into()))
    };
    if is_cut_in_its_password(&url) {
        return Err(cut_in_its_password());
    }
    let given = |text: String| (!text.is_empty()).then_some(text);
    let mut user = given(decoded(url.username())?);
    let mut password = url.password().map(decoded).transpose()?;
    let mut database = given(decoded(url.path().trim_start_matches('/'))?);
    let mut hosts = match written {
        Some(written) => written.split(',').map(hosts::parse).collect::<Result<Vec<Written>, _>>()?,
        None => Vec::new(),
    };
    let (mut named, mut ports): (Vec<Written>, Vec<u16>) = (Vec::new(), Vec::new());
    let (mut tls, mut tls_ca, mut socket, mut peer, mut session_attrs) = (None, None, None, None, None);
    let (mut certificate, mut key_file) = (None, None);
    for (key, value) in url.query_pairs() {
        let value = value.into_owned();
        match key.replace('-', "_").as_str() {
            "unix_socket" | "socket" => socket = Some(PathBuf::from(value)),
            "host" => {
                let values = value.split(',').map(hosts::parse_parameter).collect::<Result<Vec<_>, _>>()?;
                named.extend(values);
            }
            "port" => ports = value.split(',').map(hosts::parse_port).collect::<Result<_, _>>()?,
            "target_session_attrs" => session_attrs = Some(SessionAttrs::parse(&value)?),
            "user" => user = given(value),
            "password" => password = Some(value),
            "dbname" => database = given(value),
            "sslmode" | "ssl_mode" | "ssl" => tls = Some(TlsMode::parse(&value)?),
            "ssl_disabled" if value == "true" => tls = Some(TlsMode::Disable),
            "ssl_verify_cert" | "ssl_verify_identity" if value == "true" => tls = Some(TlsMode::VerifyFull),
            "sslrootcert" | "ssl_ca" => tls_ca = Some(PathBuf::from(value)),
            "sslcert" | "ssl_cert" => certificate = Some(PathBuf::from(value)),
            "sslkey" | "ssl_key" => key_file = Some(PathBuf::from(value)),
            "requirepeer" => peer = Some(value),
            _ => passed_over(&key)?,
        }
    }
    if !named.is_empty() {
        // A port in the address is that of the host which the parameter names.
        let port = hosts.first().and_then(|(_, port)| *port).filter(|_| hosts.len() == 1);
        hosts = named.into_iter().map(|(name, own)| (name, own.or(port))).collect();
    }
    match *ports {
        [] => {}
        [port] => hosts.iter_mut().for_each(|host| host.1 = Some(port)),
        _ if ports.len() == hosts.len() => {
            hosts.iter_mut().zip(&ports).for_each(|(host, port)| host.1 = Some(*port));
        }
        _ => {
            let (ports, hosts) = (ports.len(), hosts.len());
            return Err(InvalidAddress(format!(
                "the address has {ports} ports for {hosts} hosts; expected one, or one a host"
            )));
        }
    }
    let first_port = hosts.first().and_then(|(_, port)| *port);
    let of_socket =
        |path: PathBuf, port: Option<u16>| Host::Socket(socket_at(path, port.filter(|_| is_postgres)));
    let hosts: Vec<Host> = match socket {
        Some(socket) => vec![of_socket(socket, ports.first().copied().or(first_port))],
        None if hosts.is_empty() => {
            vec![Host::Tcp("localhost".into(), ports.first().copied().unwrap_or(default_port))]
        }
        None => hosts
            .into_iter()
            .map(|(name, port)| match name {
                // A socket's path may be in the place of the host: `postgresql://%2Frun%2Fpostgresql/rules`.
                path if path.starts_with('/') => of_socket(path.into(), port),
                name if name.is_empty() => Host::Tcp("localhost".into(), port.unwrap_or(default_port)),
                name => Host::Tcp(name, port.unwrap_or(default_port)),
            })
            .collect(),
    };
    let database = database.ok_or_else(|| {
        InvalidAddress("the address names no database; write it after the host: `…@HOST/DATABASE`".into())
    })?;
    let tls_client = match (certificate, key_file) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        _ => {
            return Err(InvalidAddress(
                "a client certificate needs both `sslcert` (ssl-cert) and `sslkey` (ssl-key)".into(),
            ));
        }
    };
    if peer.is_some() && hosts.iter().any(|host| matches!(host, Host::Tcp(..))) {
        let every = if hosts.len() > 1 { " for every host" } else { "" };
        return Err(InvalidAddress(format!(
            "`requirepeer` says which user the server of a Unix socket must run as, and the address names no \
             socket{every}; over TCP, sslmode=verify-full verifies the server"
        )));
    }
    Ok(Server { hosts, session_attrs, user, password, database, tls, tls_ca, tls_client, peer })
}

/// The names of PostgreSQL's sockets contain their port.
fn socket_at(path: PathBuf, port: Option<u16>) -> PathBuf {
    port.map_or_else(|| path.clone(), |port| path.join(format!(".s.PGSQL.{port}")))
}

/// The address with a placeholder for its hosts, of which URLs allow only one, and the hosts as they are written; `None`
/// if there are none, as in `user@/database?host=/run/postgresql`.
fn without_hosts(text: &str) -> (String, Option<&str>) {
    let Some((scheme, rest)) = text.split_once("://") else { return (text.to_owned(), None) };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    (format!("{scheme}://{user}localhost{rest}"), Some(hosts).filter(|hosts| !hosts.is_empty()))
}

fn passed_over(name: &str) -> Result<(), InvalidAddress> {
    if PASSED_OVER.contains(&name) {
        return Ok(());
    }
    Err(InvalidAddress(format!(
        "the address has the unknown parameter `{name}`; known are host, port, user, password, dbname, \
         unix_socket, target_session_attrs, requirepeer, sslmode (ssl-mode), sslrootcert (ssl-ca), sslcert (ssl-cert) and sslkey (ssl-key)"
    )))
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
}
