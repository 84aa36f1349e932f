//! What the worker reports of itself to the database, and when.

use std::time::Duration;

use tokio::time::Instant;

use super::{Shared, WorkerStatus};
use crate::backoff::{jittered, random};
use crate::config::WorkerConfig;
use crate::fleet::WorkerReport;
use crate::trust::TrustState;

/// So many reports after changes come in a row; then they come at most every [`PAUSE`].
const IN_A_ROW: u32 = 3;

/// The shortest time between two reports once there were [`IN_A_ROW`].
const PAUSE: Duration = Duration::from_secs(5);

/// The least time over which reports spread that need a connection each.
const ELSEWHERE_SPREAD: Duration = Duration::from_secs(10);

/// Who this worker is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    worker_id: String,
    host: String,
    interval: Duration,
}

impl Identity {
    /// The id of the configuration, or of the machine; the host's name where the machine has none.
    pub(super) fn of(config: &WorkerConfig) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let machine = || std::fs::read_to_string("/etc/machine-id").ok().map(|id| id.trim().to_owned());
        let worker_id = config.id.clone().or_else(machine).filter(|id| !id.is_empty());
        Self { worker_id: worker_id.unwrap_or_else(|| host.clone()), host, interval: config.report_interval }
    }
}

impl Shared {
    /// What the worker reports now.
    pub(super) fn report(&self) -> WorkerReport {
        self.report_of(&self.plain_status())
    }

    /// What the worker with this status reports.
    pub(super) fn report_of(&self, status: &WorkerStatus) -> WorkerReport {
        let seq = status.stream.seq;
        let subscribers = status.stream.subscribers.iter().filter(|peer| peer.subscribed);
        let acked: Vec<u64> = subscribers.clone().filter_map(|peer| peer.acked).collect();
        let trust = status.trust.as_ref().map(|trust| {
            let state = match trust.state {
                TrustState::Ok => "ok",
                TrustState::Degraded => "degraded",
                TrustState::None => "none",
            };
            let reasons = trust.reasons.iter().map(|reason| format!(" {}", reason.as_str()));
            state.to_owned() + &reasons.collect::<String>()
        });
        WorkerReport {
            epoch: status.stream.epoch.to_string(),
            worker_id: self.identity.worker_id.clone(),
            host: self.identity.host.clone(),
            program: status.version.clone(),
            interval_ms: u64::try_from(self.identity.interval.as_millis()).unwrap_or(u64::MAX),
            applied: self.broker.applied(),
            seq,
            digest: status.digest.map(|digest| digest.to_string()),
            rules: status.rules,
            states: status.states,
            quarantined: status.quarantined_rows() as u64,
            quarantined_ids: WorkerReport::join_ids(status.quarantined.iter().map(|row| &*row.rule_id)),
            trust,
            manifest_version: status.trust.as_ref().and_then(|trust| trust.version.clone()),
            subscribers: subscribers.count() as u64,
            acknowledging: acked.len() as u64,
            acknowledged: acked.iter().filter(|&&acked| acked >= seq).count() as u64,
            server: self.origin.place.clone(),
            stale_ms: status.database.stale_for_ms,
        }
    }
}

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
