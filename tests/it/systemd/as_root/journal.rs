//! What an operator finds in the journal, with the commands that they would type.

use rulesyncd::event;

use super::{installed, save_rule};
use crate::support::container::Container;
use crate::support::rules::rule_text;

/// Waits until the journal of a daemon has `wanted` among the records that `filter` selects.
fn wait_for(container: &Container, daemon: &str, filter: &str, wanted: &str) {
    container.wait_for(&format!("journalctl --no-pager -q -o cat -u rulesyncd-{daemon} {filter}"), wanted);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_journal_says_what_happened_to_a_rule_and_who_did_it() {
    let container = installed();
    let save = |name: &str, text: &str| {
        std::fs::write(container.path(&format!("/etc/rulesyncd/rules/{name}")), text).unwrap();
    };
    for id in ["DIS0002", "EXE0001", "NET0001"] {
        save_rule(&container, id, 1);
    }
    container.sh("systemctl start rulesyncd-master rulesyncd-worker");
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "3 rules in sync");

    // How it was started.
    let started = format!("MESSAGE_ID={}", event::STARTED);
    for (daemon, place) in [("master", "/etc/rulesyncd/rules"), ("worker", "/run/rulesyncd/events.sock")] {
        for wanted in [place, "database sqlite:", &format!("configured by /etc/rulesyncd/{daemon}.yaml")] {
            wait_for(&container, daemon, &started, wanted);
        }
    }

    // A rule that became invalid, by its id, although the file's id cannot be read any more.
    save("DIS0002.yaml", "rule_id: 'DIS0002\n");
    wait_for(&container, "master", "-p err RULE_ID=DIS0002", "its last good version stays");
    let code = "journalctl --no-pager -q -o json -u rulesyncd-master RULE_ID=DIS0002 | grep -o '\"CODE\":\"[a-z-]*\"'";
    container.wait_for(code, "\"CODE\":\"syntax\"");
    save("DIS0002.yaml", &rule_text("DIS0002", 2));
    wait_for(&container, "master", "RULE_ID=DIS0002", "DIS0002.yaml is valid again");

    // Two files with one id, and the end of the conflict.
    save("twice.yaml", &rule_text("EXE0001", 1));
    wait_for(&container, "master", "-p err RULE_ID=EXE0001", "both hold EXE0001");
    container.sh("rm /etc/rulesyncd/rules/twice.yaml");
    wait_for(&container, "master", "RULE_ID=EXE0001", "no longer both hold EXE0001");

    // Who switched a rule off, until when, and why.
    container.sh(
        "rulesyncd state set DIS0002 disabled --expires-at 2099-05-01T07:25:09Z --reason 'noisy on mail hosts'",
    );
    let order = "DIS0002 disabled until 2099-05-01T07:25:09.000000Z by root: noisy on mail hosts\n";
    for daemon in ["master", "worker"] {
        wait_for(&container, daemon, "-p notice..notice RULE_ID=DIS0002", order);
    }

    // What others wrote is escaped in every field.
    container.sh(r"rulesyncd state set EXE0001 disabled --reason $'a\e[2J\xc2\x9b\xe2\x80\xae\nFORGED'");
    for daemon in ["master", "worker"] {
        let escaped = r"EXE0001 disabled by root: a\u001b[2J\u009b\u202e\nFORGED";
        wait_for(&container, daemon, "-p notice..notice RULE_ID=EXE0001", escaped);
        let raw = r"grep -c -e $'\e' -e $'\xc2\x9b' -e $'\xe2\x80\xae' || true";
        let raw = format!("journalctl --no-pager -a -u rulesyncd-{daemon} -o export | {raw}");
        assert_eq!(container.sh(&raw).trim(), "0");
    }

    // A row that another program changed is not an edit of its file. A reload compares everything.
    container.sh(
        "sqlite3 /var/lib/rulesyncd/rules.db \"PRAGMA busy_timeout = 5000; DELETE FROM ttp_rule WHERE rule_id = 'NET0001'\"
         systemctl reload rulesyncd-master",
    );
    let undone = format!("-p warning MESSAGE_ID={}", event::RULE_TAKEN_OVER);
    wait_for(&container, "master", &undone, "NET0001 was deleted from the table by another program");

    // A changed password or key takes effect, or the log says that it needs a restart.
    container.sh(
        "sed -i 's/#log: info/log: debug/' /etc/rulesyncd/worker.yaml; systemctl reload rulesyncd-worker",
    );
    wait_for(&container, "worker", "-p warning", "`telemetry.log` changed: restart the daemon to apply it");

    // An outage and its end, but no takeover of a lock that no other master took.
    container.sh("mv /etc/rulesyncd/rules /etc/rulesyncd/elsewhere; systemctl reload rulesyncd-master");
    let away = format!("MESSAGE_ID={}", event::DIRECTORY_UNAVAILABLE);
    wait_for(&container, "master", &away, "create or mount it");
    container.sh("mv /etc/rulesyncd/elsewhere /etc/rulesyncd/rules; systemctl reload rulesyncd-master");
    wait_for(
        &container,
        "master",
        &format!("MESSAGE_ID={}", event::DIRECTORY_BACK),
        "can be read again after ",
    );
    let lock = container
        .sh(&format!("journalctl --no-pager -q -o cat -u rulesyncd-master MESSAGE_ID={}", event::LOCK_TAKEN));
    assert_eq!(lock, "this master holds the lock\n");
}
