//! From the rows of the table to hosts: predecessors and clones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::{ReportedWorker, WorkerReport};
use crate::clock::Timestamp;

/// How long the row of a predecessor is kept.
const KEEP_PREDECESSORS: Duration = Duration::from_hours(1);

/// How far in the future the time of a report may be.
const FUTURE: Duration = Duration::from_secs(60);

/// How many of the last digits of an epoch tell two clones apart.
const EPOCH_DIGITS: usize = 6;

/// A worker that is not the predecessor of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// The host's name; with the worker's id where workers of several ids have the name, and with the end of the run's
    /// epoch where that is the same, too.
    pub(crate) name: String,
    /// The name of another host that reports with the same `worker_id`.
    pub(crate) same_id_as: Option<String>,
    /// Its row.
    pub(crate) worker: ReportedWorker,
}

/// The hosts of these rows, by name. A row that was last reported before another one of its `worker_id` started is its
/// predecessor and left out; two that go on reporting are clones, and both are there.
pub(crate) fn hosts(rows: &[ReportedWorker], now: Timestamp) -> Vec<Host> {
    let rest = predecessors(rows, now);
    let mut rows: Vec<&ReportedWorker> =
        rows.iter().filter(|row| !rest.contains(&*row.report.epoch)).collect();
    rows.sort_by_key(|row| {
        let report = &row.report;
        (&report.host, &report.worker_id, &row.started_at, &report.epoch)
    });
    let mut runs_of_name: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
    for row in &rows {
        *runs_of_name.entry(&row.report.host).or_default().entry(&row.report.worker_id).or_default() += 1;
    }
    let name = |row: &ReportedWorker| {
        let WorkerReport { host, worker_id, epoch, .. } = &row.report;
        let runs_of_id = runs_of_name.get(&**host);
        let mut name = host.clone();
        if runs_of_id.is_some_and(|runs| runs.len() > 1) {
            name += &format!("/{worker_id}");
        }
        if runs_of_id.and_then(|runs| runs.get(&**worker_id)).is_some_and(|runs| *runs > 1) {
            let end = epoch.char_indices().nth_back(EPOCH_DIGITS - 1).map_or(0, |(start, _)| start);
            name += &format!("/{}", &epoch[end..]);
        }
        name
    };
    let mut same: BTreeMap<&str, Vec<&ReportedWorker>> = BTreeMap::new();
    for row in &rows {
        same.entry(&row.report.worker_id).or_default().push(row);
    }
    let same_id_as = |row: &ReportedWorker| {
        let others = same.get(&*row.report.worker_id)?;
        others.iter().find(|other| other.report.epoch != row.report.epoch).map(|other| name(other))
    };
    rows.iter()
        .map(|row| Host { name: name(row), same_id_as: same_id_as(row), worker: (*row).clone() })
        .collect()
}

/// The epochs of the rows that this name means: a host's name, alone or as it is shown, or a worker's id.
pub(crate) fn named(rows: &[ReportedWorker], now: Timestamp, name: &str) -> Vec<String> {
    let shown = hosts(rows, now).into_iter().filter(|host| host.name == name);
    let shown: HashSet<String> = shown.map(|host| host.worker.report.epoch).collect();
    let is_named = |row: &&ReportedWorker| {
        let WorkerReport { host, worker_id, epoch, .. } = &row.report;
        let both = name.strip_prefix(&**host).and_then(|rest| rest.strip_prefix('/'));
        host == name || worker_id == name || both == Some(worker_id) || shown.contains(epoch)
    };
    rows.iter().filter(is_named).map(|row| row.report.epoch.clone()).collect()
}

/// The epochs of rows that were last reported before another one of the same `worker_id` started.
fn predecessors(rows: &[ReportedWorker], now: Timestamp) -> HashSet<&str> {
    let mut latest: HashMap<&str, Timestamp> = HashMap::new();
    // A start in the future is a lie, and must not hide anyone.
    for row in rows.iter().filter(|row| row.started_at <= now) {
        let start = latest.entry(&row.report.worker_id).or_insert(row.started_at);
        *start = (*start).max(row.started_at);
    }
    rows.iter()
        .filter(|row| latest.get(&*row.report.worker_id).is_some_and(|start| row.reported_at < *start))
        .map(|row| &*row.report.epoch)
        .collect()
}

/// The epochs of the rows that a master deletes: predecessors older than an hour, workers that were silent for
/// `forget_after`, and reports from over a minute in the future.
pub(crate) fn to_forget(rows: &[ReportedWorker], now: Timestamp, forget_after: Duration) -> Vec<String> {
    let predecessors = predecessors(rows, now);
    let is_over = |row: &&ReportedWorker| {
        let age = now.since(row.reported_at);
        age > forget_after
            || row.reported_at.since(now) > FUTURE
            || (age > KEEP_PREDECESSORS && predecessors.contains(&*row.report.epoch))
    };
    rows.iter().filter(is_over).map(|row| row.report.epoch.clone()).collect()
}
