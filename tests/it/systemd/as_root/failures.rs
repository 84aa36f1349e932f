//! Daemons that cannot start: how often systemd tries, and what the journal says.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rulesyncd::event;
use serde_json::Value;

use super::{installed, save_rule};
use crate::support::container::Container;

/// The records of fatal errors in a unit's journal, of this boot.
fn failures(container: &Container) -> Vec<Value> {
    // Not by the unit: journald cannot find the unit of a process that ends at once.
    let records =
        container.sh(&format!("journalctl --no-pager -q -o json MESSAGE_ID={} || true", event::FAILED));
    records.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_unusable_configuration_is_no_start_loop_however_often_programs_connect() {
    let container = installed();
    container.sh(
        "echo 'worker: {pol_interval: 1s}' > /etc/rulesyncd/worker.yaml; systemctl start rulesyncd-worker.socket",
    );
    // One program that reconnects at once, and one that waits in between.
    let socket = container.path("/run/rulesyncd/events.sock");
    let stop = Arc::new(AtomicBool::new(false));
    let programs: Vec<_> = [Duration::ZERO, Duration::from_millis(700)]
        .into_iter()
        .map(|pause| {
            let (socket, stop) = (socket.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut connected = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(mut stream) = UnixStream::connect(&socket) {
                        connected += 1;
                        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                        let _ = stream.read(&mut [0]);
                    }
                    std::thread::sleep(pause.max(Duration::from_millis(1)));
                }
                connected
            })
        })
        .collect();
    let socket_state = "systemctl show -P ActiveState rulesyncd-worker.socket; systemctl show -P ActiveState rulesyncd-worker";
    container.wait_for(socket_state, "inactive\nfailed");
    let starts = failures(&container).len();
    assert!((1..=8).contains(&starts), "{starts} starts");
    // The programs go on all the while. A loop of two seconds or faster would show in this silence.
    let silence = Duration::from_secs(5);
    std::thread::sleep(silence);
    assert_eq!(failures(&container).len(), starts);
    assert_eq!(container.sh(socket_state), "inactive\nfailed\n");

    // Corrected and started, it serves the programs that are still there.
    container.sh("echo '{}' > /etc/rulesyncd/worker.yaml; systemctl start rulesyncd-master rulesyncd-worker");
    container.wait_for(socket_state, "active\nactive");
    container.subscribe().snapshot();
    stop.store(true, Ordering::Relaxed);
    for program in programs {
        assert!(program.join().unwrap() > 0);
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_database_address_that_is_missing_is_no_start_loop() {
    let container = installed();
    container.sh(
        "for unit in rulesyncd-master rulesyncd-worker; do
           install -m 0644 -Dt /etc/systemd/system/$unit.service.d /usr/share/doc/rulesyncd/examples/remote-database.conf
         done
         systemctl daemon-reload; systemctl start rulesyncd-worker.socket; ! systemctl start rulesyncd-master",
    );
    let _program = UnixStream::connect(container.path("/run/rulesyncd/events.sock")).unwrap();
    container.wait_for("systemctl show -P ActiveState rulesyncd-worker.socket", "inactive");
    for unit in ["rulesyncd-master", "rulesyncd-worker"] {
        assert_eq!(container.property(unit, "ActiveState"), "failed");
        assert_eq!(container.property(unit, "NRestarts"), "0");
        // Not by the unit, as above.
        container
            .wait_for("journalctl --no-pager -b", &format!("{unit}.service: Failed at step CREDENTIALS"));
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_rules_directory_that_is_missing_at_the_start_is_waited_for() {
    let container = installed();
    container.sh("rmdir /etc/rulesyncd/rules; systemctl start rulesyncd-master");
    container.wait_for(
        "systemctl show -P StatusText rulesyncd-master",
        "rules directory /etc/rulesyncd/rules unavailable since ",
    );
    container.sh("mkdir /etc/rulesyncd/rules");
    save_rule(&container, "A", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "1 rule in sync");
    assert_eq!(container.property("rulesyncd-master", "NRestarts"), "0");
    let told = container.sh(&format!(
        "journalctl --no-pager -q -o cat -u rulesyncd-master MESSAGE_ID={}",
        event::DIRECTORY_UNAVAILABLE
    ));
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("create or mount it"), "{told}");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn why_a_daemon_cannot_start_is_an_error_of_the_journal_that_its_catalogue_explains() {
    let container = installed();
    let drop_in = "/etc/systemd/system/rulesyncd-master.service.d";
    let command =
        format!("mkdir -p {drop_in}; printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/rulesyncd master ");
    for (prepare, expected) in [
        ("echo 'master: {rule_dir: x}' > /etc/rulesyncd/master.yaml".to_owned(), "did you mean `rules_dir`?"),
        (format!("{command}--confg x\\n' > {drop_in}/x.conf"), "unexpected argument '--confg'"),
        (
            format!(
                "echo > /etc/rulesyncd/master.yaml; {command}--database-url nonsense\\n' > {drop_in}/x.conf"
            ),
            "begins with no known database",
        ),
    ] {
        let before = failures(&container).len();
        container.sh(&format!("{prepare}; systemctl daemon-reload; ! systemctl restart rulesyncd-master"));
        container.wait_for("systemctl is-failed rulesyncd-master", "failed");
        assert_eq!(container.property("rulesyncd-master", "ExecMainStatus"), "2", "{expected}");
        let records = failures(&container);
        assert_eq!(records.len(), before + 1, "{records:?}");
        let record = &records[before];
        assert_eq!(record["PRIORITY"], "3", "{record}");
        assert!(record["MESSAGE"].as_str().unwrap().contains(expected), "{record}");
    }
    let explained = container.sh(&format!("journalctl --no-pager -x MESSAGE_ID={}", event::FAILED));
    assert!(explained.contains("rulesyncd cannot start, or cannot go on"), "{explained}");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn restarts_wait_longer_and_longer_where_systemd_knows_how() {
    let container = installed();
    let drop_ins = |version: u32| {
        container.sh(&format!(
            "cd $(mktemp -d); printf '#!/bin/sh\\necho \"systemd {version} ({version}.1-1)\"\\n' > systemctl; chmod +x systemctl
             mkdir out; PATH=$PWD:$PATH /usr/lib/systemd/system-generators/rulesyncd-generator out out out
             cd out; grep -r RestartSteps . | sort"
        ))
    };
    assert_eq!(
        drop_ins(254),
        "./rulesyncd-master.service.d/50-growing-waits.conf:RestartSteps=5\n\
         ./rulesyncd-worker.service.d/50-growing-waits.conf:RestartSteps=5\n"
    );
    assert_eq!(drop_ins(252), "");
}
