//! The worker's answer to `status`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::fleet::WorkerReport;
use crate::plural::count;
use crate::rule::{CatalogueDigest, QuarantineEntry, Table};
use crate::trust::TrustStatus;
use crate::wire::{Epoch, Health};

/// The answer to `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// `worker`.
    pub mode: String,
    /// The program's version.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// This host's time of the answer.
    pub now: Timestamp,
    /// When the worker started.
    pub started_at: Timestamp,
    /// The state of the database.
    pub database: DatabaseStatus,
    /// The greatest stamp of all rows that were read; `None` before the first row.
    pub watermark: Option<Timestamp>,
    /// How many rules are served.
    pub rules: u64,
    /// How many effective states differ from the default.
    pub states: u64,
    /// The digest of all rules and states; `None` before the first are loaded.
    pub digest: Option<CatalogueDigest>,
    /// Rows that are not served, and why: the first 1,000.
    pub quarantined: Vec<QuarantinedStatus>,
    /// How many rows are not served; see [`WorkerStatus::quarantined_rows`].
    #[serde(default)]
    pub quarantined_count: usize,
    /// What is trusted; `None` where trust is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustStatus>,
    /// Rules that are served although they are missing from the tables, since their deletion is held back: the first
    /// 1,000.
    #[serde(default)]
    pub pending_mass_delete: Vec<String>,
    /// How many deletions are held back; see [`WorkerStatus::pending_deletions`].
    #[serde(default)]
    pub pending_count: usize,
    /// Since when deletions are held back; `None` if none are.
    #[serde(default)]
    pub pending_since: Option<Timestamp>,
    /// The event stream.
    pub stream: StreamStatus,
    /// The host's message bus; `None` if none is configured.
    pub bus: Option<BusStatus>,
    /// What the worker reports of itself to `rulesyncd fleet`.
    #[serde(default)]
    pub report: Option<WorkerReport>,
    /// The same as `database.last_error`.
    pub last_error: Option<String>,
    /// The same as `database.last_error_at`.
    #[serde(default)]
    pub last_error_at: Option<Timestamp>,
}

impl WorkerStatus {
    /// How many rows are not served. (A worker of an earlier version names all of them, and no number.)
    pub fn quarantined_rows(&self) -> usize {
        self.quarantined_count.max(self.quarantined.len())
    }

    /// How many deletions are held back.
    pub fn pending_deletions(&self) -> usize {
        self.pending_count.max(self.pending_mass_delete.len())
    }

    /// One sentence for `systemctl status`.
    pub fn sentence(&self) -> String {
        let rules = count(self.rules, "rule");
        let stale = humantime::format_duration(Duration::from_secs(self.database.stale_for_ms / 1_000));
        let mut sentence = match (self.digest, self.database.state) {
            (None, Health::Down) => "waiting for the first answer of the database".to_owned(),
            (None, Health::Up) => "no rules are served".to_owned(),
            (_, Health::Up) if self.database.stale_for_ms == 0 => format!("{rules} in sync"),
            // The database is a replica that stands still, or a poll takes long.
            (_, Health::Up) => format!("{rules} stale for {stale}"),
            (_, Health::Down) => format!("database unavailable, {rules} stale for {stale}"),
        };
        sentence +=
            &format!("; change {}, {}", self.stream.seq, count(self.stream.subscribers.len(), "subscriber"));
        if let Some(watermark) = self.watermark {
            sentence += &format!("; watermark {watermark}");
        }
        if let Some(trust) = &self.trust {
            sentence += &format!("; {}", trust.sentence());
        }
        let held = self.pending_deletions();
        if held > 0 {
            sentence +=
                &format!("; {} held back, see `rulesyncd allow-mass-delete`", count(held, "deletion"));
        }
        if self.quarantined_rows() > 0 {
            sentence += &format!("; {} quarantined", count(self.quarantined_rows(), "row"));
        }
        sentence
    }
}

/// The state of the database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// The address without its password.
    pub url: String,
    /// The file that the address was read from; `None` if the configuration holds the address itself.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// The kind of store: `sqlite`, `mysql`, `postgresql` or `filesystem`.
    pub backend: String,
    /// Whether the database answers.
    pub state: Health,
    /// When `state` last changed.
    pub since: Timestamp,
    /// How long ago the rules were last current, in milliseconds; 0 while they are.
    pub stale_for_ms: u64,
    /// How long the master had given no sign of life at the last poll, in milliseconds; 0 while it does, and on SQLite.
    #[serde(default)]
    pub master_silent_for_ms: u64,
    /// Since when no master has held the lease, where the last one released it; `None` if it may hang, and while one does.
    /// A master without a lease may write meanwhile.
    #[serde(default)]
    pub no_master_since: Option<Timestamp>,
    /// Why the database does not answer; `None` while it does.
    pub last_error: Option<String>,
    /// When the database last did not answer.
    #[serde(default)]
    pub last_error_at: Option<Timestamp>,
    /// Why the tables' version is not read (`rulesyncd_version`), and what to do; `None` if it is, or there is none.
    #[serde(default)]
    pub version_problem: Option<String>,
    /// Why the worker's report cannot be written (`rulesyncd_worker`), and what to do; `None` if it can.
    #[serde(default)]
    pub report_problem: Option<String>,
    /// How often in this run the database's driver panicked on a reply, or was kept busy by a reply without end.
    #[serde(default)]
    pub driver_failures: u64,
}

/// A row that is quarantined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedStatus {
    /// The table, `ttp_rule` or `ttp_rule_state`.
    pub(crate) table: String,
    /// The row's key.
    pub(crate) rule_id: String,
    /// Why it is quarantined, in one sentence.
    pub(crate) reason: String,
}

impl From<QuarantineEntry> for QuarantinedStatus {
    fn from(row: QuarantineEntry) -> Self {
        let table = match row.table {
            Table::Rules => "ttp_rule",
            Table::States => "ttp_rule_state",
        };
        Self { table: table.to_owned(), rule_id: row.key, reason: row.reason }
    }
}

/// The event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// This run of the worker.
    pub epoch: Epoch,
    /// The newest change.
    pub seq: u64,
    /// The smallest cursor from which a subscriber can resume.
    pub resumable_from: u64,
    /// The size of the journal's lines, in bytes.
    pub journal_bytes: u64,
    /// The open connections.
    pub subscribers: Vec<SubscriberStatus>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// The number of the connection in this run.
    pub id: u64,
    /// The peer's process id; `None` if the system does not say.
    pub pid: Option<i32>,
    /// The peer's user id.
    pub uid: u32,
    /// When the peer connected.
    pub connected_at: Timestamp,
    /// Whether the peer has subscribed, or only sends requests.
    pub subscribed: bool,
    /// The last change whose line is written to the socket or waits to be.
    pub seq: u64,
    /// How many changes the peer is behind.
    pub lag: u64,
    /// The last change that the peer acknowledged; `None` before the first.
    pub acked: Option<u64>,
}

/// The host's message bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusStatus {
    /// The path of its socket.
    pub socket: String,
    /// Whether the worker is connected to it.
    pub state: Health,
    /// When `state` last changed.
    pub since: Timestamp,
    /// How many notices were published in this run.
    pub published: u64,
    /// How many changes were not published because the bus was unavailable or slow.
    pub missed: u64,
    /// Why the bus is unavailable; `None` while the worker is connected.
    pub last_error: Option<String>,
}
