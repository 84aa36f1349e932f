//! The state of each host, from two looks at the tables and the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Digest, Host, ReportedWorker, WorkerReport, hosts};
use crate::clock::Timestamp;
use crate::plural::count;

/// What one snapshot of the database shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// The server's time.
    pub(crate) now: Timestamp,
    /// The version of the tables; `None` if it cannot be read.
    pub(crate) version: Option<u64>,
    /// When a transaction last raised the version.
    pub(crate) changed_at: Option<Timestamp>,
    /// Which master leads, in words; `None` if none does, or it is not known.
    pub(crate) leader: Option<String>,
    /// Since when no master has held the lease, where the last one released it. One without a lease may write, which shows
    /// only at the server whose lock it holds.
    pub(crate) no_master_since: Option<Timestamp>,
    /// What a worker without trust should serve; `None` if it is not known, and nothing is compared.
    pub(crate) expected: Option<Expected>,
    /// What a worker that reports trust should serve; `None` if it is not known, and nothing is compared.
    pub(crate) release: Option<ExpectedRelease>,
    /// The reports.
    pub(crate) workers: Vec<ReportedWorker>,
}

/// What a worker should serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The digest of it.
    pub(crate) digest: Digest,
    /// How many rules there are.
    pub(crate) rules: u64,
    /// How many rows there are that nobody can serve.
    pub(crate) quarantined: u64,
}

/// What a worker with trust should serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedRelease {
    /// `None` if there is no release, or none that verifies here: then nothing shows that a host serves what it should.
    pub(crate) served: Option<Expected>,
    /// Why nothing is verified; `None` if it is.
    pub(crate) not_verified: Option<String>,
}

impl Look {
    /// Whether a worker that is neither silent nor a predecessor verifies signed releases.
    pub(crate) fn has_trust(&self) -> bool {
        let hosts = hosts(&self.workers, self.now);
        hosts.iter().any(|host| !host.worker.is_silent(self.now) && host.worker.report.trust.is_some())
    }

    /// What this worker should serve: `None` if nothing is compared, and `Some(None)` if nothing that it serves is right.
    fn expected_of(&self, report: &WorkerReport) -> Option<Option<&Expected>> {
        match &report.trust {
            None => self.expected.as_ref().map(Some),
            Some(_) => self.release.as_ref().map(|release| release.served.as_ref()),
        }
    }

    /// Whether the version, the workers and the digest of each are as they were at the look `before`.
    pub(crate) fn is_as_before(&self, before: &Self) -> bool {
        let served = |look: &Self| -> BTreeMap<String, Option<Digest>> {
            look.workers.iter().map(|row| (row.report.epoch.clone(), row.report.digest.clone())).collect()
        };
        self.version == before.version && served(self) == served(before)
    }
}

/// The state of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum HostState {
    /// It has every change up to the version of the first look, and serves what it should.
    InSync,
    /// It lacks changes.
    Behind {
        /// How many.
        changes: u64,
    },
    /// It has every change, and serves something else.
    Differs {
        /// Why, where that is known.
        reason: Option<String>,
    },
    /// It says itself that its data is stale.
    Stale {
        /// How old the data is, in milliseconds.
        stale_ms: u64,
    },
    /// It reported nothing for three of its intervals.
    Silent {
        /// How long ago it reported, in milliseconds; `None` if it never did.
        since_ms: Option<u64>,
    },
    /// It cannot read the version, and serves something else.
    Unknown,
}

impl HostState {
    /// The words of all states, in the order in which they are shown.
    pub(crate) const WORDS: [&'static str; 6] =
        ["in_sync", "behind", "differs", "stale", "silent", "unknown"];

    /// The word in JSON and in metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Behind { .. } => "behind",
            Self::Differs { .. } => "differs",
            Self::Stale { .. } => "stale",
            Self::Silent { .. } => "silent",
            Self::Unknown => "unknown",
        }
    }

    /// The place of [`Self::word`] in [`Self::WORDS`].
    pub(crate) fn index(&self) -> usize {
        Self::WORDS.iter().position(|word| *word == self.word()).unwrap_or_default()
    }

    /// Whether the host is in sync.
    pub(crate) const fn is_in_sync(&self) -> bool {
        matches!(self, Self::InSync)
    }
}

/// The state of a host at the look `now`, of which `first` was the look before, or the same one.
pub(crate) fn state_of(host: &Host, first: &Look, now: &Look) -> HostState {
    let worker = &host.worker;
    let report = &worker.report;
    if worker.is_silent(now.now) {
        let has_reported = worker.reported_at > Timestamp::MIN;
        let since_ms = has_reported.then(|| millis(now.now.since(worker.reported_at)));
        return HostState::Silent { since_ms };
    }
    if report.stale_ms > 0 {
        return HostState::Stale { stale_ms: report.stale_ms };
    }
    let expected = now.expected_of(report);
    let is_equal = expected
        .flatten()
        .zip(report.digest.as_ref())
        .is_some_and(|(expected, found)| expected.digest == *found);
    let (Some(applied), Some(version)) = (report.applied, now.version) else {
        return if is_equal { HostState::InSync } else { HostState::Unknown };
    };
    let known = first.version.unwrap_or(version).min(version);
    if applied < known {
        return HostState::Behind { changes: version - applied };
    }
    let is_quiet = first.version == now.version && first.expected_of(report) == expected;
    match expected {
        Some(expected) if !is_equal && applied >= version && is_quiet => {
            HostState::Differs { reason: reason(report, expected) }
        }
        _ => HostState::InSync,
    }
}

/// Why a worker that has every change serves something else.
fn reason(report: &WorkerReport, expected: Option<&Expected>) -> Option<String> {
    if let Some(trust) = report.trust.as_deref().filter(|trust| *trust != "ok") {
        return Some(format!("untrusted: {trust}"));
    }
    if report.quarantined > 0 {
        let more = report.quarantined_ids.split_whitespace().count() as u64;
        let more = match report.quarantined.saturating_sub(more) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Some(format!("quarantined {}{more}", report.quarantined_ids));
    }
    let Some(Expected { rules, quarantined, .. }) = expected else {
        return Some("no release verifies here to compare it with".to_owned());
    };
    match report.rules.checked_sub(*rules) {
        Some(0) => None,
        // Nothing but a deletion that a worker holds back makes it serve more than the tables have. It may also not have
        // noticed yet that a row cannot be served any more, and deletions of a signed release are never held back.
        Some(more) if *quarantined == 0 && report.trust.is_none() => {
            Some(format!("withheld {}", count(more, "deletion")))
        }
        _ => Some(format!("serves {} of {rules} rules", report.rules)),
    }
}

/// How many hosts are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Summary {
    /// Numbers of hosts, in the order of [`HostState::WORDS`].
    pub(crate) hosts: [usize; 6],
}

/// Counts the hosts by state.
pub(crate) fn summarize<'s>(states: impl IntoIterator<Item = &'s HostState>) -> Summary {
    let mut summary = Summary::default();
    for state in states {
        summary.hosts[state.index()] += 1;
    }
    summary
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
