//! Invalid input causes an error that says where it is, what it is and what to do, and nothing is lost.

use std::fs;

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, copy_of_the_program, text, wait_for};

/// Runs a command that must fail with `code`, and returns its error output.
fn refused(swarm: &Swarm, args: &[&str], code: i32) -> String {
    let output = swarm.run(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

#[test]
fn a_missing_directory_names_the_key_and_deletes_nothing() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    fs::rename(swarm.rules(), swarm.path("aside")).unwrap();
    let said = refused(&swarm, &["sync"], 3);
    assert!(said.contains(&*swarm.rules().to_string_lossy()) && said.contains("master.rules_dir"), "{said}");
    assert_eq!(swarm.rows().len(), 1);
}

#[test]
fn an_empty_directory_is_fine_and_keeps_up_to_five_rows_only() {
    let swarm = Swarm::on_sqlite();
    assert_eq!(
        swarm.succeed(&["sync"]),
        format!("0 added, 0 changed, 0 deleted, 0 unchanged\non {}\n", swarm.url())
    );
}

#[test]
fn every_kind_of_junk_is_named_and_stops_nothing_else() {
    let swarm = Swarm::on_sqlite();
    let at = |name: &str| swarm.rules().join(name);
    swarm.save("good.yaml", rule_text("GOOD", 1));
    swarm.save("large.yaml", vec![b'#'; 10 << 20]);
    swarm.save("junk.yaml", [0xff, 0xfe, 0, 1, 2]);
    fs::create_dir(at("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("fifo.yaml")).status().unwrap().success());
    let output = swarm.run(&["sync"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        format!("1 added, 0 changed, 0 deleted, 0 unchanged, 4 invalid\non {}\n", swarm.url())
    );
    let said = text(&output.stderr);
    for name in ["large", "junk", "dangling", "fifo"] {
        assert_eq!(said.matches(&format!(" {name}.yaml:")).count(), 1, "{name} in\n{said}");
    }
    assert!(!said.contains("folder"), "a folder is passed over: {said}");
    assert_eq!(swarm.rows().len(), 1);
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_as_it_is() {
    let swarm = Swarm::on_sqlite();
    let junk = "this is a letter, not a database; ".repeat(100);
    fs::write(swarm.path("rules.db"), &junk).unwrap();
    for (command, code) in [("sync", 3), ("master", 2), ("worker", 2)] {
        let said = refused(&swarm, &[command], code);
        assert!(said.contains("rules.db"), "{command}: {said}");
    }
    assert_eq!(fs::read_to_string(swarm.path("rules.db")).unwrap(), junk);
}

#[test]
fn an_unknown_key_and_an_unknown_word_are_usage_errors_with_a_neighbour() {
    let swarm = Swarm::on_sqlite();
    let file = swarm.path("config.yaml");
    fs::write(&file, "worker:\n  poll_intervall: 1s\n").unwrap();
    let file = file.to_string_lossy().into_owned();
    for command in [vec!["worker"], vec!["master"], vec!["sync"], vec!["config", "worker"]] {
        let said = refused(&swarm, &[&command[..], &["--config", &file]].concat(), 2);
        assert!(said.contains("config.yaml:2") && said.contains("did you mean `poll_interval`?"), "{said}");
    }
    refused(&swarm, &["snyc"], 2);
}

#[test]
fn a_socket_path_that_is_too_long_is_told_before_anything_is_served() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    let long = format!("/tmp/{}.sock", "x".repeat(120));
    let said = refused(&swarm, &["worker", "--socket", &long], 3);
    assert!(said.contains("107"), "{said}");
}

#[test]
fn a_password_is_never_shown() {
    let swarm = Swarm::on("mysql://someone:hunter2@127.0.0.1:1/rules");
    for args in [vec!["config", "master"], vec!["state", "list"], vec!["sync"]] {
        let output = swarm.run(&args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains("hunter2"), "{args:?}: {said}");
    }
}

/// The program, run as a user who owns nothing here; if the tests do not run as root, as their user.
fn as_nobody(swarm: &Swarm, args: &[&str]) -> std::process::Output {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    let program = copy_of_the_program(&swarm.path("."));
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    fs::set_permissions(swarm.path("."), fs::Permissions::from_mode(if root { 0o755 } else { 0o700 }))
        .unwrap();
    let mut command = std::process::Command::new(program);
    for (name, value) in swarm.command(&[]).get_envs() {
        command.env(name, value.unwrap());
    }
    if root {
        command.uid(65_534).gid(65_534);
    }
    command.args(args).output().unwrap()
}

#[test]
fn what_may_not_be_read_or_written_is_told_with_the_systems_reason() {
    use std::os::unix::fs::PermissionsExt as _;
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("A", 1));
    swarm.save("b.yaml", rule_text("B", 1));
    swarm.succeed(&["sync"]);
    let before = swarm.rows();
    let mode =
        |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    mode(&swarm.rules().join("a.yaml"), 0o000);
    swarm.save("b.yaml", rule_text("B", 2));
    let plan = as_nobody(&swarm, &["sync", "--dry-run"]);
    let said = text(&plan.stdout) + &text(&plan.stderr);
    assert!(said.contains("a.yaml: it cannot be read: Permission denied") && said.contains("~ B "), "{said}");
    assert!(said.contains("0 to delete"), "a file that cannot be read keeps its row: {said}");

    mode(&swarm.path("rules.db"), 0o444);
    let output = as_nobody(&swarm, &["sync"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("rules.db"), "{said}");

    mode(&swarm.rules(), 0o000);
    let output = as_nobody(&swarm, &["sync"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("Permission denied") && said.contains("master.rules_dir"), "{said}");
    mode(&swarm.rules(), 0o755);
    assert_eq!(swarm.rows(), before);
}

#[test]
fn the_collectors_password_is_not_shown() {
    let swarm = Swarm::on_sqlite();
    for (address, shown) in [
        ("http://user:hunter2@collector:4318", "http://user:***@collector:4318"),
        ("https://user:hunter2@with/an@collector/x", "https://user:***@collector/x"),
        ("https://hunter2@collector", "https://***@collector"),
        ("user:hunter2@collector:4318", "user:***@collector:4318"),
        ("http://collector:4318/v1", "http://collector:4318/v1"),
    ] {
        let output =
            swarm.command(&["config", "worker"]).env("RULESYNCD_TELEMETRY_OTLP", address).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(&format!("  otlp: \"{shown}\"")) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn what_others_wrote_forges_no_line_and_steers_no_terminal() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    swarm.succeed(&["state", "set", "A", "disabled"]);
    let hostile = "'x' || char(10) || 'forged' || char(27) || '[31m'";
    swarm.sql(&format!("update ttp_rule set updated_by = {hostile}, rule_version = 9"));
    swarm.sql(&format!("update ttp_rule_state set reason = {hostile}, set_by = {hostile}"));
    let harmless = |what: &str, said: &str| {
        assert!(said.contains("forged"), "{what}: {said}");
        assert!(
            !said.contains('\x1b') && !said.lines().any(|line| line.starts_with("forged")),
            "{what}: {said:?}"
        );
    };
    for args in [&["sync", "--dry-run"][..], &["state", "list"], &["state", "get", "A"]] {
        harmless(args[0], &swarm.succeed(args));
    }
    let master = swarm.master();
    master.wait_for_log("the master overwrites it with");
    harmless("the log", &master.log());
}

#[test]
fn a_time_that_cannot_be_kept_is_a_usage_error() {
    let swarm = Swarm::on_sqlite();
    let durations = [
        ("RULESYNCD_WORKER_POLL_INTERVAL", "367d", "at most 366d"),
        ("RULESYNCD_WORKER_POLL_INTERVAL", "1ns", "at least 1ms"),
        ("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "0s", "at least 1ms"),
        ("RULESYNCD_WORKER_OVERLAP", "999999999h", "at most 366d"),
        ("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "18446744073709551615s", "at most 366d"),
        ("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "18446744073709551615s", "at most 366d"),
        ("RULESYNCD_MASTER_RESCAN_INTERVAL", "18446744073709551615s", "at most 366d"),
        ("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "61m", "at most 1h"),
        ("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1ns", "at least 1ms"),
    ];
    for (variable, value, expected) in durations {
        let output = swarm.command(&["config", "worker"]).env(variable, value).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{variable}={value}: {said}");
        assert!(said.contains(variable) && said.contains(expected), "{variable}={value}: {said}");
    }
}

#[test]
fn a_cache_that_is_no_file_is_told_and_left_as_it_is() {
    use std::os::unix::fs::FileTypeExt as _;
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let cache = swarm.path("catalogue.ndjson");
    assert!(std::process::Command::new("mkfifo").arg(&cache).status().unwrap().success());
    let worker = swarm.worker();
    assert_eq!(swarm.subscribe().snapshot().len(), 1, "served all the same");
    worker.wait_for_log("catalogue.ndjson cannot be read: it is a FIFO, not a file");
    worker.wait_for_log("catalogue.ndjson cannot be written: it is a FIFO, not a file");
    worker.stop();
    assert!(fs::symlink_metadata(&cache).unwrap().file_type().is_fifo());
}

#[test]
fn a_database_that_no_start_can_use_ends_a_daemon_as_its_configuration_does() {
    let swarm = Swarm::on_sqlite();
    fs::write(swarm.path("text"), "this is no database at all").unwrap();
    let text_file = format!("sqlite://{}", swarm.path("text").display());
    for (url, expected) in [
        (text_file.as_str(), "not a SQLite database"),
        ("mysql://u@db.example.org/x?sslrootcert=/nonexistent.pem", "/nonexistent.pem"),
        ("postgres://u@db.example.org/x?sslmode=disable", "allow_plaintext"),
    ] {
        for mode in ["master", "worker"] {
            // systemd does not restart a daemon that exits with 2.
            let said = refused(&swarm, &[mode, "--database-url", url], 2);
            assert!(said.contains(expected), "{said}");
        }
    }
}

#[test]
fn a_pattern_that_python_does_not_compile_is_taken_and_is_a_warning_without_its_text() {
    let swarm = Swarm::on_sqlite();
    let with = |pattern: &str| {
        format!("{}\n", rule_text("A", 1).replace("pattern: 'v1'", &format!("pattern: '{pattern}'")))
    };
    swarm.save("a.yaml", with("(secret"));
    let place = with("").lines().position(|line| line.contains("pattern: ''")).unwrap() + 1;
    let warned = format!("a.yaml:{place}:");
    let master = swarm.master();
    master.wait_for_log(&warned);
    let log = master.log();
    let line = log.lines().find(|line| line.contains(&warned)).unwrap();
    assert!(
        line.contains("WARN") && line.contains("match.pattern: Python's `re` does not compile the pattern"),
        "{line}"
    );
    master.wait_for_log("A added from a.yaml");
    assert_eq!(swarm.rows().len(), 1);
    assert!(!log.contains("secret"), "{log}");
    // `check` warns of it; with a setting it is an error.
    let path = swarm.rules().join("a.yaml");
    assert!(swarm.succeed(&["check", path.to_str().unwrap()]).contains("warning[pattern]"));
    assert_eq!(swarm.run(&["check", "--strict", path.to_str().unwrap()]).status.code(), Some(1));
    // A changed text is checked again, an unchanged one is not.
    master.signal("HUP");
    swarm.save("b.yaml", rule_text("B", 1));
    master.wait_for_log("B added from b.yaml");
    assert_eq!(master.count_in_log(&warned), 1);
    swarm.save("a.yaml", with("(another"));
    wait_for("a second warning", || (master.count_in_log(&warned) == 2).then_some(()));
}
