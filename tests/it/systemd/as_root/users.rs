//! Permissions: the daemons' two users, the group of the event stream, and everyone else.

use super::{installed, package, save_rule};
use crate::support::container::Container;

/// Which of `paths` a user may open, as `path:r` and `path:w`; a socket that they may connect to is `path:c`.
fn opens(container: &Container, user: &str, paths: &[&str]) -> String {
    container.sh(&format!(
        "runuser -u {user} -- python3 - {} <<'END'
import os, socket, stat, sys
for path in sys.argv[1:]:
    if path.endswith('.sock'):
        try:
            socket.socket(socket.AF_UNIX).connect(path)
            print(path + ':c', end=' ')
        except PermissionError:
            pass
        continue
    for name, flags in (('r', os.O_RDONLY), ('w', os.O_WRONLY | os.O_APPEND)):
        try:
            os.close(os.open(path, flags))
            print(path + ':' + name, end=' ')
        except PermissionError:
            pass
END",
        paths.join(" ")
    ))
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn the_streams_group_opens_the_stream_alone_and_the_worker_only_reads_the_database() {
    let container = installed();
    save_rule(&container, "A", 1);
    container.sh("useradd --system --groups rulesyncd-stream sensor; useradd --system stranger
         systemctl start rulesyncd-master rulesyncd-worker");
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "1 rule in sync");
    let catalogue = "/var/lib/rulesyncd-worker/catalogue.ndjson";
    container.wait_for("ls /var/lib/rulesyncd-worker", "catalogue.ndjson");
    let paths = [
        "/run/rulesyncd/events.sock",
        "/run/rulesyncd/master.sock",
        "/var/lib/rulesyncd/rules.db",
        "/var/lib/rulesyncd/rules.db.lock",
        catalogue,
    ];
    let can = |user| opens(&container, user, &paths);
    assert_eq!(can("sensor"), "/run/rulesyncd/events.sock:c ");
    assert_eq!(can("stranger"), "");
    assert_eq!(
        can("rulesyncd-worker"),
        format!("/run/rulesyncd/events.sock:c /var/lib/rulesyncd/rules.db:r {catalogue}:r {catalogue}:w ")
    );
    assert_eq!(
        can("rulesyncd-master"),
        "/run/rulesyncd/master.sock:c /var/lib/rulesyncd/rules.db:r /var/lib/rulesyncd/rules.db:w \
         /var/lib/rulesyncd/rules.db.lock:r /var/lib/rulesyncd/rules.db.lock:w "
    );
    let heard = container.sh("runuser -u sensor -- rulesyncd watch --once");
    assert!(heard.contains('A'), "{heard}");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn what_one_user_kept_before_two_users_keep_after_an_upgrade() {
    let container = Container::boot();
    container.put(package(), "/home/rulesyncd.deb");
    // As 0.1 installed it: one user, whose group subscribers joined.
    container.sh("rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update
         useradd --system --user-group --home-dir /var/lib/rulesyncd rulesyncd
         useradd --system --groups rulesyncd sensor
         install -d -o rulesyncd -g rulesyncd -m 0750 /var/lib/rulesyncd
         mkdir -p /etc/rulesyncd/rules; dpkg-deb -x /home/rulesyncd.deb /home/before");
    save_rule(&container, "A", 1);
    container.sh("cd /; runuser -u rulesyncd -- sh -c 'umask 0027
         program=/home/before/usr/bin/rulesyncd
         $program sync --database-url sqlite:///var/lib/rulesyncd/rules.db
         $program state set A disabled --database-url sqlite:///var/lib/rulesyncd/rules.db
         chmod 0640 /var/lib/rulesyncd/rules.db.lock; touch /var/lib/rulesyncd/catalogue.ndjson'
         rm -r /home/before");
    let said = container.sh("dpkg -i /home/rulesyncd.deb");
    assert!(said.contains("sensor is a member of the group rulesyncd-stream now"), "{said}");
    container.sh("systemctl start rulesyncd-master rulesyncd-worker");
    save_rule(&container, "B", 1);
    container.wait_for("systemctl show -P StatusText rulesyncd-worker", "2 rules in sync");
    let heard = container.sh("runuser -u sensor -- rulesyncd watch --once");
    assert!(heard.contains("disabled"), "{heard}");
    assert_eq!(
        container.sh("find /etc/rulesyncd /run/rulesyncd /var/lib/rulesyncd* -user rulesyncd"),
        "",
        "nothing is left to the old user"
    );
    let modes = container.sh("stat -c '%U %a %n' /var/lib/rulesyncd/rules.db* /var/lib/rulesyncd-worker/*");
    assert!(modes.contains("rulesyncd-master 600 /var/lib/rulesyncd/rules.db.lock\n"), "{modes}");
    assert!(modes.contains("rulesyncd-worker 600 /var/lib/rulesyncd-worker/catalogue.ndjson\n"), "{modes}");
    // Who has become one of the two users gets no file of root's by the next upgrade.
    container.sh("systemctl stop rulesyncd-worker; cp -a /etc/shadow /etc/before
         cd /; runuser -u rulesyncd-master -- ln -s /etc/shadow /var/lib/rulesyncd/catalogue.ndjson
         dpkg -i /home/rulesyncd.deb; rm /var/lib/rulesyncd/catalogue.ndjson
         touch /var/lib/rulesyncd/catalogue.ndjson; mkdir /etc/target; rm /var/lib/rulesyncd-worker/catalogue.ndjson
         runuser -u rulesyncd-worker -- ln -s /etc/target /var/lib/rulesyncd-worker/catalogue.ndjson
         dpkg -i /home/rulesyncd.deb");
    assert_eq!(container.sh("stat -c %U:%G:%a /etc/shadow"), container.sh("stat -c %U:%G:%a /etc/before"));
    assert_eq!(container.sh("stat -c %U /etc/target; ls /etc/target"), "root\n");
}
