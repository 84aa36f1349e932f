//! What commands say of signed releases: `why`, `verify`, `state get`, `status` and `sync --dry-run`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rulesyncd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::master::{version, wait_for_release, wait_until_held};
use super::worker::{quoted, status, wait_for_reasons, write_part_0};
use crate::support::databases::TestDatabase;
use crate::support::releases::{Files, Owner};
use crate::support::rules::rule_text;
use crate::support::sshsig::SoftKey;
use crate::support::swarm::{DEADLINE, Swarm, text, wait_for};

const FIRST: &[(&str, i32)] = &[("R1", 1), ("R2", 1), ("R3", 1)];

/// Runs a command with the section `trust`: its exit code, and what it printed.
fn run(swarm: &Swarm, owner: &Owner, args: &[&str]) -> (i32, String) {
    let mut command = swarm.command(args);
    owner.trusted_by(swarm, &mut command);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

fn fails_with(swarm: &Swarm, owner: &Owner, args: &[&str], code: i32, parts: &[&str]) {
    let (found, printed) = run(swarm, owner, args);
    assert_eq!(found, code, "{args:?}: {printed}");
    for part in parts {
        assert!(printed.contains(part), "{args:?}: no `{part}` in\n{printed}");
    }
}

#[tokio::test]
async fn why_verify_and_state_get_compare_with_the_signed_release() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner { states: "max=1 protected=R3".to_owned(), ..Owner::new() };
    owner.release(10, FIRST).check_out(&swarm);
    let (master, worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    wait_for_reasons(&swarm, &[]);
    let release = "of 2020-01-01T00:10:00Z, expires at 2099-01-01T00:00:00Z, signed by owner";
    fails_with(&swarm, &owner, &["why", "R1"], 0, &[release, "in sync"]);
    fails_with(&swarm, &owner, &["verify"], 0, &[release, "3 rules", "in sync: tables, directory, worker"]);
    let (_, story) = run(&swarm, &owner, &["why", "R1", "--json"]);
    let story: Value = serde_json::from_str(&story).unwrap();
    assert_eq!(story["release"]["rule"]["content_sha256"], story["table"]["row"]["content_sha256"]);
    assert_eq!(story["release"]["signers"], json!(["owner"]));
    assert_eq!(story["worker"]["trust"]["state"], "ok");

    // States: one that counts, and a protected rule's, which does not.
    for rule_id in ["R1", "R3"] {
        sql.put_state(rule_id, "disabled", None, SystemClock.now()).await;
    }
    wait_for("the states", || {
        let status = status(&swarm);
        (status["states"] == 1 && !status["trust"]["without_effect"]["R3"].is_null()).then_some(())
    });
    let no_effect = "no effect: the signed release protects the rule";
    fails_with(&swarm, &owner, &["state", "get", "R3"], 0, &["R3 is disabled", no_effect]);
    let (_, printed) = run(&swarm, &owner, &["state", "get", "R3", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["without_effect"], "the signed release protects the rule");
    let (_, printed) = run(&swarm, &owner, &["state", "get", "R1"]);
    assert!(!printed.contains("no effect"), "{printed}");
    let (_, printed) = run(&swarm, &owner, &["state", "list", "--json"]);
    let listed: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let why: Vec<_> =
        listed.iter().map(|row| (row["rule_id"].as_str(), row["without_effect"].as_str())).collect();
    assert_eq!(
        why,
        [(Some("R1"), None), (Some("R3"), Some("the signed release protects the rule"))],
        "{printed}"
    );
    let (_, printed) = run(&swarm, &owner, &["state", "list"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].contains("WITHOUT EFFECT"), "{printed}");
    let of =
        |id: &str| lines.iter().find(|line| line.trim_start().starts_with(id)).copied().unwrap_or_default();
    assert!(of("R3").contains("the signed release protects the rule"), "{printed}");
    assert!(!of("R1").contains("protects"), "{printed}");
    fails_with(&swarm, &owner, &["why", "R3"], 1, &["wrong: the state has no effect"]);
    let (_, printed) = run(&swarm, &owner, &["why", "R3"]);
    assert!(!printed.contains("the worker says"), "{printed}");
    fails_with(&swarm, &owner, &["why", "R1"], 0, &["disabled", "in sync"]);
    fails_with(&swarm, &owner, &["verify"], 1, &["its state has no effect", "1 difference"]);
    // The digest that `verify` computes of the release and the states is the worker's.
    let (_, printed) = run(&swarm, &owner, &["verify", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["digest"], status(&swarm)["digest"]);
    sql.run("DELETE FROM ttp_rule_state").await;
    wait_for("no state", || (status(&swarm)["states"] == 0).then_some(()));

    // Altered, deleted and added rows, which nobody mends.
    master.stop();
    let at = quoted(&SystemClock.now().to_sql_text());
    let changed = quoted(&rule_text("R1", 1).replace("v1", "v7"));
    sql.run(&format!("UPDATE ttp_rule SET yaml_content = {changed}, updated_at = {at} WHERE rule_id = 'R1'"))
        .await;
    sql.run("DELETE FROM ttp_rule WHERE rule_id = 'R2'").await;
    sql.put("R9", 1, SystemClock.now()).await;
    wait_for("altered rows", || (status(&swarm)["trust"]["altered"] == json!(["R1", "R2"])).then_some(()));
    let altered =
        "wrong: the row was altered: the release of 2020-01-01T00:10:00Z lists version 1 of R1.yaml";
    fails_with(&swarm, &owner, &["why", "R1"], 1, &[altered]);
    fails_with(&swarm, &owner, &["why", "R2"], 1, &["lists the rule, and the table has no row"]);
    let unlisted = "does not list the rule: workers that verify do not serve the row";
    fails_with(&swarm, &owner, &["why", "R9"], 1, &[unlisted]);
    // What was done to others is no problem of this rule's.
    fails_with(&swarm, &owner, &["why", "R3"], 0, &["in sync"]);
    let (code, printed) = run(&swarm, &owner, &["verify"]);
    assert_eq!(code, 1);
    for (rule_id, what) in [
        ("R1", "it is not what the release lists"),
        ("R2", "the release lists it, and it is missing"),
        ("R9", "the release does not list it"),
    ] {
        assert!(
            printed.lines().any(|line| line.contains(rule_id) && line.contains(what)),
            "{rule_id}: {printed}"
        );
    }
    assert!(!printed.contains("the worker holds") && !printed.contains("does not hold it"), "{printed}");

    // The next manifest without its rows: the worker serves the first release.
    let next = owner.release(20, &[("R1", 2), ("R3", 1)]);
    write_part_0(&mut sql, &version(20), next.text("MANIFEST"), next.text("MANIFEST.sig")).await;
    wait_for_reasons(&swarm, &["incomplete", "altered"]);
    fails_with(&swarm, &owner, &["why", "R3"], 1, &["release of 2020-01-01T00:10:00Z degraded: incomplete"]);
    fails_with(&swarm, &owner, &["verify"], 1, &["degraded: incomplete"]);

    // Without the table, the journal and the commands say so plainly, and an operator can act.
    sql.run("DROP TABLE rulesyncd_manifest").await;
    wait_for_reasons(&swarm, &["missing", "altered"]);
    let missing =
        "there is no manifest: the table rulesyncd_manifest does not exist; a master with `trust` creates it";
    worker.wait_for_log(missing);
    fails_with(&swarm, &owner, &["why", "R3"], 1, &[missing]);
    fails_with(&swarm, &owner, &["verify"], 1, &[missing]);
    fails_with(&swarm, &owner, &["state", "set", "R3", "disabled"], 0, &[missing]);
}

#[tokio::test]
async fn status_shows_trust_and_check_weighs_it() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner { states: "max=0".to_owned(), ..Owner::new() };
    let _worker = owner.daemon(&swarm, "worker");
    let check = |socket: &str, code: i32, expected: &str| {
        let begun = std::time::Instant::now();
        loop {
            let output = swarm.run(&["status", "--check", "--socket", swarm.path(socket).to_str().unwrap()]);
            let line = text(&output.stdout);
            if output.status.code() == Some(code) && line.contains(expected) {
                return line;
            }
            assert!(begun.elapsed() < DEADLINE, "no {code} `{expected}`: {line}");
        }
    };
    check("events.sock", 2, "worker: no signed release is verified: missing");
    owner.release(1, FIRST).check_out(&swarm);
    let master = owner.daemon(&swarm, "master");
    wait_for_reasons(&swarm, &[]);
    check("events.sock", 0, "worker: 3 rules");
    let shown = swarm.succeed(&["status"]);
    let signed = "ok: release of 2020-01-01T00:01:00Z signed by owner";
    for part in [signed, "expires 2099-01-01T00:00:00Z", "2020-01-01T00:01:00Z, signed by owner"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }

    // A release that is held back, and a file that it does not list.
    swarm.save("R9.yaml", rule_text("R9", 1));
    swarm.save("R1.yaml", rule_text("R1", 2));
    wait_until_held(&swarm, "R1.yaml is not what it lists");
    check(
        "master.sock",
        1,
        "master: release of 2020-01-01T00:01:00Z held back: R1.yaml is not what it lists",
    );
    let shown = swarm.succeed(&["status"]);
    for part in ["held back: release of", "files that the signed release does not list", "R9.yaml"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    master.stop();

    // Degraded: a row that is altered, one that is not listed, and a state beyond the bound.
    sql.put("R2", 7, SystemClock.now()).await;
    sql.put("R9", 1, SystemClock.now()).await;
    sql.put_state("R1", "disabled", None, SystemClock.now()).await;
    let line =
        check("events.sock", 1, "worker: release of 2020-01-01T00:01:00Z degraded: altered; altered: R2");
    assert!(line.starts_with("RULESYNCD WARNING: "), "{line}");
    let shown = wait_for("the state", || {
        let shown = text(&swarm.run(&["status"]).stdout);
        shown.contains("states without an effect").then_some(shown)
    });
    for part in ["degraded: ", "rows that the signed release does not list", "R9", "suppress no rule"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
}

#[test]
fn the_master_warns_once_when_a_quarter_of_the_lifetime_is_left_and_publishes_an_expired_release() {
    let swarm = Swarm::on_sqlite();
    let mut owner = Owner::new();
    owner.release(1, FIRST).check_out(&swarm);
    let (master, _worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    wait_for_reasons(&swarm, &[]);
    // Most of its lifetime is left.
    assert_eq!(master.count_in_log("make and sign it anew"), 0);
    let soon = SystemClock.now().after(Duration::from_secs(86_400)).to_string();
    owner.expires = format!("{}Z", &soon[..19]);
    owner.release(2, FIRST).check_out(&swarm);
    master.wait_for_log(&format!("the published release of {} expires at {}", version(2), owner.expires));
    owner.expires = "2020-02-01T00:00:00Z".to_owned();
    owner.release(3, FIRST).check_out(&swarm);
    wait_for_release(&swarm, 3);
    master.wait_for_log(&format!("the published release of {} expired at {}", version(3), owner.expires));
    let status = wait_for_reasons(&swarm, &["expired"]);
    assert_eq!((&status["rules"], &status["trust"]["version"]), (&json!(3), &json!(version(3))));
    // A newer expired release is still accepted.
    owner.release(4, &[("R1", 4)]).check_out(&swarm);
    wait_for_release(&swarm, 4);
    wait_for("the newer release", || (status_version(&swarm) == version(4)).then_some(()));
    assert_eq!(master.count_in_log(&format!("release of {} expires", version(2))), 1);
}

fn status_version(swarm: &Swarm) -> String {
    status(swarm)["trust"]["version"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_dry_run_shows_what_a_release_would_change_and_why_it_is_held_back() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, FIRST).check_out(&swarm);
    assert_eq!(run(&swarm, &owner, &["sync"]).0, 0);
    wait_for_release(&swarm, 1);
    let second = owner.release(2, &[("R1", 2), ("R3", 1), ("R4", 1)]);
    second.check_out(&swarm);
    swarm.save("R9.yaml", rule_text("R9", 1));
    let expected = [
        "- R2  R2.yaml is gone",
        "~ R1  version 1 becomes 2 from R1.yaml",
        "+ R4  version 1 from R4.yaml",
        "1 to add, 1 to change, 1 to delete, 1 unchanged",
    ];
    fails_with(&swarm, &owner, &["sync", "--dry-run"], 0, &expected);
    // Half of it.
    let half: Vec<_> = second.0.iter().filter(|(name, _)| name != "R4.yaml").cloned().collect();
    Files(half).check_out(&swarm);
    let held = format!("! release of {} held back: R4.yaml is not what it lists", version(2));
    fails_with(&swarm, &owner, &["sync", "--dry-run"], 1, &[&held, "0 to add, 0 to change, 0 to delete"]);
    fails_with(&swarm, &owner, &["verify"], 1, &[&held[2..]]);
    assert_eq!(swarm.rows().len(), 3);
    wait_for_release(&swarm, 1);
}

/// It has every change, and serves nothing of it.
#[test]
fn a_wait_for_a_release_names_the_host_that_does_not_trust_it() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, &[("R1", 1)]).check_out(&swarm);
    assert_eq!(run(&swarm, &owner, &["sync"]).0, 0);
    let others = swarm.path("other_signers");
    fs::write(&others, SoftKey::ed25519().line("owner")).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o644)).unwrap();
    let _worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command.env("RULESYNCD_TRUST_ALLOWED_SIGNERS", &others).env("RULESYNCD_WORKER_ID", "w1");
    });
    wait_for_reasons(&swarm, &["bad_signature"]);
    owner.release(2, &[("R1", 2)]).check_out(&swarm);
    let parts = ["not followed at ", " (untrusted: none bad_signature): "];
    fails_with(&swarm, &owner, &["sync", "--wait=60s"], 1, &parts);
}
