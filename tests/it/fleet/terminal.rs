//! What a person at a terminal sees of `fleet` and `--wait`, and a reader of a pipe.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::{stderr, subscribe, worker};
use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Subscriber, Swarm, text, wait_for};
use crate::support::terminal::Terminal;

/// On a terminal `--watch` draws over what it drew before; elsewhere it prints what is new, until nobody reads it.
#[test]
fn watch_redraws_on_a_terminal() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    wait_for("the worker", || swarm.run(&["fleet"]).status.success().then_some(()));
    let mut watch = swarm.command(&["fleet", "--watch"]);
    watch.stdout(std::fs::File::create(swarm.path("pipe")).unwrap());
    let (terminal, piped) = (Terminal::start(&swarm, &["fleet", "--watch"]), swarm.spawn(watch));
    let mut watch = swarm.command(&["fleet", "--watch"]);
    let mut left = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(left.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("HOST"), "{first}");
    let pipe = || std::fs::read_to_string(swarm.path("pipe")).unwrap();
    wait_for("three pictures", || (terminal.shown().matches("\u{1b}[H").count() >= 3).then_some(()));
    wait_for("the first text", || pipe().contains("1 of 1 in sync; changes 1").then_some(()));
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    let changed = "1 of 1 in sync; changes 2";
    wait_for("the change on the terminal", || terminal.shown().contains(changed).then_some(()));
    wait_for("the change in the pipe", || pipe().contains(changed).then_some(()));
    assert!(!pipe().contains('\u{1b}'), "{}", pipe());
    assert_eq!(pipe().matches("changes 1").count(), 1, "only what is new: {}", pipe());
    let ended = wait_for("the end of the one without a reader", || left.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    // While the database is away, the last picture stays above the error, and a pipe gets each error once.
    let away = swarm.path("away.db");
    std::fs::rename(swarm.path("rules.db"), &away).unwrap();
    piped.wait_for_log("rulesyncd: ");
    let drawn = || terminal.shown().matches("rulesyncd: ").count();
    wait_for("three pictures with the error", || (drawn() >= 3).then_some(()));
    let picture_again = || terminal.shown().split_once("rulesyncd: ").unwrap().1.contains("HOST");
    wait_for("the picture after an error", || picture_again().then_some(()));
    let log = piped.log();
    assert!(!log.lines().zip(log.lines().skip(1)).any(|(error, next)| error == next), "{log}");
    std::fs::rename(&away, swarm.path("rules.db")).unwrap();
}

/// Two workers, and a subscriber of the first that has acknowledged `R1 disabled`; the arguments of a wait for its next
/// acknowledgement.
fn acknowledging() -> (Swarm, [Daemon; 2], Subscriber, Vec<String>) {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let workers = ["w1", "w2"].map(|name| worker(&swarm, name, name));
    let mut subscriber = subscribe(&swarm, "w1");
    let sockets = ["w1.sock", "w2.sock"].map(|name| format!("--socket={}", swarm.path(name).display()));
    let waits = [&["--wait=60s".to_owned(), "--acknowledged".to_owned()], &sockets[..]].concat();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "disabled");
    subscriber.send(r#"{"op":"ack","seq":1}"#);
    wait_for("the acknowledgement", || {
        let status = swarm.path("w1.sock");
        let status = swarm.succeed(&["status", "--json", "--socket", status.to_str().unwrap()]);
        status.contains("\"acknowledged\":1").then_some(())
    });
    (swarm, workers, subscriber, waits)
}

fn with<'a>(args: &[&'a str], waits: &'a [String]) -> Vec<&'a str> {
    args.iter().copied().chain(waits.iter().map(String::as_str)).collect()
}

#[test]
fn the_progress_of_a_wait_is_shown_on_a_terminal_and_wiped() {
    let (swarm, _workers, mut subscriber, waits) = acknowledging();
    let mut terminal = Terminal::start(&swarm, &with(&["state", "clear", "R1"], &waits));
    assert!(terminal.until("1 of 2 hosts"), "{}", terminal.shown());
    subscriber.send(r#"{"op":"ack","seq":2}"#);
    let (shown, code) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    let (_, after) = shown.rsplit_once("1 of 2 hosts").unwrap();
    let (wiped, said) = (after.find("\u{1b}[2K"), after.find("all 2 hosts have it, after "));
    assert!(wiped.is_some() && wiped < said, "{shown:?}");
    // Elsewhere only the outcome is said.
    let waits: Vec<String> = waits.iter().map(|flag| flag.replace("--wait=60s", "--wait=1s")).collect();
    let output = swarm.run(&with(&["state", "set", "R1", "disabled"], &waits));
    let said = stderr(&output);
    assert!(said.starts_with("rulesyncd: after 1s, 1 of 2 hosts lacks the change: "), "{said:?}");
    assert!(said.lines().count() == 1 && !said.contains(['\r', '\u{1b}']), "{said:?}");
}

/// Whoever gives up waiting is told that the change stays written, and who lacks it.
#[test]
fn an_interrupted_wait_says_that_the_change_stays() {
    let (swarm, _workers, mut subscriber, waits) = acknowledging();
    let interrupted = |args: &[&str]| {
        let mut terminal = Terminal::start(&swarm, &with(args, &waits));
        assert!(terminal.until("1 of 2 hosts"), "{}", terminal.shown());
        terminal.enter("\u{3}");
        let (shown, code) = terminal.end();
        assert_eq!(code, -2, "a shell ends its script only if the signal ended the command: {shown:?}");
        shown
    };
    let shown = interrupted(&["state", "set", "R1", "clipped"]);
    assert!(shown.contains("interrupted after "), "{shown:?}");
    assert!(shown.contains(": what was written stays, and 1 of 2 hosts lacks the change: "), "{shown:?}");
    // Why it lacks it depends on how far the first worker was when the wait last looked.
    assert!(shown.contains("/w1 (") && !shown.contains("/w2 ("), "{shown:?}");
    assert!(swarm.succeed(&["state", "get", "R1"]).contains("clipped"));
    assert_eq!(subscriber.change()["new_value"]["state"], "clipped");
    let shown = interrupted(&["fleet"]);
    assert!(shown.contains("/w1 (0 of 1 subscribers acknowledged)"), "{shown:?}");
    assert!(shown.contains("interrupted after ") && !shown.contains("written"), "{shown:?}");
    assert!(!shown.contains("HOST"), "it looks no further: {shown:?}");
}

/// Its id is the machine's where nobody gave it one.
#[test]
fn a_worker_without_an_id_has_that_of_the_machine() {
    let swarm = Swarm::on_sqlite();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let _worker = swarm.worker();
    let read = |path: &str| std::fs::read_to_string(path).map(|id| id.trim().to_owned()).unwrap_or_default();
    let machine = [read("/etc/machine-id"), read("/proc/sys/kernel/hostname")];
    let machine = machine.iter().find(|id| !id.is_empty()).unwrap();
    let shown = wait_for("the worker", || {
        let output = swarm.run(&["fleet", "--json"]);
        output.status.success().then(|| text(&output.stdout))
    });
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["hosts"][0]["worker_id"], *machine, "{shown}");
}
