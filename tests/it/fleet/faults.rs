//! One host of each kind of trouble at once: `fleet` and `--wait` say exactly that.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{fleet, stderr, until_in_sync, worker, worker_with};
use crate::support::counting::CountingRelay;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text, wait_for};

/// The statements that make a user who reads the rules, and one who may not report either the version.
fn users(kind: Kind) -> Vec<String> {
    let tables = ["ttp_rule", "ttp_rule_state"];
    let mut statements = Vec::new();
    for user in ["mute", "blind"] {
        let (name, prefix) = match kind {
            Kind::Postgres => (user.to_owned(), ""),
            Kind::MariaDb => (format!("{user}@'%'"), "fleet."),
        };
        statements.push(match kind {
            Kind::Postgres => format!("CREATE ROLE {user} LOGIN"),
            Kind::MariaDb => format!("CREATE USER {name}"),
        });
        statements.extend(tables.map(|table| format!("GRANT SELECT ON {prefix}{table} TO {name}")));
        statements.push(match user {
            "mute" => format!("GRANT SELECT ON {prefix}rulesyncd_version TO {name}"),
            _ => format!("GRANT SELECT, INSERT, UPDATE ON {prefix}rulesyncd_worker TO {name}"),
        });
    }
    statements
}

async fn each_fault_is_named(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    for rule_id in ["R1", "R2"] {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let mut sql = server.client("fleet").await;
    for statement in users(kind) {
        sql.run(&statement).await;
    }
    let through = |name: &str| {
        let socket = match kind {
            Kind::MariaDb => "sock",
            Kind::Postgres => ".s.PGSQL.5432",
        };
        let here = swarm.path(name);
        std::fs::create_dir(&here).unwrap();
        let relay = CountingRelay::start(here.join(socket), server.path().join(socket));
        let address =
            server.address("fleet").replace(server.path().to_str().unwrap(), here.to_str().unwrap());
        (relay, Swarm::on(address))
    };
    let (relay, far) = through("relay");
    let as_user = |user: &str| Swarm::on(server.address_as(user, "fleet"));
    let (mute, blind) = (as_user("mute"), as_user("blind"));
    // Silent after nine seconds: a busy machine makes nobody silent that runs.
    let worker = |swarm: &Swarm, name: &str, id: &str| {
        worker_with(swarm, name, id, &[("REPORT_SPREAD", "200ms"), ("REPORT_INTERVAL", "3s")])
    };
    let _well = worker(&swarm, "well", "well");
    let frozen = worker(&swarm, "frozen", "frozen");
    let _cut = worker(&far, "cut", "cut");
    let _clones = (worker(&swarm, "clone-1", "clone"), worker(&swarm, "clone-2", "clone"));
    let unreported = worker(&mute, "mute", "mute");
    let _blind = worker(&blind, "blind", "blind");
    // Without the right to the version its digest still says that it serves what it should.
    until_in_sync(&swarm, &["blind", "clone", "clone", "cut", "frozen", "well"]);
    unreported.wait_for_log("is unknown to `rulesyncd fleet`");
    // Until the first clone reports again, it may be taken for the predecessor of the second.
    wait_for("both clones", || {
        let (shown, _) = fleet(&swarm);
        let hosts = shown["hosts"].as_array().unwrap().iter();
        (hosts.filter(|host| host["same_id_as"].is_string()).count() == 2).then_some(())
    });
    assert_eq!(swarm.run(&["fleet", "--expect", "6"]).status.code(), Some(0));
    assert_eq!(swarm.run(&["fleet", "--expect", "7"]).status.code(), Some(1), "one host cannot report");

    frozen.freeze();
    let cut = relay.freeze();
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait=10s"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("2 of 5 hosts lack the change")
            && said.contains("/cut (")
            && said.contains("/frozen ("),
        "{said}"
    );
    assert!(said.contains("not waited for: ") && said.contains("/blind (cannot read the version)"), "{said}");
    let states = |wanted: &[(&str, &str)]| {
        wait_for(&format!("{wanted:?}"), || {
            let found: BTreeMap<_, _> = fleet(&swarm).1.into_iter().collect();
            wanted.iter().all(|(id, state)| found.get(*id).is_some_and(|found| found == state)).then_some(())
        });
    };
    states(&[
        ("cut", "silent"),
        ("frozen", "silent"),
        ("well", "in_sync"),
        ("clone", "in_sync"),
        ("blind", "in_sync"),
    ]);
    frozen.thaw();
    drop(cut);
    until_in_sync(&swarm, &["blind", "clone", "clone", "cut", "frozen", "well"]);

    let output = swarm.run(&["fleet", "--wait=5s", "--strict"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "a host that cannot read the version is counted: {said}");
    assert!(said.contains("/blind (cannot read the version)"), "{said}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn each_fault_is_named_on_postgres() {
    each_fault_is_named(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn each_fault_is_named_on_mariadb() {
    each_fault_is_named(Kind::MariaDb).await;
}

/// An operator who may not raise the version, or not read the reports, is told which rights `--wait` needs before anything
/// is written; with these it works.
async fn a_wait_needs_the_rights_that_it_names(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = worker(&swarm, "w1", "w1");
    until_in_sync(&swarm, &["w1"]);
    let mut sql = server.client("fleet").await;
    let (create, clerk) = match kind {
        Kind::Postgres => ("CREATE ROLE clerk LOGIN", "clerk"),
        Kind::MariaDb => ("CREATE USER clerk@'%'", "clerk@'%'"),
    };
    sql.run(create).await;
    sql.run(&format!("GRANT SELECT ON ttp_rule TO {clerk}")).await;
    sql.run(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ttp_rule_state TO {clerk}")).await;
    let operator = Swarm::on(server.address_as("clerk", "fleet"));
    let mut refused_for = Vec::new();
    let output = loop {
        let output = operator.run(&["state", "set", "R1", "disabled", "--wait=20s"]);
        if output.status.code() != Some(2) {
            break output;
        }
        let said = stderr(&output);
        assert!(said.contains("--wait cannot work, and nothing was written: "), "{said}");
        assert!(swarm.succeed(&["state", "list"]).contains("no state is set"), "{said}");
        let quoted = said.split('`').skip(1).step_by(2);
        let grants: Vec<_> = quoted.filter(|quoted| quoted.starts_with("GRANT ")).collect();
        assert!(!grants.is_empty() && refused_for.len() < 2, "{said}");
        for grant in grants {
            sql.run(&format!("{grant} TO {clerk}")).await;
        }
        refused_for.push(if said.contains("rulesyncd_worker") { "reports" } else { "version" });
    };
    assert_eq!(refused_for, ["version", "reports"]);
    assert!(text(&output.stdout).contains("the host has it"), "{}", stderr(&output));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_wait_needs_the_rights_that_it_names_on_postgres() {
    a_wait_needs_the_rights_that_it_names(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_wait_needs_the_rights_that_it_names_on_mariadb() {
    a_wait_needs_the_rights_that_it_names(Kind::MariaDb).await;
}

/// The network to a site is cut: its hosts are not one record each.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn many_silent_hosts_are_one_record_of_the_master() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let names = ["w1", "w2", "w3", "well"];
    let workers = names.map(|name| worker(&swarm, name, name));
    until_in_sync(&swarm, &names);
    workers[..3].iter().for_each(|worker| worker.freeze());
    wait_for("the silence of three hosts", || {
        let hosts = fleet(&swarm).1;
        (hosts.iter().filter(|(_, state)| state == "silent").count() == 3).then_some(())
    });
    let master = swarm.daemon("master", |_| {});
    master.wait_for_log("3 workers are silent or have been behind for a minute: ");
    let log = master.log();
    let record = log.lines().find(|line| line.contains("3 workers are silent")).unwrap();
    assert!(["/w1", "/w2", "/w3"].iter().all(|name| record.contains(name)), "{record}");
    assert!(!record.contains("/well") && !log.contains("has reported nothing"), "{log}");
    // Between two looks of the master they are all back.
    master.freeze();
    workers[..3].iter().for_each(|worker| worker.thaw());
    until_in_sync(&swarm, &names);
    master.thaw();
    master.wait_for_log("3 workers are back: ");
}

/// A host whose program cannot read a rule that the others serve: a view damages the row for its user alone.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_row_that_one_host_quarantines_is_named() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    for rule_id in ["R1", "R2"] {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let mut sql = server.client("fleet").await;
    for statement in [
        "CREATE ROLE odd LOGIN",
        "CREATE SCHEMA odd AUTHORIZATION odd",
        "CREATE VIEW odd.ttp_rule AS SELECT rule_id, rule_version, source_path, \
         CASE WHEN rule_id = 'R2' THEN 'nothing' ELSE yaml_content END AS yaml_content, updated_at, updated_by \
         FROM public.ttp_rule",
        "GRANT SELECT ON odd.ttp_rule, ttp_rule_state, rulesyncd_version TO odd",
        "GRANT SELECT, INSERT, UPDATE ON rulesyncd_worker TO odd",
        "ALTER ROLE odd SET search_path = odd, public",
    ] {
        sql.run(statement).await;
    }
    let odd = Swarm::on(server.address_as("odd", "fleet"));
    let _workers = (worker(&swarm, "well", "well"), worker(&odd, "odd", "odd"));
    let shown = wait_for("the quarantined row", || {
        let (shown, hosts) = fleet(&swarm);
        let wanted = [("odd", "differs"), ("well", "in_sync")];
        let hosts: Vec<_> = hosts.iter().map(|(id, state)| (&**id, &**state)).collect();
        (hosts == wanted).then_some(shown)
    });
    let hosts = shown["hosts"].as_array().unwrap();
    let state: &Value = &hosts.iter().find(|host| host["worker_id"] == "odd").unwrap()["state"];
    assert_eq!(state["reason"], "quarantined R2", "{shown}");
    // The rule itself has not arrived there, and every other one has.
    let said = |args: &[&str]| {
        let output = swarm.run(args);
        (output.status.code(), stderr(&output) + &text(&output.stdout))
    };
    let (code, output) = said(&["state", "set", "R2", "disabled", "--wait=20s"]);
    assert!(code == Some(1) && output.contains("/odd (R2)") && !output.contains("/well"), "{output}");
    let (code, output) = said(&["state", "set", "R1", "disabled", "--wait=20s"]);
    assert!(code == Some(0) && output.contains("all 2 hosts have it"), "{output}");
    swarm.save("R1.yaml", rule_text("R1", 2));
    let (code, output) = said(&["sync", "--wait=20s"]);
    assert!(code == Some(0) && output.contains("all 2 hosts have it"), "{output}");
    swarm.save("R2.yaml", rule_text("R2", 2));
    let (code, output) = said(&["sync", "--wait=20s"]);
    assert!(code == Some(1) && output.contains("/odd (R2)"), "{output}");
}

/// States that expire one after the other while `fleet` looks are no finding, whatever the workers report meanwhile.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_state_that_expires_meanwhile_is_no_finding() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    let rules: Vec<String> = (0..8).map(|number| format!("R{number}")).collect();
    for rule_id in &rules {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let names = ["w1", "w2"];
    let _workers = names.map(|name| worker_with(&swarm, name, name, &[]));
    until_in_sync(&swarm, &names);
    for (number, rule_id) in rules.iter().enumerate() {
        let span = format!("{}ms", 3_000 + number * 500);
        swarm.succeed(&["state", "set", rule_id, "disabled", "--expires-in", &span]);
    }
    let expired = || {
        !swarm
            .succeed(&["state", "list"])
            .lines()
            .any(|line| line.contains("disabled") && !line.contains("expired"))
    };
    loop {
        let is_last = expired();
        let (shown, _) = fleet(&swarm);
        assert_eq!(shown["in_sync"], true, "{shown}");
        if is_last {
            break;
        }
    }
}
