//! The database that the nemesis breaks.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::Connection as _;
use tokio::runtime::Runtime;

use super::chance::{Chance, fault_lasts};
use crate::support::databases::ExternalClient;
use crate::support::servers::{Kind, Server};

pub(super) enum Target {
    /// A SQLite file in the directory `db` of this one. With `fills`, the directory is a mount point that the nemesis
    /// fills to the last byte.
    Sqlite {
        home: PathBuf,
        fills: bool,
    },
    Server {
        server: Box<Server>,
        url: String,
        runtime: Runtime,
    },
}

impl Target {
    pub(super) fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Server { server, .. } if server.kind() == Kind::Postgres => "postgresql",
            Self::Server { .. } => "mysql",
        }
    }

    pub(super) fn name(&self) -> &'static str {
        if matches!(self, Self::Sqlite { fills: true, .. }) { "small-disk" } else { self.backend() }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// The address without a relay.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Sqlite { home, .. } => format!("sqlite://{}", home.join("db/rules.db").display()),
            Self::Server { url, .. } => url.clone(),
        }
    }

    /// Breaks the database for a while, repairs it, and returns what was done.
    pub(super) fn break_for_a_while(&mut self, chance: &mut Chance) -> &'static str {
        let outage = Duration::from_millis(300 + chance.below(1_500));
        let url = self.url();
        match self {
            Self::Sqlite { home, fills: true } => {
                let filler = home.join("filler");
                let mut file = fs::File::create(&filler).unwrap();
                while file.write_all(&[0; 4096]).is_ok() {}
                fault_lasts(outage);
                drop(file);
                fs::remove_file(filler).unwrap();
                "disk full"
            }
            Self::Sqlite { .. } => {
                block_on(async {
                    let mut external = external("sqlite", &url).await.unwrap();
                    if external.try_run("BEGIN IMMEDIATE").await.is_ok() {
                        fault_lasts(outage);
                        external.run("ROLLBACK").await;
                    }
                });
                "database locked"
            }
            Self::Server { server, runtime, .. } => {
                server.stop();
                fault_lasts(outage);
                runtime.block_on(server.go_on());
                "database stopped"
            }
        }
    }

    /// Moves the directory of the SQLite file away, or back.
    pub(super) fn move_away(&self, away: bool) {
        if let Self::Sqlite { home, .. } = self {
            let (here, there) = (home.join("db"), home.join("db.away"));
            let (from, to) = if away { (here, there) } else { (there, here) };
            fs::rename(from, to).unwrap();
        }
    }

    /// Makes the server end every session of the daemons.
    pub(super) fn end_sessions(&self) {
        let Self::Server { server, runtime, url } = self else { return };
        let list = match server.kind() {
            Kind::Postgres => {
                "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE application_name = 'rulesyncd'"
            }
            Kind::MariaDb => {
                "SELECT CAST(GROUP_CONCAT(id) AS CHAR) FROM information_schema.processlist \
                 WHERE db = 'rules' AND id <> CONNECTION_ID()"
            }
        };
        runtime.block_on(async {
            let mut external = external(self.backend(), url).await.unwrap();
            let found = external.text(list).await.unwrap_or_default();
            if server.kind() == Kind::MariaDb {
                for id in found.split(',') {
                    // The session may have ended by itself meanwhile.
                    let _ = external.try_run(&format!("KILL {id}")).await;
                }
            }
        });
    }
}

/// Another program's connection; `None` while the database is unavailable.
pub(super) async fn external(backend: &str, url: &str) -> Option<ExternalClient> {
    Some(match backend {
        "sqlite" => ExternalClient::Sqlite(sqlx::SqliteConnection::connect(url).await.ok()?),
        "mysql" => ExternalClient::MySql(sqlx::MySqlConnection::connect(url).await.ok()?),
        _ => ExternalClient::Postgres(sqlx::PgConnection::connect(url).await.ok()?),
    })
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
