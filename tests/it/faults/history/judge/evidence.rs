//! What all subscribers received, and the comparison of their replicas.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::super::{Fault, History, worker_host};
use super::replica::Replica;
use super::{Promise, Verdict};

/// A subscriber that reads at once receives a change at most this much later than the first one that receives it.
const PROMPT: u64 = 5_000;

/// How long after an empty directory a deletion is attributed to it, in milliseconds.
const AFTERMATH: u64 = 5_000;

/// A change: its epoch and its number.
pub(super) type Number = (String, u64);

/// One run of a worker.
#[derive(Default)]
pub(super) struct Epoch {
    pub(super) worker: usize,
    /// When a subscriber first connected to it.
    pub(super) from: u64,
    /// The rules that it began with, if a subscriber received them.
    pub(super) began: Option<Replica>,
}

/// What all subscribers received.
#[derive(Default)]
pub(super) struct Evidence<'h> {
    /// For each number, its change, when it was first received, and by whom.
    pub(super) named: HashMap<Number, (&'h Value, u64)>,
    pub(super) prompt: Vec<(Number, u64, &'h str)>,
    /// The replica after a change, of a subscriber without a gap since its snapshot; and of those that resumed.
    pub(super) whole: HashMap<Number, (u64, &'h str)>,
    pub(super) resumed: Vec<(Number, u64, &'h str)>,
    /// The last replica of an epoch.
    pub(super) last: HashMap<String, (u64, Replica)>,
    /// Every epoch. Their names do not give their order, because a clock may step back.
    pub(super) epochs: BTreeMap<String, Epoch>,
    /// Deletions that nobody meant, after the directory was empty for a while.
    pub(super) swept: Vec<(u64, String)>,
    /// The final replicas of the subscribers that read to the end.
    pub(super) ends: Vec<(&'h str, Replica)>,
}

impl Evidence<'_> {
    /// Compares the replicas of the subscribers.
    pub(super) fn compare(&self, history: &History, verdict: &mut Verdict) {
        for (number, known, who) in &self.resumed {
            if let Some((whole, other)) = self.whole.get(number) {
                verdict.expect(Promise::Resume, known == whole, || {
                    format!("after change {number:?} {who}, which resumed, differs from {other}")
                });
            }
        }
        for (number, at, who) in &self.prompt {
            let first = self.named[number].1;
            verdict.expect(Promise::SlowReader, at.saturating_sub(first) <= PROMPT, || {
                format!("{who} received change {number:?} {} ms after another did", at - first)
            });
        }
        for fault in history.emptied() {
            let swept = self.swept.iter().find(|(at, _)| in_the_aftermath(fault, *at));
            verdict.expect(Promise::MassDelete, swept.is_none(), || {
                swept.map(|(_, what)| what.clone()).unwrap_or_default()
            });
        }
        for restart in &history.restarts {
            let Some(epoch) = self.epochs.get(&restart.epoch) else { continue };
            let earlier = self
                .epochs
                .iter()
                .filter(|(_, other)| other.worker == epoch.worker && other.from < epoch.from);
            let Some((name, before)) = earlier.max_by_key(|(_, other)| other.from) else { continue };
            // A killed worker may lose the last moment of its cache, and its successor can end before anyone
            // connects.
            let host = worker_host(restart.worker);
            let mut ends = history.faults_of(&host, before.from, epoch.from);
            if ends.any(|fault| fault.what == "worker killed") {
                continue;
            }
            if let (Some((_, before)), Some(began)) = (self.last.get(name), &epoch.began) {
                verdict.expect(Promise::WorkerKilled, before.rules == began.rules, || {
                    format!(
                        "worker {} knew {:?} and served {:?} after its restart without the database",
                        restart.worker, before.rules, began.rules
                    )
                });
            }
        }
    }
}

pub(super) fn in_the_aftermath(fault: &Fault, at: u64) -> bool {
    (fault.from..=fault.to + AFTERMATH).contains(&at)
}
