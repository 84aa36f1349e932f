//! The rights of README's "What each may do" are enough for signed releases, and each is needed.

use serde_json::json;

use super::master::version;
use super::worker::{status, wait_for_reasons};
use crate::support::databases::ExternalClient;
use crate::support::releases::Owner;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text, wait_for};

const README: &str = include_str!("../../../README.md");

/// README's statements for a server, in order, without passwords.
pub(crate) fn statements(kind: Kind) -> Vec<String> {
    let (_, section) = README.split_once("\n### What each may do\n").unwrap();
    let section = section.split("\n### ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    let is_for = |block: &&str| block.contains("honeypots.") == (kind == Kind::MariaDb);
    let lines = blocks.filter(is_for).flat_map(str::lines).filter(|line| !line.is_empty());
    lines.map(|line| line.replace(" PASSWORD '…'", "").replace(" IDENTIFIED BY '…'", "")).collect()
}

async fn each_does_with_the_grants_of_the_readme(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let address = server.create("honeypots").await;
    let owner = Owner::new();
    // The tables' owner makes them, as README says.
    let maker = Swarm::on(address);
    owner.release(1, &[("R1", 1)]).check_out(&maker);
    let mut sync = maker.command(&["sync"]);
    owner.trusted_by(&maker, &mut sync);
    let made = sync.output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let mut sql: ExternalClient = server.client("honeypots").await;
    let statements = statements(kind);
    assert!(statements.iter().filter(|line| line.contains("rulesyncd_manifest")).count() >= 2);
    for statement in &statements {
        sql.run(statement).await;
    }

    let [rules, sensor, desk] = ["master", "worker", "operator"]
        .map(|role| Swarm::on(server.address_as(&format!("rulesyncd_{role}"), "honeypots")));
    for host in [&rules, &sensor, &desk] {
        owner.signers(host, "");
    }
    let worker = owner.daemon(&sensor, "worker");
    wait_for_reasons(&sensor, &[]);
    owner.release(2, &[("R1", 2), ("R2", 1)]).check_out(&rules);
    let _master = owner.daemon(&rules, "master");
    wait_for("the second release", || {
        (status(&sensor)["trust"]["version"] == json!(version(2))).then_some(())
    });
    let state = |args: &[&str]| {
        let mut command = desk.command(&[&["state"], args].concat());
        owner.trusted_by(&desk, &mut command);
        let output = command.output().unwrap();
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success() && !printed.contains("not known"), "{args:?}: {printed}");
    };
    state(&["set", "R2", "disabled"]);
    state(&["get", "R2"]);
    wait_for("the state", || (status(&sensor)["states"] == 1).then_some(()));

    // Taken from the worker while it runs, the right is missing, and what is served does not change.
    let digest = status(&sensor)["digest"].clone();
    let from = if kind == Kind::MariaDb {
        "honeypots.rulesyncd_manifest FROM rulesyncd_worker@'%'"
    } else {
        "rulesyncd_manifest FROM rulesyncd_worker"
    };
    sql.run(&format!("REVOKE SELECT ON {from}")).await;
    let found = wait_for_reasons(&sensor, &["missing"]);
    assert_eq!(found["digest"], digest);
    let refusal = found["trust"]["refusal"].as_str().unwrap();
    assert!(
        refusal.contains("rulesyncd_manifest cannot be read: ") && refusal.contains("denied"),
        "{refusal}"
    );
    worker.wait_for_log("the worker serves this release as a whole");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn each_does_with_the_grants_of_the_readme_on_postgresql() {
    each_does_with_the_grants_of_the_readme(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn each_does_with_the_grants_of_the_readme_on_mariadb() {
    each_does_with_the_grants_of_the_readme(Kind::MariaDb).await;
}
