//! Waiting until every host has a change.

use std::collections::HashSet;

use super::{Host, Look, WorkerReport, hosts};
use crate::clock::Timestamp;

/// What is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// Every host must have applied this version.
    pub(crate) version: u64,
    /// Whether the subscribers that acknowledge must have acknowledged, too.
    pub(crate) acknowledged: bool,
    /// Whether silent and unknown hosts count.
    pub(crate) strict: bool,
    /// The epochs that were silent at the write, with the time of their last report.
    silent: HashSet<(String, Timestamp)>,
}

/// A host that lacks the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its name.
    pub(crate) host: String,
    /// What it lacks, in words.
    pub(crate) why: String,
}

/// How far the wait is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wait {
    /// How many hosts count.
    pub(crate) counted: usize,
    /// Those that lack the change.
    pub(crate) missing: Vec<Missing>,
    /// Those that do not count, because they are silent or cannot read the version.
    pub(crate) passed_over: Vec<Missing>,
}

impl Wait {
    /// Whether every host that counts has the change.
    pub(crate) const fn is_done(&self) -> bool {
        self.missing.is_empty()
    }
}

impl Waiting {
    /// Waits for this version; `start` was read after the write.
    pub(crate) fn new(version: u64, start: &Look, acknowledged: bool, strict: bool) -> Self {
        let silent = start.workers.iter().filter(|worker| worker.is_silent(start.now));
        let silent = silent.map(|worker| (worker.report.epoch.clone(), worker.reported_at)).collect();
        Self { version, acknowledged, strict, silent }
    }

    /// Who has the change, as this look shows it.
    pub(crate) fn check(&self, look: &Look) -> Wait {
        let mut wait = Wait::default();
        for host in hosts(&look.workers, look.now) {
            let lacks = self.lacks(&host.worker.report);
            match self.why_passed_over(&host) {
                Some(why) if !self.strict => wait.passed_over.push(Missing { host: host.name, why }),
                passed_over => {
                    wait.counted += 1;
                    if let Some(why) = passed_over.or(lacks) {
                        wait.missing.push(Missing { host: host.name, why });
                    }
                }
            }
        }
        wait
    }

    /// How many reports of this look lack the change, whether their hosts count or not.
    pub(crate) fn lacking(&self, look: &Look) -> usize {
        look.workers.iter().filter(|worker| self.lacks(&worker.report).is_some()).count()
    }

    /// Why the host does not count; `None` if it does.
    fn why_passed_over(&self, host: &Host) -> Option<String> {
        let report = &host.worker.report;
        if self.silent.contains(&(report.epoch.clone(), host.worker.reported_at)) {
            return Some("silent".to_owned());
        }
        report.applied.is_none().then(|| "cannot read the version".to_owned())
    }

    /// What the host lacks; `None` if it has everything.
    fn lacks(&self, report: &WorkerReport) -> Option<String> {
        match report.applied {
            Some(applied) if applied >= self.version => {}
            Some(applied) => return Some(format!("has version {applied} of {}", self.version)),
            None => return Some("has not said which version it has".to_owned()),
        }
        (self.acknowledged && report.acknowledged < report.acknowledging)
            .then(|| format!("{} of {} subscribers acknowledged", report.acknowledged, report.acknowledging))
    }
}
