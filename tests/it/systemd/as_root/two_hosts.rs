//! Runs README's walk-through of two hosts: its blocks of commands run in two containers, and the results are checked
//! from outside.

use std::collections::VecDeque;

use super::{installed_nowhere, package, samples, save_rule};
use crate::support::container::Container;
use crate::support::swarm::{Subscriber, wait_for};

const README: &str = include_str!("../../../../README.md");

/// A block of commands, and the hosts that it is for.
struct Block {
    hosts: Vec<&'static str>,
    commands: String,
}

/// The blocks of the walk-through, in order.
struct Walk {
    blocks: VecDeque<Block>,
    rules: Container,
    sensor: Container,
}

/// Replaces README's `…` by passwords: in each line by that of the role in the line.
fn with_passwords(text: &str, version: u32) -> String {
    let lines = text.lines().map(|line| {
        let role = ["worker", "master", "operator"]
            .into_iter()
            .find(|role| line.contains(&format!("rulesyncd_{role}")));
        line.replace('…', &format!("{}-password-{version}", role.unwrap_or("no")))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The blocks of a language in a section.
fn blocks(heading: &str, language: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = README.split_once(&format!("\n{heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let opened = format!("```{language}");
    let blocks = section.split(&*opened).skip(1).map(|block| block.split_once('\n').unwrap());
    blocks.map(|(info, rest)| (info.trim(), rest.split("```").next().unwrap())).collect()
}

impl Walk {
    /// Runs the next block, which must be for `hosts` and hold `command`, on each of them.
    fn step(&mut self, hosts: &[&str], command: &str, version: u32) -> String {
        let block = self.blocks.pop_front().unwrap();
        assert!(block.hosts == hosts && block.commands.contains(command), "{command}: {}", block.commands);
        let script = format!("cd /root\n{}", with_passwords(&block.commands, version));
        let printed = hosts.iter().map(|host| match *host {
            "rules" => self.rules.sh(&script),
            _ => self.sensor.sh(&script),
        });
        printed.collect()
    }

    fn subscribe(&self) -> Subscriber {
        self.sensor.subscribe()
    }

    /// Subscribes until the snapshot is that of so many rules.
    fn subscribe_to(&self, rules: usize) -> Subscriber {
        wait_for(&format!("{rules} rules on the sensor"), || {
            let mut subscriber = self.subscribe();
            (subscriber.snapshot().iter().filter(|line| line["rule_id"].is_string()).count() >= rules)
                .then_some(subscriber)
        })
    }
}

/// A database server, as the walk-through expects it.
struct Server {
    /// How its addresses begin.
    scheme: &'static str,
    /// Starts it with TLS; the certificate is in /root.
    start: &'static str,
    /// What makes its block of grants another's than the other server's.
    grants: &'static str,
    /// Prints the users of the daemons' sessions that are encrypted, and their hosts.
    sessions: &'static str,
}

const POSTGRES: Server = Server {
    scheme: "postgres://",
    start: "cluster=$(ls /etc/postgresql | head -1)
         data=/var/lib/postgresql/$cluster/main
         install -o postgres -m 0600 server.key server.pem $data
         cd /etc/postgresql/$cluster/main
         printf \"listen_addresses = '*'\\nssl = on\\nssl_cert_file = '$data/server.pem'\\nssl_key_file = '$data/server.key'\\n\" >> postgresql.conf
         echo 'hostssl honeypots all 192.0.2.0/24 scram-sha-256' >> pg_hba.conf
         systemctl start postgresql@$cluster-main",
    grants: "CREATE ROLE",
    sessions: "runuser -u postgres -- psql -Atc \"select distinct usename, host(client_addr) from pg_stat_activity a \
         join pg_stat_ssl s on s.pid = a.pid and s.ssl where usename like 'rulesyncd%' order by 1\"",
};

const MARIADB: Server = Server {
    scheme: "mysql://",
    start: "install -d -o mysql /run/mysqld
         install -o mysql -m 0600 server.key server.pem /var/lib/mysql
         systemd-run -q --unit=database -p Type=notify -p User=mysql mariadbd --bind-address=0.0.0.0 \
           --skip-name-resolve --require-secure-transport=on --ssl-cert=/var/lib/mysql/server.pem --ssl-key=/var/lib/mysql/server.key",
    grants: "CREATE USER",
    sessions: "mariadb -NB -e \"select distinct user, substring_index(host, ':', 1) from information_schema.processlist \
         where user like 'rulesyncd%' order by 1\" | tr '\\t' '|'",
};

/// Host names, a cable, a server with a certificate of its own authority, and the package.
fn prepare(server: &Server, rules: &Container, sensor: &Container) {
    Container::connect([(rules, "192.0.2.10/24"), (sensor, "192.0.2.20/24")]);
    for host in [rules, sensor] {
        host.sh("echo '192.0.2.10 db.example.org' >> /etc/hosts");
        host.put(package(), "/root/rulesyncd.deb");
    }
    let new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    rules.sh(&format!(
        "cd /root
         {new} -x509 -days 2 -subj '/CN=Test authority' -keyout ca.key -out ca.pem
         {new} -subj /CN=db.example.org -keyout server.key -out server.csr
         printf 'subjectAltName=DNS:db.example.org\\nextendedKeyUsage=serverAuth\\n' > extensions
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem
         {}",
        server.start
    ));
    std::fs::copy(rules.path("/root/ca.pem"), sensor.path("/root/ca.pem")).unwrap();
    let grants = blocks("### What each may do", "sql");
    let grants = grants.iter().find(|(_, block)| block.contains(server.grants)).unwrap().1;
    std::fs::write(rules.path("/root/grants.sql"), with_passwords(grants, 1)).unwrap();
}

/// The blocks of the walk-through for a server: its own instead of the other's.
fn blocks_for(server: &Server) -> VecDeque<Block> {
    let (mut own, shared): (VecDeque<_>, VecDeque<_>) =
        blocks("## Two hosts", "sh ").into_iter().partition(|(info, _)| info.ends_with(", MariaDB"));
    let mut chosen = VecDeque::new();
    for (hosts, commands) in shared {
        let (hosts, commands) = match server.scheme == MARIADB.scheme && commands.contains("-u postgres") {
            true => own.pop_front().unwrap(),
            false => (hosts, commands),
        };
        chosen.push_back(Block {
            hosts: hosts.split(", ").filter(|host| *host != "MariaDB").collect(),
            commands: commands.replace(POSTGRES.scheme, server.scheme),
        });
    }
    assert!(server.scheme == POSTGRES.scheme || own.is_empty());
    chosen
}

#[test]
#[ignore = "needs root, systemd-nspawn and PostgreSQL"]
fn the_walk_through_two_hosts_followed_word_for_word_works_on_postgres() {
    follow(&POSTGRES);
}

#[test]
#[ignore = "needs root, systemd-nspawn and MariaDB"]
fn the_walk_through_two_hosts_followed_word_for_word_works_on_mariadb() {
    follow(&MARIADB);
}

fn follow(server: &Server) {
    let (rules, sensor) = (installed_nowhere(), installed_nowhere());
    prepare(server, &rules, &sensor);
    let mut walk = Walk { blocks: blocks_for(server), rules, sensor };

    walk.step(&["rules", "sensor"], "dpkg -i", 1);
    walk.step(&["rules"], "grants.sql", 1);
    walk.step(&["rules"], "enable --now rulesyncd-master", 1);
    walk.rules
        .wait_for("systemctl show -P StatusText rulesyncd-master", &format!("{} rules in sync", samples()));
    let printed = walk.step(&["sensor"], "enable --now rulesyncd-worker.socket", 1);
    assert!(printed.contains("DIS0002") && printed.contains("db.example.org"), "{printed}");
    let mut subscriber = walk.subscribe_to(samples());
    save_rule(&walk.rules, "NEW", 1);
    assert_eq!(subscriber.change()["rule_id"], "NEW");
    // Each daemon is a role of its own, over TLS.
    let sessions = walk.rules.sh(server.sessions);
    assert_eq!(sessions, "rulesyncd_master|192.0.2.10\nrulesyncd_worker|192.0.2.20\n");

    let printed = walk.step(&["rules"], "rulesyncd state set", 1);
    assert!(printed.contains("DIS0002") && printed.contains("disabled"), "{printed}");
    assert_eq!(subscriber.change()["rule_id"], "DIS0002");

    // Root's commands find the daemon's database and its credential by themselves.
    let listed = walk.rules.sh("rulesyncd state list; rulesyncd verify");
    assert!(listed.contains("DIS0002") && listed.contains("in sync: tables, directory\n"), "{listed}");
    let refused = walk.rules.try_sh("rulesyncd state set NEW disabled");
    assert_eq!(refused.status.code(), Some(3), "the master's role may not set states");
    let listed = walk.sensor.sh("rulesyncd state list; rulesyncd verify");
    assert!(listed.contains("DIS0002") && listed.contains("in sync: tables, worker\n"), "{listed}");

    // A new password: the old worker follows on, and the restarted one has the new.
    walk.step(&["rules"], "ALTER ", 2);
    save_rule(&walk.rules, "NEW", 2);
    assert_eq!(subscriber.change()["rule_id"], "NEW");
    walk.step(&["sensor"], "systemctl restart rulesyncd-worker", 2);
    let mut subscriber = walk.subscribe_to(samples() + 1);
    save_rule(&walk.rules, "NEW", 3);
    assert_eq!(subscriber.change()["rule_id"], "NEW");

    // What changed since the backup is as in the files and the backup again.
    walk.step(&["rules"], "tar -czf", 2);
    walk.rules.sh("RULESYNCD_DATABASE_URL_FILE=~/operator.url rulesyncd state clear DIS0002");
    assert_eq!(subscriber.change()["rule_id"], "DIS0002");
    save_rule(&walk.rules, "LATER", 1);
    assert_eq!(subscriber.change()["rule_id"], "LATER");
    walk.step(&["rules"], "systemctl stop rulesyncd-master", 2);
    walk.rules.wait_for(
        "systemctl show -P StatusText rulesyncd-master",
        &format!("{} rules in sync", samples() + 2),
    );
    let states = walk.rules.sh("RULESYNCD_DATABASE_URL_FILE=~/operator.url rulesyncd state list");
    assert!(states.contains("DIS0002"), "{states}");
    wait_for("the restored state on the sensor", || {
        let snapshot = walk.subscribe().snapshot();
        snapshot
            .iter()
            .any(|line| line["rule_id"] == "DIS0002" && line.to_string().contains("noisy"))
            .then_some(())
    });
    assert_eq!(walk.sensor.property("rulesyncd-worker", "NRestarts"), "0");

    for (host, unit) in [("sensor", "rulesyncd-worker"), ("rules", "rulesyncd-master")] {
        let container = if host == "rules" { &walk.rules } else { &walk.sensor };
        let pid = container.property(unit, "MainPID");
        walk.step(&[host], "dpkg -i", 2);
        let container = if host == "rules" { &walk.rules } else { &walk.sensor };
        assert_ne!(container.property(unit, "MainPID"), pid);
        container.wait_for(&format!("systemctl is-active {unit}"), "active");
    }
    let mut subscriber = walk.subscribe_to(14);
    save_rule(&walk.rules, "UPGRADED", 1);
    assert_eq!(subscriber.change()["rule_id"], "UPGRADED");

    walk.step(&["sensor"], "systemctl stop", 2);
    assert!(std::os::unix::net::UnixStream::connect(walk.sensor.path("/run/rulesyncd/events.sock")).is_err());
    assert_eq!(walk.sensor.property("rulesyncd-worker", "ActiveState"), "inactive");
    assert!(walk.blocks.is_empty(), "{}", walk.blocks[0].commands);
}
