//! The bounds of a history: a kill in the middle of a line, a journal that is too short, and 64 MiB.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use super::{history_of, records, started};
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, wait_for};

/// The kernel's signal for a write beyond the limit of a file's size.
const SIGXFSZ: i32 = 25;

/// Sets the states of ten rules; the records of it have 14 kB.
fn set_all(swarm: &Swarm, reason: &str) {
    let reason = format!("{reason} {}", "x".repeat(1_000));
    let ids: Vec<String> = (0..10).map(|number| format!("R{number}")).collect();
    let set = ["state", "set"].into_iter().chain(ids.iter().map(String::as_str));
    let args: Vec<&str> = set.chain(["disabled", "--yes", "--reason", &reason]).collect();
    swarm.succeed(&args);
}

/// The kernel kills the worker between the first bytes of a line and the others.
#[test]
fn a_line_that_a_kill_tore_is_completed_by_the_next_run() {
    let swarm = Swarm::on_sqlite();
    for number in 0..10 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    swarm.succeed(&["sync"]);
    let plain = swarm.command(&["worker"]);
    let mut limited = Command::new("sh");
    // 128 blocks of 512 bytes: the file takes a part of the line that reaches the limit.
    limited.args(["-c", "ulimit -f 128; exec \"$0\" worker"]).arg(plain.get_program());
    limited.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // The limit holds for the log, too.
    limited.env("RULESYNCD_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null());
    let mut worker = swarm.spawn(limited);
    wait_for("the rules", || swarm.run(&["watch", "--once"]).status.success().then_some(()));
    let mut sets = 0;
    let ended = wait_for("the kill", || {
        if worker.ended().is_none() {
            sets += 1;
            let reason = format!("reason {sets}");
            set_all(&swarm, &reason);
            // One after the other: what is replaced before it is recorded would not be found again.
            wait_for("the last record, or the kill", || {
                let text = fs::read(history_of(&swarm)).unwrap_or_default();
                let is_recorded = text.ends_with(b"\n") && String::from_utf8_lossy(&text).contains(&reason);
                (is_recorded || worker.ended().is_some()).then_some(())
            });
        }
        worker.ended()
    });
    assert_eq!(ended.signal(), Some(SIGXFSZ), "{}", worker.log());
    let torn = fs::read(history_of(&swarm)).unwrap();
    assert!(torn.len() == 64 << 10 && !torn.ends_with(b"\n"), "no torn line");

    let _worker = started(&swarm);
    set_all(&swarm, "the last");
    wait_for("the last record", || {
        records(&swarm, &["R9"]).last()?["new_value"]["reason"]
            .as_str()?
            .starts_with("the last")
            .then_some(())
    });
    let text = String::from_utf8(fs::read(history_of(&swarm)).unwrap()).unwrap();
    let unreadable = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
    assert_eq!(unreadable.count(), 1, "the torn line");
    let expected: Vec<String> =
        (1..=sets).map(|set| format!("reason {set}")).chain(["the last".to_owned()]).collect();
    for number in 0..10 {
        let records = records(&swarm, &[&format!("R{number}")]);
        let reasons = records.iter().map(|record| record["new_value"]["reason"].as_str().unwrap());
        let reasons: Vec<&str> = reasons.map(|reason| reason.trim_end_matches('x').trim_end()).collect();
        assert_eq!(reasons, expected, "of R{number}: each once, in order");
    }
}

/// What a worker hears while it cannot write, beyond its journal, is counted in the history.
#[test]
fn what_could_not_be_recorded_is_said() {
    const JOURNAL: usize = 5;
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    // A directory has the name of the history.
    fs::create_dir(history_of(&swarm)).unwrap();
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_JOURNAL_LENGTH", JOURNAL.to_string());
    });
    wait_for("the rules", || swarm.run(&["watch", "--once"]).status.success().then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    let mut set = |number: usize| {
        swarm.succeed(&["state", "set", "A", "disabled", "--reason", &format!("reason {number}")]);
        let change = subscriber.change();
        assert_eq!(change["new_value"]["reason"], format!("reason {number}"), "{change}");
    };
    (0..12).for_each(&mut set);
    worker.wait_for_log("it is a directory, not a file");
    fs::remove_dir(history_of(&swarm)).unwrap();
    worker.wait_for_log("is written again");
    set(12);
    let all = wait_for("the last record", || {
        let all = records(&swarm, &[]);
        (all.last()?["new_value"]["reason"] == "reason 12").then_some(all)
    });
    let (missed, recorded) = (all[0]["changes"].as_u64().unwrap(), all.len() - 1);
    assert_eq!((all[0]["kind"].as_str(), missed), (Some("missed"), (13 - recorded) as u64), "{all:?}");
    let reasons: Vec<_> =
        all[1..].iter().map(|record| record["new_value"]["reason"].as_str().unwrap()).collect();
    let expected: Vec<String> = (13 - recorded..13).map(|number| format!("reason {number}")).collect();
    assert_eq!(reasons, expected, "the newest, each once");
    assert!(recorded > JOURNAL - 1, "{recorded}");
    let shown = swarm.succeed(&["history"]);
    assert!(shown.lines().next().unwrap().ends_with(&format!("missed {missed} changes")), "{shown}");
    assert!(swarm.succeed(&["history", "A"]).contains("missed"), "some of them may be of any rule");
}

/// A history of the greatest size makes room for what is new.
#[test]
fn the_two_files_stay_within_64_mib() {
    const HALF: usize = 32 << 20;
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let record = |seq: usize| {
        let reason = "x".repeat(4_000);
        format!(
            "{{\"emitted_at\":\"2026-05-01T07:25:09.123456Z\",\"epoch\":\"e\",\"kind\":\"state\",\"seq\":{seq},\
             \"rule_id\":\"A\",\"new_value\":{{\"state\":\"disabled\",\"reason\":\"{reason}\"}}}}\n"
        )
    };
    let full = |first: usize| {
        let mut text = String::new();
        for seq in first.. {
            let line = record(seq);
            if text.len() + line.len() > HALF {
                return text;
            }
            text += &line;
        }
        text
    };
    let newer = history_of(&swarm);
    let older = swarm.path("catalogue.ndjson.history.old");
    fs::write(&older, full(1)).unwrap();
    let before = full(1_000_000);
    fs::write(&newer, &before).unwrap();
    let _worker = started(&swarm);
    for number in 0..3 {
        let reason = format!("reason {number} {}", "x".repeat(4_000));
        swarm.succeed(&["state", "set", "A", "disabled", "--reason", &reason]);
        wait_for("the record", || fs::read_to_string(&newer).ok()?.contains(&reason).then_some(()));
    }
    let sizes = [&newer, &older].map(|path| fs::metadata(path).unwrap().len());
    assert!(sizes.iter().sum::<u64>() <= 64 << 20, "{sizes:?}");
    assert!(fs::read_to_string(&older).unwrap() == before, "the newer half became the older one");
    let shown = records(&swarm, &["--since", "1h"]);
    assert_eq!(shown.len(), 3, "{} records", shown.len());
}
