//! What was written, broken and received, and the final state; [`judge`] judges it, and knows nothing of the program.
//!
//! `at`, `from` and `to` are milliseconds since the beginning, by a clock that is never stepped.

mod judge;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

#[derive(Serialize, Deserialize, Default)]
pub(super) struct History {
    pub(super) seed: u64,
    pub(super) backend: String,
    /// How many servers have the tables. A worker that changes to another one may find it behind for a moment.
    pub(super) servers: usize,
    /// The beginning, in microseconds since 1970.
    pub(super) began_at: i64,
    pub(super) faults: Vec<Fault>,
    /// The offsets of each host's clock.
    pub(super) clocks: BTreeMap<String, Vec<Step>>,
    /// Whether the clocks could be stepped.
    pub(super) clocks_can_be_stepped: bool,
    pub(super) transcripts: Vec<Transcript>,
    /// Every text that was a rule, by its SHA-256.
    pub(super) texts: BTreeMap<String, Rule>,
    /// Files and rows that were removed on purpose.
    pub(super) removals: Vec<Removal>,
    /// What operators ordered, in order.
    pub(super) orders: Vec<Order>,
    /// Every row that was committed or deleted, in order, as the database's triggers recorded it.
    pub(super) audit: Vec<Write>,
    /// What each master logged.
    pub(super) masters: BTreeMap<String, MasterLog>,
    pub(super) samples: Vec<Sample>,
    /// How many daemons were started, and which ended by themselves.
    pub(super) lives: usize,
    pub(super) ended: Vec<String>,
    pub(super) hostile_clients: Vec<HostileClient>,
    pub(super) restarts: Vec<Restart>,
    /// How long each takeover took.
    pub(super) takeovers: Vec<u64>,
    pub(super) roles: Roles,
    pub(super) final_state: FinalState,
}

/// The role of each rule.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Roles {
    /// Rules whose file always existed, except as the removals say.
    pub(super) permanent: BTreeSet<String>,
    /// Rules that another program wrote.
    pub(super) foreign: BTreeSet<String>,
    /// Invalid files and rows, by the name that the daemons must report.
    pub(super) bad_files: BTreeSet<String>,
    pub(super) bad_rows: BTreeSet<String>,
    /// The content of files that were invalid for a while.
    pub(super) invalid: BTreeSet<(String, i64)>,
}

/// The state after everything was repaired.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct FinalState {
    /// Versions of the valid files.
    pub(super) directory: BTreeMap<String, i64>,
    /// Rows that are valid rules, including another program's.
    pub(super) table: BTreeMap<String, Rule>,
    /// Effective states.
    pub(super) states: BTreeMap<String, String>,
    /// What masters report as invalid files, and workers as quarantined rows.
    pub(super) rejected_files: BTreeSet<String>,
    pub(super) rejected_rows: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) rule_id: String,
    pub(super) version: i64,
    pub(super) sha256: String,
}

impl Rule {
    pub(super) fn of(rule_id: &str, version: i64, text: &str) -> Self {
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { rule_id: rule_id.to_owned(), version, sha256 }
    }
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Fault {
    pub(super) what: String,
    /// The hosts that it concerns; all if empty.
    pub(super) hosts: BTreeSet<String>,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Fault {
    /// Whether daemons cannot reach the database meanwhile.
    pub(super) fn is_outage(&self) -> bool {
        ["database", "disk", "connections", "sessions"].iter().any(|what| self.what.starts_with(what))
    }

    pub(super) fn concerns(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.contains(host)
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
pub(super) struct Step {
    pub(super) at: u64,
    /// The offset of the clock from then on.
    pub(super) seconds: i64,
}

/// What one subscriber received.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Transcript {
    pub(super) worker: usize,
    pub(super) name: String,
    /// Whether it reads at once, on a connection that only its worker's end cuts.
    pub(super) prompt: bool,
    /// The lines of each connection.
    pub(super) connections: Vec<Vec<Line>>,
    /// Whether it read to the end.
    pub(super) to_the_end: bool,
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Line {
    pub(super) at: u64,
    pub(super) said: Value,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Removal {
    pub(super) at: u64,
    pub(super) rule_id: String,
}

/// An operator's order about a rule.
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct Order {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) rule_id: String,
    /// The state; `None` clears it.
    pub(super) state: Option<String>,
    /// Whether the state was to expire.
    pub(super) ends: bool,
    /// The command's answer; `None` if it failed, and may or may not have written.
    pub(super) answer: Option<Value>,
}

/// A row that was written, or deleted (then without version and text).
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct Write {
    pub(super) rule_id: String,
    pub(super) written: Option<Rule>,
    pub(super) updated_at: String,
    pub(super) updated_by: String,
}

#[derive(Serialize, Deserialize, Default)]
pub(super) struct MasterLog {
    /// How often it took the lock.
    pub(super) took_the_lock: usize,
    /// Rules and versions that it wrote.
    pub(super) wrote: BTreeSet<(String, i64)>,
}

/// A daemon at a moment.
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct Sample {
    pub(super) at: u64,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) resident_kib: u64,
    /// Whether it said that the database answers; `None` if it did not answer.
    pub(super) database: Option<bool>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HostileClient {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) host: String,
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) answer: String,
}

/// A worker that was restarted while the database was unavailable.
#[derive(Serialize, Deserialize)]
pub(super) struct Restart {
    pub(super) worker: usize,
    /// The epoch that then began.
    pub(super) epoch: String,
    /// What it says about the database.
    pub(super) database: String,
    pub(super) stale_for_ms: u64,
}

impl History {
    /// A moment, in microseconds since 1970, by the clock that is never stepped.
    fn time(&self, at: u64) -> i64 {
        self.began_at + i64::try_from(at).unwrap_or_default() * 1_000
    }

    /// The least and the greatest offset of a host's clock in a period, in microseconds.
    fn offsets(&self, host: &str, from: u64, to: u64) -> (i64, i64) {
        let steps = self.clocks.get(host).map_or(&[][..], Vec::as_slice);
        let before = steps.iter().rev().find(|step| step.at <= from).map_or(0, |step| step.seconds);
        let within = steps.iter().filter(|step| from < step.at && step.at <= to).map(|step| step.seconds);
        let second = 1_000_000;
        within.fold((before * second, before * second), |(least, most), seconds| {
            (least.min(seconds * second), most.max(seconds * second))
        })
    }

    /// The failovers. What was committed before `from` survives them, and what was committed until `to` may be lost.
    pub(super) fn failovers(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.what.starts_with("database failed over"))
    }

    /// How often until a moment a worker may have changed to a server that is behind.
    fn changes_of_server(&self, host: &str, until: u64) -> usize {
        if self.servers < 2 {
            return 0;
        }
        self.outages_of(host, until).count()
    }

    /// The outages of a worker that began before a moment.
    fn outages_of(&self, host: &str, until: u64) -> impl Iterator<Item = &Fault> {
        self.faults_of(host, 0, until).filter(|fault| fault.is_outage())
    }

    /// The periods in which the directory was empty.
    fn emptied(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.what == "directory emptied")
    }

    /// The faults that concerned a host in a period, outages included.
    fn faults_of(&self, host: &str, from: u64, to: u64) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.concerns(host) && fault.from <= to && from <= fault.to)
    }
}

/// Two masters for one directory, one of which is the standby.
pub(super) const MASTERS: [&str; 2] = ["master", "other"];

/// The host's name, such as `worker0`.
pub(super) fn worker_host(worker: usize) -> String {
    format!("worker{worker}")
}
