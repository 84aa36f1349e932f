//! Which hosts a master logs: those that became silent or stay behind, and those that are back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{HostState, Look, Summary, hosts, state_of, summarize};
use crate::clock::Timestamp;

/// A host that lacks changes for less than this is not logged, because every change takes a moment to arrive.
const BEHIND_FOR: Duration = Duration::from_secs(60);

/// Compares each look with the ones before.
#[derive(Debug, Default)]
pub(crate) struct FleetWatch {
    before: Option<Look>,
    /// Since when hosts are behind, by name and the server's clock.
    behind: BTreeMap<String, Timestamp>,
    /// The hosts that were logged and are not back, by name.
    logged: BTreeSet<String>,
    /// The newest version that every worker has reported.
    everywhere: Option<u64>,
}

/// What to log after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FleetNews {
    /// Hosts that are silent, or have been behind for a minute, by name.
    pub(crate) lost: Vec<(String, HostState)>,
    /// Hosts that were logged as such and are neither any more, by name.
    pub(crate) back: Vec<String>,
    /// How many hosts are in each state.
    pub(crate) summary: Summary,
    /// The age of the oldest report of a worker that is not a predecessor; `None` if no worker has reported.
    pub(crate) oldest_report: Option<Duration>,
    /// From the last change of the tables to the report of the last worker that has it, once all have it that are
    /// neither silent nor unable to read the version; `None` at looks after that.
    pub(crate) arrived_after: Option<Duration>,
}

impl FleetWatch {
    /// Takes a look. Looks should be further apart than a worker's reports after changes: a host lacks a change only if
    /// it lacked it at the look before.
    pub(crate) fn update(&mut self, look: Look) -> FleetNews {
        let mut news = FleetNews::default();
        let mut names = BTreeSet::new();
        let mut states = Vec::new();
        let mut last_report: Option<Timestamp> = None;
        let mut is_everywhere = true;
        let first = self.before.as_ref().unwrap_or(&look);
        for host in hosts(&look.workers, look.now) {
            let state = state_of(&host, first, &look);
            let worker = &host.worker;
            let age = look.now.since(worker.reported_at);
            news.oldest_report = Some(news.oldest_report.map_or(age, |oldest| oldest.max(age)));
            if let (false, Some(applied)) = (worker.is_silent(look.now), worker.report.applied) {
                is_everywhere &= look.version.is_some_and(|version| applied >= version);
                last_report = last_report.max(Some(worker.reported_at));
            }
            states.push(state.clone());
            let is_lost = match state {
                HostState::Silent { .. } => true,
                HostState::Behind { .. } => {
                    let since = *self.behind.entry(host.name.clone()).or_insert(look.now);
                    look.now.since(since) >= BEHIND_FOR
                }
                _ => false,
            };
            if !matches!(state, HostState::Behind { .. }) {
                self.behind.remove(&host.name);
            }
            names.insert(host.name.clone());
            match (is_lost, self.logged.contains(&host.name)) {
                (true, false) => {
                    self.logged.insert(host.name.clone());
                    news.lost.push((host.name, state));
                }
                // One that was silent may still be behind.
                (false, true) if !matches!(state, HostState::Behind { .. }) => {
                    self.logged.remove(&host.name);
                    news.back.push(host.name);
                }
                _ => {}
            }
        }
        news.summary = summarize(&states);
        if let Some(version) = look.version {
            // What all had at the first look arrived before it, at a time that nobody knows.
            let everywhere =
                self.everywhere.get_or_insert(version - u64::from(!is_everywhere && version > 0));
            if is_everywhere && *everywhere < version {
                *everywhere = version;
                news.arrived_after =
                    last_report.zip(look.changed_at).map(|(at, changed_at)| at.since(changed_at));
            }
        }
        // A host whose report was deleted is not logged as back.
        self.logged.retain(|name| names.contains(name));
        self.behind.retain(|name, _| names.contains(name));
        self.before = Some(Look { workers: Vec::new(), ..look });
        news
    }
}
