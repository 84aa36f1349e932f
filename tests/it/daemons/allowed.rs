//! Mass deletions that an operator allows, and for how long.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::rules::rule_text;
use crate::support::swarm::{DEADLINE, Daemon, Swarm, ask, text, wait_for};

/// A master whose directory holds so many rules, which are in the table.
fn master_of(count: usize) -> (Swarm, Daemon) {
    let swarm = Swarm::on_sqlite();
    for number in 0..count {
        swarm.save(&format!("R{number:02}.yaml"), rule_text(&format!("R{number:02}"), 1));
    }
    let master = swarm.master();
    wait_for("the rules", || (swarm.rows().len() == count).then_some(()));
    (swarm, master)
}

fn remove(swarm: &Swarm, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| swarm.remove(&format!("R{number:02}.yaml")));
}

/// Another program that is in the middle of a transaction that writes.
struct Writer(Child);

impl Writer {
    fn begin(swarm: &Swarm) -> Self {
        let script = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n\
            db.execute('BEGIN IMMEDIATE'); print('begun', flush=True)\n\
            sys.stdin.read(); db.execute('ROLLBACK')";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(swarm.path("rules.db"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// How often the master has read rows.
fn reads(swarm: &Swarm) -> u64 {
    let status = wait_for("an answer", || ask(&swarm.path("master.sock")));
    let metrics = status["metrics"].as_array().unwrap();
    let latency = metrics.iter().find(|metric| metric["name"] == "ttp.store.latency").unwrap();
    let reads = latency["samples"].as_array().unwrap().iter();
    reads
        .filter(|sample| sample["labels"]["operation"] == "read_rows")
        .map(|sample| sample["count"].as_u64().unwrap())
        .sum()
}

/// How many connections to its socket a daemon has open, as ss(8) shows them: `03` is connected. The daemon makes its
/// socket under a hidden name, which the kernel remembers.
fn connections(swarm: &Swarm, daemon: &Daemon) -> usize {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let end = format!(" {}", swarm.path(&format!(".{}", daemon.pid())).display());
    sockets.lines().filter(|line| line.ends_with(&end) && line.contains(" 0001 03 ")).count()
}

fn held(swarm: &Swarm) -> usize {
    let status = ask(&swarm.path("master.sock")).unwrap_or_default();
    status["pending_mass_delete"].as_array().map_or(0, Vec::len)
}

#[test]
fn who_waits_no_more_allows_nothing() {
    let (swarm, master) = master_of(10);
    remove(&swarm, 0..8);
    master.wait_for_log("8 of 10 rules would be deleted");
    let writer = Writer::begin(&swarm);
    let before = reads(&swarm);
    let mut sync = swarm.command(&["sync", "--allow-mass-delete"]);
    let mut sync = sync.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It reads the rows for this request, and cannot write.
    wait_for("the master to handle the request", || (reads(&swarm) > before).then_some(()));
    assert!(sync.try_wait().unwrap().is_none(), "it waits for the other program");
    assert!(connections(&swarm, &master) > 0);
    sync.kill().unwrap();
    sync.wait().unwrap();
    wait_for("the master to see that nobody waits", || (connections(&swarm, &master) == 0).then_some(()));
    writer.end();
    swarm.save("later.yaml", rule_text("LATER", 1));
    wait_for("what came later", || swarm.rows().iter().any(|[id, ..]| id == "LATER").then_some(()));
    wait_for("what is held back", || (held(&swarm) == 8).then_some(()));
    assert_eq!(swarm.rows().len(), 11);
    assert_eq!(master.count_in_log("lifted the guard"), 0, "{}", master.log());

    let output = swarm.run(&["sync", "--allow-mass-delete"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(swarm.rows().len(), 3);
}

#[test]
fn after_deletions_that_were_allowed_one_more_is_no_mass_deletion() {
    let (swarm, master) = master_of(20);
    remove(&swarm, 0..12);
    master.wait_for_log("12 of 20 rules would be deleted, which");
    assert!(swarm.run(&["sync", "--allow-mass-delete"]).status.success());
    assert_eq!(swarm.rows().len(), 8);
    remove(&swarm, 12..13);
    wait_for("the deletion", || (swarm.rows().len() == 7).then_some(()));

    // Deletions that nobody allowed count together, and the record says so.
    remove(&swarm, 13..16);
    wait_for("the deletions", || (swarm.rows().len() == 4).then_some(()));
    remove(&swarm, 16..18);
    master.wait_for_log(" rules would be deleted after 4 more within ");
    assert_eq!(swarm.rows().len(), 4);
}

/// As many requests as the master queues, and a reload after them.
#[test]
fn a_reload_is_not_lost_behind_requests() {
    const MANY: usize = 40;
    let (swarm, _) = master_of(1);
    let (file, other) = (swarm.path("master.yaml"), swarm.path("other"));
    let of = |rules: &Path| format!("master:\n  rules_dir: {}\n", rules.display());
    fs::create_dir(&other).unwrap();
    fs::write(other.join("B.yaml"), rule_text("B", 1)).unwrap();
    fs::write(&file, of(&swarm.rules())).unwrap();
    let supervisor = UnixDatagram::bind(swarm.path("notify")).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let master = swarm.daemon("master", |command| {
        command.arg("--config").arg(&file).env_remove("RULESYNCD_RULES_DIR");
        command.env("NOTIFY_SOCKET", swarm.path("notify"));
    });
    master.wait_for_log("this master holds the lock");
    let writer = Writer::begin(&swarm);
    swarm.save("R01.yaml", rule_text("R01", 1));
    let asking: Vec<_> = (0..MANY)
        .map(|_| {
            let mut client = std::os::unix::net::UnixStream::connect(swarm.path("master.sock")).unwrap();
            client.write_all(b"{\"op\":\"reconcile\",\"allow_mass_delete\":false}\n").unwrap();
            client
        })
        .collect();
    // The master takes requests in the order in which they come: it has all of them when it answers another.
    wait_for("an answer", || ask(&swarm.path("master.sock")));
    fs::write(&file, of(&other)).unwrap();
    master.signal("HUP");
    let mut told = String::new();
    while !told.split_once("RELOADING=1").is_some_and(|(_, then)| then.contains("READY=1")) {
        let mut message = [0; 4096];
        let length = supervisor.recv(&mut message).expect("the end of the reload");
        told += &text(&message[..length]);
    }
    writer.end();
    wait_for("the rule of the other directory", || {
        swarm.rows().iter().any(|[id, ..]| id == "B").then_some(())
    });
    drop(asking);
}
