//! `rulesyncd fleet` and `--wait`: real workers, on every database.

mod cleaning;
mod faults;
mod foreign;
mod lost;
mod replica;
mod reports;
mod scale;
mod sockets;
mod terminal;
mod wait;

use std::process::Output;
use std::time::Instant;

use serde_json::Value;

use crate::support::releases::Owner;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, text, wait_for};
use crate::trust::grants::statements;

/// A worker that reports often.
fn worker(swarm: &Swarm, name: &str, id: &str) -> Daemon {
    worker_with(swarm, name, id, &[("REPORT_SPREAD", "200ms"), ("REPORT_INTERVAL", "1s")])
}

/// A worker with these keys, and the defaults of all others.
fn worker_with(swarm: &Swarm, name: &str, id: &str, keys: &[(&str, &str)]) -> Daemon {
    swarm.daemon("worker", |command| {
        command
            .env("RULESYNCD_SOCKET", swarm.path(&format!("{name}.sock")))
            .env("RULESYNCD_WORKER_CACHE", swarm.path(&format!("{name}.cache")))
            .env("RULESYNCD_WORKER_ID", id);
        for (key, value) in keys {
            command.env(format!("RULESYNCD_WORKER_{key}"), value);
        }
    })
}

fn subscribe(swarm: &Swarm, name: &str) -> Subscriber {
    let mut subscriber = Subscriber::connect(&swarm.path(&format!("{name}.sock")));
    subscriber.send(r#"{"op":"subscribe"}"#);
    subscriber.snapshot();
    subscriber
}

/// What `fleet --json` says: worker's id and state, in order.
fn fleet(swarm: &Swarm) -> (Value, Vec<(String, String)>) {
    let output = swarm.run(&["fleet", "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
    assert_eq!(output.status.code(), Some(i32::from(shown["in_sync"] != true)), "{shown}");
    let hosts = shown["hosts"].as_array().unwrap().iter().map(|host| {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        (word(&host["worker_id"]), word(&host["state"]["state"]))
    });
    let mut hosts: Vec<_> = hosts.collect();
    hosts.sort();
    (shown, hosts)
}

fn until_in_sync(swarm: &Swarm, ids: &[&str]) {
    let wanted: Vec<_> = ids.iter().map(|id| ((*id).to_owned(), "in_sync".to_owned())).collect();
    wait_for(&format!("{ids:?} in sync"), || (fleet(swarm).1 == wanted).then_some(()));
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

async fn on_server(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let empty = swarm.run(&["fleet", "--expect", "1"]);
    assert_eq!(
        (empty.status.code(), text(&empty.stdout).contains("no worker has reported")),
        (Some(1), true)
    );

    let names = ["w1", "w2", "w3"];
    let mut workers: Vec<Daemon> = names.iter().map(|name| worker(&swarm, name, name)).collect();
    until_in_sync(&swarm, &names);
    assert!(text(&swarm.run(&["fleet", "--expect", "3"]).stdout).contains("3 of 3 in sync; changes 1"));
    assert_eq!(swarm.run(&["fleet", "--expect", "4"]).status.code(), Some(1));

    // `--wait` is never earlier than who hears all streams.
    for state in ["disabled", "enabled", "disabled", "enabled"] {
        let listening = names.map(|name| {
            let mut subscriber = subscribe(&swarm, name);
            std::thread::spawn(move || {
                let change = subscriber.change();
                (change["new_value"]["state"].clone(), Instant::now())
            })
        });
        let waited = swarm.succeed(&["state", "set", "R1", state, "--wait=20s"]);
        let returned = Instant::now();
        assert!(waited.contains("all 3 hosts have it"), "{waited}");
        for heard in listening.map(|listening| listening.join().unwrap()) {
            assert_eq!(heard.0, *state);
            assert!(heard.1 <= returned, "early by {:?}", heard.1 - returned);
        }
    }
    swarm.save("R2.yaml", rule_text("R2", 1));
    assert!(swarm.succeed(&["sync", "--wait=20s"]).contains("all 3 hosts have it"));
    // What is there already is waited for, too.
    let waited = swarm.succeed(&["sync", "--wait=20s"]);
    assert!(waited.contains("0 added, 0 changed") && waited.contains("all 3 hosts have it"), "{waited}");

    // A frozen one lacks the change; once it is silent it is passed over, and still named.
    let master = swarm.daemon("master", |_| {});
    workers[1].freeze();
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait=2s"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("1 of 3 hosts lacks the change") && stderr(&output).contains("/w2"));
    let frozen = [("w1", "in_sync"), ("w2", "silent"), ("w3", "in_sync")];
    wait_for("the silence of w2", || {
        let (_, hosts) = fleet(&swarm);
        let hosts: Vec<_> = hosts.iter().map(|(id, state)| (&**id, &**state)).collect();
        (hosts == frozen).then_some(())
    });
    let output = swarm.run(&["state", "clear", "R1", "--wait=20s"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("not waited for") && stderr(&output).contains("/w2 (silent)"));
    assert!(text(&output.stdout).contains("all 2 hosts have it"), "{}", text(&output.stdout));
    let output = swarm.run(&["fleet", "--wait=1s", "--strict"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/w2 (silent)"), "{}", stderr(&output));
    master.wait_for_log("/w2 has reported nothing for");
    // Its metrics say the same.
    let master_socket = swarm.path("master.sock");
    let metrics = || {
        let socket = master_socket.to_str().unwrap();
        text(&swarm.run(&["status", "--format", "prometheus", "--socket", socket]).stdout)
    };
    let shown = metrics();
    for sample in [
        "rulesyncd_fleet_workers{mode=\"master\",state=\"silent\"} 1",
        "rulesyncd_fleet_workers{mode=\"master\",state=\"in_sync\"} 2",
        "rulesyncd_fleet_oldest_report_seconds{mode=\"master\"} ",
    ] {
        assert!(shown.contains(sample), "no {sample} in\n{shown}");
    }
    workers[1].thaw();
    until_in_sync(&swarm, &names);
    master.wait_for_log("/w2 is back");
    wait_for("the arrival of a change everywhere", || {
        metrics().contains("rulesyncd_fleet_propagation_seconds_count").then_some(())
    });
    assert_eq!(master.count_in_log("/w2 has reported nothing for"), 1, "{}", master.log());
    master.stop();

    // One that restarts has a predecessor, which is not shown.
    workers.remove(2).stop();
    workers.push(worker(&swarm, "w3", "w3"));
    until_in_sync(&swarm, &names);

    // A row that nobody can serve has not arrived.
    let mut client = server.client("fleet").await;
    client
        .run(
            "INSERT INTO ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) \
             VALUES ('BAD', 1, 'bad.yaml', 'nothing', CURRENT_TIMESTAMP, 'someone')",
        )
        .await;
    for name in names {
        let socket = swarm.path(&format!("{name}.sock"));
        wait_for("the quarantined row", || {
            let status = swarm.run(&["status", "--json", "--socket", socket.to_str().unwrap()]);
            text(&status.stdout).contains("\"quarantined_ids\":\"BAD\"").then_some(())
        });
    }
    let output = swarm.run(&["state", "set", "BAD", "disabled", "--wait=20s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the change is quarantined at"), "{}", stderr(&output));
    client.run("DELETE FROM ttp_rule WHERE rule_id = 'BAD'").await;
    swarm.succeed(&["state", "clear", "BAD"]);

    // Clones report with one id.
    let clone = worker(&swarm, "clone", "w1");
    wait_for("both clones", || {
        let (shown, hosts) = fleet(&swarm);
        let named = shown["hosts"].as_array().unwrap().iter().filter(|host| host["same_id_as"].is_string());
        (hosts.len() == 4 && named.count() == 2).then_some(())
    });
    clone.stop();
    for worker in workers {
        worker.stop();
    }
    // Who is gone is forgotten on request.
    let shown = text(&swarm.run(&["fleet"]).stdout);
    let name = shown
        .lines()
        .find_map(|line| line.split_whitespace().next()?.ends_with("/w2").then_some(line))
        .unwrap();
    swarm.succeed(&["fleet", "forget", name.split_whitespace().next().unwrap()]);
    assert!(!fleet(&swarm).1.iter().any(|(id, _)| id == "w2"));
    assert_eq!(swarm.run(&["fleet", "forget", "w2"]).status.code(), Some(2));

    // Without the table a worker says so once, and works.
    client.run("DROP TABLE rulesyncd_worker").await;
    let mute = worker(&swarm, "mute", "mute");
    mute.wait_for_log("is unknown to `rulesyncd fleet`");
    let shown = text(&swarm.run(&["status", "--socket", swarm.path("mute.sock").to_str().unwrap()]).stdout);
    assert!(shown.contains("not reported to the fleet") && shown.contains("rulesyncd_worker"), "{shown}");
    let mut subscriber = subscribe(&swarm, "mute");
    let before = subscriber_version(&mut client).await;
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was written") && stderr(&output).contains("rulesyncd_worker"));
    assert_eq!(subscriber_version(&mut client).await, before);
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "disabled");
    // Without the row of the version neither.
    swarm.succeed(&["sync"]);
    client.run("DELETE FROM rulesyncd_version").await;
    let output = swarm.run(&["state", "clear", "R1", "--wait"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("nothing was written: rulesyncd_version has no row"),
        "{}",
        stderr(&output)
    );
    assert!(swarm.succeed(&["state", "list"]).contains("disabled"));
    swarm.save("R2.yaml", rule_text("R2", 2));
    let output = swarm.run(&["sync", "--wait=20s"]);
    assert!(!stderr(&output).contains("nothing was written"), "a sync creates it: {}", stderr(&output));
    assert_eq!(client.rows("SELECT name FROM rulesyncd_version").await.len(), 1);
    assert_eq!(mute.count_in_log("is unknown to `rulesyncd fleet`"), 1, "{}", mute.log());
}

async fn subscriber_version(client: &mut crate::support::databases::ExternalClient) -> String {
    let rows = client.rows("SELECT CAST(version AS CHAR(20)) FROM rulesyncd_version").await;
    rows[0][0].clone().unwrap()
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    on_server(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres() {
    on_server(Kind::Postgres).await;
}

/// Under trust the fleet should serve the signed release and the states that count, and nothing else of the tables.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn under_trust_the_signed_release_is_compared() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    let owner = Owner { states: "max=1".to_owned(), ..Owner::new() };
    owner.release(1, &[("R1", 1), ("R2", 1)]).check_out(&swarm);
    let _daemons = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    let _unaware = worker(&swarm, "unaware", "unaware");
    let trusting = |arguments: &[&str]| {
        let mut command = swarm.command(arguments);
        owner.trusted_by(&swarm, &mut command);
        command.output().unwrap()
    };
    let hosts_of = |shown: &Value| {
        let mut hosts = shown["hosts"].as_array().unwrap().clone();
        hosts.sort_by_key(|host| host["worker_id"] == "unaware");
        hosts
    };
    // A worker with trust and one without it are each compared with what it should serve, whether or not this host has
    // the keys.
    let in_sync = |signed: u64, rows: u64| {
        let by_whom = |keys: &dyn Fn() -> Output| {
            wait_for(&format!("{signed} signed and {rows} unsigned rules in sync"), || {
                let shown: Value = serde_json::from_slice(&keys().stdout).ok()?;
                let hosts = hosts_of(&shown);
                let rules = hosts.iter().map(|host| host["rules"].as_u64()).collect::<Vec<_>>();
                (shown["in_sync"] == true && rules == [Some(signed), Some(rows)]).then_some(shown)
            })
        };
        let shown = by_whom(&|| trusting(&["fleet", "--json"]));
        assert_eq!(shown["release_not_verified"], Value::Null, "{shown}");
        let unverified = by_whom(&|| swarm.run(&["fleet", "--json"]));
        assert!(
            unverified["release_not_verified"]
                .as_str()
                .is_some_and(|why| why.contains("is not configured here")),
            "{unverified}"
        );
        hosts_of(&shown)[0].clone()
    };
    assert_eq!(in_sync(2, 2)["trust"], "ok");
    // A state too many, and a row that nobody signed.
    let mut client = server.client("fleet").await;
    for rule_id in ["R1", "R2"] {
        client
            .run(&format!(
                "INSERT INTO ttp_rule_state (rule_id, state, set_at) \
                 VALUES ('{rule_id}', 'disabled', clock_timestamp() AT TIME ZONE 'UTC')"
            ))
            .await;
    }
    client
        .run(&format!(
            "INSERT INTO ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) \
             VALUES ('R3', 1, 'R3.yaml', '{}', clock_timestamp() AT TIME ZONE 'UTC', 'someone')",
            rule_text("R3", 1).replace('\'', "''")
        ))
        .await;
    wait_for("the state that counts", || {
        let output = trusting(&["fleet", "--json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        (hosts_of(&shown)[0]["states"] == 1).then_some(())
    });
    assert_eq!(in_sync(2, 3)["trust"], "ok");
    // The next release.
    owner.release(2, &[("R1", 2), ("R2", 1), ("R4", 1)]).check_out(&swarm);
    in_sync(3, 4);
    // Who has no keys is told after the wait what who has them is told before.
    let output = swarm.run(&["state", "set", "R4", "disabled", "--wait=20s"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "no effect at hosts that verify the signed release: R4 (the signed release lets operators suppress at most 1"
        ),
        "{said}"
    );
    swarm.succeed(&["state", "set", "R4", "enabled", "--wait=20s"]);
    // A release that this host cannot verify is never what a worker should serve, and it is said why.
    let mut command = swarm.command(&["fleet"]);
    owner.trusted_by(&swarm, &mut command);
    let output = command.env("RULESYNCD_TRUST_REALM", "another").output().unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("the signed release is not verified: there is no manifest")
            && shown.contains("no release verifies here to compare it with")
            && shown.contains("1 of 2 in sync"),
        "{shown}"
    );
}

/// README's row-level security: a host reports for itself alone, and the others read and forget all.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn with_a_role_for_each_host_no_host_reports_for_another() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let maker = Swarm::on(server.create("honeypots").await);
    maker.save("R1.yaml", rule_text("R1", 1));
    maker.succeed(&["sync"]);
    let mut sql = server.client("honeypots").await;
    let readme = include_str!("../../../README.md");
    let block = readme.split("```sql\n").find(|block| block.contains("ROW LEVEL SECURITY")).unwrap();
    let block = block.split("```").next().unwrap().replace(" PASSWORD '…'", "");
    let other = block.lines().last().unwrap().replace("hp_ams_01", "hp_ams_02");
    let grants = statements(Kind::Postgres).into_iter().filter(|line| !line.contains("rulesyncd_manifest"));
    let policies = block.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    for statement in grants.chain(policies.map(str::to_owned)).chain([other]) {
        sql.run(&statement).await;
    }
    let hosts = ["hp_ams_01", "hp_ams_02"].map(|role| {
        let swarm = Swarm::on(server.address_as(role, "honeypots"));
        let daemon = worker(&swarm, role, role);
        (swarm, daemon)
    });
    let desk = Swarm::on(server.address_as("rulesyncd_operator", "honeypots"));
    until_in_sync(&desk, &["hp_ams_01", "hp_ams_02"]);

    // Who has taken over one host can neither change, nor imitate, nor remove the other.
    let mut thief = server.client_as("hp_ams_01", "honeypots").await;
    for lie in [
        "UPDATE rulesyncd_worker SET digest = 'x' WHERE worker_id = 'hp_ams_02'",
        "DELETE FROM rulesyncd_worker WHERE worker_id = 'hp_ams_02'",
    ] {
        assert!(!matches!(thief.try_run(lie).await, Ok(1..)), "{lie}");
    }
    let imitation = "INSERT INTO rulesyncd_worker SELECT 'e' AS epoch, 'hp_ams_02' AS worker_id, host, program, started_at, \
                     reported_at, interval_ms, applied, seq, digest, rules, states, quarantined, quarantined_ids, trust, \
                     manifest_version, subscribers, acknowledging, acknowledged, server, stale_ms FROM rulesyncd_worker";
    let refused = thief.try_run(imitation).await.unwrap_err().to_string();
    assert!(refused.contains("row-level security"), "{refused}");
    assert!(
        thief.try_run(&imitation.replace("'hp_ams_02'", "'hp_ams_01'")).await.is_ok(),
        "a row of its own"
    );
    drop(hosts);
    desk.succeed(&["fleet", "forget", "hp_ams_02"]);
}
