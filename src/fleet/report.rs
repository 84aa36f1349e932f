//! What a worker reports of itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A digest of everything that a worker serves, as 64 hexadecimal digits.
pub(crate) type Digest = String;

/// What a worker reports of itself. It is information and never authority: whoever has the workers' password can write
/// any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerReport {
    /// This run of the worker. It is the key, because cloned machines share every other id.
    pub epoch: String,
    /// `worker.id`, or the machine's id.
    pub worker_id: String,
    /// The host's name.
    pub host: String,
    /// The program's version.
    pub program: String,
    /// The longest time between two reports, in milliseconds.
    pub interval_ms: u64,
    /// The version that the last finished poll showed; `None` if the worker cannot read it.
    pub applied: Option<u64>,
    /// The newest change of the stream.
    pub seq: u64,
    /// The digest of what is served; `None` before the first load.
    pub digest: Option<Digest>,
    /// How many rules are served.
    pub rules: u64,
    /// How many effective states differ from the default.
    pub states: u64,
    /// How many rows are quarantined.
    pub quarantined: u64,
    /// The ids of the first of them, separated by spaces.
    pub quarantined_ids: String,
    /// What is trusted, with the reasons against it; `None` where trust is off.
    pub trust: Option<String>,
    /// The version of the signed release; `None` where there is none.
    pub manifest_version: Option<String>,
    /// How many subscribers follow.
    pub subscribers: u64,
    /// How many of them ever acknowledged a change.
    pub acknowledging: u64,
    /// How many of those acknowledged change `seq`.
    pub acknowledged: u64,
    /// The server that is polled.
    pub server: String,
    /// How old the data is, in milliseconds; 0 while it is current.
    pub stale_ms: u64,
}

impl WorkerReport {
    /// The most bytes of [`Self::quarantined_ids`].
    pub(crate) const LONGEST_IDS: usize = 255;

    /// As many of the ids as fit into the column, separated by spaces.
    pub(crate) fn join_ids<'i>(ids: impl IntoIterator<Item = &'i str>) -> String {
        let mut joined = String::new();
        for id in ids {
            let separator = if joined.is_empty() { "" } else { " " };
            if joined.len() + separator.len() + id.len() > Self::LONGEST_IDS {
                break;
            }
            joined.push_str(separator);
            joined.push_str(id);
        }
        joined
    }

    /// Whether this rule may be among the quarantined rows: it is named, or not all of them are.
    pub(crate) fn may_quarantine(&self, rule_id: &str) -> bool {
        let mut named = 0;
        let is_named = self.quarantined_ids.split(' ').any(|id| {
            named += u64::from(!id.is_empty());
            id.eq_ignore_ascii_case(rule_id)
        });
        is_named || named < self.quarantined
    }
}

/// A report as the table has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReportedWorker {
    /// The report.
    #[serde(flatten)]
    pub(crate) report: WorkerReport,
    /// The server's time of the first report of this run.
    pub(crate) started_at: Timestamp,
    /// The server's time of this report.
    pub(crate) reported_at: Timestamp,
}

impl ReportedWorker {
    /// Whether the worker missed three of its own intervals.
    pub(crate) fn is_silent(&self, now: Timestamp) -> bool {
        // An interval of zero would make every worker silent, and an absurd one none.
        let interval = Duration::from_millis(self.report.interval_ms.clamp(1_000, 86_400_000));
        now.since(self.reported_at) > interval * 3
    }
}
