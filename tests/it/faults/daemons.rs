//! The daemons of the storm, each on a host of its own: starts, kills and watches them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::clocks::{Clocks, Timeline};
use super::history::{MASTERS, MasterLog, Sample, worker_host};
use super::hostile_clients;
use crate::support::swarm::{Daemon, Swarm, ask};

pub(super) const WORKERS: usize = 2;

pub(super) fn hosts() -> Vec<String> {
    MASTERS.map(str::to_owned).into_iter().chain((0..WORKERS).map(worker_host)).collect()
}

/// The socket of a host's daemon.
pub(super) fn socket(swarm: &Swarm, host: &str) -> PathBuf {
    swarm.path(&format!("{host}.sock"))
}

/// How the daemons reach the database and their clocks.
pub(super) struct Routes<'a> {
    pub(super) swarm: &'a Swarm,
    pub(super) clocks: &'a Clocks,
    /// The database's address, by host.
    pub(super) urls: BTreeMap<String, String>,
    /// Whether all hosts have one clock, as those that share a database file must.
    pub(super) one_clock: bool,
    pub(super) servers: usize,
}

impl Routes<'_> {
    /// The name of a host's clock.
    pub(super) fn clock<'h>(&self, host: &'h str) -> &'h str {
        if self.one_clock { "database" } else { host }
    }
}

/// The processes that are killed and restarted.
pub(super) struct Daemons<'a> {
    pub(super) routes: &'a Routes<'a>,
    running: BTreeMap<String, Daemon>,
    /// Their process ids, for the watcher.
    pub(super) pids: &'a Mutex<BTreeMap<String, u32>>,
    pub(super) lives: usize,
    pub(super) ended: Vec<String>,
    logs: Vec<(String, PathBuf)>,
}

impl<'a> Daemons<'a> {
    pub(super) fn start_all(routes: &'a Routes<'a>, pids: &'a Mutex<BTreeMap<String, u32>>) -> Self {
        let (running, ended, logs) = Default::default();
        let mut daemons = Self { routes, running, pids, lives: 0, ended, logs };
        hosts().iter().for_each(|host| daemons.start(host));
        daemons
    }

    pub(super) fn start(&mut self, host: &str) {
        let (swarm, mode) = (self.routes.swarm, if host.starts_with("worker") { "worker" } else { "master" });
        // Where no server has a lock for all masters, a lease that is not released holds off the standby.
        let lease = if self.routes.servers > 1 { "5s" } else { "15s" };
        let daemon = swarm.daemon(mode, |command| {
            self.routes.clocks.adopt(self.routes.clock(host), command);
            command
                .env("RULESYNCD_DATABASE_URL", &self.routes.urls[host])
                .env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "2s")
                .env("RULESYNCD_TELEMETRY_LOG_FORMAT", "json")
                // The storm deletes many rules on purpose; only an emptied directory exceeds this.
                .env("RULESYNCD_MASTER_MAX_DELETE", "60%")
                .env("RULESYNCD_WORKER_MAX_DELETE", "100%")
                .env("RULESYNCD_MASTER_RESCAN_INTERVAL", "2s")
                .env("RULESYNCD_MASTER_LEASE", lease)
                .env("RULESYNCD_MASTER_SOCKET", socket(swarm, host))
                .env("RULESYNCD_SOCKET", socket(swarm, host))
                .env("RULESYNCD_WORKER_CACHE", swarm.path(&format!("{host}.ndjson")))
                .env("RULESYNCD_WORKER_POLL_INTERVAL", "200ms")
                .env("RULESYNCD_WORKER_OVERLAP", "2s")
                .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "2s")
                .env("RULESYNCD_WORKER_HEARTBEAT_INTERVAL", "200ms")
                .env("RULESYNCD_WORKER_SUBSCRIBER_QUEUE", "16")
                .env("RULESYNCD_WORKER_MAX_SUBSCRIBERS", hostile_clients::ADMITTED);
        });
        self.lives += 1;
        self.logs.push((host.to_owned(), daemon.log_path()));
        self.pids.lock().unwrap().insert(host.to_owned(), daemon.pid());
        self.running.insert(host.to_owned(), daemon);
    }

    /// Removes a daemon that is about to be stopped, and records if it had already ended by itself.
    fn take(&mut self, host: &str) -> Daemon {
        self.pids.lock().unwrap().remove(host);
        let mut daemon = self.running.remove(host).unwrap();
        if let Some(status) = daemon.ended() {
            self.ended.push(format!("{host} ({status})"));
        }
        daemon
    }

    /// Kills a daemon, as `kill -9` does.
    pub(super) fn kill(&mut self, host: &str) {
        self.take(host).kill();
        crate::support::clock::clear_up();
    }

    pub(super) fn stop_softly(&mut self, host: &str) {
        let daemon = self.take(host);
        daemon.signal("TERM");
        let status = daemon.wait();
        if !status.success() {
            self.ended.push(format!("{host} (asked to stop: {status})"));
        }
    }

    /// Pauses a daemon while `meanwhile` runs.
    pub(super) fn while_it_sleeps(&self, host: &str, something: impl FnOnce()) {
        self.running[host].freeze();
        something();
        self.running[host].thaw();
    }

    /// The master that holds the lock.
    pub(super) fn holder(&self) -> Option<&'static str> {
        MASTERS
            .into_iter()
            .find(|host| ask(&socket(self.routes.swarm, host)).is_some_and(|status| status["lock"] == "held"))
    }

    /// Stops all daemons, and returns what the masters logged.
    pub(super) fn end_all(&mut self) -> BTreeMap<String, MasterLog> {
        hosts().iter().for_each(|host| self.kill(host));
        let mut masters: BTreeMap<String, MasterLog> = BTreeMap::new();
        for (host, path) in self.logs.iter().filter(|(host, _)| MASTERS.contains(&&**host)) {
            let log = masters.entry(host.clone()).or_default();
            for line in std::fs::read_to_string(path).unwrap().lines() {
                // The last line of a killed daemon may be incomplete.
                let record: Value = serde_json::from_str(line).unwrap_or_default();
                log.took_the_lock += usize::from(
                    record["message"]
                        .as_str()
                        .is_some_and(|said| said.starts_with("this master holds the lock")),
                );
                if let (Some(id), Some(version)) =
                    (record["rule_id"].as_str(), record["rule_version"].as_i64())
                {
                    log.wrote.insert((id.to_owned(), version));
                }
            }
        }
        masters
    }
}

/// Whether a daemon says that the database answers.
pub(super) fn has_its_database(status: &Value) -> bool {
    match status["lock"].as_str() {
        Some(lock) => lock != "none" && status["database_down_since"].is_null(),
        None => status["database"]["state"] == "up",
    }
}

/// Samples every daemon again and again until the end, and then once more.
pub(super) fn watch(
    swarm: &Swarm,
    pids: &Mutex<BTreeMap<String, u32>>,
    timeline: Timeline,
    end: &AtomicBool,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    loop {
        let is_last = end.load(Ordering::Relaxed);
        for (host, pid) in pids.lock().unwrap().clone() {
            let Some(resident_kib) = resident(pid) else { continue };
            let at = timeline.now();
            let database = ask(&socket(swarm, &host)).map(|status| has_its_database(&status));
            samples.push(Sample { at, host, pid, resident_kib, database });
        }
        if is_last {
            return samples;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
