//! More attacks, each by a real writer against a live worker: old copies, lying hints, damaged lists, stolen and untouched
//! keys, a standby with an older directory, a locked row.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::master::{version, wait_for_release, wait_until_held};
use super::worker::{quoted, snapshot, status, wait_for_reasons, write_part_0};
use crate::support::databases::{ExternalClient, TestDatabase};
use crate::support::releases::{Owner, stored_release};
use crate::support::servers::{Kind, Server};
use crate::support::sshsig::{Signing, SoftKey};
use crate::support::swarm::{Daemon, Swarm, wait_for};
use rulesyncd::clock::{Clock as _, SystemClock};

const FIRST: &[(&str, i32)] = &[("R1", 1), ("R2", 1), ("R3", 1)];

/// A worker that compares every row each second.
fn thorough_worker(owner: &Owner, swarm: &Swarm) -> Daemon {
    swarm.daemon("worker", |command| {
        owner.trusted_by(swarm, command);
        command.env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1s");
    })
}

#[tokio::test]
async fn a_security_key_that_nobody_touched_signs_nothing() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner { key: SoftKey::ed25519().in_a_security_key(), ..Owner::new() };
    owner.release(1, FIRST).check_out(&swarm);
    let (master, _worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    let digest = wait_for_reasons(&swarm, &[])["digest"].clone();
    let touched = owner.release(2, &[("R1", 2)]);
    let mut untouched = touched.clone();
    let signature =
        owner.key.sign_as(touched.text("MANIFEST").as_bytes(), Signing { flags: 0, ..Signing::default() });
    untouched.0.last_mut().unwrap().1 = signature.clone();
    untouched.check_out(&swarm);
    wait_until_held(&swarm, "signature 1 does not count");
    assert_eq!(stored_release(&swarm), Some((version(1), true)));
    master.stop();
    // By a thief of the master's password, past the master.
    write_part_0(&mut sql, &version(2), touched.text("MANIFEST"), &signature).await;
    assert_eq!(wait_for_reasons(&swarm, &["bad_signature"])["digest"], digest);
    touched.check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    wait_for("the touched release", || (status(&swarm)["rules"] == 1).then_some(()));
    wait_for_reasons(&swarm, &[]);
}

/// The files of the database, or of the worker's state.
fn files(swarm: &Swarm, prefix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(swarm.path("")).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    entries.filter(is_one).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(swarm: &Swarm, prefix: &str, copies: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in files(swarm, prefix) {
        fs::remove_file(path).unwrap();
    }
    for (path, content) in copies {
        fs::write(path, content).unwrap();
    }
}

#[test]
fn a_database_of_yesterday_is_refused_unless_the_state_directory_is_yesterdays_too_and_then_by_min_version() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let run = |release: u32, rules: &[(&str, i32)]| {
        owner.release(release, rules).check_out(&swarm);
        let (master, worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
        wait_for("the release", || {
            (status(&swarm)["trust"]["version"] == json!(version(release))).then_some(())
        });
        let digest = status(&swarm)["digest"].clone();
        master.stop();
        worker.stop();
        digest
    };
    let first = run(1, FIRST);
    let (database, state) = (files(&swarm, "rules.db"), files(&swarm, "catalogue.ndjson"));
    assert!(state.len() >= 2, "a cache and a floor: {state:?}");
    let second = run(2, &[("R1", 2), ("R4", 1)]);
    let (newer, newer_state) = (files(&swarm, "rules.db"), files(&swarm, "catalogue.ndjson"));

    // The database alone: the floor refuses it.
    restore(&swarm, "rules.db", &database);
    let worker = owner.daemon(&swarm, "worker");
    let found = wait_for_reasons(&swarm, &["rolled_back", "altered"]);
    assert_eq!(found["digest"], second);
    worker.stop();
    // The state directory alone: the newer release comes into force.
    restore(&swarm, "rules.db", &newer);
    restore(&swarm, "catalogue.ndjson", &state);
    let worker = owner.daemon(&swarm, "worker");
    wait_for("the newer release", || (status(&swarm)["digest"] == second).then_some(()));
    wait_for_reasons(&swarm, &[]);
    worker.stop();

    // Both: nothing on this host knows the newer release, so the old one is served until it expires. This remains.
    restore(&swarm, "rules.db", &database);
    restore(&swarm, "catalogue.ndjson", &state);
    let worker = owner.daemon(&swarm, "worker");
    let found = wait_for_reasons(&swarm, &[]);
    assert_eq!((&found["digest"], &found["trust"]["version"]), (&first, &json!(version(1))));
    worker.stop();
    // `min_version` is what refuses it: neither the database's release nor the cache is served.
    let worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command.env("RULESYNCD_TRUST_MIN_VERSION", version(2));
    });
    let found = wait_for_reasons(&swarm, &["rolled_back"]);
    assert_eq!((&found["trust"]["state"], &found["digest"]), (&json!("none"), &json!(null)));
    worker.stop();
    // A state directory that is kept is another such witness.
    restore(&swarm, "catalogue.ndjson", &newer_state);
    let _worker = owner.daemon(&swarm, "worker");
    assert_eq!(wait_for_reasons(&swarm, &["rolled_back", "altered"])["digest"], second);
}

#[test]
fn a_standby_that_takes_over_with_an_older_directory_publishes_nothing_until_it_is_brought_up_to_date() {
    let (first, owner) = (Swarm::on_sqlite(), Owner::new());
    let second = Swarm::on(first.url());
    owner.signers(&first, "");
    owner.signers(&second, "");
    owner.release(2, FIRST).check_out(&first);
    owner.release(1, &[("R1", 9), ("R9", 1)]).check_out(&second);
    let (master, _worker) = (owner.daemon(&first, "master"), owner.daemon(&first, "worker"));
    wait_for_reasons(&first, &[]);
    let standby = owner.daemon(&second, "master");
    let mut subscriber = first.subscribe();
    assert_eq!(snapshot(&mut subscriber).0.len(), 3);
    master.kill();
    standby.wait_for_log("this master holds the lock");
    wait_until_held(&second, &format!("the manifest of {} is older than {}", version(1), version(2)));
    assert_eq!(stored_release(&first), Some((version(2), true)));
    wait_for_reasons(&first, &[]);
    owner.release(3, &[("R1", 1), ("R2", 1), ("R3", 3)]).check_out(&second);
    let change = subscriber.nothing_before("R3");
    assert_eq!(change["rule_version"], 3);
    assert_eq!(stored_release(&first), Some((version(3), true)));
}

#[tokio::test]
async fn a_thiefs_release_of_2099_locks_nobody_out_once_the_key_is_removed() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner::new();
    let thief = Owner { expires: "2100-01-01T00:00:00Z".to_owned(), ..Owner::new() };
    owner.signers(&swarm, &thief.key.line("stolen"));
    owner.release(1, FIRST).check_out(&swarm);
    let (master, worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    let digest = wait_for_reasons(&swarm, &[])["digest"].clone();
    // The thief has the password of the database, too: rows and manifest fit together.
    let forged = thief.release_of("2099-01-01T00:00:00Z", &[("R1", 9)]);
    sql.begin().await;
    sql.put("R1", 9, SystemClock.now()).await;
    sql.run("DELETE FROM ttp_rule WHERE rule_id <> 'R1'").await;
    sql.run(&format!(
        "UPDATE rulesyncd_manifest SET body = {} WHERE part = 1",
        quoted(forged.text("MANIFEST.rules"))
    ))
    .await;
    let (body, signature) = (forged.text("MANIFEST"), forged.text("MANIFEST.sig"));
    write_part_0(&mut sql, "2099-01-01T00:00:00Z", body, signature).await;
    sql.commit().await;
    // It is said that no clock can judge its expiry.
    let found = wait_for_reasons(&swarm, &["clock"]);
    assert_eq!((&found["rules"], &found["trust"]["signers"]), (&json!(1), &json!(["stolen"])));
    let mut subscriber = swarm.subscribe();
    assert_eq!(snapshot(&mut subscriber).0, [("R1".to_owned(), 9)]);
    owner.release(2, &[("R1", 1), ("R2", 1), ("R3", 1)]).check_out(&swarm);
    wait_until_held(&swarm, "is older than 2099-01-01T00:00:00Z");

    owner.signers(&swarm, "");
    master.signal("HUP");
    worker.signal("HUP");
    let found = wait_for_reasons(&swarm, &[]);
    assert_eq!((&found["digest"], &found["trust"]["version"]), (&digest, &json!(version(2))));
    assert_eq!(stored_release(&swarm), Some((version(2), true)));
    // A restart accepts it, too: the thief's floor does not count.
    worker.stop();
    let _worker = owner.daemon(&swarm, "worker");
    assert_eq!(wait_for_reasons(&swarm, &[])["digest"], digest);
}

#[tokio::test]
async fn a_hint_that_lies_and_a_list_that_is_damaged_change_nothing() {
    let database = TestDatabase::sqlite_file().await;
    let (swarm, mut sql) = (Swarm::on(&database.address), database.external().await);
    let owner = Owner::new();
    owner.release(5, FIRST).check_out(&swarm);
    let master = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 5);
    master.stop();
    let _worker = thorough_worker(&owner, &swarm);
    let digest = wait_for_reasons(&swarm, &[])["digest"].clone();

    // The hint alone moves: the signed version counts.
    sql.run(
        "UPDATE rulesyncd_manifest SET version = '2099-01-01T00:00:00Z', updated_at = 'z' WHERE part = 0",
    )
    .await;
    sql.put_state("R1", "disabled", None, SystemClock.now()).await;
    wait_for("a later poll", || (status(&swarm)["states"] == 1).then_some(()));
    let found = wait_for_reasons(&swarm, &[]);
    assert_eq!(found["trust"]["version"], json!(version(5)));
    sql.run("DELETE FROM ttp_rule_state").await;
    wait_for("no state", || (status(&swarm)["digest"] == digest).then_some(()));
    // The manifest alone moves, and the hint does not: a full scan finds it.
    let older = owner.release(4, FIRST);
    for (files, reasons) in [(&older, &["rolled_back"][..]), (&owner.release(5, FIRST), &[])] {
        sql.run(&format!(
            "UPDATE rulesyncd_manifest SET body = {}, signatures = {} WHERE part = 0",
            quoted(files.text("MANIFEST")),
            quoted(files.text("MANIFEST.sig"))
        ))
        .await;
        assert_eq!(wait_for_reasons(&swarm, reasons)["digest"], digest, "{reasons:?}");
    }

    // The next manifest with a list that is cut, too long, or another's: the release before is served, as a whole.
    let next = owner.release(6, &[("R1", 2), ("R2", 1), ("R3", 1)]);
    let list = next.text("MANIFEST.rules");
    let forged = Owner::new().release(6, &[("R1", 9)]);
    let too_long = list.repeat((600 << 10) / list.len() + 1);
    for damaged in [&list[..list.len() - 1], "", &too_long, forged.text("MANIFEST.rules")] {
        sql.run(&format!("UPDATE rulesyncd_manifest SET body = {} WHERE part = 1", quoted(damaged))).await;
        write_part_0(&mut sql, &version(6), next.text("MANIFEST"), next.text("MANIFEST.sig")).await;
        let found = wait_for_reasons(&swarm, &["incomplete"]);
        assert_eq!((&found["digest"], &found["trust"]["missing"]), (&digest, &json!([])));
        // Back to the release in force, so that the next one is read anew.
        let current = owner.release(5, FIRST);
        write_part_0(&mut sql, &version(5), current.text("MANIFEST"), current.text("MANIFEST.sig")).await;
        wait_for_reasons(&swarm, &[]);
    }
    // With the list alone, the texts that are missing are named; with them it comes into force.
    sql.run(&format!("UPDATE rulesyncd_manifest SET body = {} WHERE part = 1", quoted(list))).await;
    write_part_0(&mut sql, &version(6), next.text("MANIFEST"), next.text("MANIFEST.sig")).await;
    wait_for("the missing text", || (status(&swarm)["trust"]["missing"] == json!(["R1"])).then_some(()));
    assert_eq!(status(&swarm)["digest"], digest);
    sql.put("R1", 2, SystemClock.now()).await;
    wait_for_reasons(&swarm, &[]);
    assert_eq!(status(&swarm)["trust"]["version"], json!(version(6)));
}

async fn a_locked_row(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("signed").await);
    let owner = Owner::new();
    owner.release(1, FIRST).check_out(&swarm);
    let (_master, _worker) = (owner.daemon(&swarm, "master"), owner.daemon(&swarm, "worker"));
    let digest = wait_for_reasons(&swarm, &[])["digest"].clone();
    let (mut other, mut reader) = (server.client("signed").await, server.client("signed").await);
    other.begin().await;
    other.run("UPDATE ttp_rule SET source_path = 'locked' WHERE rule_id = 'R2'").await;
    owner.release(2, &[("R1", 2), ("R2", 2), ("R3", 2)]).check_out(&swarm);
    // The row is named, and nothing of the release is written: no other row either, and no manifest.
    wait_until_held(&swarm, &format!("release of {} held back: R2: ", version(2)));
    assert_eq!(versions(&mut reader).await, ["1", "1", "1"]);
    let manifest = "SELECT version FROM rulesyncd_manifest WHERE part = 0";
    assert_eq!(reader.text(manifest).await, Some(version(1)));
    assert_eq!(wait_for_reasons(&swarm, &[])["digest"], digest);
    other.run("ROLLBACK").await;
    // It is tried again without any other event.
    wait_for("the second release", || {
        (status(&swarm)["trust"]["version"] == json!(version(2))).then_some(())
    });
    assert_eq!(versions(&mut reader).await, ["2", "2", "2"]);
}

async fn versions(sql: &mut ExternalClient) -> Vec<String> {
    let rows = sql.rows("SELECT CAST(rule_version AS CHAR(4)) FROM ttp_rule ORDER BY rule_id").await;
    rows.into_iter().map(|row| row[0].clone().unwrap().trim().to_owned()).collect()
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_locked_row_takes_the_whole_release_back_on_postgresql() {
    a_locked_row(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_locked_row_takes_the_whole_release_back_on_mariadb() {
    a_locked_row(Kind::MariaDb).await;
}
