//! Where a server is, how its connection is protected, and whether it may get the password.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};

use super::{Protocol, Stream, tls};
use crate::address::DatabaseConfig;
use crate::address::{Host, Server, TlsMode};
use crate::store::StoreError;

/// How to reach a server.
pub(in crate::store::database) struct Route {
    pub(super) protocol: Protocol,
    /// In PostgreSQL the socket's file, not its directory.
    pub(super) host: Host,
    pub(super) tls: TlsMode,
    pub(super) certificates: tls::Files,
    /// MySQL servers ask for the cleartext password over TLS or a socket.
    pub(super) password: Option<String>,
    allow_plaintext: bool,
    /// The name and number of the user that must run a socket's server.
    peer: Option<(String, u32)>,
}

/// A connection to a server, before the first byte.
pub(super) struct Reached {
    pub(super) stream: Box<dyn Stream>,
    /// Whether the server may ask for the password although nothing is encrypted.
    pub(super) is_private: bool,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Route({:?}, {:?})", self.host, self.tls)
    }
}

impl Route {
    /// The route to one of the server's hosts.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a connection without protection, a certificate that cannot be read, and a user
    /// that does not exist.
    pub(in crate::store::database) fn to(
        server: &Server,
        host: &Host,
        protocol: Protocol,
        config: &DatabaseConfig,
    ) -> Result<Self, StoreError> {
        let tls = mode(server, host, config.allow_plaintext)?;
        let host = match host {
            Host::Socket(path) if protocol == Protocol::Postgres => Host::Socket(postgres_socket(path)),
            host => host.clone(),
        };
        let peer = match &server.peer {
            Some(name) => Some((name.clone(), user_id(name)?)),
            None => None,
        };
        let route = Self {
            protocol,
            host,
            tls,
            certificates: tls::Files { authority: server.tls_ca.clone(), client: server.tls_client.clone() },
            password: server.password.clone(),
            allow_plaintext: config.allow_plaintext,
            peer,
        };
        // Read at the start, so that a daemon with an invalid certificate does not start.
        tls::config(&route).map_err(|detail| {
            refused(detail, "name readable PEM files in `sslrootcert`, `sslcert` and `sslkey`")
        })?;
        Ok(route)
    }

    /// Whether the server may get the password over the encrypted connection.
    pub(super) const fn trusts_tls(&self) -> bool {
        self.tls.is_verified() || self.allow_plaintext
    }

    pub(super) async fn connect(&self) -> Result<Reached, sqlx::Error> {
        Ok(match &self.host {
            Host::Socket(path) => {
                let stream = UnixStream::connect(path).await?;
                let is_trusted = self.is_trusted(path, stream.peer_cred()?.uid())?;
                Reached { stream: Box::new(stream), is_private: is_trusted || self.allow_plaintext }
            }
            Host::Tcp(name, port) => {
                let stream = TcpStream::connect((name.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                Reached { stream: Box::new(stream), is_private: self.allow_plaintext }
            }
        })
    }

    /// Whether the server of a socket runs as a user who can read the password anyway, or as the configured one.
    fn is_trusted(&self, socket: &Path, uid: u32) -> Result<bool, sqlx::Error> {
        match &self.peer {
            Some((_, wanted)) if *wanted == uid => Ok(true),
            Some((name, wanted)) => {
                let detail = format!(
                    "the server on {} runs as the user {uid}, and `requirepeer` asks for {name} ({wanted})",
                    socket.display()
                );
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, detail).into())
            }
            None => {
                let owner = socket.parent().and_then(|directory| std::fs::metadata(directory).ok());
                let own = rustix::process::geteuid().as_raw();
                Ok(uid == 0 || uid == own || owner.is_some_and(|directory| directory.uid() == uid))
            }
        }
    }
}

/// Lets the kernel find out within seconds that the link is broken, although nothing is asked: as PostgreSQL's side does,
/// by the settings of its sessions.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, 11_000)?;
    Ok(())
}

fn refused(detail: String, remedy: &str) -> StoreError {
    StoreError::Refused { what: "opening the database", detail, remedy: remedy.into() }
}

/// How the connection to a server is encrypted.
fn mode(server: &Server, host: &Host, allow_plaintext: bool) -> Result<TlsMode, StoreError> {
    let mode = match (server.tls, host.is_local()) {
        // As in libpq: naming a root certificate means that the server must be verified.
        (Some(TlsMode::Require), _) if server.tls_ca.is_some() => TlsMode::VerifyCa,
        (Some(mode), _) => mode,
        (None, _) if server.tls_ca.is_some() => TlsMode::VerifyFull,
        (None, true) => TlsMode::Prefer,
        (None, false) if allow_plaintext => TlsMode::Prefer,
        (None, false) => TlsMode::VerifyFull,
    };
    match (mode, host) {
        (_, Host::Socket(_)) => Ok(TlsMode::Disable),
        // TLS without verification gives plaintext to anyone who answers instead of the server.
        (_, Host::Tcp(name, _)) if !mode.is_verified() && !host.is_local() && !allow_plaintext => {
            let mode = mode.as_str();
            Err(refused(
                format!(
                    "`sslmode={mode}` verifies no certificate: whoever answers in the place of {name} would get \
                     the password and decide the rules"
                ),
                "use sslmode=verify-full (with `sslrootcert` for certificates of your own), or set \
                 `database.allow_plaintext`",
            ))
        }
        (mode, _) => Ok(mode),
    }
}

/// The file of PostgreSQL's socket; people also configure its directory.
fn postgres_socket(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_prefix(".s.PGSQL.")).map(str::parse::<u16>) {
        Some(Ok(_)) => path.to_owned(),
        _ => path.join(".s.PGSQL.5432"),
    }
}

/// The number of a user: by its name in `/etc/passwd`, or as it is written.
fn user_id(user: &str) -> Result<u32, StoreError> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1))?
    });
    entry.and_then(|uid| uid.parse().ok()).ok_or_else(|| {
        let detail = format!("`requirepeer` names the user `{user}`, who is not in /etc/passwd");
        refused(detail, "name the user that the database server runs as, or its number")
    })
}
