//! What a master reports: outages of the database and the directory, its lock, the result of a reconcile.

use std::time::Duration;

use tokio::time::Instant;

use super::{LeaseStatus, LockStatus, Master, MasterStatus, Summary, log};
use crate::directory::DirectoryUnavailable;
use crate::store::StoreError;

impl Master {
    pub(super) fn database_lost(&mut self, error: &StoreError) {
        self.set_lock(LockStatus::None);
        self.status.send_modify(|status| status.database_failed(error, self.clock.now()));
        if let Some(record) = self.database_outage.failed(&error.cause(), Instant::now()) {
            log::database_unavailable(error, record);
        }
    }

    /// Another master took over while this one was frozen or cut off.
    pub(super) fn was_taken_over(&mut self, leader: &str) {
        self.database_back();
        log::was_taken_over(leader);
        self.set_lock(LockStatus::Standby);
        self.note_lease(None, None);
    }

    pub(super) fn database_back(&mut self) {
        let now = self.clock.now();
        self.status.send_modify(|status| status.database_works(now));
        if let Some(lasted) = self.database_outage.ended(Instant::now()) {
            self.lock_logged = false;
            log::database_back(lasted);
        }
    }

    pub(super) fn directory_lost(&mut self, error: &DirectoryUnavailable) {
        self.status.send_modify(|status| status.directory_failed(error, self.clock.now()));
        if let Some(record) = self.directory_outage.failed(&error.to_string(), Instant::now()) {
            log::directory_unavailable(error, record);
        }
    }

    pub(super) fn directory_back(&mut self) {
        self.status.send_modify(MasterStatus::directory_works);
        if let Some(lasted) = self.directory_outage.ended(Instant::now()) {
            log::directory_back(self.reconciler.scanner().directory(), lasted);
        }
    }

    /// Logs whether the version is raised, if that changed.
    pub(super) fn note_version_problem(&self, problem: Option<&str>) {
        self.status.send_if_modified(|status| {
            let is_new = status.version_problem.as_deref() != problem;
            if is_new {
                log::version_problem(problem);
                status.version_problem = problem.map(str::to_owned);
            }
            is_new
        });
    }

    /// Records the lease, and logs whether there is one if that changed.
    pub(super) fn note_lease(&self, problem: Option<&str>, lease: Option<(u64, Duration)>) {
        self.status.send_if_modified(|status| {
            let is_new = status.lease_problem.as_deref() != problem;
            if is_new {
                log::lease_problem(problem);
                status.lease_problem = problem.map(str::to_owned);
            }
            let lease =
                lease.map(|(term, age)| LeaseStatus { term, confirmed_at: self.clock.now().before(age) });
            let is_other = status.lease != lease;
            status.lease = lease;
            is_new || is_other
        });
    }

    pub(super) fn set_lock(&self, lock: LockStatus) {
        self.status.send_modify(|status| status.lock = lock);
    }

    pub(super) fn publish(&self, summary: Summary) {
        let now = self.clock.now();
        self.status.send_modify(|status| status.reconciled(&self.reconciler, summary, now));
    }
}
