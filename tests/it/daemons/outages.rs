//! The records of an outage in the log and in `status`: when it begins, when its cause changes, when it ends.

use std::fs;

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, wait_for};

fn status(swarm: &Swarm, mode: &str) -> Value {
    let socket = if mode == "master" { swarm.path("master.sock") } else { swarm.socket() };
    serde_json::from_str(&swarm.succeed(&["status", "--json", "--socket", socket.to_str().unwrap()])).unwrap()
}

/// `status` shows an error with its time during the outage, and not afterwards.
fn has_an_error_meanwhile(swarm: &Swarm, mode: &str, begin: impl FnOnce(), end: impl FnOnce(), error: &str) {
    let current = || {
        let status = status(swarm, mode);
        assert_eq!(status["last_error"].is_null(), status["last_error_at"].is_null(), "{status}");
        status["last_error"].as_str().map(str::to_owned)
    };
    wait_for("no error", || current().is_none().then_some(()));
    begin();
    wait_for("the error", || current().filter(|current| current.contains(error)));
    let people = swarm.succeed(&["status"]);
    let line = people.lines().find(|line| line.starts_with("last error")).unwrap();
    assert!(line.contains(error) && line.ends_with("s ago)"), "{line}");
    end();
    wait_for("the error's end", || current().is_none().then_some(()));
}

#[test]
fn an_error_in_the_status_has_a_time_and_ends_with_the_outage() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    let quick = |mode: &str| {
        swarm.daemon(mode, |command| {
            command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "50ms");
        })
    };
    let (master, worker) = (quick("master"), quick("worker"));
    worker.wait_for_log(" loaded");
    let rename = |from: &str, to: &str| fs::rename(swarm.path(from), swarm.path(to)).unwrap();
    let (begin, end) = (|| rename("rules", "elsewhere"), || rename("elsewhere", "rules"));
    has_an_error_meanwhile(&swarm, "master", begin, end, "No such file");
    drop(master);
    let (begin, end) = (|| rename("rules.db", "away.db"), || rename("away.db", "rules.db"));
    has_an_error_meanwhile(&swarm, "worker", begin, end, "does not exist");
}

#[test]
fn a_worker_that_starts_before_the_master_waits_for_the_tables_and_that_is_no_error() {
    let swarm = Swarm::on_sqlite();
    let worker = swarm.worker();
    worker.wait_for_log("waiting for the tables");
    swarm.save("a.yaml", rule_text("A", 1));
    let _master = swarm.master();
    worker.wait_for_log("the tables exist");
    worker.wait_for_log(" loaded");
    assert_eq!((worker.count_in_log("ERROR"), worker.count_in_log("WARN")), (0, 0), "{}", worker.log());
}

#[test]
fn tables_that_vanish_under_a_worker_are_an_error() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    worker.wait_for_log("1 rule is loaded");
    swarm.sql("alter table ttp_rule rename to elsewhere");
    worker.wait_for_log("ERROR the database does not answer: ");
    worker.wait_for_log("the worker serves the rules that it has");
    swarm.sql("alter table elsewhere rename to ttp_rule");
    worker.wait_for_log("the database answers again, after ");
    assert_eq!(worker.count_in_log("after 0s"), 0, "{}", worker.log());
}

#[test]
fn a_worker_that_starts_with_its_cache_reports_no_end_of_an_outage() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let first = swarm.worker();
    swarm.subscribe().snapshot();
    first.stop();
    assert!(swarm.path("catalogue.ndjson").exists());
    let second = swarm.worker();
    wait_for("the first poll", || (status(&swarm, "worker")["database"]["state"] == "up").then_some(()));
    assert_eq!(second.count_in_log("answers again"), 0, "{}", second.log());
}

/// The password of both daemons' role is changed while they run, as an operator does it.
async fn a_changed_password(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let address = server.create("rules").await;
    let password = async |server: &Server, password: &str| {
        let sql = match kind {
            Kind::MariaDb => format!("ALTER USER keeper@localhost IDENTIFIED BY '{password}'"),
            Kind::Postgres => format!("ALTER ROLE keeper PASSWORD '{password}'"),
        };
        server.run("", &sql).await.unwrap();
    };
    match kind {
        Kind::MariaDb => {
            let sql = "CREATE USER keeper@localhost; GRANT ALL ON rules.* TO keeper@localhost";
            server.run("", sql).await.unwrap();
        }
        Kind::Postgres => {
            server.run("", "CREATE ROLE keeper LOGIN").await.unwrap();
            server.run("rules", "GRANT ALL ON SCHEMA public TO keeper").await.unwrap();
            let hba = server.path().join("data/pg_hba.conf");
            let trusted = fs::read_to_string(&hba).unwrap();
            fs::write(&hba, format!("local all keeper scram-sha-256\n{trusted}")).unwrap();
            server.run("", "SELECT pg_reload_conf()").await.unwrap();
        }
    }
    password(&server, "first-s3cr3t").await;

    let swarm = Swarm::on(address);
    let file = swarm.path("address");
    let save_address = |server: &Server, password: &str| {
        fs::write(&file, server.address_as(&format!("keeper:{password}"), "rules")).unwrap();
    };
    save_address(&server, "first-s3cr3t");
    swarm.save("a.yaml", rule_text("A", 1));
    let daemon = |mode: &str| {
        swarm.daemon(mode, |command| {
            command.env_remove("RULESYNCD_DATABASE_URL").env("RULESYNCD_DATABASE_URL_FILE", &file);
            command.env("RULESYNCD_WORKER_POLL_INTERVAL", "50ms");
        })
    };
    let daemons = [daemon("master"), daemon("worker")];
    wait_for("the rule", || (status(&swarm, "worker")["rules"] == 1).then_some(()));

    // The daemons keep their connections until the server restarts.
    password(&server, "second-s3cr3t").await;
    server.stop();
    let each = |check: &dyn Fn(&Daemon)| daemons.iter().for_each(check);
    each(&|daemon| {
        wait_for("the outage", || (daemon.count_in_log("ERROR") > 0).then_some(()));
    });
    server.go_on().await;
    each(&|daemon| {
        daemon.wait_for_log("check user and password");
        let log = daemon.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(!errors[0].contains("check user and password"), "{log}");
        assert!(errors.last().unwrap().contains(" cause"), "{log}");
        assert_eq!(daemon.count_in_log("answers again"), 0, "{log}");
    });

    save_address(&server, "second-s3cr3t");
    each(&|daemon| daemon.signal("HUP"));
    each(&|daemon| {
        daemon.wait_for_log("the database's password has changed");
        daemon.wait_for_log("the database answers again");
        assert_eq!(daemon.count_in_log("restart the daemon"), 0, "{}", daemon.log());
        assert_eq!(daemon.count_in_log("s3cr3t"), 0, "{}", daemon.log());
    });
    swarm.save("b.yaml", rule_text("B", 1));
    wait_for("the rule after the change", || (status(&swarm, "worker")["rules"] == 2).then_some(()));

    // Other changes of the configuration wait for a restart, and the log says so.
    fs::write(&file, server.address_as("keeper:second-s3cr3t", "other")).unwrap();
    each(&|daemon| daemon.signal("HUP"));
    each(&|daemon| daemon.wait_for_log("`database` changed: restart the daemon to apply it"));
    // The daemons survive a missing file.
    fs::remove_file(&file).unwrap();
    each(&|daemon| daemon.signal("HUP"));
    each(&|daemon| daemon.wait_for_log("keeps its previous configuration"));
    swarm.save("c.yaml", rule_text("C", 1));
    wait_for("the third rule", || (status(&swarm, "worker")["rules"] == 3).then_some(()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_changed_password_is_read_by_a_reload_on_postgresql() {
    a_changed_password(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_changed_password_is_read_by_a_reload_on_mariadb() {
    a_changed_password(Kind::MariaDb).await;
}

#[test]
fn a_subscriber_that_stops_reading_is_logged_while_it_does_not_read() {
    const RULES: usize = 40;
    let swarm = Swarm::on_sqlite();
    let save_all = |version: i32| {
        for number in 0..RULES {
            let rule_id = format!("R{number}");
            // Long enough that a few rounds of changes exceed a socket's buffer.
            let description = format!("description: {}\n", "x".repeat(20_000));
            swarm.save(&format!("{rule_id}.yaml"), rule_text(&rule_id, version) + &description);
        }
        swarm.succeed(&["sync"]);
    };
    save_all(1);
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_SUBSCRIBER_QUEUE", "20");
    });
    let (mut reads, mut stuck) = (swarm.subscribe(), swarm.subscribe());
    assert_eq!((reads.snapshot().len(), stuck.snapshot().len()), (RULES, RULES));
    for version in 2..12 {
        save_all(version);
        for _ in 0..RULES {
            assert_eq!(reads.change()["rule_version"], version);
        }
    }
    worker.wait_for_log("does not keep up");
    assert_eq!(worker.count_in_log("does not keep up"), 1, "{}", worker.log());
    let begin = loop {
        let line = stuck.next();
        if line["type"] != "change" {
            break line;
        }
    };
    assert_eq!((&begin["type"], &begin["reason"]), (&"snapshot_begin".into(), &"lagged".into()), "{begin}");
}
