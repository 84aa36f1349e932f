//! Two masters with different directories are watched through faults: at each moment the table is one master's, no master
//! says that its lease was confirmed after another one had taken it, and there are as many takeovers as faults.

use std::time::{Duration, Instant};

use rulesyncd::clock::{Clock as _, SystemClock, Timestamp};
use serde_json::Value;

use super::audit::Audit;
use super::faults::{is_long, writer};
use super::{TOOK_OVER, cell, master};
use crate::support::clock;
use crate::support::databases::{ExternalClient, TestDatabase};
use crate::support::galera;
use crate::support::haproxy::Haproxy;
use crate::support::pooler::Pooler;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Daemon, Swarm, ask};

/// How long no fault is injected, at the least: until a takeover without a fault would have been noticed.
const CALM: Duration = Duration::from_secs(7);

/// How long all of it lasts at the least.
fn duration() -> Duration {
    Duration::from_secs(if is_long() { 60 } else { 15 })
}

const RULES: usize = 5;

/// A master with its directory, and what a fault of it stops: the process, or the proxy before it.
struct Side<'p> {
    swarm: Swarm,
    daemon: Daemon,
    proxy: Option<&'p Haproxy>,
    /// The version that its directory has.
    version: i32,
    /// Whether its process is stopped.
    is_frozen: bool,
}

impl<'p> Side<'p> {
    fn start(address: &str, proxy: Option<&'p Haproxy>, version: i32) -> Self {
        let swarm = Swarm::on(address);
        save(&swarm, version);
        let daemon = master(&swarm);
        Self { swarm, daemon, proxy, version, is_frozen: false }
    }

    /// An edit of every rule. The first side has the odd versions.
    fn edit(&mut self) {
        self.version += 2;
        save(&self.swarm, self.version);
    }

    fn stop(&mut self) {
        match self.proxy {
            Some(proxy) => proxy.freeze(),
            None => self.daemon.freeze(),
        }
        self.is_frozen = self.proxy.is_none();
    }

    fn go_on(&mut self) {
        match self.proxy {
            Some(proxy) => proxy.thaw(),
            None => self.daemon.thaw(),
        }
        self.is_frozen = false;
    }

    /// What it says; `None` while it cannot.
    fn status(&self) -> Option<Value> {
        if self.is_frozen { None } else { ask(&self.swarm.path("master.sock")) }
    }
}

fn save(swarm: &Swarm, version: i32) {
    for number in 0..RULES {
        let id = format!("R{number}");
        swarm.save_atomically(&format!("{id}.yaml"), rule_text(&id, version));
    }
}

/// The watcher: what it saw of the table, and how much it compared.
struct Watch<'e> {
    external: &'e mut ExternalClient,
    /// Each term, and when it was first seen, at the latest.
    terms: Vec<(u64, Timestamp)>,
    claims: usize,
}

impl Watch<'_> {
    /// Looks once at the table and at each master, and returns which of them says that it leads.
    async fn look(&mut self, sides: &mut [Side<'_>; 2]) -> [bool; 2] {
        let versions = "SELECT DISTINCT CONCAT(rule_version, '') FROM ttp_rule";
        let versions: Vec<String> =
            self.external.rows(versions).await.into_iter().map(|row| row[0].clone().unwrap()).collect();
        let writers: std::collections::BTreeSet<&str> = versions.iter().map(|it| writer(it)).collect();
        assert!(writers.len() < 2, "the table is of both masters: {versions:?}");
        let term: u64 = cell(self.external, "term").await.parse().unwrap();
        if self.terms.last().is_none_or(|(last, _)| *last < term) {
            self.terms.push((term, SystemClock.now()));
        }
        let mut leads = [false; 2];
        for (side, leads) in sides.iter_mut().zip(&mut leads) {
            side.edit();
            let Some(status) = side.status() else { continue };
            let lease = &status["lease"];
            *leads = status["lock"] == "held" && lease.is_object();
            if *leads {
                self.claims += 1;
                let (mine, confirmed) = (lease["term"].as_u64().unwrap(), lease["confirmed_at"].as_str());
                let confirmed = Timestamp::parse(confirmed.unwrap()).unwrap();
                // Of the term that replaced its own it is known when it was seen at the latest.
                let later = self.terms.iter().find(|(term, _)| *term > mine);
                assert!(
                    later.is_none_or(|(_, seen)| confirmed <= *seen),
                    "its term {mine} was confirmed at {confirmed}, after {later:?} was seen: {status}"
                );
            }
        }
        leads
    }

    /// Looks until `is_over`.
    async fn until(
        &mut self,
        sides: &mut [Side<'_>; 2],
        what: &str,
        mut is_over: impl FnMut([bool; 2], &[Side<'_>; 2]) -> bool,
    ) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let leads = self.look(sides).await;
            if is_over(leads, sides) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {what}; {leads:?} lead");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Watches two masters, of which now the one and now the other stops for a while.
async fn watched(server: &Server, addresses: [&str; 2], proxies: [Option<&Haproxy>; 2]) {
    let database = TestDatabase::server(&server.address("rules")).await;
    let mut audit = Audit::begin(database.external().await, server.kind()).await;
    let mut external = database.external().await;
    if server.kind() == Kind::MariaDb {
        // At a node of a cluster: wait until it has applied what another one committed.
        external.run("SET SESSION wsrep_sync_wait = 15").await;
    }
    let one = Side::start(addresses[0], proxies[0], 1);
    one.daemon.wait_for_log("added");
    let other = Side::start(addresses[1], proxies[1], 2);
    other.daemon.wait_for_log("standing by");
    let (mut sides, mut faults) = ([one, other], 0);
    let mut watch = Watch { external: &mut external, terms: Vec::new(), claims: 0 };
    let begun = Instant::now();
    let mut calm_until = Instant::now() + CALM;
    watch.until(&mut sides, "the time without a fault", |_, _| Instant::now() > calm_until).await;
    assert_eq!(watch.terms.len(), 1, "a takeover without a fault: {:?}", watch.terms);
    // On PostgreSQL a frozen session keeps the server's lock, also that of a master which leads for the second time.
    let least = if server.kind() == Kind::Postgres { 4 } else { 2 };
    while begun.elapsed() < duration() || faults < least {
        let (leader, next) = (faults % 2, (faults + 1) % 2);
        sides[leader].stop();
        faults += 1;
        watch.until(&mut sides, "a takeover", |leads, _| leads[next]).await;
        sides[leader].go_on();
        watch
            .until(&mut sides, "the former master to stand by", |leads, sides| {
                !leads[leader] && sides[leader].status().is_some_and(|status| status["lock"] == "standby")
            })
            .await;
        calm_until = Instant::now() + Duration::from_secs(2);
        watch.until(&mut sides, "a moment without a fault", |_, _| Instant::now() > calm_until).await;
    }
    let claims = watch.claims;
    assert!(claims > 20, "{claims} claims were compared");
    let terms = audit.judge(writer).await;
    let wanted: Vec<u64> = (1..=1 + faults as u64).collect();
    assert_eq!(terms.into_iter().collect::<Vec<_>>(), wanted, "as many takeovers as faults");
    let took_over: usize = sides.iter().map(|side| side.daemon.count_in_log(TOOK_OVER)).sum();
    assert_eq!(took_over, faults);
}

#[tokio::test]
#[ignore = "needs PostgreSQL and haproxy"]
async fn one_directly_and_one_through_a_proxy_on_postgres() {
    through_a_proxy(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and haproxy"]
async fn one_directly_and_one_through_a_proxy_on_mariadb() {
    through_a_proxy(Kind::MariaDb).await;
}

async fn through_a_proxy(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let address = server.create("rules").await;
    let proxy = Haproxy::before(&server);
    watched(&server, [&proxy.address("rules"), &address], [Some(&proxy), None]).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn through_a_pooler_in_session_mode() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("rules").await;
    let pooler = Pooler::before(&server, "session");
    watched(&server, [&pooler.address("rules"); 2], [None, None]).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and Galera"]
async fn at_two_nodes() {
    let nodes = galera::start(vec![Vec::new(); 2]).await;
    let address = nodes[0].create("rules").await;
    watched(&nodes[0], [&address, &nodes[1].address("rules")], [None, None]).await;
}

#[tokio::test]
#[ignore = "needs MariaDB, Galera and libfaketime"]
async fn at_two_nodes_whose_clocks_differ() {
    let nodes = galera::start(vec![Vec::new(), clock::ahead()]).await;
    let address = nodes[0].create("rules").await;
    watched(&nodes[0], [&address, &nodes[1].address("rules")], [None, None]).await;
    clock::clear_up();
}
