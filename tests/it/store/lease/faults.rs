//! Faults at certain moments of a bulk write, on PostgreSQL, MariaDB and Galera: as many takeovers as faults, and nothing of the
//! old master after the new one's first transaction.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::audit::{Audit, Gate};
use super::{TOOK_OVER, cell, lease_of, master};
use crate::support::databases::TestDatabase;
use crate::support::galera;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Daemon, Swarm, wait_for};

/// Whether to measure much, as `tests/run long` says.
#[expect(clippy::disallowed_methods, reason = "tests/run says how much to measure")]
pub(super) fn is_long() -> bool {
    std::env::var_os("RULESYNCD_TEST_LONG").is_some()
}

/// How many rules a master writes.
pub(super) fn size(short: usize) -> usize {
    if is_long() { 100_000 } else { short }
}

/// How long to wait for masters that read and write so many rules.
pub(super) fn patience() -> Duration {
    DEADLINE * if is_long() { 20 } else { 2 }
}

/// Saves all rules with this version.
pub(super) fn save_all(swarm: &Swarm, count: usize, version: i32) {
    for number in 0..count {
        let id = format!("R{number:05}");
        swarm.save_atomically(&format!("{id}.yaml"), rule_text(&id, version));
    }
}

/// A proxy of the system in front of a server's socket, which SIGSTOP freezes.
struct Proxy {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Proxy {
    fn before(server: &Server, database: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let (name, user) = match server.kind() {
            Kind::Postgres => (".s.PGSQL.5432", "postgres"),
            Kind::MariaDb => ("sock", "root"),
        };
        let path = |directory: &std::path::Path| directory.join(name).display().to_string();
        let listen = format!("UNIX-LISTEN:{},fork", path(directory.path()));
        let connect = format!("UNIX-CONNECT:{}", path(server.path()));
        // A process for each connection: one group has them all.
        let child = Command::new("socat").args([&listen, &connect]).process_group(0).spawn().unwrap();
        let at = directory.path().display();
        let address = match server.kind() {
            Kind::Postgres => format!("postgresql://{user}@localhost/{database}?host={at}&port=5432"),
            Kind::MariaDb => {
                format!("mysql://{user}@localhost/{database}?socket={at}/sock&ssl-mode=disabled")
            }
        };
        wait_for("the proxy", || PathBuf::from(path(directory.path())).exists().then_some(()));
        Self { child, address, _directory: directory }
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        assert!(Command::new("kill").args(["-s", signal, "--", &group]).status().unwrap().success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The master's process is stopped, and goes on later.
    Freeze(Gate),
    /// The master's process is killed.
    Kill(Gate),
    /// The proxy between master and server is stopped, and goes on later.
    FreezeProxy(Gate),
    /// The proxy is killed.
    CutProxy(Gate),
}

/// The first master writes odd versions, the second even ones.
pub(super) fn writer(version: &str) -> &'static str {
    if version.parse::<u32>().unwrap() % 2 == 1 { "the first" } else { "the second" }
}

/// A fault of the first master while it writes all its rules, at a gate. Afterwards the table is the second one's.
async fn a_fault(server: &Server, others: &Server, database: &str, fault: Fault) {
    let count = size(200);
    let address = server.create(database).await;
    let field = TestDatabase::server(&address).await;
    let mut audit = Audit::begin(field.external().await, server.kind()).await;
    if server.kind() == Kind::MariaDb {
        // At a node of a cluster: wait until it has applied what another one committed.
        audit.external.run("SET SESSION wsrep_sync_wait = 15").await;
    }
    let proxy = Proxy::before(server, database);
    let through = match fault {
        Fault::FreezeProxy(_) | Fault::CutProxy(_) => &proxy.address,
        Fault::Freeze(_) | Fault::Kill(_) => &address,
    };
    let (one, other) = (Swarm::on(through), Swarm::on(others.address(database)));
    save_all(&one, count, 1);
    save_all(&other, count, 2);
    let first = master(&one);
    audit.until_versions_are("1", count).await;
    let second = master(&other);
    second.wait_for_log("standing by");

    let (Fault::Freeze(gate) | Fault::Kill(gate) | Fault::FreezeProxy(gate) | Fault::CutProxy(gate)) = fault;
    audit.close(gate).await;
    save_all(&one, count, 3);
    audit.until_it_is_waited_for().await;
    let mut first = Some(first);
    match fault {
        Fault::Freeze(_) => first.as_ref().unwrap().freeze(),
        Fault::Kill(_) => first.take().unwrap().kill(),
        Fault::FreezeProxy(_) => proxy.signal("STOP"),
        Fault::CutProxy(_) => proxy.signal("KILL"),
    }
    assert!(audit.is_waited_for().await, "the transaction ended before the fault");
    audit.open(gate).await;
    second.wait_for_log(TOOK_OVER);
    audit.until_versions_are("2", count).await;

    match (fault, &first) {
        (Fault::Freeze(_), Some(first)) => first.thaw(),
        (Fault::FreezeProxy(_), _) => proxy.signal("CONT"),
        _ => {}
    }
    if let (Fault::Freeze(_) | Fault::FreezeProxy(_), Some(first)) = (fault, &first) {
        stands_by(first);
        assert_eq!(lease_of(&one)["lock"], "standby");
    }
    let terms = audit.judge(writer).await;
    assert_eq!(terms.into_iter().collect::<Vec<_>>(), [1, 2], "as many takeovers as faults");
    assert_eq!(cell(&mut audit.external, "term").await, "2");
    audit.until_versions_are("2", count).await;
    assert_eq!(second.count_in_log(TOOK_OVER), 1, "{}", second.log());
}

/// Waits until a master that was taken over says so.
fn stands_by(first: &Daemon) {
    wait_for("the record of the takeover", || {
        let log = first.log();
        (log.contains("has taken over from this one") || log.contains("standing by")).then_some(())
    });
}

async fn all(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    all_on(&server, &server);
}

/// Runs the faults at the same time, each in a database of its own: of a master at one server, while the standby is at
/// the other one.
fn all_on(server: &Server, others: &Server) {
    let faults = [
        Fault::Freeze(Gate::Fence),
        Fault::Freeze(Gate::Row),
        Fault::Kill(Gate::Row),
        Fault::FreezeProxy(Gate::Fence),
        Fault::CutProxy(Gate::Row),
    ];
    std::thread::scope(|threads| {
        for (number, fault) in faults.into_iter().enumerate() {
            std::thread::Builder::new()
                .name(format!("{fault:?}"))
                .spawn_scoped(threads, move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(a_fault(server, others, &format!("fault_{number}"), fault));
                })
                .unwrap();
        }
    });
}

#[tokio::test]
#[ignore = "needs PostgreSQL and socat"]
async fn on_postgres() {
    all(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and socat"]
async fn on_mariadb() {
    all(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs MariaDB, Galera and socat"]
async fn on_galera() {
    let nodes = galera::start(vec![Vec::new(); 2]).await;
    all_on(&nodes[0], &nodes[1]);
}
