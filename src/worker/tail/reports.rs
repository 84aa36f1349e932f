//! When the tail writes what the worker reports of itself.

use tokio::time::Instant;

use super::super::log;
use super::super::report::{Schedule, mark};
use super::{Tail, while_asked};
use crate::fleet::WorkerReport;
use crate::store::Follow;

/// What is reported of the worker, and when.
pub(super) struct Reports {
    pub(super) schedule: Schedule,
    report: Box<dyn Fn() -> WorkerReport + Send + Sync>,
    /// The last report that was written.
    last: Option<WorkerReport>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reports({:?})", self.schedule)
    }
}

impl<F: Follow, N: Fn() -> F> Tail<F, N> {
    /// Reports what `report` returns, where the store has a place for it.
    pub(in crate::worker) fn reporting(
        mut self,
        schedule: Schedule,
        report: impl Fn() -> WorkerReport + Send + Sync + 'static,
    ) -> Self {
        if self.follower.takes_reports() {
            self.reports = Some(Reports { schedule, report: Box::new(report), last: None });
        }
        self
    }

    /// Schedules a report if there is something new.
    pub(super) fn note_changes(&mut self) {
        if let Some(Reports { schedule, report, last }) = &mut self.reports {
            let now = report();
            if last.as_ref().is_none_or(|last| mark(last) != mark(&now)) {
                schedule.changed(Instant::now(), self.follower.reports_elsewhere());
            }
        }
    }

    /// Writes the report. A failure is logged when its cause is new.
    pub(super) async fn report(&mut self) {
        let Some(Reports { schedule, report, last }) = &mut self.reports else { return };
        let now = report();
        let written = while_asked(&self.broker, self.clock, self.follower.report(now.clone())).await;
        schedule.reported(Instant::now(), written.is_ok());
        if written.is_ok() {
            *last = Some(now);
        }
        let problem = written.err();
        if self.broker.report_problem(problem.clone()) {
            log::report_problem(problem.as_deref());
        }
    }
}
