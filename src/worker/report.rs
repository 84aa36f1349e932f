//! When the worker reports of itself to the database.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{jittered, random};
use crate::fleet::WorkerReport;

/// So many reports after changes come in a row; then they come at most every [`PAUSE`].
const IN_A_ROW: u32 = 3;

/// The shortest time between two reports once there were [`IN_A_ROW`].
const PAUSE: Duration = Duration::from_secs(5);

/// The least time over which reports spread that need a connection each.
const ELSEWHERE_SPREAD: Duration = Duration::from_secs(10);

/// Decides when the worker reports: soon after a change, at a random time within the spread; otherwise at an interval.
#[derive(Debug)]
pub(super) struct Schedule {
    spread: Duration,
    interval: Duration,
    /// When to report although nothing changed.
    regular: Instant,
    /// When to report a change.
    soon: Option<Instant>,
    last: Option<Instant>,
    in_a_row: u32,
    failed: bool,
}

impl Schedule {
    pub(super) fn new(spread: Duration, interval: Duration, now: Instant) -> Self {
        Self { spread, interval, regular: now + interval, soon: None, last: None, in_a_row: 0, failed: false }
    }

    /// Something changed that is worth a report; `elsewhere` if that needs a connection of its own.
    pub(super) fn changed(&mut self, now: Instant, elsewhere: bool) {
        // A table without the right to it is not tried at each change: each try is an error in the server's log.
        if self.soon.is_some() || self.failed {
            return;
        }
        let spread = if elsewhere { self.spread.max(ELSEWHERE_SPREAD) } else { self.spread };
        let soon = now + spread.mul_f64(random());
        let earliest = self.last.filter(|_| self.in_a_row >= IN_A_ROW).map(|last| last + PAUSE);
        self.soon = Some(earliest.map_or(soon, |earliest| soon.max(earliest)));
    }

    /// When the next report is due.
    pub(super) fn due(&self) -> Instant {
        self.soon.map_or(self.regular, |soon| soon.min(self.regular))
    }

    /// A report was written, or could not be.
    pub(super) fn reported(&mut self, now: Instant, is_written: bool) {
        let is_in_a_row = self.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        self.in_a_row = if is_in_a_row { self.in_a_row + 1 } else { 1 };
        (self.last, self.soon, self.failed) = (Some(now), None, !is_written);
        self.regular = now + jittered(self.interval);
    }
}

/// What of a report is worth another one when it changes.
pub(super) fn mark(report: &WorkerReport) -> impl PartialEq + use<> {
    let WorkerReport { applied, digest, trust, manifest_version, stale_ms, .. } = report.clone();
    let is_acknowledged = report.acknowledged == report.acknowledging;
    let acknowledgements = (report.acknowledging, is_acknowledged);
    (applied, digest, trust, manifest_version, stale_ms > 0, acknowledgements, report.quarantined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_changes_are_reported_within_the_spread_and_later_ones_every_five_seconds() {
        let now = Instant::now();
        let (spread, interval) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut schedule = Schedule::new(spread, interval, now);
        assert_eq!(schedule.due(), now + interval);
        let mut at = now;
        for _ in 0..IN_A_ROW {
            schedule.changed(at, false);
            assert!(schedule.due() <= at + spread);
            at = schedule.due();
            schedule.reported(at, true);
        }
        schedule.changed(at, false);
        assert!(schedule.due() >= at + PAUSE && schedule.due() <= at + PAUSE + spread);
        at = schedule.due();
        schedule.reported(at, true);
        // After a pause there are three again.
        schedule.changed(at, false);
        assert!(schedule.due() <= at + spread);
        // What cannot be written waits for the interval.
        schedule.reported(at, false);
        schedule.changed(at, false);
        assert!(schedule.due() >= at + interval.mul_f64(0.9));
    }

    #[test]
    fn reports_that_need_a_connection_each_spread_over_ten_seconds() {
        let now = Instant::now();
        let waits = |spread, elsewhere| {
            let drawn = (0..200).map(|_| {
                let mut schedule = Schedule::new(Duration::from_secs(spread), Duration::from_secs(600), now);
                schedule.changed(now, elsewhere);
                schedule.due() - now
            });
            drawn.max().unwrap()
        };
        assert!(waits(1, false) <= Duration::from_secs(1));
        let elsewhere = waits(1, true);
        assert!(elsewhere > Duration::from_secs(5) && elsewhere <= Duration::from_secs(10), "{elsewhere:?}");
        assert!(waits(60, true) > Duration::from_secs(30), "a longer spread stays");
    }
}
