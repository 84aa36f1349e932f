//! The database that the nemesis breaks.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::Connection as _;

use super::chance::{Chance, fault_lasts};
use super::servers::Servers;
use crate::support::databases::ExternalClient;

pub(super) enum Target {
    /// A SQLite file in the directory `db` of this one. With `fills`, the directory is a mount point that the nemesis
    /// fills to the last byte.
    Sqlite {
        home: PathBuf,
        fills: bool,
    },
    Servers(Box<Servers>),
}

impl Target {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite { fills: true, .. } => "small-disk",
            Self::Sqlite { .. } => "sqlite",
            Self::Servers(servers) => servers.name(),
        }
    }

    pub(super) fn servers(&self) -> Option<&Servers> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Servers(servers) => Some(servers),
        }
    }

    /// The address without a relay, for commands.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Sqlite { home, .. } => format!("sqlite://{}", home.join("db/rules.db").display()),
            Self::Servers(servers) => servers.url(),
        }
    }

    /// How other programs reach it: one address for each server.
    pub(super) fn external(&self) -> External {
        External(match self {
            Self::Sqlite { .. } => vec![self.url()],
            Self::Servers(servers) => servers.addresses(),
        })
    }

    /// Breaks the database for a while, repairs it, and returns what was done.
    pub(super) fn break_for_a_while(&mut self, chance: &mut Chance) -> &'static str {
        let outage = Duration::from_millis(300 + chance.below(1_500));
        let external = self.external();
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
                    let mut external = external.connect().await.unwrap();
                    if external.try_run("BEGIN IMMEDIATE").await.is_ok() {
                        fault_lasts(outage);
                        external.run("ROLLBACK").await;
                    }
                });
                "database locked"
            }
            Self::Servers(servers) => servers.break_for_a_while(chance, outage),
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
}

/// How other programs reach the database.
pub(super) struct External(Vec<String>);

impl External {
    /// A connection to the first server that takes writes; `None` while there is none.
    pub(super) async fn connect(&self) -> Option<ExternalClient> {
        for address in &self.0 {
            if let Some(external) = connect(address).await {
                return Some(external);
            }
        }
        None
    }
}

async fn connect(address: &str) -> Option<ExternalClient> {
    let (mut external, takes_writes) = if address.starts_with("sqlite") {
        return Some(ExternalClient::Sqlite(sqlx::SqliteConnection::connect(address).await.ok()?));
    } else if address.starts_with("mysql") {
        // A node of a cluster that has not joined it answers with an error; any other one waits until it has applied
        // what was committed before.
        let external = sqlx::MySqlConnection::connect(address).await.ok()?;
        (ExternalClient::MySql(external), "SET SESSION wsrep_sync_wait = 15; SELECT 1 FROM ttp_rule LIMIT 1")
    } else {
        let external = sqlx::PgConnection::connect(address).await.ok()?;
        (ExternalClient::Postgres(external), "CREATE TEMPORARY TABLE written (n INT)")
    };
    external.try_run(takes_writes).await.ok()?;
    Some(external)
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
