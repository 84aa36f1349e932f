//! What the worker tells whoever asks how it is.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::plural::count;
use crate::rule::{CatalogueDigest, QuarantineEntry, Table};
use crate::wire::{Epoch, Health};

/// How a worker is: the answer to `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// `worker`.
    pub mode: String,
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its time at the answer.
    pub now: Timestamp,
    /// When it started.
    pub started_at: Timestamp,
    /// How the database is.
    pub database: DatabaseStatus,
    /// The greatest stamp that was seen in the tables; `None` before the first row.
    pub watermark: Option<Timestamp>,
    /// How many rules are in force.
    pub rules: u64,
    /// How many states other than the default are in force.
    pub states: u64,
    /// The digest of all rules and states; `None` before the first are loaded.
    pub digest: Option<CatalogueDigest>,
    /// Rows that take no part, and why.
    pub quarantined: Vec<QuarantinedStatus>,
    /// Rules that are served though the tables do not hold them any more: their deletion is held back.
    #[serde(default)]
    pub pending_mass_delete: Vec<String>,
    /// Since when; `None` where there are none.
    #[serde(default)]
    pub pending_since: Option<Timestamp>,
    /// The event stream.
    pub stream: StreamStatus,
    /// The host's message bus; `None` where none is configured.
    pub bus: Option<BusStatus>,
    /// What is wrong now, as `database.last_error`; `None` where nothing is.
    pub last_error: Option<String>,
    /// When that was last met.
    #[serde(default)]
    pub last_error_at: Option<Timestamp>,
}

impl WorkerStatus {
    /// One sentence for `systemctl status`.
    pub fn sentence(&self) -> String {
        let mut sentence = match (self.digest, self.database.state) {
            (None, _) => "waiting for the first answer of the database".to_owned(),
            (_, Health::Up) => format!("{} in step", count(self.rules, "rule")),
            (_, Health::Down) => {
                let stale = Duration::from_secs(self.database.stale_for_ms / 1_000);
                let rules = count(self.rules, "rule");
                format!("database away, {rules} stale for {}", humantime::format_duration(stale))
            }
        };
        sentence +=
            &format!("; change {}, {}", self.stream.seq, count(self.stream.subscribers.len(), "subscriber"));
        if let Some(watermark) = self.watermark {
            sentence += &format!("; watermark {watermark}");
        }
        if !self.pending_mass_delete.is_empty() {
            let held = self.pending_mass_delete.len();
            sentence +=
                &format!("; {} held back, see `rulesyncd allow-mass-delete`", count(held, "deletion"));
        }
        if !self.quarantined.is_empty() {
            sentence += &format!("; {} rejected", count(self.quarantined.len(), "row"));
        }
        sentence
    }
}

/// How the database is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Its address without a password.
    pub url: String,
    /// The file that the whole address was read from; `None` where it stood in the configuration.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// What it is: `sqlite`, `mysql`, `postgresql`, `filesystem`.
    pub backend: String,
    /// Whether it answers.
    pub state: Health,
    /// Since when.
    pub since: Timestamp,
    /// How long ago what is known was the database's; 0 when it is.
    pub stale_for_ms: u64,
    /// Why it does not answer; `None` while it does.
    pub last_error: Option<String>,
    /// When it last did not.
    #[serde(default)]
    pub last_error_at: Option<Timestamp>,
    /// How often in this run the database's driver panicked on what the database sent, or was kept busy by
    /// it without end.
    #[serde(default)]
    pub driver_failures: u64,
}

/// A row that takes no part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedStatus {
    /// The table, `ttp_rule` or `ttp_rule_state`.
    pub table: String,
    /// The row's key.
    pub rule_id: String,
    /// Why.
    pub reason: String,
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
    /// The smallest cursor that can be resumed.
    pub resumable_from: u64,
    /// What the journal's lines take.
    pub journal_bytes: u64,
    /// Who is connected.
    pub subscribers: Vec<SubscriberStatus>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// Its number in this run.
    pub id: u64,
    /// The peer's process, where the system tells it.
    pub pid: Option<i32>,
    /// The peer's user.
    pub uid: u32,
    /// Since when.
    pub connected_at: Timestamp,
    /// Whether it follows the rules; else it only asks.
    pub subscribed: bool,
    /// The last change that was handed to its socket.
    pub seq: u64,
    /// How many changes it is behind.
    pub lag: u64,
    /// The last change that it says it has taken in.
    pub acked: Option<u64>,
}

/// The host's message bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusStatus {
    /// Its socket.
    pub socket: String,
    /// Whether it is connected.
    pub state: Health,
    /// Since when.
    pub since: Timestamp,
    /// Hints published in this run.
    pub published: u64,
    /// Changes that were told to nobody because the bus was away or slow.
    pub missed: u64,
    /// Why it is away; `None` while it is connected.
    pub last_error: Option<String>,
}
