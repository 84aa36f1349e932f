//! SQLite: `fleet` and `--wait` ask the workers at their sockets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::Value;

use super::wait::begin;
use super::{stderr, subscribe, worker};
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

/// SQLite is one host: its workers are asked.
#[test]
fn on_sqlite_the_workers_are_asked() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let (one, _two) = (worker(&swarm, "w1", "w1"), worker(&swarm, "w2", "w2"));
    let (mut first, mut second) = (subscribe(&swarm, "w1"), subscribe(&swarm, "w2"));
    let sockets = ["w1.sock", "w2.sock"].map(|name| format!("--socket={}", swarm.path(name).display()));
    let shown = swarm.succeed(&["fleet", &sockets[0], &sockets[1]]);
    assert!(shown.contains("2 of 2 in sync"), "{shown}");
    // A worker that is named twice, or by a link, is one host.
    std::os::unix::fs::symlink(swarm.path("w1.sock"), swarm.path("link.sock")).unwrap();
    let link = format!("--socket={}", swarm.path("link.sock").display());
    let output = swarm.run(&["fleet", "--expect", "2", &sockets[0], &sockets[0], &link]);
    assert!(text(&output.stdout).contains("1 of 1 in sync"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "two hosts were expected");
    let waited = swarm.succeed(&["state", "set", "R1", "disabled", "--wait=20s", &sockets[0], &sockets[1]]);
    assert!(waited.contains("all 2 hosts have it"), "{waited}");
    assert_eq!(first.change()["new_value"]["state"], "disabled");
    assert_eq!(second.change()["new_value"]["state"], "disabled");
    // Who ever acknowledged is waited for, if that is asked.
    first.send(r#"{"op":"ack","seq":1}"#);
    let acknowledged = ["--acknowledged", &sockets[0], &sockets[1]];
    let with = |arguments: &[&'static str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(acknowledged).collect();
        swarm.run(&arguments)
    };
    wait_for("the acknowledgement", || with(&["fleet", "--wait=10s"]).status.success().then_some(()));
    let output = with(&["state", "clear", "R1", "--wait=1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/w1 (0 of 1 subscribers acknowledged)"), "{}", stderr(&output));
    first.send(r#"{"op":"ack","seq":2}"#);
    let output = with(&["fleet", "--wait=20s"]);
    assert!(output.status.success(), "{}", stderr(&output));
    one.stop();
    let output = swarm.run(&["fleet", &sockets[0], &sockets[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("does not answer"), "{}", text(&output.stdout));
    assert_eq!(swarm.run(&["fleet", "forget", "w1"]).status.code(), Some(2));
    let directory = Swarm::on_directory();
    assert_eq!(directory.run(&["fleet"]).status.code(), Some(2));
}

/// What `fleet --json` says of the workers at these sockets: name of the socket or id, and state, in order.
fn states(swarm: &Swarm, sockets: &[String]) -> Vec<(String, String)> {
    let mut command = swarm.command(&["fleet", "--json"]);
    let output = command.args(sockets).output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
    assert_eq!(output.status.code(), Some(i32::from(shown["in_sync"] != true)), "{shown}");
    let states = shown["hosts"].as_array().unwrap().iter().map(|host| {
        let id = host["worker_id"].as_str().unwrap();
        let reason =
            host["state"]["reason"].as_str().map_or_else(String::new, |reason| format!(": {reason}"));
        let id = id.rsplit('/').next().unwrap().to_owned();
        (id, format!("{}{reason}", host["state"]["state"].as_str().unwrap()))
    });
    let mut states: Vec<_> = states.collect();
    states.sort();
    states
}

fn until(swarm: &Swarm, sockets: &[String], wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect();
    wait_for(&format!("{wanted:?}"), || (states(swarm, sockets) == wanted).then_some(()));
}

/// Three workers, of which one is frozen.
#[test]
fn of_three_workers_the_frozen_one_is_named() {
    let swarm = Swarm::on_sqlite();
    for number in 0..10 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    swarm.succeed(&["sync"]);
    let names = ["w1", "w2", "w3"];
    let workers = names.map(|name| worker(&swarm, name, name));
    let sockets = names.map(|name| format!("--socket={}", swarm.path(&format!("{name}.sock")).display()));
    let in_sync = names.map(|name| (name, "in_sync"));
    until(&swarm, &sockets, &in_sync);
    let with = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(sockets.iter().map(String::as_str)).collect();
        args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<String>>()
    };
    let run = |args: &[&str]| swarm.command(&[]).args(with(args)).output().unwrap();

    workers[1].freeze();
    // It does not answer at the write, so it is not waited for, and named.
    let output = run(&["state", "set", "R1", "disabled", "--wait=30s"]);
    let (said, printed) = (stderr(&output), text(&output.stdout));
    assert!(output.status.success() && printed.contains("all 2 hosts have it"), "{printed}{said}");
    assert!(said.contains("not waited for: ") && said.contains("/w2.sock (silent)"), "{said}");
    assert!(!said.contains("w1.sock") && !said.contains("w3.sock"), "{said}");
    until(&swarm, &sockets, &[("w1", "in_sync"), ("w2.sock", "silent"), ("w3", "in_sync")]);

    // One that answers again before the others have everything counts as one that came later.
    workers[0].freeze();
    let args = with(&["state", "clear", "R1", "--wait=60s", "--strict"]);
    let waiting = begin(&swarm, &args.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for("the write", || swarm.succeed(&["state", "get", "R1"]).contains("enabled").then_some(()));
    workers[0].thaw();
    workers[1].thaw();
    let output = waiting.wait_with_output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("all 3 hosts have it"), "{printed}{}", stderr(&output));
    until(&swarm, &sockets, &in_sync);

    // Whoever deletes rows cannot empty the workers at once, an operator neither: the wait says so, and the fleet.
    (1..10).for_each(|number| swarm.remove(&format!("R{number}.yaml")));
    let output = run(&["sync", "--allow-mass-delete", "--wait=60s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    let is_named = |name: &&str| said.contains(&format!("/{name} (withheld 9 deletions)"));
    assert!(said.contains("not followed at ") && names.iter().all(is_named), "{said}");
    until(&swarm, &sockets, &names.map(|name| (name, "differs: withheld 9 deletions")));
}

/// A worker of a version that does not report says what it serves, and nothing of the tables' version.
#[test]
fn a_worker_that_does_not_report_is_compared_by_its_digest() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = worker(&swarm, "w1", "w1");
    let new = swarm.path("w1.sock");
    let sockets = ["w1.sock", "old.sock"].map(|name| format!("--socket={}", swarm.path(name).display()));
    until(&swarm, &sockets[..1], &[("w1", "in_sync")]);
    // Such a version: this one, whose answers lack the report, and which hears nothing from now on.
    let status = swarm.succeed(&["status", "--json", "--socket", new.to_str().unwrap()]);
    let mut status: Value = serde_json::from_str(&status).unwrap();
    status.as_object_mut().unwrap().remove("report").unwrap();
    let epoch = status["stream"]["epoch"].as_str().unwrap();
    let other = if epoch.ends_with('0') { "1" } else { "0" };
    status["stream"]["epoch"] = (epoch[..epoch.len() - 1].to_owned() + other).into();
    let listener = UnixListener::bind(swarm.path("old.sock")).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            let mut worker = BufReader::new(UnixStream::connect(&new).unwrap());
            let line = |from: &mut BufReader<UnixStream>| {
                let mut line = String::new();
                from.read_line(&mut line).map(|_| line).unwrap_or_default()
            };
            client.get_mut().write_all(line(&mut worker).as_bytes()).ok();
            let request = line(&mut client);
            worker.get_mut().write_all(request.as_bytes()).ok();
            let mut answer: Value = serde_json::from_str(&line(&mut worker)).unwrap_or_default();
            answer["result"] = status.clone();
            writeln!(client.get_mut(), "{answer}").ok();
        }
    });
    until(&swarm, &sockets, &[("old.sock", "in_sync"), ("w1", "in_sync")]);
    // A change that it has not got: nobody knows whether it comes.
    let args = ["state", "set", "R1", "disabled", "--wait=30s", &*sockets[0], &*sockets[1]];
    let output = swarm.run(&args);
    let (said, printed) = (stderr(&output), text(&output.stdout));
    assert!(output.status.success() && printed.contains("the host has it"), "{printed}{said}");
    assert!(
        said.contains("not waited for: ") && said.contains("/old.sock (cannot read the version)"),
        "{said}"
    );
    until(&swarm, &sockets, &[("old.sock", "unknown"), ("w1", "in_sync")]);
}

/// What was written is waited for; the exit code is that of the directory all the same.
#[test]
fn a_sync_waits_also_where_a_file_is_invalid() {
    let swarm = Swarm::on_sqlite();
    swarm.save("a.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    swarm.save("a.yaml", rule_text("R1", 2));
    swarm.save("b.yaml", "name: yes\n");
    let output = swarm.run(&["sync", "--wait=60s"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 changed") && said.contains("1 invalid") && said.contains("has it"), "{said}");
}
