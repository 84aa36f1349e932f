//! `status --check`: one line, and the exit codes of monitoring plugins.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::namespace::MountNamespace;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text};

/// The exit code and the line.
fn check(swarm: &Swarm, args: &[&str]) -> (i32, String) {
    let output = swarm.run(&[&["status", "--check"], args].concat());
    let line = text(&output.stdout);
    assert_eq!((line.lines().count(), text(&output.stderr).as_str()), (1, ""), "{line}");
    (output.status.code().unwrap(), line.trim_end().to_owned())
}

/// Waits until the check ends with this code, and its line contains these words.
fn wait_for_check(swarm: &Swarm, args: &[&str], code: i32, words: &[&str]) -> String {
    let mut last = (0, String::new());
    let mut matches = || {
        last = check(swarm, args);
        (last.0 == code && words.iter().all(|word| last.1.contains(word))).then(|| last.1.clone())
    };
    let begun = Instant::now();
    loop {
        if let Some(line) = matches() {
            return line;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no {code} {words:?}; last {last:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn swarm_with(count: usize) -> Swarm {
    let swarm = Swarm::on_sqlite();
    for number in 0..count {
        let id = format!("R{number:02}");
        swarm.save(&format!("{id}.yaml"), rule_text(&id, 1));
    }
    swarm
}

#[test]
fn what_is_well_is_ok_and_each_thing_that_is_not_is_named_by_its_severity() {
    let swarm = swarm_with(20);
    swarm.succeed(&["sync"]);
    let (_master, _worker) = (swarm.master(), swarm.worker());
    let line = wait_for_check(&swarm, &[], 0, &["master: 20 rules", "worker: 20 rules, 0 subscribers"]);
    assert!(line.starts_with("RULESYNCD OK: "), "{line}");

    swarm.save("R00.yaml", "no rule");
    let line = wait_for_check(&swarm, &[], 1, &["master: 1 invalid file"]);
    assert!(line.starts_with("RULESYNCD WARNING: ") && !line.contains("worker"), "{line}");
    swarm.save("R00.yaml", rule_text("R00", 1));
    wait_for_check(&swarm, &[], 0, &["OK"]);

    swarm.save("other.yaml", rule_text("R01", 1));
    wait_for_check(&swarm, &[], 1, &["master: 1 conflict"]);
    swarm.remove("other.yaml");
    wait_for_check(&swarm, &[], 0, &["OK"]);

    swarm.sql(
        "insert into ttp_rule select 'ODD', 1, 'o', 'no: rule', updated_at, 'git' from ttp_rule limit 1",
    );
    let line = wait_for_check(&swarm, &[], 1, &["worker: 1 quarantined row"]);
    swarm.sql("delete from ttp_rule where rule_id = 'ODD'");
    assert!(line.starts_with("RULESYNCD WARNING: "), "{line}");
    wait_for_check(&swarm, &[], 0, &["OK"]);

    for number in 0..20 {
        swarm.remove(&format!("R{number:02}.yaml"));
    }
    wait_for_check(&swarm, &[], 1, &["master: 20 deletions held back", "rulesyncd sync --allow-mass-delete"]);
    fs::rename(swarm.rules(), swarm.path("aside")).unwrap();
    let line = wait_for_check(&swarm, &[], 2, &["rules directory", "unavailable since"]);
    let (critical, warning) = (line.find("unavailable since").unwrap(), line.find("held back").unwrap());
    assert!(line.starts_with("RULESYNCD CRITICAL: ") && critical < warning, "the worst first: {line}");
}

#[test]
fn a_daemon_that_is_stopped_or_gone_is_critical_within_its_patience() {
    let swarm = swarm_with(1);
    swarm.succeed(&["sync"]);
    let (code, line) = check(&swarm, &[]);
    assert_eq!(code, 2, "{line}");
    assert!(
        line.contains("master: ") && line.contains("worker: ") && line.contains("No such file"),
        "{line}"
    );

    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for_check(&swarm, &[], 0, &["OK"]);
    for (daemon, name) in [(&master, "master"), (&worker, "worker")] {
        daemon.freeze();
        let begun = Instant::now();
        let (code, line) = check(&swarm, &[]);
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        assert_eq!(code, 2, "{line}");
        assert!(
            line.starts_with(&format!("RULESYNCD CRITICAL: {name}: the daemon did not answer within 5s")),
            "{line}"
        );
        // Both are asked at the same time, and the other one is shown.
        let begun = Instant::now();
        let output = swarm.run(&["status"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        assert!(text(&output.stderr).contains(&format!("no answer: the {name}")), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("database"), "{}", text(&output.stdout));
        daemon.thaw();
    }
    worker.kill();
    let (code, line) = check(&swarm, &[]);
    assert_eq!(code, 2, "{line}");
    assert!(line.starts_with("RULESYNCD CRITICAL: worker: ") && line.contains("refused"), "{line}");
    let socket = swarm.path("master.sock").display().to_string();
    let (code, line) = check(&swarm, &["--socket", &socket]);
    assert_eq!((code, line.as_str()), (0, "RULESYNCD OK: master: 1 rule"));
}

#[test]
fn a_database_that_is_unavailable_is_critical_and_so_is_a_worker_that_never_loaded_anything() {
    let swarm = Swarm::on("postgresql://someone@127.0.0.1:1/rules");
    let (_master, _worker) = (swarm.master(), swarm.worker());
    let words = [
        "master: database unavailable since ",
        "worker: database unavailable since ",
        "nothing was ever loaded",
    ];
    let line = wait_for_check(&swarm, &[], 2, &words);
    assert!(line.contains("Connection refused") && !line.contains("OK"), "{line}");
}

#[test]
fn a_worker_that_serves_what_it_once_knew_is_critical_and_says_how_old_that_is() {
    let swarm = swarm_with(2);
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    let socket = swarm.socket().display().to_string();
    wait_for_check(&swarm, &["--socket", &socket], 0, &["worker: 2 rules"]);
    for file in ["rules.db", "rules.db-wal", "rules.db-shm"] {
        let _ = fs::remove_file(swarm.path(file));
    }
    wait_for_check(
        &swarm,
        &["--socket", &socket],
        2,
        &["worker: database unavailable since ", "2 rules stale for 1s"],
    );
}

#[test]
fn a_standby_is_ok_and_a_configuration_that_cannot_be_used_is_unknown() {
    let swarm = swarm_with(1);
    let master = swarm.master();
    master.wait_for_log("this master holds the lock");
    let standby = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_SOCKET", swarm.path("standby.sock"));
    });
    standby.wait_for_log(") holds the lock; standing by");
    let socket = swarm.path("standby.sock").display().to_string();
    wait_for_check(&swarm, &["--socket", &socket], 0, &["RULESYNCD OK: master: standby"]);
    let (code, line) = check(&swarm, &["--config", "/nowhere.yaml"]);
    assert_eq!(code, 3);
    assert!(line.starts_with("RULESYNCD UNKNOWN: /nowhere.yaml: "), "{line}");
}

#[test]
#[ignore = "needs root"]
fn a_host_without_daemons_is_unknown_and_one_whose_enabled_daemon_is_missing_critical_as_root() {
    let host = MountNamespace::new();
    let check = || {
        let (code, printed, _) = host.run(&["status", "--check"]);
        (code, printed.trim_end().to_owned())
    };
    let nothing = "RULESYNCD UNKNOWN: no daemon of rulesyncd runs on this host, or is enabled here";
    assert_eq!(check(), (3, nothing.to_owned()));
    let wants = host.path("/etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink("/nowhere", wants.join("rulesyncd-worker.service")).unwrap();
    let (code, line) = check();
    assert_eq!(code, 2, "{line}");
    assert!(
        line.starts_with("RULESYNCD CRITICAL: worker: /run/rulesyncd/events.sock cannot be opened"),
        "{line}"
    );
    assert!(!line.contains("master"), "a worker's host needs no master: {line}");
}
