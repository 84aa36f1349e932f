//! Where a database is, and how to reach it.

mod config;
mod display;
mod hosts;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod parse;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::config::DatabaseConfig;
pub(crate) use self::hosts::{Host, ServerRole, SessionAttrs};

/// A database's address, in sqlx's or SQLAlchemy's spelling. Shown without its password.
///
/// For SQLite the two disagree. `sqlite:///x` is the absolute `/x`, as sqlx has it; only with a
/// driver's name, which is SQLAlchemy's alone, are three slashes relative: `sqlite+aiosqlite:///x`
/// is `x`, and `sqlite+aiosqlite:////x` is `/x`. `sqlite:x` and `sqlite://x` are relative. A `%` begins an encoded
/// character of the path. With a driver's name versions of SQLAlchemy disagree about that: the file that is there is
/// meant, and where that does not decide, the address is refused.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A directory of rule files, without a database.
    Directory(PathBuf),
    /// A SQLite file.
    SqliteFile(PathBuf),
    /// A SQLite database in this process's memory.
    SqliteMemory,
    /// MySQL, MariaDB, or a server that speaks their protocol.
    MySql(Server),
    /// PostgreSQL, or a server that speaks its protocol.
    Postgres(Server),
}

/// A database server and its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// The ways to it, at least one, in the order in which they are written.
    pub(crate) hosts: Vec<Host>,
    /// Which of them may be used; `None` leaves it to the daemon.
    pub(crate) session_attrs: Option<SessionAttrs>,
    /// `None` is the name of this process's user.
    pub(crate) user: Option<String>,
    /// `None` if the server wants none.
    pub(crate) password: Option<String>,
    /// The database's name.
    pub(crate) database: String,
    /// `None` chooses what is safe for the host.
    pub(crate) tls: Option<TlsMode>,
    /// The only root certificates that may sign the server's; `None` for the built-in ones.
    pub(crate) tls_ca: Option<PathBuf>,
    /// The client's certificate for TLS; `None` for none.
    pub(crate) tls_client: Option<ClientCertificate>,
    /// The user that a socket's server must run as, by name or number; `None` for any.
    pub(crate) peer: Option<String>,
}

/// The files, in PEM, of a client certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientCertificate {
    /// The certificate, and the chain to the one that the server trusts.
    pub(crate) certificate: PathBuf,
    /// Its private key, unencrypted.
    pub(crate) key: PathBuf,
}

/// The database of a daemon, as `status` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabasePlace {
    /// The address without its password; empty if the daemon's version does not say.
    pub(crate) url: String,
    /// The file that the address was read from; `None` if the configuration holds the address itself.
    #[serde(default)]
    pub(crate) url_file: Option<PathBuf>,
}

/// How a connection is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsMode {
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
    /// Whether the server must show a certificate that a trusted root has signed.
    pub(crate) const fn is_verified(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }

    /// As libpq spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Why a text is not an address; the message contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(pub String);

impl Address {
    /// The same database, with paths relative to another directory.
    #[must_use]
    pub(crate) fn absolute(self) -> Self {
        match self {
            Self::SqliteFile(path) => Self::SqliteFile(std::path::absolute(&path).unwrap_or(path)),
            Self::Directory(path) => Self::Directory(std::path::absolute(&path).unwrap_or(path)),
            other => other,
        }
    }

    /// The address without login and options, to show it and to compare it by eye.
    pub(crate) fn place(&self) -> String {
        let without_user = |server: &Server| Server {
            user: None,
            password: None,
            tls: None,
            tls_ca: None,
            tls_client: None,
            peer: None,
            session_attrs: None,
            hosts: server.hosts.clone(),
            database: server.database.clone(),
        };
        match self {
            Self::MySql(server) => Self::MySql(without_user(server)).to_string(),
            Self::Postgres(server) => Self::Postgres(without_user(server)).to_string(),
            file => file.to_string(),
        }
    }

    /// Whether this and `other`, as seen from the same host, are the same database, as far as the addresses say: the
    /// hosts of one address have one database, and a server of this host may have many names.
    pub(crate) fn is_same_database(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SqliteFile(one), Self::SqliteFile(other))
            | (Self::Directory(one), Self::Directory(other)) => real(one) == real(other),
            (Self::MySql(one), Self::MySql(other)) | (Self::Postgres(one), Self::Postgres(other)) => {
                let is_among = |host: &Host| other.hosts.iter().any(|other| host.is_same(other));
                let is_same_host = one.hosts.iter().any(is_among);
                is_same_host && one.database == other.database
            }
            _ => false,
        }
    }

    /// This address for a process that writes: of several hosts only the one that takes writes is used.
    ///
    /// # Errors
    /// The address asks for another one.
    pub(crate) fn for_writing(mut self) -> Result<Self, InvalidAddress> {
        if let Self::MySql(server) | Self::Postgres(server) = &mut self {
            match server.session_attrs {
                None if server.hosts.len() > 1 => server.session_attrs = Some(SessionAttrs::ReadWrite),
                None | Some(SessionAttrs::ReadWrite) => {}
                Some(other) => {
                    return Err(InvalidAddress(format!(
                        "the address has target_session_attrs={}, and what writes uses only a server that takes \
                         writes: leave it out, or set read-write",
                        other.as_str()
                    )));
                }
            }
        }
        Ok(self)
    }

    /// This address with the password of `other`.
    #[must_use]
    pub(crate) fn with_password_of(mut self, other: &Self) -> Self {
        if let (Self::MySql(own), Self::MySql(other)) | (Self::Postgres(own), Self::Postgres(other)) =
            (&mut self, other)
        {
            own.password.clone_from(&other.password);
        }
        self
    }

    /// Whether the address has a password.
    pub(crate) const fn has_password(&self) -> bool {
        matches!(
            self,
            Self::MySql(Server { password: Some(_), .. }) | Self::Postgres(Server { password: Some(_), .. })
        )
    }

    /// `text` without the password, in case a driver put it there.
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

/// The path with links resolved, if it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
