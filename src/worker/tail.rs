//! The loop that polls the tables and applies what it finds to the broker.

mod floor;
mod quarantine;
mod reports;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::floor::FloorFile;
use self::reports::Reports;
use super::broker::{AppliedChanges, Broker};
use super::log;
use super::trace::TailTrace;
use crate::backoff::{Backoff, jittered, until};
use crate::clock::Timestamp;
use crate::lifecycle::Liveness;
use crate::outage::{Outage, RecordBudget};
use crate::rule::{QuarantineEntry, RuleChange, TableDelta};
use crate::store::{Follow, StoreError};
use crate::telemetry::metrics::{self, Stage};
use crate::trust::TrustStatus;

/// How often, during a long poll, the broker checks whether its rules became stale.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How often the liveness beats, whatever is waited for: two polls may be days apart, and a watchdog waits for seconds.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Polls the tables, and is the only writer of the broker.
#[derive(Debug)]
pub(super) struct Tail<F, N> {
    follower: F,
    /// Makes a follower whose first poll reads everything.
    follow: N,
    broker: Arc<Broker>,
    poll_interval: Duration,
    /// The database's clock at the last poll, and when that was.
    clock: Option<(Timestamp, Instant)>,
    outage: Outage,
    /// Whether this outage has an error in the log, and not only the record that the tables are missing.
    error_logged: bool,
    backoff: Backoff,
    /// The quarantined rows that are already in the log.
    quarantined: BTreeSet<QuarantineEntry>,
    records: RecordBudget,
    /// The kind of store, for metrics.
    backend: String,
    /// Cancelled once the first poll has ended, successful or not.
    polled: CancellationToken,
    /// Cancelled once the broker has the rules of the cache.
    restored: CancellationToken,
    /// `None` if the floor is not saved.
    floor: Option<FloorFile>,
    /// What is trusted, as the log has it.
    trust: Option<TrustStatus>,
    reports: Option<Reports>,
}

impl<F: Follow, N: Fn() -> F> Tail<F, N> {
    /// A tail that starts to poll once `restored` is cancelled, and cancels `polled` after its first poll,
    /// successful or not.
    pub(super) fn new(
        follow: N,
        broker: Arc<Broker>,
        poll_interval: Duration,
        backend: String,
        polled: CancellationToken,
        restored: CancellationToken,
        floor: Option<PathBuf>,
    ) -> Self {
        Self {
            follower: follow(),
            follow,
            broker,
            poll_interval,
            clock: None,
            outage: Outage::default(),
            error_logged: false,
            backoff: Backoff::default(),
            quarantined: BTreeSet::new(),
            records: RecordBudget::default(),
            backend,
            polled,
            restored,
            floor: floor.map(FloorFile::new),
            trust: None,
            reports: None,
        }
    }

    /// Polls until the shutdown.
    pub(super) async fn run(mut self, liveness: &Liveness, shutdown: &CancellationToken) {
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        let work = self.work();
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut work => return,
                _ = beat.tick() => liveness.beat(),
            }
        }
    }

    /// Polls without end.
    async fn work(&mut self) {
        // The first poll need not parse texts that were parsed from the cache.
        self.restored.cancelled().await;
        loop {
            self.poll().await;
            self.polled.cancel();
            self.pause().await;
        }
    }

    /// Polls once. The database has its own thread, so while a poll takes long, states expire on time.
    async fn poll(&mut self) {
        if self.broker.begin_to_reread() {
            self.follower = (self.follow)();
        }
        let trace = TailTrace::begin();
        let found = metrics::timed("poll", self.follower.poll(&self.broker));
        match while_asked(&self.broker, self.clock, found).await {
            Ok(delta) => {
                let is_quiet = delta.is_quiet();
                let delta = self.judge(delta).await;
                self.apply(delta, trace);
                if !is_quiet {
                    self.log_quarantined();
                }
            }
            Err(error) => self.record_failure(&error),
        }
        self.log_trust();
    }

    /// What the poll changes for subscribers: under trust, only what the owner signed.
    async fn judge(&mut self, delta: TableDelta) -> TableDelta {
        let begun = Instant::now();
        // The tables are as old as they are, whatever of them is served. Named one by one, so that a new field is
        // not lost here.
        let TableDelta {
            now,
            rows,
            full,
            behind,
            current_for,
            master_silent,
            rolled_back,
            missed_by_watermark,
            rules: _,
            states: _,
            rule_keys: _,
            state_keys: _,
            manifest: _,
        } = delta;
        if let Some(delta) = self.broker.judge(delta) {
            return delta;
        }
        if let Some(bytes) = self.broker.wants_list() {
            let list = while_asked(&self.broker, self.clock, self.follower.release_list(bytes)).await;
            let list = list.unwrap_or_else(|error| {
                tracing::debug!(%error, "the list of the signed release is not read");
                None
            });
            self.broker.take_list(list.as_deref());
        }
        if let Some(file) = &mut self.floor
            && let Some(floor) = self.broker.unsaved_floor()
        {
            while_asked(&self.broker, self.clock, file.save(floor, &self.broker)).await;
        }
        let served = self.broker.take_served(now.after(begun.elapsed()));
        TableDelta {
            rows,
            full,
            behind,
            current_for,
            master_silent,
            rolled_back,
            missed_by_watermark,
            ..served
        }
    }

    /// Logs the reasons against the signed release that began or ended.
    fn log_trust(&mut self) {
        let now = self.broker.trust_status();
        if let Some(now) = &now {
            log::trust(self.trust.as_ref(), now);
        }
        self.trust = now;
    }

    /// Waits for the next poll: for a wake-up or the interval, or, while the database is unavailable, for the
    /// end of the backoff. States expire meanwhile.
    async fn pause(&mut self) {
        let wait = if self.outage.is_ongoing() { self.backoff.wait() } else { jittered(self.poll_interval) };
        let poll = Instant::now() + wait;
        loop {
            let end = next_end(&self.broker, self.clock);
            self.note_changes();
            let report_at = self.reports.as_ref().map(|reports| reports.schedule.due());
            self.follower.idle_until(report_at.map_or(poll, |report_at| report_at.min(poll)));
            tokio::select! {
                () = sleep_until(poll) => return,
                () = self.follower.woken(), if !self.outage.is_ongoing() => return,
                () = until(end) => expire(&self.broker, self.clock),
                () = until(self.broker.release_at()) => release(&self.broker),
                () = self.broker.newest_acknowledged(), if self.reports.is_some() => {}
                () = until(report_at), if !self.outage.is_ongoing() => self.report().await,
            }
        }
    }

    fn apply(&mut self, delta: TableDelta, mut trace: TailTrace) {
        trace.found(&delta, self.follower.trace_contexts());
        metrics::compiled(delta.rules.iter().filter(|rule| rule.is_ok()).count(), &self.backend);
        self.clock = Some((delta.now, Instant::now()));
        self.backoff.reset();
        self.broker.set_master_silent(delta.master_silent);
        let (missed_by_watermark, rolled_back) = (delta.missed_by_watermark, delta.rolled_back);
        let applied = self.broker.apply(delta, |changes, first_seq| trace.publish(changes, first_seq));
        self.broker.database(Ok(()));
        self.broker.set_applied(self.follower.tables_version());
        if let Some(lasted) = self.outage.ended(Instant::now()) {
            match std::mem::take(&mut self.error_logged) {
                true => log::database_back(self.source(), lasted),
                false => log::tables_found(lasted),
            }
        }
        let version_problem = self.follower.version_problem();
        if self.broker.version_problem(version_problem) {
            log::version_problem(version_problem);
        }
        if applied.first_load {
            log::loaded(self.broker.inspect(|catalogue, _, _| catalogue.rule_count()));
        }
        // Another replica may show an earlier beat, and nothing else.
        if rolled_back && !applied.first_load && !applied.changes.is_empty() {
            log::rolled_back(applied.changes.len());
        } else if missed_by_watermark > 0 && !applied.first_load {
            log::missed_by_watermark(missed_by_watermark);
        }
        report(&self.broker, &applied, self.clock, trace.trace_id());
        log::fallen(&applied.fallen);
        if let Some(held) = applied.held_back {
            log::held_back(held, self.broker.release_at().map(|at| at.duration_since(Instant::now())));
        }
        trace.end();
    }

    fn source(&self) -> log::Source {
        log::Source::of(&self.backend)
    }

    fn record_failure(&mut self, error: &StoreError) {
        self.broker.database(Err(error.to_string()));
        let is_loaded = self.broker.head_status().digest.is_some();
        match (self.outage.failed(&error.cause(), Instant::now()), error) {
            (None, _) => tracing::debug!(%error, "the database is still unavailable"),
            (Some(record), StoreError::NoTables { .. }) if !is_loaded => log::tables_awaited(error, record),
            (Some(record), _) => {
                self.error_logged = true;
                log::database_unavailable(self.source(), error, record, is_loaded);
            }
        }
    }
}

/// Waits for the database or the disk. Meanwhile states end on time, as does what is held back, and subscribers learn
/// that the rules became stale.
async fn while_asked<T>(
    broker: &Broker,
    clock: Option<(Timestamp, Instant)>,
    answer: impl Future<Output = T>,
) -> T {
    tokio::pin!(answer);
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            () = until(next_end(broker, clock)) => expire(broker, clock),
            () = until(broker.release_at()) => release(broker),
            _ = check.tick() => broker.announce(),
        }
    }
}

/// When the next state expires, by this process's timer; `None` if none will.
fn next_end(broker: &Broker, clock: Option<(Timestamp, Instant)>) -> Option<Instant> {
    let end = broker.next_expiry()?;
    let (now, at) = database_now(broker, clock);
    Some(at + end.since(now))
}

fn expire(broker: &Broker, clock: Option<(Timestamp, Instant)>) {
    let (now, at) = database_now(broker, clock);
    report(broker, &broker.expire(now.after(at.elapsed())), clock, None);
}

/// Follows the deletions that were held back for `worker.max_delete_hold`.
fn release(broker: &Broker) {
    let applied = broker.release();
    log::guard_lifted(broker, &applied, log::Lifted::InTime);
}

/// Logs and counts changes that went to the stream.
fn report(
    broker: &Broker,
    applied: &AppliedChanges,
    clock: Option<(Timestamp, Instant)>,
    trace_id: Option<String>,
) {
    log::changes(broker, applied, trace_id.as_deref());
    if applied.first_load {
        return;
    }
    let (now, at) = database_now(broker, clock);
    let now = now.after(at.elapsed());
    for change in &applied.changes {
        let (written_at, new_state) = match change {
            RuleChange::Written { rule, .. } => (Some(rule.header.updated_at), None),
            RuleChange::Deleted { .. } => (None, None),
            RuleChange::State { state, .. } => (state.set_at, Some(state.state)),
        };
        metrics::changed(change.kind(), new_state);
        if let Some(written_at) = written_at {
            metrics::propagated(Stage::WriteToStream, change.kind(), now.since(written_at));
        }
    }
}

/// A time of the database's clock and when it was read; of this host's clock before the first poll.
fn database_now(broker: &Broker, clock: Option<(Timestamp, Instant)>) -> (Timestamp, Instant) {
    clock.unwrap_or_else(|| (broker.clock.now(), Instant::now()))
}

#[cfg(test)]
mod tests;
