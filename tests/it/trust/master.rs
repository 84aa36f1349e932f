//! A master with trust publishes whole signed releases, and nothing else.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::releases::{Files, Owner, stored_release};
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

pub(super) fn version(minute: u32) -> String {
    format!("2020-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60)
}

/// Waits until the database holds exactly the release of this minute. At no moment does it hold anything else than a
/// whole release.
pub(super) fn wait_for_release(swarm: &Swarm, minute: u32) {
    wait_for("the release", || {
        let (found, whole) = stored_release(swarm)?;
        assert!(whole, "the database holds no whole release");
        (found == version(minute)).then_some(())
    });
}

pub(super) fn release_status(swarm: &Swarm) -> Value {
    let status = swarm.run(&["status", "--socket", swarm.path("master.sock").to_str().unwrap(), "--json"]);
    let printed = text(&status.stdout);
    let daemons: Value = serde_json::from_str(printed.lines().next().unwrap_or("{}")).unwrap_or_default();
    match daemons.get("release") {
        Some(release) => release.clone(),
        None => daemons["master"]["release"].clone(),
    }
}

/// Waits until the status says why a release is held back.
pub(super) fn wait_until_held(swarm: &Swarm, expected: &str) {
    wait_for(expected, || {
        let held = release_status(swarm)["held_back"].as_str().unwrap_or_default().to_owned();
        held.contains(expected).then_some(())
    });
}

#[test]
fn a_release_is_published_as_a_whole_or_not_at_all() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    swarm.save("R1.yaml", rule_text("R1", 1));
    let master = owner.daemon(&swarm, "master");
    wait_until_held(&swarm, "there is no MANIFEST");
    assert_eq!(swarm.rows().len(), 0, "an unsigned rule was published");
    let first = owner.release(1, &[("R1", 1), ("R2", 1), ("R3", 1)]);
    first.check_out(&swarm);
    wait_for_release(&swarm, 1);
    wait_for("nothing to be held back", || release_status(&swarm)["held_back"].is_null().then_some(()));

    // An edit without a signature, a deletion, and a file that nobody listed.
    swarm.save("R9.yaml", rule_text("R9", 1));
    swarm.save("R1.yaml", rule_text("R1", 2));
    wait_until_held(&swarm, "R1.yaml is not what it lists");
    swarm.remove("R2.yaml");
    wait_until_held(&swarm, "R1.yaml, R2.yaml are not what it lists");
    assert_eq!(release_status(&swarm)["unlisted"], serde_json::json!(["R9.yaml"]));
    assert_eq!(stored_release(&swarm), Some((version(1), true)));

    // Half a checkout of the next release: everything but its last file.
    let mut second = owner.release(2, &[("R1", 2), ("R3", 1), ("R4", 1)]);
    let last = second.0.remove(2);
    Files(second.0.clone()).check_out(&swarm);
    wait_until_held(&swarm, &format!("release of {} held back: R4.yaml is not what it lists", version(2)));
    assert_eq!(stored_release(&swarm), Some((version(1), true)));
    second.0.push(last);
    second.check_out(&swarm);
    wait_for_release(&swarm, 2);

    // What another program does to the rows is undone from the files.
    swarm.sql("UPDATE ttp_rule SET yaml_content = 'forged', updated_by = 'thief' WHERE rule_id = 'R1'");
    swarm.sql("DELETE FROM ttp_rule WHERE rule_id = 'R3'; DELETE FROM rulesyncd_manifest WHERE part = 1");
    master.stop();
    let _master = owner.daemon(&swarm, "master");
    wait_for("the rows to be mended", || (stored_release(&swarm) == Some((version(2), true))).then_some(()));
}

/// Each has a gibibyte, without a byte on the disk. A file of signatures that is too long is as none.
#[test]
fn files_of_a_gibibyte_hold_the_release_back_and_are_not_read() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let first = owner.release(1, &[("R1", 1)]);
    first.check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 1);
    for (name, why) in [
        ("MANIFEST", "MANIFEST has 1073741824 bytes; at most 32768"),
        ("MANIFEST.rules", "MANIFEST.rules has 1073741824 bytes; at most 16777216"),
        ("MANIFEST.sig", "signatures of 0 of 1 principals count"),
    ] {
        fs::File::create(swarm.rules().join(name)).unwrap().set_len(1 << 30).unwrap();
        wait_until_held(&swarm, why);
        assert_eq!(stored_release(&swarm), Some((version(1), true)));
        first.check_out(&swarm);
        wait_for("nothing to be held back", || release_status(&swarm)["held_back"].is_null().then_some(()));
    }
}

#[test]
fn an_older_release_or_another_one_of_the_same_time_is_not_published() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let (first, second) = (owner.release(1, &[("R1", 1)]), owner.release(2, &[("R1", 2), ("R2", 1)]));
    second.check_out(&swarm);
    // A renewal has the same rules.
    let master = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 2);
    first.check_out(&swarm);
    wait_until_held(&swarm, "is older than 2020-01-01T00:02:00Z");
    owner.release(2, &[("R1", 3)]).check_out(&swarm);
    wait_until_held(&swarm, "has other bytes");
    let forged = Owner::new().release(3, &[("R1", 3)]);
    forged.check_out(&swarm);
    wait_until_held(&swarm, "its key is not listed");
    Owner { realm: "test", key: owner.key, ..Owner::new() }.release(4, &[("R1", 3)]).check_out(&swarm);
    wait_until_held(&swarm, "for the realm `test`");
    assert_eq!(stored_release(&swarm), Some((version(2), true)));
    master.stop();

    // So does a standby that takes over with an older directory.
    let owner = Owner::new();
    owner.signers(&swarm, "");
    let refused = {
        let mut sync = swarm.command(&["sync"]);
        owner.trusted_by(&swarm, &mut sync);
        sync.output().unwrap()
    };
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(text(&refused.stdout).contains("the release is held back"), "{}", text(&refused.stdout));
}

#[test]
fn a_master_that_is_killed_leaves_a_whole_release() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let ids: Vec<String> = (0..200).map(|number| format!("R{number}")).collect();
    let rules = |version: i32| ids.iter().map(|id| (id.as_str(), version)).collect::<Vec<_>>();
    owner.release(1, &rules(1)).check_out(&swarm);
    owner.daemon(&swarm, "master").stop();
    for round in 2..8 {
        let master = owner.daemon(&swarm, "master");
        let release = owner.release(round, &rules(i32::try_from(round).unwrap()));
        release.check_out(&swarm);
        // Each round it is killed a little later.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 7));
        master.kill();
        assert!(stored_release(&swarm).is_none_or(|(_, whole)| whole), "half a release is in the database");
    }
    let _master = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 7);
}

#[test]
fn a_master_without_trust_says_that_its_edits_are_not_signed() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, &[("R1", 1)]).check_out(&swarm);
    let trusting = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 1);
    trusting.stop();
    let master = swarm.master();
    master.wait_for_log("this master publishes without signatures");
}

#[test]
fn keys_that_cannot_be_used_end_the_daemon_at_its_start_and_stay_the_old_ones_later() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, &[("R1", 1)]).check_out(&swarm);
    fs::write(owner.signers(&swarm, ""), "").unwrap();
    for mode in ["master", "sync", "worker"] {
        let mut command = swarm.command(&[mode]);
        owner.trusted_by(&swarm, &mut command);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{mode}: {}", text(&output.stderr));
    }
    // One key under two names would reach a threshold of two.
    owner.signers(&swarm, &owner.key.line("another"));
    let mut command = swarm.command(&["worker"]);
    owner.trusted_by(&swarm, &mut command);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("line 2"), "{}", text(&output.stderr));
    owner.signers(&swarm, "");
    let master = owner.daemon(&swarm, "master");
    wait_for_release(&swarm, 1);
    fs::write(swarm.path("allowed_signers"), "").unwrap();
    master.signal("HUP");
    master.wait_for_log("goes on with the keys that it read before");
    owner.release(2, &[("R1", 2)]).check_out(&swarm);
    wait_for_release(&swarm, 2);
    // A removed key is revoked.
    let other = Owner::new();
    other.signers(&swarm, "");
    master.signal("HUP");
    owner.release(3, &[("R1", 3)]).check_out(&swarm);
    wait_until_held(&swarm, "its key is not listed");
}
