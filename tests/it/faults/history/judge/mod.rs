//! The judge: who only has the records, and judges each promise by its name.
//!
//! A promise is judged on facts: each is one thing that could have been otherwise. How many there
//! were is told, so that a promise on which nothing was judged is seen.

mod daemons;
mod known;
mod replay;
mod states;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use self::replay::Evidence;
use super::History;

/// The promises, P1 to P17.
const PROMISES: [&str; 17] = [
    "convergence",
    "no loss",
    "order",
    "resume",
    "deletes",
    "last good",
    "state",
    "whole rows",
    "worker killed",
    "database unavailable",
    "two masters",
    "clocks",
    "slow reader",
    "other writers",
    "mass delete",
    "poison",
    "hostile client",
];

#[derive(Default)]
pub(in super::super) struct Verdict {
    pub(in super::super) violations: Vec<String>,
    facts: [usize; PROMISES.len()],
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
    /// One fact of a promise: what must hold, and what to say where it does not.
    fn expect(&mut self, promise: usize, holds: bool, complaint: impl FnOnce() -> String) {
        self.facts[promise - 1] += 1;
        if !holds {
            self.violations.push(format!("P{promise} {}: {}", PROMISES[promise - 1], complaint()));
        }
    }

    /// Promises on which nothing was judged.
    pub(in super::super) fn not_judged(&self) -> Vec<usize> {
        (1..=PROMISES.len()).filter(|promise| self.facts[promise - 1] == 0).collect()
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
        for (promise, facts) in (1..).zip(self.facts) {
            write!(f, " P{promise} {facts}")?;
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
            subscribers: self.heard.len(),
            ..Verdict::default()
        };
        for fault in &self.faults {
            *verdict.faults.entry(fault.what.clone()).or_default() += 1;
        }
        let mut evidence = Evidence::default();
        for heard in &self.heard {
            evidence.hear(self, heard, &mut verdict);
        }
        evidence.compare(self, &mut verdict);
        states::judge(self, &mut verdict);
        tables::judge(self, &evidence, &mut verdict);
        daemons::judge(self, &mut verdict);
        verdict
    }
}
