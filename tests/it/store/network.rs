//! A master, its standby and two workers on four hosts around one server, while servers stop, links break and masters
//! die: every change arrives, and no daemon exits.

use std::time::{Duration, Instant};

use crate::support::network::Host;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, wait_for};

/// Longer than a server takes to notice that a master is gone.
const TIME_LIMIT: Duration = Duration::from_secs(60);

fn hears(subscriber: &mut Subscriber, rule_id: &str) {
    let start = Instant::now();
    loop {
        let line = subscriber.next();
        if line["type"] == "change" {
            assert_eq!(line["rule_id"], rule_id, "{line}");
            return;
        }
        assert!(start.elapsed() < TIME_LIMIT, "{rule_id} was not heard of");
    }
}

async fn a_swarm_survives(kind: Kind, net: u8) {
    let hosts: Vec<Host> = (0..4).map(|number| Host::new(net, number)).collect();
    let addresses = hosts.iter().map(|host| host.server.as_str()).collect::<Vec<_>>().join(",");
    let (option, port) = match kind {
        Kind::Postgres => (format!("-clisten_addresses={addresses}"), 5432),
        Kind::MariaDb => (format!("--bind-address={addresses}"), 3306),
    };
    let mut server = Server::start(kind, &[&option]).await;
    server.create("swarm").await;
    server.admit("10.77.0.0/16").await;

    let swarm = Swarm::on("sqlite::memory:");
    let url = |host: &Host| match kind {
        Kind::Postgres => format!("postgresql://postgres@{}:{port}/swarm", host.server),
        Kind::MariaDb => format!("mysql://guest@{}:{port}/swarm", host.server),
    };
    let start = |mode: &str, number: usize| -> Daemon {
        let place = |name: &str| swarm.path(&format!("{number}.{name}"));
        swarm.daemon(mode, |command| {
            command
                .env("RULESYNCD_DATABASE_URL", url(&hosts[number]))
                .env("RULESYNCD_DATABASE_ALLOW_PLAINTEXT", "true")
                .env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "2s")
                .env("RULESYNCD_SOCKET", place("events.sock"))
                .env("RULESYNCD_MASTER_SOCKET", place("master.sock"))
                .env("RULESYNCD_WORKER_CACHE", place("catalogue"));
            hosts[number].adopt(command);
        })
    };
    let subscribe = |number: usize| {
        let mut subscriber = Subscriber::connect(&swarm.path(&format!("{number}.events.sock")));
        subscriber.send(r#"{"op":"subscribe"}"#);
        subscriber.snapshot();
        subscriber
    };

    let first = start("master", 0);
    first.wait_for_log("holds the lock");
    let second = start("master", 1);
    second.wait_for_log("standing by");
    let workers = [start("worker", 2), start("worker", 3)];
    let (mut near, mut far) = (subscribe(2), subscribe(3));

    swarm.save("r1.yaml", rule_text("R1", 1));
    hears(&mut near, "R1");
    hears(&mut far, "R1");

    // The server goes away and comes back.
    server.stop();
    swarm.save("r2.yaml", rule_text("R2", 1));
    workers.iter().for_each(|worker| worker.wait_for_log("the database does not answer"));
    server.go_on().await;
    hears(&mut near, "R2");
    hears(&mut far, "R2");

    // One worker's link is cut; the other does not notice.
    hosts[3].cut();
    swarm.save("r3.yaml", rule_text("R3", 1));
    hears(&mut near, "R3");
    wait_for("the far worker's outage", || {
        (workers[1].count_in_log("the database does not answer") == 2).then_some(())
    });
    assert_eq!(workers[0].count_in_log("the database does not answer"), 1, "{}", workers[0].log());
    hosts[3].heal();
    hears(&mut far, "R3");

    // The master's link is cut; the standby takes over.
    let is_master = |daemon: &Daemon| daemon.count_in_log("holds the lock");
    let (before_first, before_second) = (is_master(&first), is_master(&second));
    let leads_first = leads(&first);
    hosts[usize::from(!leads_first)].cut();
    swarm.save("r4.yaml", rule_text("R4", 1));
    hears(&mut near, "R4");
    hears(&mut far, "R4");
    let took_over =
        if leads_first { is_master(&second) > before_second } else { is_master(&first) > before_first };
    assert!(took_over, "R4 was written by a master whose link is cut");
    hosts[usize::from(!leads_first)].heal();
    let (standby, master) = if leads_first { (first, second) } else { (second, first) };

    // The master is killed; the other one takes over again.
    standby.wait_for_log("standing by");
    master.kill();
    swarm.save("r5.yaml", rule_text("R5", 1));
    hears(&mut near, "R5");
    hears(&mut far, "R5");

    for daemon in workers.into_iter().chain([standby]) {
        daemon.stop();
    }
}

/// Whether this master's last record about the lock says that it holds it.
fn leads(master: &Daemon) -> bool {
    let log = master.log();
    log.rfind("holds the lock") > log.rfind("standing by").max(log.rfind("another master"))
        || !log.contains("standing by")
}

#[tokio::test]
#[ignore = "needs PostgreSQL, and root for network namespaces"]
async fn on_postgres_as_root() {
    a_swarm_survives(Kind::Postgres, 1).await;
}

#[tokio::test]
#[ignore = "needs MariaDB, and root for network namespaces"]
async fn on_mariadb_as_root() {
    a_swarm_survives(Kind::MariaDb, 2).await;
}
