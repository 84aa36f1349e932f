//! The state of the database as the tail last saw it.

use std::time::Duration;

use tokio::time::Instant;

use super::Broker;
use crate::clock::Timestamp;
use crate::rule::MasterSilence;

/// The state of the database as the tail last saw it.
#[derive(Debug, Clone)]
pub(in crate::worker) struct DatabaseState {
    pub(in crate::worker) up: bool,
    /// When `up` last changed.
    pub(in crate::worker) since: Timestamp,
    /// The error of the last poll and its time; `None` while the database is available.
    pub(in crate::worker) last_error: Option<(String, Timestamp)>,
    /// See [`crate::store::Follow::version_problem`].
    pub(in crate::worker) version_problem: Option<String>,
    /// Why the worker's report cannot be written; `None` if it can, or there is no place for it.
    pub(in crate::worker) report_problem: Option<String>,
    /// How long the master had given no sign of life at the last poll; zero while it does.
    pub(in crate::worker) master_silent: MasterSilence,
    /// The version of the tables whose changes are all in the journal.
    pub(super) applied: Option<u64>,
    /// `None` before the catalogue is filled.
    pub(super) fresh: Option<Fresh>,
}

/// The catalogue as it was last filled or confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    at: Instant,
    /// How old its content was.
    age: Duration,
    /// For how long it counts as current.
    lasts: Duration,
}

impl Fresh {
    /// Filled or confirmed now.
    pub(super) fn now(age: Duration, lasts: Duration) -> Self {
        Self { at: Instant::now(), age, lasts }
    }
}

impl DatabaseState {
    /// How long ago the catalogue was last current; zero while the database is up and what the last successful poll found
    /// counts as current.
    pub(super) fn stale_for(&self, now: Timestamp) -> Duration {
        match self.fresh {
            Some(Fresh { at, age, lasts }) if self.up && age.is_zero() && at.elapsed() <= lasts => {
                Duration::ZERO
            }
            Some(Fresh { at, age, .. }) => at.elapsed() + age,
            None => now.since(self.since),
        }
    }
}

impl Broker {
    /// Records whether the database answers.
    pub(in crate::worker) fn database(&self, result: Result<(), String>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = &mut inner.state;
        if state.up != result.is_ok() {
            state.up = result.is_ok();
            state.since = now;
        }
        state.last_error = result.err().map(|error| (error, now));
        drop(inner);
        self.announce();
    }

    /// Records why the tables' version is not read, and returns whether that is new.
    pub(in crate::worker) fn version_problem(&self, problem: Option<&str>) -> bool {
        let known = &mut self.lock().state.version_problem;
        let is_new = known.as_deref() != problem;
        *known = problem.map(str::to_owned);
        is_new
    }

    /// Records why the worker's report cannot be written, and returns whether that is new.
    pub(in crate::worker) fn report_problem(&self, problem: Option<String>) -> bool {
        let known = &mut self.lock().state.report_problem;
        let is_new = *known != problem;
        *known = problem;
        is_new
    }

    /// Records the version of the tables whose changes are all in the journal.
    pub(in crate::worker) fn set_applied(&self, version: Option<u64>) {
        self.lock().state.applied = version;
    }

    pub(in crate::worker) fn set_master_silent(&self, silent: MasterSilence) {
        self.lock().state.master_silent = silent;
    }

    /// The version of the tables whose changes are all in the journal; `None` if it cannot be read.
    pub(in crate::worker) fn applied(&self) -> Option<u64> {
        self.lock().state.applied
    }
}
