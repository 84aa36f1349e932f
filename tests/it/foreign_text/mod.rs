//! Text of foreign origin steers no terminal and forges no line of a log: every control character in every
//! text that comes from files, rows, servers and sockets, and everything that the program writes.

mod sockets;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::forged::message;
use crate::support::impostor::packet;
use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text, wait_for};

/// What shows that a foreign text was written, and begins no line.
const CANARY: &str = "FORGED";

/// Every character that steers a terminal or rearranges a text, but for NUL, which no name of a file and no text
/// of PostgreSQL has: C0, DEL and C1, the bidirectional controls, the separators of lines and paragraphs.
fn controls() -> impl Iterator<Item = char> {
    let ranges = ['\u{1}'..='\u{1f}', '\u{7f}'..='\u{9f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    ranges.into_iter().flatten().chain(['\u{61c}', '\u{200e}', '\u{200f}'])
}

/// All of them in one text, and the canary after those that end a line, change the colour or clear the screen.
fn hostile() -> String {
    let all: String = controls().collect();
    format!("a{all}\n{CANARY}\r{CANARY}\u{1b}[31m{CANARY}\u{1b}]0;{CANARY}\u{7}\u{9b}2J{CANARY}")
}

/// Fails where `written` has a control character that is not an end of a line or, where there is to be colour, a
/// change of colour that is the program's own; a difference keeps the tabs of a file.
fn assert_harmless(what: &str, written: &[u8], has_colour: bool) {
    let is_difference = what.contains("--diff");
    let text = std::str::from_utf8(written).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut rest = text;
    let is_kept = |c| c == '\n' || is_difference && c == '\t';
    while let Some(at) = rest.find(|c| !is_kept(c) && controls().any(|control| control == c) || c == '\0') {
        let (before, tail) = rest.split_at(at);
        let last = before.rsplit('\n').next();
        let shown = || format!("{what}: {:?} after {last:?}", tail.chars().take(9).collect::<String>());
        let colour = tail.strip_prefix("\u{1b}[").and_then(|tail| tail.split_once('m'));
        let (code, next) = colour.filter(|_| has_colour).unwrap_or_else(|| panic!("{}", shown()));
        assert!(code.len() <= 2 && code.bytes().all(|digit| digit.is_ascii_digit()), "{}", shown());
        assert!(!next.starts_with(CANARY), "{}", shown());
        rest = next;
    }
    let mut lines = text.lines();
    assert!(!lines.any(|line| line.starts_with(CANARY)), "{what}: a forged line in {text:?}");
}

/// What a command is expected to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// The foreign text, escaped.
    Canary,
    /// Anything harmless.
    Anything,
}

/// Runs the commands, each with and without colour.
fn run_all(swarm: &Swarm, commands: &[(Writes, &[&str])]) {
    run_with(swarm, &["never", "always"], commands);
}

/// Runs the commands with each of these values of `--color`.
fn run_with(swarm: &Swarm, colours: &[&str], commands: &[(Writes, &[&str])]) {
    for &(writes, args) in commands {
        for &colour in colours {
            let output = swarm.command(args).args(["--color", colour]).output().unwrap();
            let what = format!("{args:?} with colour {colour}");
            assert_harmless(&what, &output.stdout, colour == "always");
            assert_harmless(&what, &output.stderr, colour == "always");
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            if writes == Writes::Canary {
                assert!(out.contains(CANARY) || err.contains(CANARY), "{what} wrote {out:?} and {err:?}");
            }
            if args.contains(&"--json") || args.contains(&"json") || args.contains(&"sarif") {
                for line in out.lines().filter(|_| !out.starts_with("{\n")) {
                    serde_json::from_str::<Value>(line)
                        .unwrap_or_else(|error| panic!("{what}: {error}: {line}"));
                }
            }
        }
    }
}

/// Starts a daemon, waits until its log has the canary, and holds the log and what it told systemd against the
/// rule.
fn assert_daemon_is_harmless(swarm: &Swarm, mode: &str, format: &str) {
    let socket = swarm.path(&format!("{mode}.{format}.notify"));
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    let daemon = swarm.daemon(mode, |command: &mut Command| {
        command.env("RULESYNCD_TELEMETRY_LOG_FORMAT", format).env("NOTIFY_SOCKET", &socket);
        command.env("RULESYNCD_LOG", "debug").env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
    });
    let log = daemon.log_path();
    wait_for("the foreign text in the log", || {
        fs::read_to_string(&log).unwrap().contains(CANARY).then_some(())
    });
    supervisor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 64 << 10];
    let mut status = String::new();
    while !status.contains("STATUS=") {
        let length = supervisor.recv(&mut buffer).unwrap();
        status = text(&buffer[..length]);
        assert_harmless("the word to systemd", &buffer[..length], false);
    }
    daemon.stop();
    let log = fs::read(log).unwrap();
    assert_harmless(&format!("the {format} log of the {mode}"), &log, false);
    if format == "json" {
        text(&log).lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
    }
}

/// A quoted text as YAML and JSON have it.
fn quoted(text: &str) -> String {
    let escape =
        |c: char| if c.is_ascii_graphic() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Files with the text in a name, in a value, in a key, as it is, and in a sample.
fn save_hostile_files(swarm: &Swarm) {
    let hostile = hostile();
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm
        .save("R2.yaml", rule_text("R2", 1).replace("name: rule R2", &format!("name: {}", quoted(&hostile))));
    swarm.save("R3.yaml", format!("{}{}: 1\n", rule_text("R3", 1), quoted(&hostile)));
    swarm.save("R4.yaml", format!("{}# {hostile}\n", rule_text("R4", 1)));
    swarm.save(
        "R5.yaml",
        rule_text("R5", 1).replace("rule_id: R5", &format!("rule_id: {}", quoted(&hostile))),
    );
    swarm.save("R6.yaml", rule_text("R6", 1).replace("'v1'", &quoted(&format!("({hostile}"))));
    swarm.save(&format!("{hostile}.yaml"), rule_text("R7", 1));
    swarm.save(&format!("b{hostile}.yaml"), "no rule");
    swarm.save(
        "R8.yaml",
        format!("rule_id: no  \r\n{}", rule_text("R8", 1).replace("rule_version: 1", "rule_version:\t1")),
    );
    swarm.save("R1.test.yaml", format!("must_match:\n  - {}\nmust_not_match:\n  - v1\n", quoted(&hostile)));
}

#[test]
fn of_files_and_rows() {
    let swarm = Swarm::on_sqlite();
    save_hostile_files(&swarm);
    run_all(&swarm, &[(Writes::Anything, &["sync"]), (Writes::Canary, &["sync", "--dry-run"])]);
    let literal = format!("'{}'", hostile());
    let of_file = rule_text("Q1", 1).replace('\'', "''");
    swarm.sql(&format!(
        "insert into ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) values \
         ({literal}, 1, {literal}, '{of_file}', '2026-01-01 00:00:00', {literal}), \
         ('Q1', 1, {literal}, '{of_file}', '2026-01-01 00:00:00', {literal}), \
         ('Q2', 1, 'Q2.yaml', {literal}, '2026-01-01 00:00:00', {literal});\
         insert into ttp_rule_state (rule_id, state, reason, set_by, set_at) values \
         ('Q1', 'disabled', {literal}, {literal}, '2026-01-01 00:00:00'), \
         ('R1', 'disabled', {literal}, {literal}, '2026-01-01 00:00:00'), \
         ('R2', {literal}, {literal}, {literal}, '2026-01-01 00:00:00'), \
         ({literal}, 'disabled', {literal}, {literal}, '2026-01-01 00:00:00');"
    ));
    for format in ["text", "json"] {
        assert_daemon_is_harmless(&swarm, "worker", format);
        assert_daemon_is_harmless(&swarm, "master", format);
    }
    let (_master, _worker) = (swarm.master(), swarm.worker());
    swarm.subscribe().snapshot();
    let rules = swarm.rules();
    let rules = rules.to_str().unwrap();
    let tests = swarm.rules().join("R1.test.yaml");
    run_all(
        &swarm,
        &[
            (Writes::Canary, &["check", rules]),
            (Writes::Canary, &["check", rules, "--format", "json"]),
            (Writes::Canary, &["check", rules, "--format", "github"]),
            (Writes::Canary, &["check", rules, "--format", "sarif"]),
            (Writes::Canary, &["check", rules, "--format", "junit"]),
            (Writes::Anything, &["check", rules, "--fix", "--diff"]),
            (Writes::Canary, &["test", rules]),
            (Writes::Anything, &["test", tests.to_str().unwrap()]),
            (Writes::Canary, &["state", "list"]),
            (Writes::Canary, &["state", "list", "--json"]),
            (Writes::Canary, &["state", "get", "R1"]),
            (Writes::Canary, &["state", "get", "R1", "--json"]),
            (Writes::Anything, &["state", "set", "R3", "disabled"]),
            (Writes::Canary, &["state", "set", "--where", "tactic=TA0007", "disabled"]),
            (Writes::Canary, &["state", "clear", "--all-by", "nobody"]),
            (Writes::Canary, &["state", "set", &hostile(), "disabled"]),
            (Writes::Canary, &["state", "set", "--where", &hostile(), "disabled"]),
            (Writes::Canary, &["status"]),
            (Writes::Canary, &["status", "--json"]),
            (Writes::Anything, &["status", "--check"]),
            (Writes::Anything, &["status", "--format", "prometheus"]),
            (Writes::Canary, &["watch", "--once"]),
            (Writes::Canary, &["watch", "--once", "--json"]),
            (Writes::Canary, &["why", "R1"]),
            (Writes::Canary, &["why", "R1", "--json"]),
            (Writes::Canary, &["why", "Q1"]),
            (Writes::Canary, &["why", "Q1", "--json"]),
            (Writes::Canary, &["verify"]),
            (Writes::Canary, &["verify", "--json"]),
            (Writes::Canary, &["layer"]),
            (Writes::Canary, &["sync", "--dry-run"]),
            (Writes::Anything, &["sync"]),
            (Writes::Anything, &["config", "worker"]),
            (Writes::Anything, &["allow-mass-delete"]),
            (Writes::Canary, &["why", &hostile()]),
            (Writes::Canary, &[&hostile()]),
            (Writes::Canary, &["check", &hostile()]),
            (Writes::Canary, &["history", &hostile()]),
            (Writes::Canary, &["state", "list", "--config", &hostile()]),
        ],
    );
    // Escaped, and nothing lost.
    let states = swarm.succeed(&["state", "list", "--json"]);
    let mut states = states.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(states.find(|state| state["rule_id"] == "Q1").unwrap()["reason"], hostile());
    let completed = swarm.command(&["--", "rulesyncd", "why", ""]).env("COMPLETE", "bash").output().unwrap();
    assert_harmless("completions", &completed.stdout, false);
}

#[test]
fn of_a_configuration() {
    let swarm = Swarm::on_sqlite();
    let file = swarm.path("config.yaml");
    for config in [
        format!("worker:\n  {}: 1\n", quoted(&hostile())),
        format!("worker:\n  poll_interval: {}\n", quoted(&hostile())),
        format!("worker:\n  socket: {}\n", quoted(&hostile())),
        format!("database:\n  url: {}\n", quoted(&hostile())),
        format!("telemetry:\n  log: {}\n", quoted(&hostile())),
        format!("# {}\n", hostile()),
    ] {
        fs::write(&file, config).unwrap();
        let file = file.to_str().unwrap();
        run_all(
            &swarm,
            &[
                (Writes::Anything, &["config", "worker", "--config", file]),
                (Writes::Anything, &["state", "list", "--config", file]),
                (Writes::Anything, &["status", "--config", file]),
            ],
        );
    }
    // Variables of the environment.
    for name in ["RULESYNCD_WORKER_POLL_INTERVAL", "RULESYNCD_DATABASE_URL", "RULESYNCD_LOG", "LOGNAME"] {
        let output = swarm.command(&["state", "list"]).env(name, OsString::from(hostile())).output().unwrap();
        assert_harmless(name, &output.stdout, false);
        assert_harmless(name, &output.stderr, false);
    }
}

/// A server that answers whoever connects with one error.
struct Liar {
    directory: TempDir,
    is_mysql: bool,
}

impl Liar {
    fn new(is_mysql: bool, error: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let (name, answer) = if is_mysql {
            ("sock", packet(0, &[b"\xff\x15\x04", error.as_bytes()].concat()))
        } else {
            let fields = ["SFATAL\0VFATAL\0CXX000\0M", error, "\0\0"].concat();
            (".s.PGSQL.5432", message(b'E', fields.as_bytes()))
        };
        let listener = UnixListener::bind(directory.path().join(name)).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, answer) = (client.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    // It ends when the other side does.
                    let told = client.write_all(&answer);
                    told.and_then(|()| io::copy(&mut client, &mut io::sink()).map(drop))
                });
            }
        });
        Self { directory, is_mysql }
    }

    fn address(&self) -> String {
        let directory = self.directory.path().display();
        if self.is_mysql {
            format!("mysql://root@localhost/rules?socket={directory}/sock&ssl-mode=disabled")
        } else {
            format!("postgresql://postgres@localhost/rules?host={directory}&port=5432")
        }
    }
}

/// Every command that connects to a database.
fn connecting(url: &str) -> Vec<Vec<&str>> {
    let commands = [
        &["sync"][..],
        &["sync", "--dry-run"],
        &["state", "list"],
        &["state", "list", "--json"],
        &["state", "get", "R1"],
        &["state", "get", "R1", "--json"],
        &["state", "set", "R1", "disabled"],
        &["state", "set", "R1", "disabled", "--json"],
        &["state", "clear", "R1"],
        &["verify"],
        &["verify", "--json"],
        &["layer"],
        &["why", "R1"],
        &["why", "R1", "--json"],
        &["check", "rules"],
    ];
    commands.map(|command| [command, &["--database-url", url]].concat()).into()
}

#[test]
fn of_a_database_server() {
    for is_mysql in [false, true] {
        let liar = Liar::new(is_mysql, &hostile());
        let swarm = Swarm::on(liar.address());
        swarm.save("R1.yaml", rule_text("R1", 1));
        let url = liar.address();
        let commands = connecting(&url);
        let commands: Vec<_> = commands.iter().map(|args| (Writes::Canary, &**args)).collect();
        run_all(&swarm, &commands);
        for (mode, format) in [("master", "text"), ("worker", "text"), ("master", "json"), ("worker", "json")]
        {
            assert_daemon_is_harmless(&swarm, mode, format);
        }
        let _worker = swarm.worker();
        run_all(
            &swarm,
            &[
                (Writes::Anything, &["status"][..]),
                (Writes::Anything, &["status", "--json"]),
                (Writes::Anything, &["status", "--check"]),
                (Writes::Anything, &["watch", "--once"]),
            ],
        );
    }
}

#[test]
fn a_long_error_of_a_database_server_is_cut_and_says_so() {
    // The frames of either protocol have bounds of their own, which the last is beyond.
    for length in [3 << 10, 8 << 20] {
        for is_mysql in [false, true] {
            let liar = Liar::new(is_mysql, &"x".repeat(length));
            let swarm = Swarm::on(liar.address());
            swarm.save("R1.yaml", rule_text("R1", 1));
            let url = liar.address();
            for args in connecting(&url) {
                let output = swarm.run(&args);
                assert!(!output.status.success());
                let written = text(&output.stdout) + &text(&output.stderr);
                assert!(written.len() < 4 << 10, "{args:?} wrote {} bytes", written.len());
                if length < 8 << 20 {
                    let cut = format!("… ({} bytes more)", length - 1024);
                    assert!(written.contains(&cut), "{args:?}: {written}");
                }
            }
        }
    }
}
