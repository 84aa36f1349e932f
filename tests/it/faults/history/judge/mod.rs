//! The judge has only the records, and judges each promise.
//!
//! It judges a promise by facts: each is something that could have been otherwise. It counts them, so that a promise
//! without a fact is noticed.

mod daemons;
mod evidence;
mod replay;
mod replica;
mod states;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use self::evidence::Evidence;
use super::History;

/// What the program promises under faults, in the order of the properties P1 to P17.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Promise {
    Convergence,
    NoLoss,
    Order,
    Resume,
    Deletes,
    LastGood,
    State,
    WholeRows,
    WorkerKilled,
    DatabaseUnavailable,
    TwoMasters,
    Clocks,
    SlowReader,
    OtherWriters,
    MassDelete,
    Poison,
    HostileClient,
}

impl Promise {
    const ALL: [Self; 17] = [
        Self::Convergence,
        Self::NoLoss,
        Self::Order,
        Self::Resume,
        Self::Deletes,
        Self::LastGood,
        Self::State,
        Self::WholeRows,
        Self::WorkerKilled,
        Self::DatabaseUnavailable,
        Self::TwoMasters,
        Self::Clocks,
        Self::SlowReader,
        Self::OtherWriters,
        Self::MassDelete,
        Self::Poison,
        Self::HostileClient,
    ];
}

/// `P10 DatabaseUnavailable`.
impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{} {self:?}", *self as usize + 1)
    }
}

#[derive(Default)]
pub(in super::super) struct Verdict {
    pub(in super::super) violations: Vec<String>,
    facts: BTreeMap<Promise, usize>,
    changes: usize,
    connections: usize,
    subscribers: usize,
    snapshots: BTreeMap<String, usize>,
    faults: BTreeMap<String, usize>,
    slowest_recovery: u64,
    slowest_takeover: u64,
    slowest_expiry: i64,
    clocks_can_be_stepped: bool,
}

impl Verdict {
    /// Judges a promise by one fact; `complaint` describes the violation.
    fn expect(&mut self, promise: Promise, holds: bool, complaint: impl FnOnce() -> String) {
        *self.facts.entry(promise).or_default() += 1;
        if !holds {
            self.violations.push(format!("{promise}: {}", complaint()));
        }
    }

    /// The promises for which the history has no fact.
    pub(in super::super) fn not_judged(&self) -> Vec<Promise> {
        Promise::ALL.into_iter().filter(|promise| !self.facts.contains_key(promise)).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, connections, subscribers, snapshots, faults, .. } = self;
        write!(
            f,
            "judged {changes} changes on {connections} connections of {subscribers} subscribers (snapshots \
             {snapshots:?}) under {} faults {faults:?}{}: {} violations; facts",
            faults.values().sum::<usize>(),
            if self.clocks_can_be_stepped { "" } else { ", without steps of clocks (no libfaketime)" },
            self.violations.len()
        )?;
        for (promise, facts) in &self.facts {
            write!(f, " P{} {facts}", *promise as usize + 1)?;
        }
        let not_judged = self.not_judged();
        if !not_judged.is_empty() {
            write!(f, "; NOT JUDGED: {not_judged:?}")?;
        }
        write!(
            f,
            "; slowest: recovery {} ms, takeover {} ms, expiry {} ms",
            self.slowest_recovery, self.slowest_takeover, self.slowest_expiry
        )
    }
}

impl History {
    pub(in super::super) fn judge(&self) -> Verdict {
        let mut verdict = Verdict {
            clocks_can_be_stepped: self.clocks_can_be_stepped,
            subscribers: self.transcripts.len(),
            ..Verdict::default()
        };
        for fault in &self.faults {
            *verdict.faults.entry(fault.what.clone()).or_default() += 1;
        }
        let mut evidence = Evidence::default();
        for transcript in &self.transcripts {
            evidence.hear(self, transcript, &mut verdict);
        }
        evidence.compare(self, &mut verdict);
        states::judge(self, &mut verdict);
        tables::judge(self, &evidence, &mut verdict);
        daemons::judge(self, &mut verdict);
        verdict
    }
}
