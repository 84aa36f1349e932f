//! What was written, broken and heard, and what stood at the end; [`judge`] judges it. Knows
//! nothing of the program.
//!
//! `at`, `from` and `to` are milliseconds since the beginning by a time that nobody steps.

mod judge;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

#[derive(Serialize, Deserialize, Default)]
pub(super) struct History {
    pub(super) seed: u64,
    pub(super) backend: String,
    /// The beginning, in microseconds since 1970.
    pub(super) began_at: i64,
    pub(super) faults: Vec<Fault>,
    /// How far each host's clock was off.
    pub(super) clocks: BTreeMap<String, Vec<Step>>,
    /// Whether the clocks could be stepped at all.
    pub(super) clocks_can_be_stepped: bool,
    pub(super) heard: Vec<Heard>,
    /// Every text that was a rule, by its SHA-256.
    pub(super) texts: BTreeMap<String, Rule>,
    /// Files and rows that were taken away on purpose.
    pub(super) removals: Vec<Removal>,
    /// What operators ordered, in their order.
    pub(super) orders: Vec<Order>,
    /// Every row that was committed or deleted, in that order, as the database's triggers saw it.
    pub(super) audit: Vec<Write>,
    /// What each master told its log.
    pub(super) masters: BTreeMap<String, MasterLog>,
    pub(super) samples: Vec<Sample>,
    /// Daemons that were started, and those that ended by themselves.
    pub(super) lives: usize,
    pub(super) ended: Vec<String>,
    pub(super) guests: Vec<Guest>,
    pub(super) restarts: Vec<Restart>,
    /// How long a standby took each time.
    pub(super) takeovers: Vec<u64>,
    pub(super) cast: Cast,
    pub(super) rest: Rest,
}

/// Which rule plays which part.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Cast {
    /// Rules whose file stood all the time, but for what is among the removals.
    pub(super) standing: BTreeSet<String>,
    /// Rules that another program wrote.
    pub(super) foreign: BTreeSet<String>,
    /// Files and rows that are none, by the name that they are to be reported by.
    pub(super) bad_files: BTreeSet<String>,
    pub(super) bad_rows: BTreeSet<String>,
    /// What stood in files that were no rules for a while.
    pub(super) invalid: BTreeSet<(String, i64)>,
}

/// What stood when everything was mended.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Rest {
    /// Versions of the valid files.
    pub(super) directory: BTreeMap<String, i64>,
    /// Rows that are rules, others' too.
    pub(super) table: BTreeMap<String, Rule>,
    /// Effective states.
    pub(super) states: BTreeMap<String, String>,
    /// What masters and workers report as rejected.
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
    /// The hosts that it concerns; none is all.
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
    /// How far the clock is off from then on.
    pub(super) seconds: i64,
}

/// What one subscriber heard.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Heard {
    pub(super) worker: usize,
    pub(super) name: String,
    /// Whether it reads at once, on a connection that only its worker's end cuts.
    pub(super) prompt: bool,
    /// The lines of each connection.
    pub(super) connections: Vec<Vec<Line>>,
    /// Whether it listened to the end.
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

/// An operator's word on a rule.
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct Order {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) rule_id: String,
    /// The state's word; `None` takes the state away.
    pub(super) state: Option<String>,
    /// Whether it was to end by itself.
    pub(super) ends: bool,
    /// What the command answered; `None` where it failed, and may have been done or not.
    pub(super) answer: Option<Value>,
}

/// A row that was written, or deleted (without version and text then).
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

/// How a daemon was at a moment.
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct Sample {
    pub(super) at: u64,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) resident_kib: u64,
    /// Whether it said that the database answers; `None` where it said nothing.
    pub(super) database: Option<bool>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Guest {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) host: String,
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) answer: String,
}

/// A worker that was stopped and started again while the database was away.
#[derive(Serialize, Deserialize)]
pub(super) struct Restart {
    pub(super) worker: usize,
    /// The run that then began.
    pub(super) epoch: String,
    /// What it says of the database.
    pub(super) database: String,
    pub(super) stale_for_ms: u64,
}

impl History {
    /// A moment, in microseconds since 1970, by the time that nobody steps.
    fn time(&self, at: u64) -> i64 {
        self.began_at + i64::try_from(at).unwrap_or_default() * 1_000
    }

    /// How far a host's clock was off in a time, at least and at most, in microseconds.
    fn offsets(&self, host: &str, from: u64, to: u64) -> (i64, i64) {
        let steps = self.clocks.get(host).map_or(&[][..], Vec::as_slice);
        let before = steps.iter().rev().find(|step| step.at <= from).map_or(0, |step| step.seconds);
        let within = steps.iter().filter(|step| from < step.at && step.at <= to).map(|step| step.seconds);
        let second = 1_000_000;
        within.fold((before * second, before * second), |(least, most), seconds| {
            (least.min(seconds * second), most.max(seconds * second))
        })
    }

    /// The times in which the directory was there and empty.
    fn emptied(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.what == "directory emptied")
    }

    /// What happened to the daemons of a host between two moments, outages among it.
    fn faults_of(&self, host: &str, from: u64, to: u64) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.concerns(host) && fault.from <= to && from <= fault.to)
    }
}

/// `worker0`, as hosts are called.
pub(super) fn worker_host(worker: usize) -> String {
    format!("worker{worker}")
}
