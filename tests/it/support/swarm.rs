//! A master, workers and their directory on this host, as real processes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits before it fails; nothing that works takes nearly as long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives something.
pub(crate) fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, what, probe)
}

/// The same with another deadline.
pub(crate) fn wait_within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program in a directory that other users may enter, to run it as one of them.
pub(crate) fn copy_of_the_program(directory: &Path) -> PathBuf {
    let program = directory.join("rulesyncd");
    // Copied by another process: if it were open for writing here, a child process of another test could inherit it,
    // and then it could not be run (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_rulesyncd")).arg(&program).status();
    assert!(copied.unwrap().success());
    program
}

/// A directory with rules, a database and sockets, and the programs that work on it.
pub(crate) struct Swarm {
    dir: TempDir,
    url: String,
}

impl Swarm {
    /// A swarm around a SQLite file, with no rule yet.
    pub(crate) fn on_sqlite() -> Self {
        let dir = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        fs::create_dir(dir.path().join("rules")).unwrap();
        let url = format!("sqlite://{}", dir.path().join("rules.db").display());
        Self { dir, url }
    }

    /// A host without a database, whose worker follows the directory.
    pub(crate) fn on_directory() -> Self {
        let swarm = Self::on_sqlite();
        let url = format!("dir://{}", swarm.rules().display());
        Self { url, ..swarm }
    }

    /// A swarm around another database.
    pub(crate) fn on(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::on_sqlite() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.path("rules")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("events.sock")
    }

    /// Saves a file as an editor does that writes in place.
    pub(crate) fn save(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.rules().join(name), text).unwrap();
    }

    /// Saves a file as an editor does that writes beside and renames.
    pub(crate) fn save_atomically(&self, name: &str, text: impl AsRef<[u8]>) {
        let beside = self.rules().join(format!(".{name}.tmp"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.rules().join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.rules().join(name)).unwrap();
    }

    /// The program with this swarm's paths in its environment, and nothing else.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rulesyncd"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LOGNAME", "operator")
            // Not the configuration of this machine's own daemons.
            .env("RULESYNCD_CONFIG", "/dev/null")
            .env("RULESYNCD_DATABASE_URL", &self.url)
            .env("RULESYNCD_RULES_DIR", self.rules())
            .env("RULESYNCD_SOCKET", self.socket())
            .env("RULESYNCD_MASTER_SOCKET", self.path("master.sock"))
            .env("RULESYNCD_WORKER_CACHE", self.path("catalogue.ndjson"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn master(&self) -> Daemon {
        self.daemon("master", |_| {})
    }

    pub(crate) fn worker(&self) -> Daemon {
        self.daemon("worker", |_| {})
    }

    /// Starts a daemon and waits until it says that it started.
    pub(crate) fn daemon(&self, mode: &str, adapt: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = self.command(&[mode]);
        command.stdout(Stdio::null()).env("RULESYNCD_LOG", "info");
        adapt(&mut command);
        let daemon = self.spawn(command);
        daemon.wait_for_log(&format!("{mode} started"));
        daemon
    }

    /// Starts a daemon without waiting for anything.
    pub(crate) fn spawn(&self, command: Command) -> Daemon {
        Daemon::spawn(command, &self.dir)
    }

    /// Connects to the worker and subscribes.
    pub(crate) fn subscribe(&self) -> Subscriber {
        self.subscribe_with(r#"{"op":"subscribe"}"#)
    }

    pub(crate) fn subscribe_with(&self, line: &str) -> Subscriber {
        let mut subscriber = Subscriber::connect(&self.socket());
        subscriber.send(line);
        subscriber
    }

    /// The rows of `ttp_rule` as another reader of a SQLite file sees them: id, version, path, text
    /// and owner, by id. None while there is no table.
    pub(crate) fn rows(&self) -> Vec<[String; 5]> {
        let script = "import sqlite3, sys, json\n\
             db = sqlite3.connect(sys.argv[1], timeout=10)\n\
             made = db.execute(\"select * from sqlite_master where name = 'ttp_rule'\").fetchall()\n\
             rows = db.execute('select rule_id, rule_version, source_path, yaml_content, updated_by \
             from ttp_rule order by rule_id') if made else []\n\
             print(json.dumps([[str(value) for value in row] for row in rows]))";
        serde_json::from_str(&self.python(script)).unwrap()
    }

    /// Runs SQL in the SQLite file as another writer.
    pub(crate) fn sql(&self, statement: &str) {
        let script = format!(
            "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], timeout=10)\ndb.executescript({})\ndb.commit()",
            Value::from(statement)
        );
        self.python(&script);
    }

    fn python(&self, script: &str) -> String {
        let file = self.url.trim_start_matches("sqlite://");
        let output = Command::new("python3").args(["-c", script, file]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon's answer to `status`.
pub(crate) fn ask(socket: &Path) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(b"{\"op\":\"status\",\"id\":1}\n").ok()?;
    BufReader::new(stream).lines().map_while(Result::ok).find_map(|line| {
        let said: Value = serde_json::from_str(&line).ok()?;
        (said["type"] == "response").then(|| said["result"].clone())
    })
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn spawn(mut command: Command, dir: &TempDir) -> Self {
        let log = tempfile::Builder::new().prefix("log").tempfile_in(dir.path()).unwrap().into_temp_path();
        let log = log.keep().unwrap();
        command.stderr(fs::File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The path of the log, also after the daemon has ended.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.log.clone()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn wait_for_log(&self, wanted: &str) {
        let started = Instant::now();
        while !self.log().contains(wanted) {
            assert!(started.elapsed() < DEADLINE, "no `{wanted}` in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often a text is in the log.
    pub(crate) fn count_in_log(&self, wanted: &str) -> usize {
        self.log().matches(wanted).count()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// SIGSTOP, and waits until no thread of it runs: the signal alone stops them one by one, some
    /// time later.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.pid());
        let stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which stands in parentheses and may hold any.
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" T"))
        };
        wait_for("every thread to stop", || {
            fs::read_dir(&tasks).unwrap().all(|task| stopped(task.unwrap())).then_some(())
        });
    }

    /// Lets a frozen daemon go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end, which must be exit code 0.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        let (stopped, pid, log) = (Instant::now(), self.pid(), self.log_path());
        let ended = self.wait();
        if !ended.success() {
            let log = fs::read_to_string(log).unwrap();
            let last = &log[log.floor_char_boundary(log.len().saturating_sub(4_000))..];
            panic!(
                "process {pid}: {ended} {:?} after its stop; the end of its log:\n{last}",
                stopped.elapsed()
            );
        }
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "--- log of process {}:\n{log}", self.pid());
        }
    }
}

/// A subscriber that knows only the protocol.
pub(crate) struct Subscriber {
    lines: BufReader<UnixStream>,
}

impl Subscriber {
    /// Connects as soon as somebody listens, and reads the greeting.
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = wait_for("the worker's socket", || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut subscriber = Self { lines: BufReader::new(stream) };
        assert_eq!(subscriber.line()["type"], "hello");
        subscriber
    }

    pub(crate) fn send(&mut self, line: &str) {
        let stream = self.lines.get_mut();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
    }

    /// Closes the sending direction; the rest can still be read.
    pub(crate) fn shut_down_writing(&self) {
        self.lines.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The next line, heartbeats too.
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).expect("a line in time");
        assert!(length > 0, "the worker closed the connection");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line that is no heartbeat.
    pub(crate) fn next(&mut self) -> Value {
        let started = Instant::now();
        loop {
            let line = self.line();
            if line["type"] != "heartbeat" {
                return line;
            }
            assert!(started.elapsed() < DEADLINE, "nothing but heartbeats for {DEADLINE:?}");
        }
    }

    /// Reads a snapshot to its end and returns its rules, by the order of the lines.
    pub(crate) fn snapshot(&mut self) -> Vec<Value> {
        let begin = self.next();
        assert_eq!(begin["type"], "snapshot_begin", "{begin}");
        let mut rules = Vec::new();
        loop {
            let line = self.next();
            match line["type"].as_str() {
                Some("rule") => rules.push(line),
                Some("state") => {}
                Some("snapshot_end") => return rules,
                _ => panic!("in a snapshot: {line}"),
            }
        }
    }

    /// The next change.
    pub(crate) fn change(&mut self) -> Value {
        let line = self.next();
        assert_eq!(line["type"], "change", "{line}");
        line
    }

    /// Nothing but heartbeats comes before a change that the test now makes; returns that change.
    pub(crate) fn nothing_before(&mut self, rule_id: &str) -> Value {
        let change = self.change();
        assert_eq!(change["rule_id"], rule_id, "an unexpected change came first: {change}");
        change
    }

    /// Whether the worker has closed the connection; reads what is left.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }
}
