//! Signals, exits, and a second daemon on a host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::rules::rule_text;
use crate::support::slow_files::SlowFiles;
use crate::support::swarm::{DEADLINE, Swarm, ask, text, wait_for};

#[test]
fn a_stop_is_soft_and_tells_the_subscribers() {
    let swarm = Swarm::on_sqlite();
    let master = swarm.master();
    let worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    worker.stop();
    assert!(subscriber.rest().contains("shutting_down"));
    master.stop();
}

#[test]
fn a_stop_waits_for_a_disk_that_hangs_for_a_bounded_time() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let files = SlowFiles::new(&swarm.path(""));
    let worker = swarm.daemon("worker", |command| files.hang(command, "fsync"));
    let mut subscriber = swarm.subscribe();
    assert_eq!(subscriber.snapshot().len(), 1);
    wait_for("the cache that is not written to its end", || {
        swarm.path("catalogue.ndjson.new").exists().then_some(())
    });
    let (stopped, log) = (Instant::now(), worker.log_path());
    worker.stop();
    assert!(stopped.elapsed() < 2 * STOP_WITHIN, "{:?}", stopped.elapsed());
    assert!(subscriber.rest().contains("shutting_down"));
    let log = fs::read_to_string(log).unwrap();
    let place = swarm.path("catalogue.ndjson");
    assert!(log.contains(&format!("the disk did not take {} within", place.display())), "{log}");
    // Nothing of it is in the way of the next worker.
    let worker = swarm.worker();
    wait_for("the cache", || place.exists().then_some(()));
    worker.stop();
}

#[test]
fn a_reload_takes_a_new_directory() {
    let swarm = Swarm::on_sqlite();
    let file = swarm.path("master.yaml");
    let other = swarm.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.yaml"), rule_text("A", 1)).unwrap();
    let socket = swarm.path("master.sock").display().to_string();
    let master_of = |rules: &Path, socket: &str| {
        format!("master:\n  rules_dir: {}\n  socket: {socket}\n", rules.display())
    };
    fs::write(&file, master_of(&swarm.rules(), &socket)).unwrap();
    let master = swarm.daemon("master", |command| {
        command.arg("--config").arg(&file);
        command.env_remove("RULESYNCD_RULES_DIR").env_remove("RULESYNCD_MASTER_SOCKET");
    });
    fs::write(&file, format!("master:\n  rules_dri: {}\n", other.display())).unwrap();
    master.signal("HUP");
    master.wait_for_log("did you mean `rules_dir`?; the master keeps its previous configuration");
    fs::write(&file, master_of(&other, &socket)).unwrap();
    master.signal("HUP");
    wait_for("a rule of the other directory", || (swarm.rows().len() == 1).then_some(()));
    fs::write(other.join("b.yaml"), rule_text("B", 1)).unwrap();
    wait_for("a later rule of the other directory", || (swarm.rows().len() == 2).then_some(()));
    assert_eq!(master.count_in_log("restart the daemon"), 0, "{}", master.log());

    // Whoever asks the master for another directory than the new one is told so.
    let sync = swarm.run(&["sync", "--rules-dir", swarm.rules().to_str().unwrap()]);
    assert!(text(&sync.stderr).contains(&format!("which is {}", other.display())), "{}", text(&sync.stderr));

    let others = "database: {connect_timeout: 7s}\ntelemetry: {log_format: json}\n";
    let lease = "  lease: 1m\n  max_delete: 30%\n";
    fs::write(&file, others.to_owned() + &master_of(&other, "/elsewhere/master.sock") + lease).unwrap();
    master.signal("HUP");
    master.wait_for_log(
        "`database`, `master.lease`, `master.socket`, `telemetry.log_format` changed: restart the daemon to apply it",
    );
}

#[test]
fn a_status_is_logged_on_sigusr1() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    let master = swarm.master();
    wait_for("the row", || (swarm.rows().len() == 1).then_some(()));
    master.signal("USR1");
    master.wait_for_log("status: 1 rule in sync");
}

#[test]
fn a_second_master_stands_by_and_takes_over() {
    let swarm = Swarm::on_sqlite();
    let first = swarm.master();
    first.wait_for_log("this master holds the lock");
    let second = swarm.master();
    second.wait_for_log("standing by");
    swarm.save("a.yaml", rule_text("A", 1));
    first.wait_for_log("A added from a.yaml");
    first.kill();
    second.wait_for_log("this master holds the lock");
    swarm.save("b.yaml", rule_text("B", 1));
    second.wait_for_log("B added from b.yaml");
    assert_eq!(second.count_in_log("A added"), 0, "the standby wrote nothing that stood already");
}

#[test]
fn a_second_worker_on_the_same_socket_is_refused_and_a_dead_ones_is_taken_over() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    let first = swarm.worker();
    let refused = swarm.run(&["worker"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains(&*swarm.socket().to_string_lossy()), "{}", text(&refused.stderr));
    swarm.subscribe().snapshot();
    first.kill();
    assert!(swarm.socket().exists(), "a killed worker leaves its socket behind");
    let _second = swarm.worker();
    swarm.subscribe().snapshot();
}

#[test]
fn states_that_cannot_be_removed_keep_no_rule_back() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    swarm.sql(
        "insert into ttp_rule_state (rule_id, state, expires_at, set_at) values \
         ('A', 'disabled', '2026-01-01 00:00:00.000000', '2025-12-31 00:00:00.000000'); \
         create trigger kept before delete on ttp_rule_state begin select raise(abort, 'kept'); end",
    );
    let master = swarm.daemon("master", |command| {
        command.env("RULESYNCD_MASTER_RESCAN_INTERVAL", "50ms");
    });
    master.wait_for_log("expired states cannot be removed");
    for version in 2..5 {
        swarm.save("a.yaml", rule_text("A", version));
        wait_for("the edit", || (swarm.rows()[0][1] == version.to_string()).then_some(()));
    }
    assert_eq!(master.count_in_log("expired states cannot be removed"), 1, "told once");
    assert_eq!(master.count_in_log("this master holds the lock"), 1, "and the lock is kept");
}

#[test]
fn a_standby_whose_sockets_directory_was_away_serves_it_once_it_is_back() {
    let swarm = Swarm::on_sqlite();
    let run = swarm.path("run");
    fs::create_dir(&run).unwrap();
    let socket = run.join("master.sock");
    let master = || {
        swarm.daemon("master", |command| {
            command.env("RULESYNCD_MASTER_SOCKET", &socket);
        })
    };
    let (first, second) = (master(), master());
    second.wait_for_log("another master of this host answers");
    fs::remove_dir_all(&run).unwrap();
    second.wait_for_log("master.sock cannot be made");
    first.kill();
    fs::create_dir(&run).unwrap();
    second.wait_for_log("this master answers at");
    wait_for("the standby's socket", || UnixStream::connect(&socket).ok());
    assert_eq!(second.count_in_log("cannot be made"), 1, "told once");
}

#[test]
fn a_worker_without_its_database_says_what_it_serves_meanwhile() {
    let swarm = Swarm::on_sqlite();
    let worker = swarm.worker();
    worker.wait_for_log("waiting for the tables");
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    worker.wait_for_log(" loaded");
    fs::rename(swarm.path("rules.db"), swarm.path("away.db")).unwrap();
    worker.wait_for_log("the worker serves the rules that it has");
}

#[test]
fn a_new_database_is_read_by_the_group_of_its_directory_and_its_lock_by_nobody_else() {
    for (umask, directory, expected) in [
        ("077", 0o750, ("640", "600")),
        ("077", 0o700, ("600", "600")),
        ("022", 0o755, ("644", "600")),
        ("022", 0o700, ("644", "600")),
    ] {
        let swarm = Swarm::on_sqlite();
        fs::set_permissions(swarm.path(""), fs::Permissions::from_mode(directory)).unwrap();
        let sync = swarm.command(&["sync"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask $0; exec \"$@\"", umask]).arg(sync.get_program()).args(sync.get_args());
        shell.envs(sync.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(shell.output().unwrap().status.success());
        let mode =
            |name| format!("{:o}", fs::metadata(swarm.path(name)).unwrap().permissions().mode() & 0o7777);
        let found = (mode("rules.db"), mode("rules.db.lock"));
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "umask {umask}, directory {directory:o}");
    }
}

/// How long a stop takes at most. A busy machine may need longer.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// So many slow files take 6 s to read.
const SLOW_FILES: u64 = 60;

/// How long a daemon may be without a sign of life, and without an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A daemon reads slow files at its start. Then it reads others because they stay empty, and once more as files that have
/// changed. It feeds the watchdog and answers throughout.
fn a_slow_directory(swarm: &Swarm, mode: &str, socket: &Path) {
    let notify = UnixDatagram::bind(swarm.path("notify")).unwrap();
    notify.set_nonblocking(true).unwrap();
    let files = SlowFiles::new(&swarm.path(""));
    for number in 0..SLOW_FILES {
        swarm.save(&SlowFiles::name(number), rule_text(&format!("R{number}"), 1));
    }
    // Files that are younger than a tick of the file system's clock would be read again.
    std::thread::sleep(Duration::from_millis(200));
    let daemon = swarm.daemon(mode, |command| {
        command.env("NOTIFY_SOCKET", swarm.path("notify")).env("WATCHDOG_USEC", "2000000");
        files.slow_down(command);
    });
    let (mut alive, mut answered) = (Instant::now(), Instant::now());
    let mut watch_until = |opened: u64| {
        let begun = Instant::now();
        loop {
            let mut message = [0; 4096];
            while let Ok(length) = notify.recv(&mut message) {
                if message[..length].starts_with(b"WATCHDOG=1") {
                    alive = Instant::now();
                }
            }
            let status = ask(socket);
            if status.is_some() {
                answered = Instant::now();
            }
            assert!(alive.elapsed() < PATIENCE, "no sign of life: {}", daemon.log());
            assert!(answered.elapsed() < PATIENCE, "no answer: {}", daemon.log());
            if files.opened() >= opened && status.is_some_and(|status| status["rules"] == SLOW_FILES) {
                assert!(begun.elapsed() > PATIENCE, "too fast to show anything");
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{} files were opened: {}", files.opened(), daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    watch_until(SLOW_FILES);
    for number in SLOW_FILES..2 * SLOW_FILES {
        swarm.save(&SlowFiles::name(number), "");
    }
    watch_until(2 * SLOW_FILES);
    watch_until(3 * SLOW_FILES);
}

#[test]
fn a_directory_that_takes_its_time_is_no_master_that_hangs() {
    let swarm = Swarm::on_sqlite();
    a_slow_directory(&swarm, "master", &swarm.path("master.sock"));
}

#[test]
fn a_directory_that_takes_its_time_is_no_worker_that_hangs() {
    let swarm = Swarm::on_directory();
    a_slow_directory(&swarm, "worker", &swarm.socket());
}

/// As where a drop-in of the socket's unit has a second ListenStream=: on all but the first, nobody would answer.
#[test]
fn a_worker_that_is_passed_two_sockets_says_that_it_serves_one() {
    let swarm = Swarm::on_sqlite();
    let worker = swarm.command(&["worker"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" worker 3</dev/null 4</dev/null"]);
    shell.arg(worker.get_program()).env_clear();
    shell.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("2 sockets were passed") && said.contains("ListenStream="), "{said}");
}
