//! The hosts of an address: which of them a connection may use, in which order, and why none can be used.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::postgres;
use super::super::sql::Purpose;
use super::{CONNECTING, Connector};
use crate::address::{Address, Host, Server, ServerRole, SessionAttrs};
use crate::backoff::random_bits;
use crate::store::StoreError;

/// The least time for a connection to one of several hosts.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

impl Connector {
    fn server(&self) -> Option<&Server> {
        match &self.address {
            Address::MySql(server) | Address::Postgres(server) => Some(server),
            _ => None,
        }
    }

    /// The hosts of the address; none for a file.
    pub(in crate::store::database) fn hosts(&self) -> &[Host] {
        self.server().map_or(&[], |server| &server.hosts)
    }

    /// Which host a connection may use.
    pub(in crate::store::database) fn wanted(&self, purpose: Purpose) -> SessionAttrs {
        let asked = self.server().and_then(|server| server.session_attrs);
        match purpose {
            Purpose::Read => asked.unwrap_or(SessionAttrs::Any),
            Purpose::Write | Purpose::Master(_) | Purpose::Create => SessionAttrs::ReadWrite,
        }
    }

    /// The order in which the hosts are tried.
    pub(in crate::store::database) fn order(&self, wanted: SessionAttrs) -> Vec<usize> {
        static DRAW: OnceLock<u64> = OnceLock::new();
        let avoided = self.avoided.load(Ordering::Relaxed).checked_sub(1);
        wanted.order(self.hosts().len().max(1), *DRAW.get_or_init(random_bits), avoided)
    }

    /// How long a connection to one host may take.
    pub(in crate::store::database) fn attempt_limit(&self) -> Duration {
        match u32::try_from(self.hosts().len()) {
            Ok(several @ 2..) => (self.timeout / several).max(SHORTEST_ATTEMPT),
            _ => self.limit(),
        }
    }

    /// The error of a host that did not answer in this time.
    pub(in crate::store::database) fn unreached(&self) -> StoreError {
        if self.hosts().len() < 2 {
            return self.timeout_error(CONNECTING);
        }
        let limit = humantime::format_duration(self.attempt_limit());
        let detail =
            self.at(&format!("no answer within {limit}, a host's part of `database.connect_timeout`"));
        StoreError::Unavailable { what: CONNECTING, detail }
    }

    /// The error of a host whose role is not the wanted one.
    pub(in crate::store::database) fn wrong_role(
        &self,
        wanted: SessionAttrs,
        role: ServerRole,
    ) -> StoreError {
        let remedy = match wanted {
            SessionAttrs::ReadWrite => {
                "name the server that takes writes in `database.url`, or all of them: `…@HOST,HOST/DATABASE`"
            }
            _ => "name another server in `database.url`, or another `target_session_attrs`",
        };
        let (wanted, found) = (wanted.as_str(), role.in_words());
        let detail = self.at(&format!("{found}, and this needs a server that is {wanted}"));
        StoreError::Refused { what: CONNECTING, detail, remedy: remedy.into() }
    }

    /// Whether it is known that the hosts keep a session for each connection.
    pub(in crate::store::database) fn keeps_sessions(&self) -> bool {
        self.keeps_sessions.load(Ordering::Relaxed)
    }

    pub(in crate::store::database) fn found_to_keep_sessions(&self) {
        self.keeps_sessions.store(true, Ordering::Relaxed);
    }

    /// A session was lost: the next connection finds out again.
    pub(in crate::store::database) fn lost_a_session(&self) {
        self.keeps_sessions.store(false, Ordering::Relaxed);
    }

    /// The error of a pooler that does not.
    pub(in crate::store::database) fn no_session(&self, what: &'static str) -> StoreError {
        let detail = self.at(
            "the server, or a pooler before it, runs the statements of one connection in sessions that others use, \
             too, as pgbouncer does in transaction and statement mode: settings, prepared statements and locks are lost",
        );
        StoreError::Refused { what, detail, remedy: postgres::SESSION_MODE.into() }
    }

    /// The error of an address none of whose hosts can be used: each with its reason, in the order in which they were
    /// tried.
    pub(in crate::store::database) fn no_host(&self, mut reasons: Vec<(usize, StoreError)>) -> StoreError {
        if self.hosts().len() < 2
            && let Some((_, error)) = reasons.pop()
        {
            return error;
        }
        let hosts: Vec<String> = reasons
            .iter()
            .map(|(host, error)| {
                let why = error.cause().replace(&format!(" ({})", self.address), "");
                format!("{}: {why}", self.hosts()[*host])
            })
            .collect();
        let detail = self.at(&format!("no host can be used: {}", hosts.join("; ")));
        StoreError::Unavailable { what: CONNECTING, detail }
    }

    /// Records that a host refused a statement because it takes no writes, or is no part of its cluster any more.
    /// Returns whether there is another host.
    pub(in crate::store::database) fn avoid(&self, host: usize) -> bool {
        self.avoided.store(host + 1, Ordering::Relaxed);
        self.hosts().len() > 1
    }
}
