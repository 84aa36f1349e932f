//! A command without flags uses the database of this host's daemons, or none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::namespace::MountNamespace;
use crate::support::rules::rule_text;
use crate::support::swarm::{copy_of_the_program, text, wait_for};

const RULES: &str = "/etc/rulesyncd/rules";
const A: &str = "sqlite:///var/lib/rulesyncd/a.db";
const B: &str = "sqlite:///var/lib/rulesyncd/b.db";

/// A daemon inside; killed when dropped.
struct Running(Child);

impl Running {
    fn start(host: &MountNamespace, adapt: impl FnOnce(&mut Command), args: &[&str]) -> Self {
        let mut command = host.rulesyncd(args);
        adapt(&mut command);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// A master that holds its lock, and has compared everything.
    fn master(host: &MountNamespace, args: &[&str]) -> Self {
        let running = Self::start(host, |_| {}, &[&["master"], args].concat());
        wait_for("the master to have the lock", || {
            let (_, status, _) = host.run(&["status", "--json"]);
            (status.contains(r#""lock":"held""#) && !status.contains(r#""reconciled_at":null"#)).then_some(())
        });
        running
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args(["-s", signal, &self.0.id().to_string()]).status().unwrap().success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with so many rules in its directory.
fn host(rules: u32) -> MountNamespace {
    let host = MountNamespace::new();
    for number in 0..rules {
        let id = format!("DIS{number:04}");
        fs::write(host.path(&format!("{RULES}/{id}.yaml")), rule_text(&id, 1)).unwrap();
    }
    host
}

fn configure(host: &MountNamespace, daemon: &str, text: &str) {
    fs::write(host.path(&format!("/etc/rulesyncd/{daemon}.yaml")), text).unwrap();
}

/// The states in a SQLite file, as another reader sees them.
fn states(host: &MountNamespace, file: &str) -> String {
    let script = "import sqlite3, sys\n\
        rows = sqlite3.connect(sys.argv[1]).execute('select rule_id, state from ttp_rule_state order by 1')\n\
        print(*[f'{rule_id}={state}' for rule_id, state in rows])";
    text(&host.command(&["python3", "-c", script, file]).output().unwrap().stdout).trim().to_owned()
}

fn succeed(host: &MountNamespace, args: &[&str]) -> String {
    let (code, printed, said) = host.run(args);
    assert_eq!(code, 0, "{args:?}: {printed}{said}");
    printed
}

/// Runs a command that must end with `code`, and print each of `words`.
fn refuses(host: &MountNamespace, args: &[&str], code: i32, words: &[&str]) {
    let (ended, printed, said) = host.run(args);
    assert_eq!(ended, code, "{args:?}: {printed}{said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: no `{word}` in {said}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_files_of_the_daemons_are_read_and_two_databases_are_not_chosen_from_as_root() {
    let host = host(2);
    configure(&host, "master", &format!("database: {{url: '{A}'}}\n"));
    configure(&host, "worker", "worker: {poll_interval: 2s}\n");
    assert_eq!(succeed(&host, &["sync"]), format!("2 added, 0 changed, 0 deleted, 0 unchanged\non {A}\n"));
    let set = succeed(&host, &["state", "set", "DIS0001", "disabled"]);
    assert!(set.starts_with("DIS0001 is disabled") && set.ends_with(&format!("\non {A}\n")), "{set}");
    assert_eq!(states(&host, "/var/lib/rulesyncd/a.db"), "DIS0001=disabled");
    let shown = succeed(&host, &["config", "master"]);
    assert!(shown.contains(&format!("url: \"{A}\"  # /etc/rulesyncd/master.yaml:1")), "{shown}");
    let shown = succeed(&host, &["config", "worker"]);
    assert!(shown.contains("poll_interval: 2s  # /etc/rulesyncd/worker.yaml:1"), "{shown}");

    configure(&host, "worker", &format!("database: {{url: '{B}'}}\n"));
    for args in [&["state", "set", "DIS0000", "disabled"][..], &["sync"], &["verify"], &["why", "DIS0000"]] {
        refuses(
            &host,
            args,
            2,
            &["master.yaml names the database", A, "worker.yaml names", B, "--database-url"],
        );
    }
    assert!(!host.path("/var/lib/rulesyncd/b.db").exists());
    assert_eq!(states(&host, "/var/lib/rulesyncd/a.db"), "DIS0001=disabled");
    let set = succeed(&host, &["state", "clear", "DIS0001", "--database-url", A]);
    assert_eq!(set, format!("DIS0001 is enabled again\non {A}\n"));
    // The same database in two spellings counts as one.
    configure(&host, "worker", "database: {url: 'sqlite:///var/lib/../lib/rulesyncd/a.db'}\n");
    succeed(&host, &["state", "list"]);
}

#[test]
#[ignore = "needs root"]
fn the_running_daemon_is_asked_for_its_database_and_directory_as_root() {
    let host = host(0);
    let elsewhere = host.shared().join("rules");
    fs::create_dir(&elsewhere).unwrap();
    for number in 0..12 {
        let id = format!("DIS{number:04}");
        fs::write(elsewhere.join(format!("{id}.yaml")), rule_text(&id, 1)).unwrap();
    }
    let master = Running::master(&host, &["--database-url", B, "--rules-dir", elsewhere.to_str().unwrap()]);
    let set = succeed(&host, &["state", "set", "DIS0002", "disabled", "--json"]);
    assert!(set.contains(&format!(r#""database":"{B}""#)), "{set}");
    assert_eq!(states(&host, "/var/lib/rulesyncd/b.db"), "DIS0002=disabled");
    assert!(!host.path("/var/lib/rulesyncd/rules.db").exists(), "the default is not the daemon's");
    assert!(succeed(&host, &["config", "master"]).contains(&format!("url: \"{B}\"  # the running master")));
    assert!(succeed(&host, &["why", "DIS0002"]).contains("in sync: directory, tables\n"));

    // The commands that `systemctl status` and the message catalogue suggest work unchanged.
    for number in 0..12 {
        fs::remove_file(elsewhere.join(format!("DIS{number:04}.yaml"))).unwrap();
    }
    wait_for("the deletions to be held back", || {
        host.run(&["status"]).1.contains("deletions held back").then_some(())
    });
    let (code, printed, _) = host.run(&["sync"]);
    assert_eq!((code, printed.contains("12 deletions held back")), (1, true), "{printed}");
    let printed = succeed(&host, &["sync", "--allow-mass-delete"]);
    assert_eq!(printed, format!("0 added, 0 changed, 12 deleted, 0 unchanged\non {B}\n"));

    // A database other than the daemon's is refused, whatever names it, except the flag.
    configure(&host, "master", &format!("database: {{url: '{A}'}}\n"));
    refuses(
        &host,
        &["sync"],
        2,
        &["master.yaml:1 names the database", A, "the master of this host uses", B, "--database-url"],
    );
    assert!(!host.path("/var/lib/rulesyncd/a.db").exists());
    let printed = succeed(&host, &["sync", "--database-url", A]);
    assert_eq!(printed, format!("0 added, 0 changed, 0 deleted, 0 unchanged\non {A}\n"));
    fs::remove_file(host.path("/etc/rulesyncd/master.yaml")).unwrap();

    // A daemon that hangs does not answer, and nothing is guessed.
    master.signal("STOP");
    let begun = Instant::now();
    refuses(
        &host,
        &["state", "set", "DIS0002", "disabled"],
        3,
        &["did not answer within 5s", "--database-url"],
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!host.path("/var/lib/rulesyncd/rules.db").exists());
    master.signal("CONT");
}

#[test]
#[ignore = "needs root"]
fn a_state_of_an_unknown_rule_is_refused_with_near_names_as_root() {
    let host = host(3);
    configure(&host, "master", &format!("database: {{url: '{A}'}}\n"));
    succeed(&host, &["sync"]);
    let unknown = "states of unknown rules need --force";
    refuses(&host, &["state", "set", "NOPE1", "disabled"], 2, &["no rule NOPE1; states", unknown]);
    refuses(
        &host,
        &["state", "set", "DIS00O2", "disabled"],
        2,
        &["no rule DIS00O2; did you mean DIS0002", unknown],
    );
    refuses(&host, &["state", "set", "dis0002", "disabled"], 2, &["did you mean DIS0002", unknown]);
    assert_eq!(states(&host, "/var/lib/rulesyncd/a.db"), "");
    succeed(&host, &["state", "set", "NOPE1", "disabled", "--force"]);
    assert_eq!(states(&host, "/var/lib/rulesyncd/a.db"), "NOPE1=disabled");
    assert!(succeed(&host, &["state", "get", "NOPE1"]).contains("there is no such rule"));
}

#[test]
#[ignore = "needs root"]
fn a_database_in_a_credential_is_entered_by_root_and_explained_to_others_as_root() {
    let host = host(1);
    let credential = host.path("/run/credential");
    fs::write(&credential, format!("{A}\n")).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o600)).unwrap();
    let from_credential = |command: &mut Command| {
        command.env("RULESYNCD_DATABASE_URL_FILE", "/run/credential");
    };
    let program = copy_of_the_program(&host.shared());
    fs::set_permissions(host.shared(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |args: &[&str]| {
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap()];
        let output = host.command(&[&user, args].concat()).output().unwrap();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };

    let _master = Running::start(&host, from_credential, &["master"]);
    wait_for("the master's socket", || host.path("/run/rulesyncd/master.sock").exists().then_some(()));
    wait_for("the rule", || {
        host.run(&["state", "set", "DIS0000", "disabled"]).1.contains(&format!("on {A}")).then_some(())
    });
    assert_eq!(states(&host, "/var/lib/rulesyncd/a.db"), "DIS0000=disabled");
    let (code, said) = as_nobody(&["state", "list"]);
    assert!(code == 3 && said.contains("master.sock cannot be opened: Permission denied"), "{code} {said}");

    // More users may open the worker's socket than its credential.
    let _worker = Running::start(&host, from_credential, &["worker"]);
    let socket = host.path("/run/rulesyncd/events.sock");
    wait_for("the worker's socket", || socket.exists().then_some(()));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, said) = as_nobody(&["state", "set", "DIS0000", "enabled"]);
    assert_eq!(code, 2, "{said}");
    for word in
        ["the running worker", "/run/credential cannot be read: Permission denied", "run this as root"]
    {
        assert!(said.contains(word), "no `{word}` in {said}");
    }
    let (code, said) = as_nobody(&["status"]);
    assert!(code == 0 && said.contains("worker"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn a_password_that_only_the_daemon_knows_is_asked_for_and_not_shown_as_root() {
    let host = host(1);
    let secret = |command: &mut Command| {
        command.env("RULESYNCD_DATABASE_URL", "postgresql://ada:CANARY@127.0.0.1:1/rules");
    };
    let _master = Running::start(&host, secret, &["master"]);
    wait_for("the master's socket", || host.path("/run/rulesyncd/master.sock").exists().then_some(()));
    let (code, printed, said) = host.run(&["state", "set", "DIS0000", "disabled"]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("postgresql://ada:***@127.0.0.1:1/rules") && said.contains("--database-url"),
        "{said}"
    );
    assert!(!printed.contains("CANARY") && !said.contains("CANARY"));
    assert!(!Path::new(&host.path("/var/lib/rulesyncd/rules.db")).exists());
    assert!(
        succeed(&host, &["config", "master"]).contains("ada:***@127.0.0.1:1/rules\"  # the running master")
    );
}

#[test]
#[ignore = "needs root"]
fn the_history_of_a_unit_is_found_without_a_configuration_as_root() {
    let host = host(1);
    let (code, _, said) = host.run(&["history"]);
    assert_eq!(code, 3, "{said}");
    let places =
        "/var/lib/rulesyncd-worker/catalogue.ndjson.history or /var/lib/rulesyncd/catalogue.ndjson.history";
    assert!(said.contains(&format!("there is no history at {places}")), "{said}");

    let state = host.path("/var/lib/rulesyncd-worker");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    succeed(&host, &["sync"]);
    // As systemd starts it.
    let in_its_unit = |command: &mut Command| {
        command.env("STATE_DIRECTORY", "/var/lib/rulesyncd-worker");
    };
    let _worker = Running::start(&host, in_its_unit, &["worker"]);
    wait_for("the rules", || (host.run(&["watch", "--once"]).0 == 0).then_some(()));
    succeed(&host, &["state", "set", "DIS0000", "disabled", "--reason", "noisy"]);
    wait_for("the record", || {
        succeed(&host, &["history"]).ends_with("state    DIS0000 disabled by operator: noisy\n").then_some(())
    });
    // Whoever may not read it is told who may.
    let shared = host.shared();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    let program = copy_of_the_program(&shared);
    let refused = host
        .command(&["setpriv", "--reuid=65534", "--clear-groups", program.to_str().unwrap(), "history"])
        .output()
        .unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("catalogue.ndjson.history cannot be read: Permission denied"), "{said}");
    assert!(said.contains("run this as root or as the worker's user"), "{said}");
}
