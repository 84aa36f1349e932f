//! The servers that the nemesis breaks: one, a primary with its standby, or a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::chance::{Chance, fault_lasts};
use super::daemons::hosts;
use crate::support::galera;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::DEADLINE;

const DATABASE: &str = "rules";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    Single(Kind),
    /// The nemesis stops the primary, promotes the standby, and starts a new standby.
    Standby(Kind),
    /// MariaDB: the nemesis stops and freezes nodes.
    Galera,
}

impl Topology {
    const fn kind(self) -> Kind {
        match self {
            Self::Single(kind) | Self::Standby(kind) => kind,
            Self::Galera => Kind::MariaDb,
        }
    }
}

/// The ports at which MariaDB's replicas find their primaries, each with its number.
#[derive(Debug, Default)]
struct Ports(Vec<u16>);

impl Ports {
    /// The options of one more server, which may become a primary.
    fn options(&mut self) -> Vec<String> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.0.push(free.local_addr().unwrap().port());
        let (number, port) = (self.0.len(), self.0[self.0.len() - 1]);
        let own = [format!("--server-id={number}"), format!("--port={port}")];
        let shared = ["--log-bin=log-bin", "--log-slave-updates", "--bind-address=127.0.0.1"];
        own.into_iter().chain(shared.map(str::to_owned)).collect()
    }

    async fn primary(&mut self, kind: Kind, environment: Vec<(String, String)>) -> Server {
        let options = match kind {
            Kind::Postgres => Vec::new(),
            Kind::MariaDb => self.options(),
        };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Server::start_in(kind, &options, environment).await
    }

    /// A new standby of the newest server.
    async fn standby_of(&mut self, primary: &Server, environment: Vec<(String, String)>) -> Server {
        if primary.kind() == Kind::Postgres {
            return Server::replica_of(primary, 0, environment).await;
        }
        let port = self.0[self.0.len() - 1];
        let mut options = self.options();
        options.push("--read-only=ON".to_owned());
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let standby = Server::start_in(Kind::MariaDb, &options, environment).await;
        standby.repeat(primary, port).await;
        standby
    }
}

pub(super) struct Servers {
    topology: Topology,
    members: Vec<Server>,
    ports: Ports,
    /// The one that takes writes, where only one does.
    primary: usize,
    /// A link to the directory of each member: when a new member takes the place of a lost one, its address stays.
    links: TempDir,
    environment: Vec<(String, String)>,
    /// How often they were broken: each way has its turn.
    broken: usize,
    runtime: Runtime,
}

impl Servers {
    /// Starts the servers with this in their environment.
    pub(super) fn start(topology: Topology, environment: Vec<(String, String)>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ports = Ports::default();
        let members = runtime.block_on(async {
            let mut members = match topology {
                Topology::Galera => galera::start(vec![environment.clone(); 3]).await,
                Topology::Single(kind) => vec![Server::start_in(kind, &[], environment.clone()).await],
                Topology::Standby(kind) => vec![ports.primary(kind, environment.clone()).await],
            };
            members[0].create(DATABASE).await;
            if let Topology::Standby(_) = topology {
                members.push(ports.standby_of(&members[0], environment.clone()).await);
            }
            members
        });
        let links = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let servers = Self { topology, members, ports, primary: 0, links, environment, broken: 0, runtime };
        for number in 0..servers.members.len() {
            servers.link(number);
        }
        servers
    }

    fn link(&self, number: usize) {
        let link = &self.directories()[number];
        let _ = std::fs::remove_file(link);
        std::os::unix::fs::symlink(self.members[number].path(), link).unwrap();
    }

    pub(super) const fn name(&self) -> &'static str {
        match self.topology {
            Topology::Single(Kind::Postgres) => "postgresql",
            Topology::Single(Kind::MariaDb) => "mysql",
            Topology::Standby(Kind::Postgres) => "postgresql-standby",
            Topology::Standby(Kind::MariaDb) => "mysql-replica",
            Topology::Galera => "galera",
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        self.topology.kind()
    }

    pub(super) const fn are_several(&self) -> bool {
        !matches!(self.topology, Topology::Single(_))
    }

    /// The directory of each server's socket.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        (0..self.members.len()).map(|number| self.links.path().join(number.to_string())).collect()
    }

    /// The address of each server.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.directories().iter().map(|directory| self.kind().address(directory, DATABASE)).collect()
    }

    /// The address for commands.
    pub(super) fn url(&self) -> String {
        let directories = self.directories();
        match self.topology {
            Topology::Single(kind) => kind.address(&directories[0], DATABASE),
            Topology::Galera => self.all(&directories),
            Topology::Standby(_) => format!("{}?target_session_attrs=read-write", self.all(&directories)),
        }
    }

    /// The address for a host that reaches the servers through these directories.
    pub(super) fn url_for(&self, host: &str, directories: &[PathBuf]) -> String {
        match self.topology {
            Topology::Single(kind) => kind.address(&directories[0], DATABASE),
            // Each master has a node that it tries first.
            Topology::Galera => {
                let number = hosts().iter().position(|other| other == host).unwrap();
                let mut directories = directories.to_vec();
                directories.rotate_left(number % 3);
                self.all(&directories)
            }
            Topology::Standby(_) if host == "worker0" => {
                format!("{}?target_session_attrs=prefer-standby", self.all(directories))
            }
            Topology::Standby(_) => self.all(directories),
        }
    }

    fn all(&self, directories: &[PathBuf]) -> String {
        self.kind().address_of(directories.iter().map(PathBuf::as_path).collect::<Vec<&Path>>(), DATABASE)
    }

    /// Breaks the servers for a while, repairs them, and returns what was done.
    pub(super) fn break_for_a_while(&mut self, chance: &mut Chance, outage: Duration) -> &'static str {
        self.broken += 1;
        let is_odd = self.broken % 2 == 1;
        match self.topology {
            Topology::Single(_) => {
                self.stop_and_start(0, outage);
                "database stopped"
            }
            Topology::Standby(_) => self.fail_over(is_odd, outage),
            Topology::Galera => {
                let number = usize::try_from(chance.below(self.members.len() as u64)).unwrap();
                if is_odd {
                    self.members[number].freeze();
                    fault_lasts(outage);
                    self.members[number].thaw();
                    return "database: a node frozen";
                }
                self.stop_and_start(number, outage);
                self.runtime.block_on(galera::until_it_has_joined(&self.members[number]));
                "database: a node stopped"
            }
        }
    }

    fn stop_and_start(&mut self, number: usize, outage: Duration) {
        self.members[number].stop();
        fault_lasts(outage);
        self.runtime.block_on(self.members[number].go_on());
    }

    /// What was committed before survives. If the standby is cut off first, what is committed from then
    /// on does not.
    fn fail_over(&mut self, loses: bool, outage: Duration) -> &'static str {
        let (old, new) = (self.primary, 1 - self.primary);
        self.runtime.block_on(self.until_it_has_everything(new));
        if loses {
            self.runtime.block_on(self.members[new].cut_off());
            fault_lasts(outage);
        }
        self.members[old].stop();
        fault_lasts(outage);
        self.runtime.block_on(async {
            self.members[new].promote().await;
            self.members[old] = self.ports.standby_of(&self.members[new], self.environment.clone()).await;
        });
        self.link(old);
        self.primary = new;
        if loses { "database failed over, commits lost" } else { "database failed over" }
    }

    /// Waits until the standby has what is committed now.
    async fn until_it_has_everything(&self, standby: usize) {
        let (position, has_it): (_, fn(String) -> String) = match self.kind() {
            Kind::Postgres => ("SELECT pg_current_wal_lsn()::text", |now| {
                format!("SELECT (pg_last_wal_replay_lsn() >= '{now}')::text")
            }),
            Kind::MariaDb => ("SELECT @@gtid_binlog_pos", |now| {
                format!("SELECT IF(MASTER_GTID_WAIT('{now}', 0.01) = 0, 'true', 'false')")
            }),
        };
        let now = self.members[self.primary].client("").await.text(position).await.unwrap();
        let mut standby = self.members[standby].client("").await;
        let query = has_it(now);
        let begun = Instant::now();
        while standby.text(&query).await.as_deref() != Some("true") {
            assert!(begun.elapsed() < DEADLINE, "the standby does not follow its primary");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes every server end every session of the daemons.
    pub(super) fn end_sessions(&self) {
        let list = match self.kind() {
            Kind::Postgres => {
                "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE application_name = 'rulesyncd'"
            }
            Kind::MariaDb => {
                "SELECT CAST(GROUP_CONCAT(id) AS CHAR) FROM information_schema.processlist \
                 WHERE db = 'rules' AND id <> CONNECTION_ID()"
            }
        };
        self.runtime.block_on(async {
            for member in &self.members {
                let mut external = member.client(DATABASE).await;
                let found = external.text(list).await.unwrap_or_default();
                if self.kind() == Kind::MariaDb {
                    for id in found.split(',') {
                        // The session may have ended by itself meanwhile.
                        let _ = external.try_run(&format!("KILL {id}")).await;
                    }
                }
            }
        });
    }
}
