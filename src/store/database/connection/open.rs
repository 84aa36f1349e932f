//! Opens a connection to one of the hosts of an address, and asks what its server is.

use std::sync::Arc;

use sqlx::Connection as _;

use super::super::connector::{CONNECTING, Connector, Endpoint};
use super::super::relay::Relay;
use super::super::sql::Purpose;
use super::super::{mysql, postgres, sqlite};
use super::{Connection, Link, Transport, bounded};
use crate::address::ServerRole;
use crate::store::StoreError;

/// What is known of the server.
pub(super) struct About {
    role: ServerRole,
    /// Selects the role; empty if the database is a file.
    role_probe: String,
    /// What the session was marked with; `None` if no pooler can give it to others.
    mark: Option<String>,
    /// Whether the session has its settings.
    is_set: bool,
    /// The most bytes of a statement, or of its arguments, that the server accepts.
    longest_statement: usize,
}

/// A connection to one host of the address, before anyone knows whether it can be used.
struct Attempt {
    link: Link,
    relay: Option<Relay>,
    file: Option<sqlite::FileIdentity>,
    server: About,
}

impl Connection {
    /// Connects as soon as a permit is free: to the first host of the address that may be used.
    pub(in crate::store::database) async fn open(
        connector: &Arc<Connector>,
        purpose: Purpose,
    ) -> Result<Self, StoreError> {
        let mut permit = connector.permit().await?;
        let mut reasons = Vec::new();
        for wanted in connector.wanted(purpose).passes() {
            reasons.clear();
            for host in connector.order(*wanted) {
                let Attempt { link, relay, file, server } =
                    match Self::attempt(connector, purpose, host).await {
                        Ok(attempt) => attempt,
                        Err(error) => {
                            reasons.push((host, error));
                            continue;
                        }
                    };
                let role = server.role;
                let transport = Transport { relay, broken: false, host };
                let connector = Arc::clone(connector);
                let connection = Self {
                    link,
                    transport,
                    connector,
                    file,
                    server,
                    wanted: *wanted,
                    permit,
                    listens: false,
                };
                if wanted.accepts(role) {
                    return connection.checked(purpose).await;
                }
                reasons.push((host, connection.connector.wrong_role(*wanted, role)));
                permit = connection.end().await;
            }
        }
        Err(connector.no_host(reasons))
    }

    /// This connection with its settings, if it has a session of its own. That is found out once, by a second connection
    /// that marks its session: a pooler that gives a session to each transaction gave both the same, or gives this one
    /// another now. Nothing else is set before, since it would be set for others.
    ///
    /// # Errors
    /// It has none.
    async fn checked(mut self, purpose: Purpose) -> Result<Self, StoreError> {
        let (Link::Postgres(link), Some(own)) = (&mut self.link, &self.server.mark) else { return Ok(self) };
        let (connector, transport) = (&self.connector, &mut self.transport);
        if !connector.keeps_sessions() {
            // A pool may have no second session: then nothing is known, and the polls find out.
            let other = Self::attempt(connector, purpose, transport.host).await;
            let mark = bounded(connector, transport, CONNECTING, postgres::mark_now(link)).await?;
            if mark != *own {
                return Err(connector.no_session(CONNECTING));
            }
            if let Ok(Attempt { link: Link::Postgres(link), .. }) = other {
                link.close().await.ok();
                connector.found_to_keep_sessions();
            }
        }
        if !self.server.is_set {
            let setting = postgres::set(link, purpose, connector.timeout());
            bounded(connector, transport, CONNECTING, setting).await?;
        }
        Ok(self)
    }

    /// Connects to this host of the address.
    async fn attempt(
        connector: &Arc<Connector>,
        purpose: Purpose,
        host: usize,
    ) -> Result<Attempt, StoreError> {
        let timeout = connector.timeout();
        let connecting = async {
            match connector.endpoint(host)? {
                Endpoint::Sqlite(place) => {
                    let (link, frozen) = place.connect(purpose, timeout).await?;
                    let file = place.identity(frozen);
                    let server = About {
                        role: ServerRole::default(),
                        role_probe: String::new(),
                        mark: None,
                        is_set: true,
                        longest_statement: usize::MAX,
                    };
                    Ok(Attempt { link: Link::Sqlite(link), relay: None, file, server })
                }
                Endpoint::MySql(options, relay) => {
                    let connected = mysql::connect(&options, purpose, timeout).await;
                    let (link, about) = connected.map_err(|error| relay.explain(error))?;
                    let mysql::About { role, role_probe, longest_statement } = about;
                    let server = About { role, role_probe, mark: None, is_set: true, longest_statement };
                    Ok(Attempt { link: Link::MySql(link), relay: Some(relay), file: None, server })
                }
                Endpoint::Postgres(options, relay) => {
                    let is_set = connector.keeps_sessions();
                    let settings = is_set.then_some((purpose, timeout));
                    let connected = postgres::connect(&options, settings).await;
                    let (link, about) = connected.map_err(|error| relay.explain(error))?;
                    if about.process == relay.process() {
                        connector.found_to_keep_sessions();
                    }
                    let postgres::About { role, mark, .. } = about;
                    let role_probe = postgres::ROLE_PROBE.to_owned();
                    let (mark, longest_statement) = (Some(mark), usize::MAX);
                    let server = About { role, role_probe, mark, is_set, longest_statement };
                    Ok(Attempt { link: Link::Postgres(link), relay: Some(relay), file: None, server })
                }
            }
        };
        match tokio::time::timeout(connector.attempt_limit(), connecting).await {
            Ok(connected) => connected.map_err(|error| connector.classify_error(CONNECTING, error)),
            Err(_) => Err(connector.unreached()),
        }
    }

    /// What the server said of itself when it was last asked.
    pub(in crate::store::database) const fn role(&self) -> ServerRole {
        self.server.role
    }

    /// An expression of the server's role, for [`Connection::note_role`]; `None` if the database is a file.
    pub(in crate::store::database) fn role_probe(&self) -> Option<&str> {
        Some(self.server.role_probe.as_str()).filter(|probe| !probe.is_empty())
    }

    /// Takes what [`Connection::role_probe`] selected.
    ///
    /// # Errors
    /// The server's role is no longer the wanted one, or the session is another one: the connection counts as lost.
    pub(in crate::store::database) fn note_role(
        &mut self,
        what: &'static str,
        found: &str,
    ) -> Result<(), StoreError> {
        self.server.role = match self.link {
            Link::Sqlite(_) => return Ok(()),
            Link::MySql(_) => mysql::role(found),
            Link::Postgres(_) => postgres::role(found),
        };
        if self.server.mark.as_deref().is_some_and(|own| own != postgres::mark(found)) {
            self.transport.broken = true;
            self.connector.lost_a_session();
            return Err(self.connector.no_session(what));
        }
        if self.wanted.accepts(self.server.role) {
            return Ok(());
        }
        self.transport.broken = true;
        let wrong = self.connector.wrong_role(self.wanted, self.server.role);
        Err(StoreError::Unavailable { what, detail: wrong.cause().into_owned() })
    }

    /// The most bytes of a statement, or of its arguments, that the server accepts.
    pub(in crate::store::database) const fn longest_statement(&self) -> usize {
        self.server.longest_statement
    }
}
