//! Workers whose disk hangs: what the operator and the files say is served all the same, and the log says what hangs.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::mounts::Mount;
use crate::support::releases::Owner;
use crate::support::rules::rule_text;
use crate::support::slow_files::SlowFiles;
use crate::support::swarm::{Swarm, ask, wait_for};

/// A rule of about 200 KiB, so that few of them fill whatever waits for the disk.
fn large_rule(rule_id: &str, version: i32) -> String {
    rule_text(rule_id, version) + &format!("# {}\n", "x".repeat(150)).repeat(1_300)
}

/// The worker's status once it serves so many rules and states.
fn wait_until_served(swarm: &Swarm, rules: u64, states: u64) -> Value {
    wait_for(&format!("{rules} rules and {states} states"), || {
        let status = ask(&swarm.socket())?;
        (status["rules"] == rules && status["states"] == states).then_some(status)
    })
}

#[test]
fn rules_and_states_are_served_though_nothing_can_be_written() {
    let swarm = Swarm::on_sqlite();
    for number in 0..20 {
        let rule_id = format!("R{number}");
        swarm.save(&format!("{rule_id}.yaml"), large_rule(&rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let files = SlowFiles::new(&swarm.path(""));
    let worker = swarm.daemon("worker", |command| files.hang(command, "write"));
    wait_until_served(&swarm, 20, 0);
    worker.wait_for_log(
        "catalogue.ndjson is not written after 5s, the disk hangs or is slow: rules are served all the same",
    );
    // The operator's hand, and a new rule.
    swarm.succeed(&["state", "set", "R3", "disabled", "--reason", "noise"]);
    swarm.save("new.yaml", large_rule("NEW", 1));
    swarm.succeed(&["sync"]);
    let status = wait_until_served(&swarm, 21, 1);
    assert_eq!(status["database"]["stale_for_ms"], 0, "{status}");
    assert_eq!(worker.count_in_log("the disk hangs"), 1, "{}", worker.log());
    worker.stop();

    // With a disk that works the cache is whole, and needs no database.
    let worker = swarm.worker();
    let place = swarm.path("catalogue.ndjson");
    wait_for("the cache", || place.exists().then_some(()));
    worker.stop();
    fs::remove_file(swarm.path("rules.db")).unwrap();
    let _worker = swarm.worker();
    wait_until_served(&swarm, 21, 1);
}

#[test]
fn rules_are_served_though_the_cache_cannot_be_read() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let worker = swarm.worker();
    wait_for("the cache", || swarm.path("catalogue.ndjson").exists().then_some(()));
    worker.stop();
    swarm.save("b.yaml", rule_text("B", 1));
    swarm.succeed(&["sync"]);
    let files = SlowFiles::new(&swarm.path(""));
    let begun = Instant::now();
    let worker = swarm.daemon("worker", |command| files.hang(command, "read"));
    worker.wait_for_log("catalogue.ndjson is not read after 5s, the disk hangs: the worker waits for the rules of the database");
    wait_until_served(&swarm, 2, 0);
    served_after_the_patience(begun);
    worker.stop();
}

/// The first poll waits for the cache, and a release for its floor, for 5 s, and no longer. (A busy machine takes its time.)
fn served_after_the_patience(begun: Instant) {
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

/// Without the floor an older release could be accepted: this is the disk that a worker waits for.
#[test]
fn a_worker_that_cannot_read_its_floor_says_so_and_serves_nothing() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, &[("R1", 1)]).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    let worker = owner.daemon(&swarm, "worker");
    wait_until_served(&swarm, 1, 0);
    wait_for("the floor", || swarm.path("catalogue.ndjson.floor").exists().then_some(()));
    worker.stop();
    let files = SlowFiles::new(&swarm.path(""));
    let mut command = swarm.command(&["worker"]);
    owner.trusted_by(&swarm, &mut command);
    files.hang(&mut command, "read");
    let worker = swarm.spawn(command);
    worker.wait_for_log("catalogue.ndjson does not answer: the worker waits for it at its start, and serves nothing meanwhile");
    assert!(ask(&swarm.socket()).is_none(), "{}", worker.log());
    assert_eq!(worker.count_in_log("does not answer"), 1, "{}", worker.log());
    worker.kill();
}

#[test]
fn a_release_is_served_though_its_floor_cannot_be_saved() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    owner.release(1, &[("R1", 1)]).check_out(&swarm);
    let _master = owner.daemon(&swarm, "master");
    wait_for("the release in the tables", || (swarm.rows().len() == 1).then_some(()));
    let files = SlowFiles::new(&swarm.path(""));
    let begun = Instant::now();
    let worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        files.hang(command, "fsync");
    });
    worker.wait_for_log("catalogue.ndjson.floor cannot be written: the disk hangs; the release is served");
    wait_until_served(&swarm, 1, 0);
    served_after_the_patience(begun);
    owner.release(2, &[("R1", 2), ("R2", 1)]).check_out(&swarm);
    wait_until_served(&swarm, 2, 0);
    assert_eq!(worker.count_in_log("floor cannot be written"), 1, "{}", worker.log());
    worker.stop();
}

#[test]
#[ignore = "needs root"]
fn texts_that_find_no_room_keep_a_worker_from_nothing_as_root() {
    let swarm = Swarm::on_sqlite();
    for number in 0..20 {
        let rule_id = format!("R{number}");
        swarm.save(&format!("{rule_id}.yaml"), large_rule(&rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let disk = swarm.path("disk");
    fs::create_dir(&disk).unwrap();
    let _mount = Mount::tmpfs(&disk, "1m");
    let cache = disk.join("catalogue.ndjson");
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_CACHE", &cache);
    });
    wait_until_served(&swarm, 20, 0);
    let full = "catalogue.ndjson cannot be written: No space left on device";
    worker.wait_for_log(full);
    // The operator's hand, and new rules.
    for number in 1..=3 {
        swarm.succeed(&["state", "set", &format!("R{number}"), "disabled", "--reason", "noise"]);
        swarm.save("new.yaml", large_rule("NEW", i32::try_from(number).unwrap()));
        swarm.succeed(&["sync"]);
        let status = wait_until_served(&swarm, 21, number);
        assert_eq!(status["database"]["stale_for_ms"], 0, "{status}");
    }
    assert_eq!(worker.count_in_log(full), 1, "{}", worker.log());

    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status().unwrap();
    assert!(grown.success());
    swarm.succeed(&["state", "clear", "R1"]);
    worker.wait_for_log("catalogue.ndjson is written again");
    let has_all = |text: &str| (0..20).all(|number| text.contains(&format!("R{number}.yaml")));
    wait_for("the whole cache", || fs::read_to_string(&cache).ok().filter(|text| has_all(text)));
    worker.stop();
    // It needs no database.
    fs::remove_file(swarm.path("rules.db")).unwrap();
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_CACHE", &cache);
    });
    wait_until_served(&swarm, 21, 2);
}
