//! Installs the package and follows the README as a person would, and then tests everything that happens to a
//! service.

mod failures;
mod journal;
mod package;
mod two_hosts;
mod users;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::container::Container;
use crate::support::rules::rule_text;
use crate::support::swarm::{text, wait_for};

/// The package, built once.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools = project.join("target/tools/bin");
        let script = "PATH=$0:$PATH packaging/build-deb dev";
        let made = Command::new("sh").args(["-c", script]).arg(tools).current_dir(project).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        project.join(text(&made.stdout).lines().next().unwrap())
    })
}

/// The package for Python programs, built with the other.
fn python_package() -> PathBuf {
    package().with_file_name("python3-rulesyncd.deb")
}

/// A container that a package can be installed in as on a host.
fn installed_nowhere() -> Container {
    let container = Container::boot();
    // Container images forbid their packages to restart services; a host does not. And the index of manual pages
    // would take longer than all the rest.
    container.sh("rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update");
    container
}

/// A container with the package installed and nothing enabled.
fn installed() -> Container {
    let container = installed_nowhere();
    container.put(package(), "/home/rulesyncd.deb");
    container.sh("dpkg -i /home/rulesyncd.deb");
    container
}

/// The commands of a section of the README.
fn readme_commands(section: &str) -> String {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// How many sample rules the package has.
fn samples() -> usize {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/rules")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".yaml") && !name.ends_with(".test.yaml")).count()
}

fn save_rule(container: &Container, id: &str, version: i32) {
    std::fs::write(container.path(&format!("/etc/rulesyncd/rules/{id}.yaml")), rule_text(id, version))
        .unwrap();
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_readme_followed_word_for_word_brings_a_saved_rule_to_a_subscriber() {
    let container = installed();
    assert_eq!(container.property("rulesyncd-master", "UnitFileState"), "disabled");
    container.sh(&readme_commands("Run it as a service").replace("./rulesyncd.deb", "/home/rulesyncd.deb"));

    container.wait_for("systemctl status rulesyncd-master", &format!("{} rules in sync", samples()));
    let mut subscriber = container.subscribe();
    assert_eq!(subscriber.snapshot().len(), samples());
    save_rule(&container, "NEW", 1);
    assert_eq!(subscriber.change()["rule_id"], "NEW");
    container.wait_for("systemctl status rulesyncd-worker", &format!("{} rules in sync", samples() + 1));
    assert!(container.sh("rulesyncd status").contains("lock        held"));

    // The journal finds the history of a rule by its fields, and explains the kinds of records.
    let story = container.sh("journalctl --no-pager -o cat -u rulesyncd-master RULE_ID=NEW");
    assert_eq!(story, "NEW added from NEW.yaml\n");
    let written = rulesyncd::event::RULE_WRITTEN;
    let explained = container.sh(&format!("journalctl --no-pager -x MESSAGE_ID={written} RULE_ID=NEW"));
    assert!(explained.contains("The rule NEW was written to the database"), "{explained}");
    save_rule(&container, "NEW", 2);
    subscriber.change();
    std::fs::write(container.path("/etc/rulesyncd/rules/BAD.yaml"), "rule_id: [").unwrap();
    container.wait_for("journalctl --no-pager -o json -p err -u rulesyncd-master", "BAD.yaml");

    // The record of who switched a rule off is at priority notice, on the master and on the worker.
    container.sh("rulesyncd state set NEW disabled --set-by alice --reason 'noisy on mail hosts'");
    for unit in ["rulesyncd-master", "rulesyncd-worker"] {
        let notices = format!("journalctl --no-pager -o cat -p notice..notice -u {unit} RULE_ID=NEW");
        container.wait_for(&notices, "NEW disabled by alice: noisy on mail hosts\n");
    }
    let manual = container.sh("man -P cat rulesyncd-sync");
    assert!(manual.contains("--allow-mass-delete"), "{manual}");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_units_are_sound_and_closed() {
    let container = installed();
    let complaints = container.try_sh(
        "systemd-analyze verify rulesyncd-master.service rulesyncd-worker.service rulesyncd-worker.socket 2>&1",
    );
    // Other packages of the host have units, too.
    let complaints = text(&complaints.stdout);
    let ours: Vec<&str> = complaints.lines().filter(|line| line.contains("rulesyncd")).collect();
    assert_eq!(ours, [""; 0], "{complaints}");
    // The worker sees the users who connect: that is two tenths.
    let exposed = |threshold: u32| {
        for (unit, threshold) in
            [("rulesyncd-master.service", threshold), ("rulesyncd-worker.service", threshold + 2)]
        {
            // The threshold is in tenths.
            container.sh(&format!("systemd-analyze security --no-pager --threshold={threshold} {unit}"));
        }
    };
    exposed(2);
    container.sh(
        "for unit in rulesyncd-master rulesyncd-worker; do install -m 0644 -Dt /etc/systemd/system/$unit.service.d \
         /usr/share/doc/rulesyncd/examples/remote-database.conf; done; systemctl daemon-reload",
    );
    exposed(10);
    container.sh("rm -r /etc/systemd/system/rulesyncd-*.service.d; systemctl daemon-reload");

    // What the daemon's user may write, seen from inside of the unit.
    container.sh("systemctl start rulesyncd-master rulesyncd-worker");
    container.wait_for("ls /var/lib/rulesyncd/", "rules.db.lock");
    for (unit, allowed) in [
        (
            "rulesyncd-master",
            "/run/rulesyncd /run/rulesyncd/master.sock /var/lib/rulesyncd /var/lib/rulesyncd/rules.db \
             /var/lib/rulesyncd/rules.db.lock",
        ),
        ("rulesyncd-worker", "/run/rulesyncd/events.sock /var/lib/rulesyncd-worker"),
    ] {
        let pid = container.property(unit, "MainPID");
        let writable = container.sh(&format!(
            "nsenter -t {pid} -m -S $(id -u {unit}) -G $(id -g {unit}) -- bash -c 'for place in /etc \
             /etc/rulesyncd /etc/rulesyncd/rules /usr/bin /var /var/log /run /run/rulesyncd /run/rulesyncd/* /var/lib \
             /var/lib/rulesyncd /var/lib/rulesyncd/rules.db /var/lib/rulesyncd/rules.db.lock /var/lib/rulesyncd-worker \
             /home /root; do [ -w $place ] && echo $place; done; true'"
        ));
        assert_eq!(writable.split_whitespace().collect::<Vec<_>>().join(" "), allowed, "{unit}");
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_service_survives_what_happens_to_services() {
    let container = installed();
    container.sh(
        "for unit in rulesyncd-master rulesyncd-worker; do mkdir -p /etc/systemd/system/$unit.service.d; \
         printf '[Service]\nWatchdogSec=2s\nRestartSec=100ms\n' > /etc/systemd/system/$unit.service.d/test.conf; done; \
         systemctl daemon-reload; systemctl start rulesyncd-master rulesyncd-worker.socket",
    );
    save_rule(&container, "A", 1);
    let mut subscriber = container.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = container.subscribe();
    }

    // Reload: the same process, and it says when it is done.
    let pid = container.property("rulesyncd-master", "MainPID");
    container.sh("systemctl reload rulesyncd-master");
    container.wait_for("journalctl --no-pager -u rulesyncd-master", "the configuration was read again");
    assert_eq!(container.property("rulesyncd-master", "MainPID"), pid);

    // Restart: the subscriber is told, and new clients wait in the socket.
    container.sh("systemctl restart rulesyncd-worker");
    assert!(subscriber.rest().contains("shutting_down"));
    let mut subscriber = container.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);

    for (signal, unit) in [
        ("KILL", "rulesyncd-worker"),
        ("KILL", "rulesyncd-master"),
        ("STOP", "rulesyncd-worker"),
        ("STOP", "rulesyncd-master"),
    ] {
        let pid = container.property(unit, "MainPID");
        container.sh(&format!("kill -s {signal} {pid}"));
        container.wait_for(
            &format!("systemctl show -P MainPID {unit} | grep -vx -e {pid} -e 0; systemctl is-active {unit}"),
            "\nactive",
        );
    }
    drop(subscriber);
    let mut subscriber = container.subscribe();
    subscriber.snapshot();
    save_rule(&container, "B", 1);
    assert_eq!(subscriber.change()["rule_id"], "B");

    // A configuration with an error: the daemon stops at once, with the reason and the code, and is not restarted.
    container.sh("echo 'worker: {pol_interval: 1s}' > /etc/rulesyncd/worker.yaml; systemctl restart rulesyncd-worker || true");
    container.wait_for("systemctl is-failed rulesyncd-worker", "failed");
    assert_eq!(container.property("rulesyncd-worker", "ExecMainStatus"), "2");
    container.wait_for("journalctl --no-pager -u rulesyncd-worker", "did you mean `poll_interval`?");
}

/// It shows a sign of life three times, and would have been killed after the first time without one.
#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_worker_that_polls_once_an_hour_outlives_its_watchdog() {
    let container = installed();
    container.sh(
        "echo 'worker: {poll_interval: 1h}' > /etc/rulesyncd/worker.yaml
         mkdir -p /etc/systemd/system/rulesyncd-worker.service.d
         printf '[Service]\nWatchdogSec=2s\n' > /etc/systemd/system/rulesyncd-worker.service.d/test.conf
         systemctl daemon-reload; systemctl start rulesyncd-master rulesyncd-worker; systemctl stop rulesyncd-master",
    );
    let pid = container.property("rulesyncd-worker", "MainPID");
    let begun: u64 = container.property("rulesyncd-worker", "ActiveEnterTimestampMonotonic").parse().unwrap();
    wait_for("signs of life", || {
        let last = container.property("rulesyncd-worker", "WatchdogTimestampMonotonic");
        (last.parse::<u64>().unwrap() > begun + 7_000_000).then_some(())
    });
    assert_eq!(container.property("rulesyncd-worker", "MainPID"), pid);
    assert_eq!(container.property("rulesyncd-worker", "NRestarts"), "0");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_database_whose_address_is_a_credential_fails_neither_unit_while_it_is_away() {
    let container = installed();
    container.sh(
        "systemctl unmask --runtime postgresql.service || true
         cluster=$(ls /etc/postgresql | head -1)
         systemctl start postgresql@$cluster-main
         runuser -u postgres -- createuser rulesyncd-master
         runuser -u postgres -- createuser rulesyncd-worker
         runuser -u postgres -- createdb -O rulesyncd-master rules
         runuser -u postgres -- psql -q rules -c 'ALTER DEFAULT PRIVILEGES FOR ROLE \"rulesyncd-master\" GRANT SELECT ON TABLES TO \"rulesyncd-worker\"'
         for unit in rulesyncd-master rulesyncd-worker; do
           install -m 0600 /dev/stdin /etc/rulesyncd/$unit.url \\
             <<< \"postgres:///rules?host=/run/postgresql&user=$unit\"
           install -m 0644 -Dt /etc/systemd/system/$unit.service.d /usr/share/doc/rulesyncd/examples/remote-database.conf
         done
         systemctl daemon-reload
         systemctl start rulesyncd-master rulesyncd-worker",
    );
    save_rule(&container, "A", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "1 rule in sync");
    let mut subscriber = container.subscribe();
    while subscriber.snapshot().is_empty() {
        subscriber = container.subscribe();
    }
    container.sh("systemctl stop 'postgresql@*'");
    for unit in ["rulesyncd-master", "rulesyncd-worker"] {
        container.wait_for(&format!("systemctl show -P StatusText {unit}"), "database unavailable");
        assert_eq!(container.property(unit, "ActiveState"), "active");
    }
    save_rule(&container, "B", 1);
    container.sh("sleep 3; systemctl start postgresql@$(ls /etc/postgresql | head -1)-main");
    assert_eq!(subscriber.change()["rule_id"], "B");
    for unit in ["rulesyncd-master", "rulesyncd-worker"] {
        container.wait_for(&format!("systemctl show -P StatusText {unit}"), "2 rules in sync");
        assert_eq!(container.property(unit, "NRestarts"), "0");
        // An outage causes a few records, not one for each try.
        let records = container.sh(&format!("journalctl --no-pager -q -o cat -p warning -u {unit}"));
        assert!(records.lines().count() <= 3, "{unit}: {records}");
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_drop_in_for_a_remote_database_reaches_the_address_that_it_names_and_no_other() {
    let container = installed();
    container.sh(
        "cluster=$(ls /etc/postgresql | head -1)
         systemctl start postgresql@$cluster-main
         runuser -u postgres -- psql -q -c \"create role rulesyncd login password 'p'\" -c 'create database rules owner rulesyncd'
         install -m 0600 /dev/stdin /etc/rulesyncd/rulesyncd-master.url <<< 'postgres://rulesyncd:p@127.0.0.1/rules?sslmode=disable'
         install -m 0644 -Dt /etc/systemd/system/rulesyncd-master.service.d /usr/share/doc/rulesyncd/examples/remote-database.conf
         systemctl daemon-reload; systemctl start rulesyncd-master",
    );
    save_rule(&container, "A", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "database unavailable");
    container.sh(
        "sed -i s/192.0.2.10/127.0.0.1/ /etc/systemd/system/rulesyncd-master.service.d/remote-database.conf
         systemctl daemon-reload; systemctl restart rulesyncd-master",
    );
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "1 rule in sync");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn an_upgrade_and_a_removal_leave_rules_and_states_alone() {
    let container = installed();
    container.sh("systemctl start rulesyncd-master");
    save_rule(&container, "A", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-master", "1 rule in sync");
    container.sh("rulesyncd state set A disabled");
    let pid = container.property("rulesyncd-master", "MainPID");
    container.sh("dpkg -i /home/rulesyncd.deb");
    container.wait_for(&format!("systemctl show -P MainPID rulesyncd-master | grep -vx -e {pid} -e 0; systemctl is-active rulesyncd-master"), "\nactive");
    assert!(container.sh("rulesyncd state list").contains("disabled"));
    container.sh("dpkg -r rulesyncd");
    container.sh("test -f /etc/rulesyncd/rules/A.yaml && test -f /var/lib/rulesyncd/rules.db");
}
