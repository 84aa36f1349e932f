//! The addresses of servers and their databases.

use std::path::Path;

use super::{Kind, Server};

impl Kind {
    const fn highest_user(self) -> &'static str {
        match self {
            Self::MariaDb => "root",
            Self::Postgres => "postgres",
        }
    }

    /// The name of a server's socket in its directory.
    pub(crate) const fn socket(self) -> &'static str {
        match self {
            Self::MariaDb => "sock",
            Self::Postgres => ".s.PGSQL.5432",
        }
    }

    /// The address of a database of the server whose socket is in this directory.
    pub(crate) fn address(self, directory: &Path, database: &str) -> String {
        self.address_as(self.highest_user(), directory, 5432, database)
    }

    fn address_as(self, user: &str, directory: &Path, port: u16, database: &str) -> String {
        let directory = directory.display();
        match self {
            Self::MariaDb => {
                format!("mysql://{user}@localhost/{database}?socket={directory}/sock&ssl-mode=disabled")
            }
            Self::Postgres => {
                let database = if database.is_empty() { "postgres" } else { database };
                format!("postgresql://{user}@localhost/{database}?host={directory}&port={port}")
            }
        }
    }

    /// The address of a database that the servers in all these directories have, as their highest user.
    pub(crate) fn address_of<'d>(
        self,
        directories: impl IntoIterator<Item = &'d Path>,
        database: &str,
    ) -> String {
        let scheme = match self {
            Self::MariaDb => "mysql",
            Self::Postgres => "postgresql",
        };
        let hosts = directories.into_iter().map(|directory| {
            let directory = directory.display().to_string().replace('/', "%2F");
            match self {
                Self::MariaDb => format!("{directory}%2Fsock"),
                Self::Postgres => format!("{directory}:5432"),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        format!("{scheme}://{}@{hosts}/{database}", self.highest_user())
    }
}

impl Server {
    /// The address of one of the server's databases, as its highest user.
    pub(crate) fn address(&self, database: &str) -> String {
        self.address_as(self.kind.highest_user(), database)
    }

    pub(crate) fn address_as(&self, user: &str, database: &str) -> String {
        self.kind.address_as(user, self.path(), self.port, database)
    }

    /// The address of a database that several servers have, as their highest user.
    pub(crate) fn address_of(servers: &[&Self], database: &str) -> String {
        servers[0].kind.address_of(servers.iter().map(|server| server.path()), database)
    }
}
