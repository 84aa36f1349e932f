//! The hosts of a server's address, and which of them a connection may use. Pure: connecting is the store's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::InvalidAddress;

/// The characters that have a meaning in an address, and so cannot be in the name of a host.
const RESERVED: &str = " ,#/:<>?@[\\]^|%`{}\"";

/// The same for the path of a socket, in which they are encoded.
const ENCODED: AsciiSet = {
    let (mut set, mut at) = (CONTROLS.add(b' '), 0);
    while at < RESERVED.len() {
        set = set.add(RESERVED.as_bytes()[at]);
        at += 1;
    }
    set
};

/// How to connect to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    /// A Unix socket: the file for MySQL, the file or its directory for PostgreSQL.
    Socket(PathBuf),
    /// A name or an address, and a port.
    Tcp(String, u16),
}

impl Host {
    /// Whether no byte leaves this host.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp(name, _) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// Whether this and `other`, as seen from the same host, are the same, as far as their names say.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Socket(one), Self::Socket(other)) => super::real(one) == super::real(other),
            (Self::Tcp(name, port), Self::Tcp(other_name, other_port)) => {
                let is_same_name =
                    name.eq_ignore_ascii_case(other_name) || (self.is_local() && other.is_local());
                is_same_name && port == other_port
            }
            (one, other) => one.is_local() && other.is_local(),
        }
    }
}

/// As in the place of an address's host.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => {
                write!(f, "{}", utf8_percent_encode(&path.to_string_lossy(), &ENCODED))
            }
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A host as it is written: the name, address or path, and the port if it has one.
pub(super) type Written = (String, Option<u16>);

/// Parses one of the hosts in an address: `name`, `name:port`, `[IPv6]:port`, an encoded path of a socket.
pub(super) fn parse(text: &str) -> Result<Written, InvalidAddress> {
    // Neither the host nor its port is shown: where an address lacks its `@`, they are a user and a password.
    let invalid = |why: &str| Err(InvalidAddress(format!("a host {why}")));
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            None => return invalid("has no `]`"),
            Some((name, _)) if name.parse::<Ipv6Addr>().is_err() => {
                return invalid("is no IPv6 address in its brackets");
            }
            Some((name, "")) => (name, None),
            Some((name, rest)) => match rest.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None => return invalid("has something other than a port after its `]`"),
            },
        },
        None => match text.split_once(':') {
            // What follows is not shown: it is a password if the host is missing.
            Some((name, port)) if port.contains(':') => {
                return Err(InvalidAddress(format!(
                    "after the host `{name}` are several `:`: write an IPv6 address in brackets, as `[::1]:5432`"
                )));
            }
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.filter(|port| !port.is_empty()).map(parse_port).transpose()?;
    if text.starts_with('[') {
        return Ok((name.to_owned(), port));
    }
    let Ok(name) = percent_decode_str(name).decode_utf8() else {
        return invalid("is not UTF-8 once its `%` are decoded");
    };
    check_name(&name)?;
    Ok((name.into_owned(), port))
}

/// Parses one of the hosts in the parameter `host`, whose encoding is undone already, and where an IPv6 address may
/// have no brackets.
pub(super) fn parse_parameter(text: &str) -> Result<Written, InvalidAddress> {
    if text.starts_with('/') || text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    parse(text)
}

pub(super) fn parse_port(text: &str) -> Result<u16, InvalidAddress> {
    // What was found is not shown: it is a password if the host is missing, as in `mysql://USER:PASSWORD/DATABASE`.
    text.parse().map_err(|_| {
        InvalidAddress("a port is no number from 1 to 65535; a password is followed by `@HOST`".into())
    })
}

fn check_name(name: &str) -> Result<(), InvalidAddress> {
    let is_bad = |c: char| c.is_control() || c.is_whitespace() || RESERVED.contains(c);
    match name.chars().find(|c| is_bad(*c)) {
        Some(c) if !name.starts_with('/') || c == '\0' => {
            let c = c.escape_default();
            Err(InvalidAddress(format!("a host has the character `{c}`, which no name has")))
        }
        _ => Ok(()),
    }
}

/// Which of several hosts a connection accepts, with libpq's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionAttrs {
    /// The first that answers.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that takes no writes.
    ReadOnly,
    /// One that is no standby.
    Primary,
    /// One that is a standby.
    Standby,
    /// A standby if one answers, else any.
    PreferStandby,
}

/// What a server says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ServerRole {
    /// It repeats what a primary does. MySQL has no such state: there it is the same as `is_read_only`.
    pub(crate) is_standby: bool,
    /// It takes no writes, or only those of a few users.
    pub(crate) is_read_only: bool,
    /// It is a node of a cluster in which others take writes, too.
    pub(crate) is_cluster_node: bool,
}

impl SessionAttrs {
    const ALL: [Self; 6] =
        [Self::Any, Self::ReadWrite, Self::ReadOnly, Self::Primary, Self::Standby, Self::PreferStandby];

    pub(super) fn parse(text: &str) -> Result<Self, InvalidAddress> {
        Self::ALL.into_iter().find(|attrs| attrs.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            InvalidAddress(format!("`{text}` is no target_session_attrs; expected one of {known}"))
        })
    }

    /// As libpq spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// What is accepted, one after the other: all hosts are tried for the first before any is for the second.
    pub(crate) fn passes(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Whether a connection to such a server may be used.
    pub(crate) const fn accepts(self, role: ServerRole) -> bool {
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => !role.is_standby && !role.is_read_only,
            Self::ReadOnly => role.is_standby || role.is_read_only,
            Self::Primary => !role.is_standby,
            Self::Standby => role.is_standby,
        }
    }

    /// The order in which `count` hosts are tried: as they are written where only one of them can be the right one,
    /// else as drawn by `draw`, so that a fleet spreads over its replicas. The host `avoided`, which lately refused a
    /// statement, is the last.
    pub(crate) fn order(self, count: usize, draw: u64, avoided: Option<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        if !matches!(self, Self::ReadWrite | Self::Primary) {
            let mut state = draw;
            for last in (1..count).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                order.swap(last, (state >> 33) as usize % (last + 1));
            }
        }
        order.sort_by_key(|host| Some(*host) == avoided);
        order
    }
}

impl ServerRole {
    /// Whether this server alone takes the writes.
    pub(crate) const fn is_the_writer(self) -> bool {
        !self.is_standby && !self.is_read_only && !self.is_cluster_node
    }

    /// Why [`SessionAttrs::accepts`] refuses it.
    pub(crate) const fn in_words(self) -> &'static str {
        match self {
            Self { is_standby: false, is_read_only: false, .. } => "the server takes writes",
            _ => "the server takes no writes, because it is a standby or read-only",
        }
    }
}
