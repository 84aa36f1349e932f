//! Attacks on live workers by real writers on real servers: a subscriber hears whole releases of the owner, and
//! nothing else.

use std::fs;

use rulesyncd::clock::{Clock as _, SystemClock};
use rulesyncd::rule::ContentDigest;
use serde_json::{Value, json};

use crate::support::databases::{ExternalClient, TestDatabase};
use crate::support::mounts::Mount;
use crate::support::releases::{Owner, stored_release};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::sshsig::{Signing, SoftKey};
use crate::support::swarm::{Subscriber, Swarm, text, wait_for};

const FIRST: &[(&str, i32)] = &[("R1", 1), ("R2", 1), ("R3", 1)];

pub(super) fn status(swarm: &Swarm) -> Value {
    let mut client = Subscriber::connect(&swarm.socket());
    client.send(r#"{"op":"status","id":1}"#);
    client.next()["result"].clone()
}

pub(super) fn reasons(status: &Value) -> Vec<String> {
    let reasons = status["trust"]["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap().to_owned()).collect()
}

/// Waits until exactly these reasons hold, without any until a release is in force, and returns the status.
pub(super) fn wait_for_reasons(swarm: &Swarm, expected: &[&str]) -> Value {
    wait_for(&format!("the reasons {expected:?}"), || {
        let status = status(swarm);
        // Before its first poll, a worker knows no reason yet.
        let is_read = !expected.is_empty() || status["trust"]["state"] == "ok";
        (is_read && reasons(&status) == expected).then_some(status)
    })
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes part 0 as a thief of the master's password would.
pub(super) async fn write_part_0(sql: &mut ExternalClient, version: &str, body: &str, signatures: &str) {
    sql.run(&format!(
        "UPDATE rulesyncd_manifest SET version = {}, body = {}, signatures = {}, updated_at = {} WHERE part = 0",
        quoted(version),
        quoted(body),
        quoted(signatures),
        quoted(&SystemClock.now().to_string()),
    ))
    .await;
}

/// The rules of a snapshot, each an id with its version, and what its end says of trust.
pub(super) fn snapshot(subscriber: &mut Subscriber) -> (Vec<(String, i64)>, Value) {
    assert_eq!(subscriber.next()["type"], "snapshot_begin");
    let mut rules = Vec::new();
    loop {
        let line = subscriber.next();
        match line["type"].as_str() {
            Some("rule") => {
                rules.push((
                    line["rule_id"].as_str().unwrap().to_owned(),
                    line["rule_version"].as_i64().unwrap(),
                ));
            }
            Some("snapshot_end") => return (rules, line["trust"].clone()),
            _ => {}
        }
    }
}

fn first_rules() -> Vec<(String, i64)> {
    FIRST.iter().map(|(id, version)| ((*id).to_owned(), i64::from(*version))).collect()
}

async fn attacks(swarm: &Swarm, sql: &mut ExternalClient) {
    let owner = Owner::new();
    let first = owner.release(10, FIRST);
    first.check_out(swarm);
    let worker = owner.daemon(swarm, "worker");
    // Nothing is verified yet, so nothing is served.
    wait_for("no trust", || (status(swarm)["trust"]["state"] == "none").then_some(()));
    assert_eq!(status(swarm)["digest"], Value::Null);
    let master = owner.daemon(swarm, "master");
    wait_for_reasons(swarm, &[]);
    let mut subscriber = swarm.subscribe();
    let (rules, trust) = snapshot(&mut subscriber);
    assert_eq!(rules, first_rules());
    let expected =
        json!({"state": "ok", "reasons": [], "version": "2020-01-01T00:10:00Z", "expires": owner.expires});
    assert_eq!(trust, expected);
    let digest = status(swarm)["digest"].clone();
    // Nobody mends what the attacker does.
    master.stop();

    // Forged, changed and deleted rows.
    let at = quoted(&SystemClock.now().to_sql_text());
    let forged = quoted(&rule_text("R9", 1));
    sql.run(&format!("INSERT INTO ttp_rule VALUES ('R9', 1, 'R9.yaml', {forged}, {at}, 'filesystem')")).await;
    let changed = quoted(&rule_text("R1", 1).replace("v1", "v7"));
    sql.run(&format!("UPDATE ttp_rule SET yaml_content = {changed}, updated_at = {at} WHERE rule_id = 'R1'"))
        .await;
    sql.run("DELETE FROM ttp_rule WHERE rule_id = 'R2'").await;
    let found = wait_for("altered rows", || {
        let status = status(swarm);
        (status["trust"]["altered"] == json!(["R1", "R2"])).then_some(status)
    });
    assert_eq!((reasons(&found), &found["digest"]), (vec!["altered".to_owned()], &digest));
    assert_eq!(found["trust"]["unlisted"], json!(["R9"]));

    // The list altered to fit the rows, with a hint that lies about the version.
    sql.run(
        "UPDATE rulesyncd_manifest SET body = 'R9 1', updated_at = 'x', version = '2099-01-01T00:00:00Z'",
    )
    .await;
    wait_for_reasons(swarm, &["malformed", "altered"]);
    assert_eq!(status(swarm)["digest"], digest);
    worker.stop();

    // Each of these is what a worker finds when it starts; it has a cache and a floor.
    let signed = |owner: &Owner, minute| {
        let release = owner.release(minute, &[("R1", 1)]);
        (release.text("MANIFEST").to_owned(), release.text("MANIFEST.sig").to_owned())
    };
    let stranger = Owner::new();
    let (newer, _) = signed(&owner, 20);
    let file = owner.key.sign_as(newer.as_bytes(), Signing { namespace: "file", ..Signing::default() });
    let other_realm = {
        let manifest = newer.replace("honeypots", "test");
        let signature = owner.key.sign(manifest.as_bytes());
        (manifest, signature)
    };
    let attacks = [
        ("rolled_back", signed(&owner, 9)),
        ("conflict", signed(&owner, 10)),
        ("bad_signature", signed(&stranger, 20)),
        ("bad_signature", (newer.clone(), file)),
        ("bad_signature", (newer.replace("any", "max=9"), signed(&owner, 20).1)),
        ("wrong_realm", other_realm),
        ("malformed", (newer[..100].to_owned(), signed(&owner, 20).1)),
        ("malformed", ("x".repeat(40 << 10), signed(&owner, 20).1)),
        ("incomplete", (newer.clone(), signed(&owner, 20).1)),
    ];
    for (reason, (body, signatures)) in attacks {
        write_part_0(sql, "2020-01-01T00:20:00Z", &body, &signatures).await;
        let worker = owner.daemon(swarm, "worker");
        let found = wait_for_reasons(swarm, &[reason, "altered"]);
        assert_eq!(found["digest"], digest, "{reason}");
        let mut subscriber = swarm.subscribe();
        assert_eq!(snapshot(&mut subscriber).0, first_rules(), "{reason}");
        worker.stop();
    }
    sql.run("DROP TABLE rulesyncd_manifest").await;
    let worker = owner.daemon(swarm, "worker");
    assert_eq!(wait_for_reasons(swarm, &["missing", "altered"])["digest"], digest);

    // The owner's master mends all of it, and the next release is one burst.
    let mut subscriber = swarm.subscribe();
    assert_eq!(snapshot(&mut subscriber).0, first_rules());
    let _master = owner.daemon(swarm, "master");
    wait_for_reasons(swarm, &[]);
    owner.release(30, &[("R1", 2), ("R3", 1), ("R4", 1)]).check_out(swarm);
    let changes: Vec<(Value, Value)> = (0..3)
        .map(|_| {
            let change = subscriber.change();
            (change["rule_id"].clone(), change["rule_version"].clone())
        })
        .collect();
    let mut changes: Vec<String> = changes.iter().map(|(id, version)| format!("{id} {version}")).collect();
    changes.sort();
    assert_eq!(changes, ["\"R1\" 2", "\"R2\" null", "\"R4\" 1"]);
    worker.stop();
}

#[tokio::test]
async fn attacks_on_sqlite() {
    let database = TestDatabase::sqlite_file().await;
    attacks(&Swarm::on(&database.address), &mut database.external().await).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn attacks_on_postgresql() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    let swarm = Swarm::on(&database.address);
    let mut sql = database.external().await;
    attacks(&swarm, &mut sql).await;

    // A worker that may not read the manifests serves nothing, and says why.
    sql.run("CREATE ROLE signed_worker LOGIN").await;
    sql.run("GRANT SELECT ON ttp_rule, ttp_rule_state TO signed_worker").await;
    let owner = Owner::new();
    let restricted = Swarm::on(server.address_as("signed_worker", "signed"));
    let _worker = owner.daemon(&restricted, "worker");
    let found = wait_for_reasons(&restricted, &["missing"]);
    assert_eq!((&found["trust"]["state"], &found["digest"]), (&json!("none"), &Value::Null));
    assert!(found["trust"]["refusal"].as_str().unwrap().contains("permission denied"), "{found}");
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn attacks_on_mariadb() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    attacks(&Swarm::on(&database.address), &mut database.external().await).await;
}

#[test]
fn a_stolen_key_is_revoked_by_removing_its_line() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let thief = Owner { key: SoftKey::p256(), ..Owner::new() };
    owner.signers(&swarm, &thief.key.line("stolen"));
    owner.release(1, FIRST).check_out(&swarm);
    let (_master, worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    wait_for("the release", || (status(&swarm)["rules"] == 3).then_some(()));
    // 23:00 is the latest that is not a day ahead.
    thief.release(23 * 60, &[("R1", 9)]).check_out(&swarm);
    wait_for("the thief's release", || (status(&swarm)["rules"] == 1).then_some(()));
    let mut subscriber = swarm.subscribe();
    assert_eq!(snapshot(&mut subscriber).0, [("R1".to_owned(), 9)]);
    owner.signers(&swarm, "");
    worker.signal("HUP");
    _master.signal("HUP");
    wait_for_reasons(&swarm, &["bad_signature", "unverified"]);
    // A turn is a heartbeat at once, and nobody is left without rules.
    wait_for("a heartbeat that says so", || {
        let line = subscriber.line();
        (line["type"] == "heartbeat" && line["trust"]["reasons"] == json!(["bad_signature", "unverified"]))
            .then_some(())
    });
    owner.release(2, FIRST).check_out(&swarm);
    wait_for_reasons(&swarm, &[]);
    assert_eq!(status(&swarm)["rules"], 3);
}

#[test]
fn a_cache_is_served_only_if_all_of_it_verifies() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, FIRST).check_out(&swarm);
    let (master, worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    wait_for_reasons(&swarm, &[]);
    worker.stop();
    master.stop();
    // The database is unavailable from now on.
    fs::rename(swarm.path("rules.db"), swarm.path("away.db")).unwrap();
    let worker = owner.daemon(&swarm, "worker");
    wait_for("the cached rules", || (status(&swarm)["rules"] == 3).then_some(()));
    worker.stop();

    let cache = swarm.path("catalogue.ndjson");
    let good = fs::read_to_string(&cache).unwrap();
    // Sealed again, as somebody does who knows the format.
    let seal = |lines: &[String]| {
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        format!("{body}{}\n", json!({ "sha256": ContentDigest::of(&body).to_string() }))
    };
    let lines: Vec<String> = good.lines().map(str::to_owned).collect();
    let lines = &lines[..lines.len() - 1];
    assert_eq!(seal(lines), good, "the test can seal a cache");
    let edit = |line: usize, change: &dyn Fn(&mut Value)| {
        let mut lines = lines.to_vec();
        let mut value: Value = serde_json::from_str(&lines[line]).unwrap();
        change(&mut value);
        lines[line] = value.to_string();
        seal(&lines)
    };
    let forged = rule_text("R1", 1).replace("v1", "v7");
    for (what, edited) in [
        (
            "a forged text",
            edit(1, &|rule| {
                rule["content_sha256"] = json!(ContentDigest::of(&forged).to_string());
                rule["yaml_content"] = json!(forged);
            }),
        ),
        ("no manifest", edit(0, &|header| header["manifest"] = Value::Null)),
        (
            "another manifest",
            edit(0, &|header| {
                let body = header["manifest"]["body"].as_str().unwrap().replace("00:01", "00:02");
                header["manifest"]["body"] = json!(body);
            }),
        ),
        ("another path", edit(2, &|rule| rule["source_path"] = json!("R9.yaml"))),
    ] {
        fs::write(&cache, edited).unwrap();
        let worker = owner.daemon(&swarm, "worker");
        worker.wait_for_log("is not served");
        assert_eq!(status(&swarm)["digest"], Value::Null, "{what} is served");
        worker.stop();
    }
    // Removed keys: a restart does not load it.
    fs::write(&cache, &good).unwrap();
    Owner::new().signers(&swarm, "");
    let worker = owner.daemon(&swarm, "worker");
    worker.wait_for_log("is not served");
    assert_eq!(status(&swarm)["digest"], Value::Null);
}

#[tokio::test]
async fn operators_states_suppress_no_more_than_the_release_allows() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner { states: "max=1 protected=R3".to_owned(), ..Owner::new() };
    owner.release(1, FIRST).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    let worker = owner.daemon(&swarm, "worker");
    let other = swarm.path("other.sock");
    let _other = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command.env("RULESYNCD_SOCKET", &other).env("RULESYNCD_WORKER_CACHE", swarm.path("other.ndjson"));
    });
    wait_for_reasons(&swarm, &[]);
    // One more than allowed, a protected one, an unlisted one, and one that is dated back.
    let now = SystemClock.now();
    for (rule_id, seconds_ago) in [("R1", 5), ("R2", 0), ("R3", 0), ("R9", 0)] {
        let at = now.before(std::time::Duration::from_secs(seconds_ago));
        sql.put_state(rule_id, "disabled", None, at).await;
    }
    let effective = |status: &Value| status["states"].as_u64();
    let found = wait_for("one effective state", || {
        let status = status(&swarm);
        let without = status["trust"]["without_effect"].as_object().map_or(0, serde_json::Map::len);
        (effective(&status) == Some(1) && without == 3).then_some(status)
    });
    assert!(found["trust"]["without_effect"]["R1"].is_null(), "{found}");
    let digest_of = |socket: &std::path::Path| {
        let mut client = Subscriber::connect(socket);
        client.send(r#"{"op":"status","id":1}"#);
        client.next()["result"]["digest"].clone()
    };
    wait_for("one digest", || (digest_of(&other) == status(&swarm)["digest"]).then_some(()));
    // When a state ends, the next in order takes its place.
    sql.run("DELETE FROM ttp_rule_state WHERE rule_id = 'R1'").await;
    wait_for("the next state", || {
        let status = status(&swarm);
        (effective(&status) == Some(1) && status["trust"]["without_effect"]["R2"].is_null()).then_some(())
    });
    wait_for("one digest", || (digest_of(&other) == status(&swarm)["digest"]).then_some(()));
    // One that comes before it takes its effect away, and nobody cleared it.
    sql.put_state("R1", "disabled", None, now.before(std::time::Duration::from_secs(5))).await;
    worker.wait_for_log(
        "R2 enabled: its state has no effect any more: the signed release lets operators suppress at most 1, and these are: R1",
    );
    assert_eq!(worker.count_in_log("R2 enabled: its state was cleared"), 0, "{}", worker.log());
}

#[test]
#[ignore = "needs root to mount"]
fn a_floor_that_a_full_disk_refuses_is_saved_once_there_is_room_and_a_torn_one_is_reported_as_root() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let state = swarm.path("state");
    fs::create_dir(&state).unwrap();
    let _mount = Mount::tmpfs(&state, "64k");
    let daemon = || {
        swarm.daemon("worker", |command| {
            owner.trusted_by(&swarm, command);
            command.env("RULESYNCD_WORKER_CACHE", state.join("cache"));
        })
    };
    owner.release(1, FIRST).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    let worker = daemon();
    wait_for_reasons(&swarm, &[]);
    let floor = || fs::read_to_string(state.join("cache.floor")).unwrap_or_default();
    let first = wait_for("the first floor", || Some(floor()).filter(|floor| !floor.is_empty()));

    // As large as there is room for.
    drop(fs::write(state.join("filler"), vec![0; 64 << 10]));
    owner.release(2, &[("R1", 2), ("R2", 1), ("R3", 1)]).check_out(&swarm);
    worker.wait_for_log("cache.floor cannot be written");
    assert_eq!(floor(), first);
    fs::remove_file(state.join("filler")).unwrap();
    worker.wait_for_log("cache.floor is written again");
    assert_eq!(worker.count_in_log("cache.floor cannot be written"), 1);
    assert_ne!(floor(), first);

    drop(worker);
    fs::write(state.join("cache.floor"), &first[..100]).unwrap();
    daemon().wait_for_log("cache.floor has no release that the listed keys signed");
}

#[test]
fn a_state_without_an_effect_is_refused_with_the_reason() {
    let swarm = Swarm::on_sqlite();
    let owner = Owner { states: "max=1 protected=R3".to_owned(), ..Owner::new() };
    owner.release(1, FIRST).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    let _worker = owner.daemon(&swarm, "worker");
    wait_for_reasons(&swarm, &[]);
    let set = |rule_id: &str, more: &[&str]| {
        let mut command = swarm.command(&[&["state", "set", rule_id, "disabled"], more].concat());
        owner.trusted_by(&swarm, &mut command);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(set("R1", &[]).0, Some(0));
    for (rule_id, more, why) in [
        ("R2", &[][..], "lets operators suppress at most 1, and these are: R1"),
        ("R3", &[], "protects the rule"),
        ("R9", &["--force"], "does not list the rule"),
    ] {
        let (code, said) = set(rule_id, more);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("the state would have no effect") && said.contains(why), "{said}");
    }
    let states = swarm.succeed(&["state", "list"]);
    assert!(states.contains("R1") && !states.contains("R2") && !states.contains("R3"), "{states}");
}

#[test]
fn a_directory_without_a_database_is_verified_in_the_same_way() {
    let (swarm, owner) = (Swarm::on_directory(), Owner::new());
    swarm.save("A.yaml", rule_text("R1", 9));
    let _worker = owner.daemon(&swarm, "worker");
    wait_for_reasons(&swarm, &["missing"]);
    assert_eq!(status(&swarm)["digest"], Value::Null);
    // A file that is not listed holds nothing up, though its name comes first and its id is listed; it is named.
    let mut first = owner.release(1, FIRST);
    first.0.insert(0, ("A.yaml".to_owned(), rule_text("R1", 9)));
    first.check_out(&swarm);
    wait_for_reasons(&swarm, &[]);
    let quarantined = &status(&swarm)["quarantined"][0];
    assert_eq!(quarantined["rule_id"], "A.yaml");
    assert!(quarantined["reason"].as_str().unwrap().contains("lists `R1` in another file"), "{quarantined}");
    let mut subscriber = swarm.subscribe();
    assert_eq!(snapshot(&mut subscriber).0, first_rules());
    swarm.save("R1.yaml", rule_text("R1", 2));
    wait_for_reasons(&swarm, &["altered"]);
    owner.release(2, &[("R1", 2), ("R2", 1), ("R3", 1)]).check_out(&swarm);
    let change = subscriber.change();
    assert_eq!((&change["rule_id"], &change["rule_version"]), (&json!("R1"), &json!(2)));
    wait_for_reasons(&swarm, &[]);
}

#[test]
fn without_trust_there_is_no_table_and_no_field() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (_master, _worker) = (swarm.master(), swarm.worker());
    wait_for("the rule", || (status(&swarm)["rules"] == 1).then_some(()));
    assert!(status(&swarm).get("trust").is_none());
    let mut subscriber = swarm.subscribe();
    let end =
        std::iter::repeat_with(|| subscriber.next()).find(|line| line["type"] == "snapshot_end").unwrap();
    assert!(end.get("trust").is_none(), "{end}");
    let tables = std::process::Command::new("python3")
        .args(["-c", "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(\"select name from sqlite_master where type = 'table' order by name\").fetchall())"])
        .arg(swarm.path("rules.db"))
        .output()
        .unwrap();
    assert_eq!(text(&tables.stdout).trim(), "[('rulesyncd_version',), ('ttp_rule',), ('ttp_rule_state',)]");
    assert_eq!(stored_release(&swarm), None);
}
