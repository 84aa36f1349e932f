//! Programs end with an error when a daemon does not answer them, or does not read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

#[test]
fn a_daemon_that_does_not_answer_is_told_in_bounded_time() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    // A master that has just started does not hold the lock yet, and `sync` would do the work itself.
    master.wait_for_log("this master holds the lock");
    swarm.subscribe().snapshot();
    master.freeze();
    worker.freeze();
    let start = |args: &[&str]| swarm.spawn(swarm.command(args));
    for asking in [start(&["sync"]), start(&["watch", "--once"])] {
        let log = asking.log_path();
        let ended = asking.wait();
        let said = fs::read_to_string(log).unwrap();
        assert_eq!(ended.code(), Some(3), "{said}");
        assert!(said.contains("did not answer within 5s"), "{said}");
    }
}

#[test]
fn a_look_at_a_worker_that_has_loaded_nothing_ends_and_says_so() {
    let swarm = Swarm::on("postgresql://someone@127.0.0.1:1/rules");
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "100ms");
    });
    let looking = swarm.spawn(swarm.command(&["watch", "--once"]));
    let log = looking.log_path();
    let ended = looking.wait();
    let said = fs::read_to_string(log).unwrap();
    assert_eq!(ended.code(), Some(3), "{said}");
    assert!(said.contains("has loaded nothing from its database"), "{said}");
}

#[test]
fn a_standard_output_that_breaks_is_told_once_and_as_what_it_is() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    for args in [
        &["watch"][..],
        &["watch", "--once"],
        &["status"],
        &["state", "list"],
        &["why", "A"],
        &["fleet"],
        &["fleet", "--watch"],
        &["schema", "rule"],
        &["--help"],
        &["state", "--help"],
        &["--version"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = swarm.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("standard output") && !said.contains("connection"), "{args:?}: {said}");
        assert_eq!(said.matches("No space left on device").count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn who_goes_away_ends_what_would_go_on_without_a_reader() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    for args in [&["watch"][..], &["fleet", "--watch"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = swarm.command(args);
        let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let ended = wait_for(&format!("the end of {args:?}"), || child.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0), "{args:?}");
    }
}

#[test]
fn what_was_done_is_told_although_standard_output_broke() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    for (args, done) in [
        (&["sync"][..], "1 added"),
        (&["state", "set", "A", "disabled"], "A is disabled"),
        (&["state", "clear", "A", "--json"], "A is enabled again"),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = swarm.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("standard output broke") && said.contains(done), "{args:?}: {said}");
        assert!(said.contains(&swarm.path("rules.db").display().to_string()), "{args:?}: {said}");
    }
}

#[test]
fn a_command_that_gets_no_thread_says_so_and_does_not_panic() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let limited = |args: &[&str], threads: usize| {
        // The limit does not count for root.
        let script = format!(
            "[ $(id -u) = 0 ] && set -- setpriv --reuid=64321 --clear-groups \"$@\"; ulimit -u {threads}; exec \"$@\""
        );
        let plain = swarm.command(args);
        let mut limited = Command::new("bash");
        limited.args(["-c", &script, "bash"]).arg(plain.get_program()).args(plain.get_args());
        limited.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = limited.env("PATH", "/usr/bin:/bin").output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for args in [&["layer"][..], &["verify"], &["fleet"]] {
        let (code, said) = limited(args, 1);
        assert_eq!(code, Some(3), "{args:?}: {said}");
        assert!(said.contains("threads") && said.contains("ulimit -u"), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        // Its own and four more are enough. All threads of a user count, so this one must have no others.
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let (_, said) = limited(args, 5);
            assert!(!said.contains("threads") && !said.contains("panicked"), "{args:?}: {said}");
        }
    }
    // A daemon is asked without any.
    let (code, said) = limited(&["status"], 1);
    assert!(code == Some(3) && said.contains("is the daemon running") && !said.contains("threads"), "{said}");
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let swarm = Swarm::on_sqlite();
    for args in [&["state", "list"][..], &["config", "worker"]] {
        let mut command = swarm.command(args);
        command.env("RULESYNCD_DATABSE_URL", "sqlite:///elsewhere").env("RULESYNCD_TEST_LONG", "1");
        let output = command.output().unwrap();
        let said = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(said.matches("did you mean RULESYNCD_DATABASE_URL?").count(), 1, "{args:?}: {said}");
        assert!(!said.contains("RULESYNCD_TEST_LONG"), "{args:?}: {said}");
    }
}

#[test]
fn a_cause_that_a_message_names_is_not_named_again() {
    let swarm = Swarm::on_sqlite();
    for args in [&["watch"][..], &["worker", "--socket", "/nowhere/at/all"]] {
        let said = text(&swarm.run(args).stderr);
        assert_eq!(said.matches("No such file or directory").count(), 1, "{args:?}: {said}");
    }
}
