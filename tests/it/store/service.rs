//! Another program reads and writes the two tables: it creates them, and both daemons get its spelling of the
//! address.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text, wait_for};

/// `tests/python/service.py` with one database.
struct Service(String);

impl Service {
    fn run(&self, args: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("target/venv/bin/python"));
        let output =
            command.arg(root.join("tests/python/service.py")).arg(&self.0).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn load(&self) -> Value {
        serde_json::from_str(&self.run(&["load"])).unwrap()
    }
}

fn beside_a_service(url: String) {
    let service = Service(url.clone());
    service.run(&["create"]);
    let swarm = Swarm::on(url);
    let first = format!("{}# é and a comment\n", rule_text("R1", 1));
    swarm.save("one.yaml", &first);
    swarm.succeed(&["sync"]);
    let (_master, _worker) = (swarm.master(), swarm.worker());
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();

    // The service loads what the master wrote.
    swarm.save("two.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
    let loaded = service.load();
    let r1 = &loaded["rules"]["R1"];
    assert_eq!(
        (&r1["text"], &r1["path"], &r1["by"]),
        (&json!(first), &json!("one.yaml"), &json!("filesystem"))
    );
    let age = r1["age"].as_f64().unwrap();
    assert!((-2.0..60.0).contains(&age), "updated_at is {age} s old");

    // Workers receive what the service writes, edits and deletes.
    service.run(&["write", "S1", "3"]);
    let change = subscriber.nothing_before("S1");
    assert_eq!((&change["rule_version"], &change["updated_by"]), (&json!(3), &json!("service")));
    assert_eq!(change["new_value"]["match_spec"]["pattern"], "é3");
    service.run(&["edit", "S1", "4"]);
    assert_eq!(subscriber.nothing_before("S1")["new_value"]["match_spec"]["pattern"], "é4");
    service.run(&["set", "S1", "clipped", "0.85"]);
    let state = subscriber.nothing_before("S1");
    assert_eq!(state["new_value"]["confidence_max"], json!(0.85), "{state}");
    service.run(&["clear", "S1"]);
    assert_eq!(subscriber.nothing_before("S1")["new_value"]["state"], "enabled");
    service.run(&["delete", "S1"]);
    assert_eq!(subscriber.nothing_before("S1")["new_value"], Value::Null);

    // The service reads what an operator sets.
    swarm.succeed(&["state", "set", "R1", "clipped", "--confidence-max", "0.85"]);
    assert_eq!(subscriber.nothing_before("R1")["new_value"]["confidence_max"], json!(0.85));
    assert_eq!(service.load()["states"]["R1"], json!(["clipped", 0.85]));

    // A file takes precedence over a row that the service wrote, at the next scan.
    service.run(&["edit", "R2", "9"]);
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 9);
    swarm.save("two.yaml", rule_text("R2", 10));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 10);
    assert_eq!(service.load()["rules"]["R2"]["by"], "filesystem");
}

#[test]
#[ignore = "needs target/venv with SQLAlchemy: tests/run"]
fn on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    beside_a_service(format!("sqlite+pysqlite:///{}/rules.db", directory.path().display()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL, and target/venv with SQLAlchemy: tests/run"]
async fn on_postgres() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("service").await;
    let url = format!("postgresql+psycopg://postgres@/service?host={}", server.path().display());
    beside_a_service(url);
}

#[tokio::test]
#[ignore = "needs MariaDB, and target/venv with SQLAlchemy: tests/run"]
async fn on_mariadb() {
    let server = Server::start(Kind::MariaDb, &["--default-time-zone=+05:00"]).await;
    server.create("service").await;
    let socket = server.path().join("sock");
    let url = format!("mysql+pymysql://root@localhost/service?unix_socket={}", socket.display());
    beside_a_service(url);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_cache_is_its_databases_whoever_reads_it() {
    let mut server = Server::start(Kind::Postgres, &[]).await;
    let url = server.create("rules").await;
    server.run("rules", "CREATE ROLE another LOGIN SUPERUSER").await.unwrap();
    let swarm = Swarm::on(url);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    assert_eq!(swarm.subscribe().snapshot().len(), 1);
    worker.stop();

    let by_another = server.address_as("another", "rules");
    server.stop();
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_URL", by_another);
    });
    assert_eq!(
        swarm.subscribe().snapshot().len(),
        1,
        "what is known is served while the database is unavailable"
    );
}

fn waiting_for_the_tables_of(service: Service, url: String, indexes: &str) {
    let swarm = Swarm::on(url);
    swarm.save("one.yaml", rule_text("R1", 1));
    let waiting = |command: &mut Command| {
        command.env("RULESYNCD_DATABASE_CREATE_TABLES", "false");
    };
    let master = swarm.daemon("master", waiting);
    let _worker = swarm.worker();
    master.wait_for_log("waiting for the tables");
    master.wait_for_log("`database.create_tables` is false");
    let mut sync = swarm.command(&["sync", "--database-url", swarm.url()]);
    waiting(&mut sync);
    let refused = sync.output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));

    // The service's migration finds nothing in its way, and its tables stay as it made them.
    service.run(&["create"]);
    wait_for("the rule in the service's table", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    assert_eq!(service.run(&["query", indexes]), "0\n");
}

#[test]
#[ignore = "needs target/venv with SQLAlchemy: tests/run"]
fn a_master_waits_for_the_tables_that_a_service_creates_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite+pysqlite:///{}/rules.db", directory.path().display());
    let indexes = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'ix_%'";
    waiting_for_the_tables_of(Service(url.clone()), url, indexes);
}

#[tokio::test]
#[ignore = "needs PostgreSQL, and target/venv with SQLAlchemy: tests/run"]
async fn a_master_waits_for_the_tables_that_a_service_creates_on_postgres() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("service").await;
    let url = format!("postgresql+psycopg://postgres@/service?host={}", server.path().display());
    let indexes = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'ix_%'";
    waiting_for_the_tables_of(Service(url.clone()), url, indexes);
}
