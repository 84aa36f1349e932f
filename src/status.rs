//! What a daemon says of itself: the answer to `status`, from the master and from the worker.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::rule::{CatalogueDigest, Quarantined, Table};
use crate::wire::{Epoch, Health};

/// How a daemon is. What a mode does not have is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which daemon this is.
    pub mode: Mode,
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
    /// Whether this master is the one that writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockStatus>,
    /// The greatest stamp in the tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Timestamp>,
    /// How many rules are in force (worker) or owned (master).
    pub rules: u64,
    /// How many states other than the default are in force.
    pub states: u64,
    /// The digest of all rules and states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<CatalogueDigest>,
    /// Rows, or files, that take no part, and why.
    pub quarantined: Vec<QuarantinedStatus>,
    /// Ids that two files claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictStatus>,
    /// Deletions that wait for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_mass_delete: Option<PendingMassDelete>,
    /// The event stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamStatus>,
    /// The host's message bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<BusStatus>,
    /// The last thing that went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Writes the tables.
    Master,
    /// Follows them.
    Worker,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Worker => "worker",
        })
    }
}

/// How the database is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Its address without a password.
    pub url: String,
    /// What it is: `sqlite`, `mysql`, `postgresql`, `filesystem`.
    pub backend: String,
    /// Whether it answers.
    pub state: Health,
    /// Since when.
    pub since: Timestamp,
    /// How long ago what is known was the database's; 0 when it is.
    pub stale_for_ms: u64,
    /// Why it did not answer last time it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Whether this master is the one that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockStatus {
    /// It is.
    Held,
    /// Another is; this one waits.
    Standby,
}

/// A row or a file that takes no part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedStatus {
    /// The table, `ttp_rule` or `ttp_rule_state`; absent where it is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The row's key, or the file's path.
    pub rule_id: String,
    /// Why.
    pub reason: String,
}

impl From<Quarantined> for QuarantinedStatus {
    fn from(row: Quarantined) -> Self {
        let table = match row.table {
            Table::Rules => "ttp_rule",
            Table::States => "ttp_rule_state",
        };
        Self { table: Some(table.to_owned()), rule_id: row.key, reason: row.reason }
    }
}

/// An id that two files claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictStatus {
    /// The id.
    pub rule_id: String,
    /// The file that has it.
    pub taken_from: String,
    /// The file that waits.
    pub passed_over: String,
}

/// Deletions that wait for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMassDelete {
    /// How many rows would go.
    pub deletes: u64,
    /// How many rows are owned.
    pub owned: u64,
    /// Since when it waits.
    pub since: Timestamp,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// Why it was last away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
