//! A directory of rules, a database, and a `rulesyncd` that works on them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The text of a rule as people write them: about 800 bytes.
pub(crate) fn rule_text(number: usize, version: usize) -> String {
    format!(
        "rule_id: R{number:06}\nrule_version: {version}\nname: suid_search_{number}\ndescription: |\n  \
         find with -perm -u=s / -4000 / /4000, explicit hunting for\n  SUID binaries, number {number}. Two emits: \
         discovery (T1083) and\n  the precursor of its abuse (T1548.001), as it is seen on hosts that\n  \
         are visited by scripts.\napplies_to:\n  - command\nmatch:\n  field: command_text\n  \
         pattern: '\\bfind\\b.*-perm\\s+(?:-?u\\+?=s|-?4000|/4000|-?{number})'\nemits:\n  - tactic: TA0007\n    \
         technique_id: T1083\n    confidence: 0.85\n  - tactic: TA0004\n    technique_id: T1548\n    \
         sub_technique_id: T1548.001\n    confidence: 0.95\nevidence_fields:\n  - command_text\n"
    )
}

/// Directories of rules, made once for all figures.
#[derive(Default)]
pub(crate) struct Rules(RefCell<HashMap<usize, Rc<TempDir>>>);

impl Rules {
    pub(crate) fn directory(&self, count: usize) -> Rc<TempDir> {
        let mut made = self.0.borrow_mut();
        let make = || {
            let directory = tempfile::tempdir().unwrap();
            for number in 0..count {
                std::fs::write(directory.path().join(format!("R{number:06}.yaml")), rule_text(number, 1))
                    .unwrap();
            }
            Rc::new(directory)
        };
        Rc::clone(made.entry(count).or_insert_with(make))
    }
}

/// One program's directory, database and sockets.
pub(crate) struct Host {
    build: PathBuf,
    rules: PathBuf,
    url: String,
    places: TempDir,
    daemons: Vec<Child>,
}

impl Host {
    pub(crate) fn on_sqlite(build: &Path, rules: &Path) -> Self {
        let mut host = Self::on(build, rules, String::new());
        host.url = format!("sqlite://{}", host.path("rules.db").display());
        host
    }

    pub(crate) fn on(build: &Path, rules: &Path, url: String) -> Self {
        let places = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        Self { build: build.into(), rules: rules.into(), url, places, daemons: Vec::new() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.places.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // A worker with a thousand subscribers has as many files open.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$@\"", "sh"])
            .arg(&self.build)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("RULESYNCD_LOG", "warn")
            .env("RULESYNCD_DATABASE_URL", &self.url)
            .env("RULESYNCD_RULES_DIR", &self.rules)
            .env("RULESYNCD_SOCKET", self.path("events.sock"))
            .env("RULESYNCD_MASTER_SOCKET", self.path("master.sock"))
            .env("RULESYNCD_WORKER_CACHE", self.path("catalogue.ndjson"))
            .env("RULESYNCD_WORKER_MAX_SUBSCRIBERS", "2000")
            // 100,000 rules of this size need a little more than the default, and no figure is of quarantined rows.
            .env("RULESYNCD_WORKER_MAX_MEMORY", "128MiB")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Runs a command to its end, and tells how long it took.
    pub(crate) fn run(&self, arguments: &[&str]) -> f64 {
        let start = Instant::now();
        let status = self.command(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
        start.elapsed().as_secs_f64()
    }

    /// Starts a daemon, with the environment that its unit gives it, that lives as long as this; returns
    /// its process id.
    pub(crate) fn start(&mut self, mode: &str) -> u32 {
        let unit = match mode {
            "worker" => include_str!("../../systemd/rulesyncd-worker.service"),
            _ => include_str!("../../systemd/rulesyncd-master.service"),
        };
        let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
        let variables = variables.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='));
        let daemon = self.command(&[mode]).envs(variables).spawn().unwrap();
        let id = daemon.id();
        self.daemons.push(daemon);
        id
    }

    /// Starts a worker, and tells how long it was until a subscriber was told of all rules.
    pub(crate) fn first_load(&mut self) -> f64 {
        let _ = std::fs::remove_file(self.path("catalogue.ndjson"));
        let start = Instant::now();
        self.start("worker");
        let mut subscriber = Subscriber::to(self, r#"{"op":"subscribe"}"#);
        subscriber.until("snapshot_begin");
        start.elapsed().as_secs_f64()
    }

    /// Waits until a master answers on its socket.
    pub(crate) fn wait_for_master(&self) {
        waited(|| UnixStream::connect(self.path("master.sock")).ok());
    }

    pub(crate) fn stop(&mut self) {
        for mut daemon in self.daemons.drain(..) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = std::fs::remove_file(self.path("events.sock"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for something that comes soon.
pub(crate) fn waited<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// A subscriber that knows nothing but the protocol.
pub(crate) struct Subscriber(BufReader<UnixStream>);

impl Subscriber {
    /// Connects as soon as the worker listens, and says this.
    pub(crate) fn to(host: &Host, request: &str) -> Self {
        let path = host.path("events.sock");
        let mut stream = waited(|| UnixStream::connect(&path).ok());
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        Self(BufReader::with_capacity(1 << 18, stream))
    }

    /// Reads on to a line of this type.
    pub(crate) fn until(&mut self, kind: &str) -> Value {
        let mut start = String::new();
        write!(start, "{{\"type\":\"{kind}\"").unwrap();
        let mut line = Vec::new();
        loop {
            line.clear();
            assert!(self.0.read_until(b'\n', &mut line).unwrap() > 0, "the worker closed the connection");
            if line.starts_with(start.as_bytes()) {
                return serde_json::from_slice(&line).unwrap();
            }
        }
    }

    /// Reads on until it was told of so many rules, by changes or, if it did not keep up, by a snapshot.
    pub(crate) fn until_rules(&mut self, count: usize) {
        let mut heard = HashSet::new();
        while heard.len() < count {
            let mut line = Vec::new();
            assert!(self.0.read_until(b'\n', &mut line).unwrap() > 0, "the worker closed the connection");
            let line: Value = serde_json::from_slice(&line).unwrap();
            if line["type"] == "change" || line["type"] == "rule" {
                heard.insert(line["rule_id"].as_str().unwrap().to_owned());
            }
        }
    }

    /// Reads to the end, and tells how many bytes that were.
    pub(crate) fn drain(mut self) -> usize {
        let (mut total, mut buffer) = (self.0.buffer().len(), vec![0; 1 << 18]);
        loop {
            match self.0.get_mut().read(&mut buffer).unwrap() {
                0 => return total,
                count => total += count,
            }
        }
    }
}
