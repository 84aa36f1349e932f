//! Shows an address without its password. What is shown is the same address when it is parsed again.

use std::fmt::{self, Display};
use std::path::Path;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::{Address, Host, Server, SessionAttrs, TlsMode};

/// What has a meaning in the path of a SQLite file's address. (With `:` there would be the path `:memory:`.)
const FILE: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b':');

/// Everything but what has no meaning anywhere in an address.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same for the value of a parameter.
const VALUE: &AsciiSet = &NAME.remove(b'/');

fn name(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NAME)
}

fn file(path: &Path) -> String {
    utf8_percent_encode(&path.to_string_lossy(), FILE).to_string()
}

/// Writes the parameters after an address.
struct Parameters<'f, 'a> {
    f: &'f mut fmt::Formatter<'a>,
    separator: char,
}

impl Parameters<'_, '_> {
    fn add(&mut self, name: &str, value: Option<&str>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let before = std::mem::replace(&mut self.separator, '&');
        write!(self.f, "{before}{name}={}", utf8_percent_encode(value, VALUE))
    }

    fn add_path(&mut self, name: &str, value: Option<&Path>) -> fmt::Result {
        self.add(name, value.map(Path::to_string_lossy).as_deref())
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Its parser decodes nothing.
            Self::Directory(path) if path.is_absolute() => write!(f, "dir://{}", path.display()),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::SqliteFile(path) if path.is_absolute() => write!(f, "sqlite://{}", file(path)),
            Self::SqliteFile(path) => write!(f, "sqlite:{}", file(path)),
            Self::SqliteMemory => f.write_str("sqlite::memory:"),
            Self::MySql(server) => show(server, "mysql", f),
            Self::Postgres(server) => show(server, "postgresql", f),
        }
    }
}

fn show(server: &Server, scheme: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{scheme}://")?;
    if server.user.is_some() || server.password.is_some() {
        let user = server.user.as_deref().unwrap_or_default();
        let password = if server.password.is_some() { ":***" } else { "" };
        write!(f, "{}{password}@", name(user))?;
    }
    let socket = match &*server.hosts {
        [Host::Socket(path)] => Some(path.as_path()),
        hosts => {
            let hosts: Vec<String> = hosts.iter().map(Host::to_string).collect();
            f.write_str(&hosts.join(","))?;
            None
        }
    };
    // In the path these two would be directories.
    let is_dots = matches!(&*server.database, "." | "..");
    write!(f, "/{}", name(if is_dots { "" } else { &server.database }))?;
    let mut parameters = Parameters { f, separator: '?' };
    parameters.add("dbname", is_dots.then_some(&server.database))?;
    parameters.add_path("unix_socket", socket)?;
    parameters.add("target_session_attrs", server.session_attrs.map(SessionAttrs::as_str))?;
    parameters.add("sslmode", server.tls.map(TlsMode::as_str))?;
    parameters.add_path("sslrootcert", server.tls_ca.as_deref())?;
    parameters.add_path("sslcert", server.tls_client.as_ref().map(|client| &*client.certificate))?;
    parameters.add_path("sslkey", server.tls_client.as_ref().map(|client| &*client.key))?;
    parameters.add("requirepeer", server.peer.as_deref())
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.hosts, self.database)
    }
}
