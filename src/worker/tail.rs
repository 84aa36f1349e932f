//! The one loop that follows the tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::broker::{AppliedChanges, Broker};
use super::log;
use super::trace::TailTrace;
use crate::backoff::{Backoff, jittered};
use crate::clock::Timestamp;
use crate::lifecycle::Liveness;
use crate::outage::{Outage, RecordBudget};
use crate::rule::{QuarantineEntry, RuleChange, Table, TableDelta};
use crate::store::{Follow, StoreError};
use crate::telemetry::metrics::{self, Stage};

/// How often the liveness beats while a poll takes long, and it is seen whether what is served has become stale.
const BEAT_INTERVAL: Duration = Duration::from_millis(200);

/// Follows the tables and writes what it hears into the broker.
#[derive(Debug)]
pub(super) struct Tail<F, N> {
    follower: F,
    /// Makes a follower that has seen nothing.
    follow: N,
    broker: Arc<Broker>,
    poll_interval: Duration,
    /// The database's clock at the last poll, and when that was.
    clock: Option<(Timestamp, Instant)>,
    outage: Outage,
    /// Whether an error of this outage was logged, and not only that the tables are waited for.
    error_logged: bool,
    /// How long to wait after a poll that failed.
    backoff: Backoff,
    /// What was already logged.
    quarantined: BTreeSet<QuarantineEntry>,
    records: RecordBudget,
    /// The store's name, for what is counted.
    backend: String,
    /// Cancelled once the first poll has ended, well or not.
    looked: CancellationToken,
    /// Cancelled once the broker has what was known before this run.
    restored: CancellationToken,
}

impl<F: Follow, N: Fn() -> F> Tail<F, N> {
    /// A tail that has not looked yet; `looked` is cancelled once it has, whatever came of it. It
    /// begins after `restored`.
    pub(super) fn new(
        follow: N,
        broker: Arc<Broker>,
        poll_interval: Duration,
        backend: String,
        looked: CancellationToken,
        restored: CancellationToken,
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
            looked,
            restored,
        }
    }

    /// Follows until the shutdown.
    pub(super) async fn run(mut self, liveness: &Liveness, shutdown: &CancellationToken) {
        // What was parsed of the cache need not be parsed again.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.restored.cancelled() => {}
        }
        loop {
            liveness.beat();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.poll(liveness) => self.looked.cancel(),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.pause() => {}
            }
        }
    }

    /// Looks once. States end on time though the database lets the poll wait, and the liveness beats: the
    /// database's thread is not this one.
    async fn poll(&mut self, liveness: &Liveness) {
        if self.broker.begin_to_reread() {
            self.follower = (self.follow)();
        }
        let trace = TailTrace::begin();
        let found = {
            let delta = metrics::timed("poll", self.follower.poll(&self.broker));
            tokio::pin!(delta);
            let mut beat = tokio::time::interval(BEAT_INTERVAL);
            loop {
                let end = next_end(&self.broker, self.clock);
                tokio::select! {
                    found = &mut delta => break found,
                    () = until(end) => expire(&self.broker, self.clock),
                    () = until(self.broker.release_at()) => release(&self.broker),
                    _ = beat.tick() => {
                        liveness.beat();
                        self.broker.announce();
                    }
                }
            }
        };
        match found {
            Ok(delta) => self.applied(delta, trace),
            Err(error) => self.failed(&error),
        }
    }

    /// Waits until there is a reason to poll: a hint, the interval, or, while the database is
    /// away, the end of the backoff. States end meanwhile.
    async fn pause(&mut self) {
        let wait = if self.outage.is_ongoing() { self.backoff.wait() } else { jittered(self.poll_interval) };
        let poll = Instant::now() + wait;
        loop {
            let end = next_end(&self.broker, self.clock);
            tokio::select! {
                () = sleep_until(poll) => return,
                () = self.follower.woken(), if !self.outage.is_ongoing() => return,
                () = until(end) => expire(&self.broker, self.clock),
                () = until(self.broker.release_at()) => release(&self.broker),
            }
        }
    }

    fn applied(&mut self, delta: TableDelta, mut trace: TailTrace) {
        trace.found(&delta, self.follower.trace_contexts());
        metrics::compiled(delta.rules.iter().filter(|rule| rule.is_ok()).count(), &self.backend);
        self.clock = Some((delta.now, Instant::now()));
        self.backoff.reset();
        let missed_by_watermark = delta.missed_by_watermark;
        let applied = self.broker.apply(delta, &mut trace);
        self.broker.database(Ok(()));
        if let Some(lasted) = self.outage.ended(Instant::now()) {
            match std::mem::take(&mut self.error_logged) {
                true => log::database_back(lasted),
                false => log::tables_found(lasted),
            }
        }
        if applied.first_load {
            log::loaded(self.broker.inspect(|catalogue, _, _| catalogue.rule_count()));
        }
        if missed_by_watermark > 0 && !applied.first_load {
            log::missed_by_watermark(missed_by_watermark);
        }
        tell(&self.broker, &applied, self.clock, trace.trace_id());
        log::fallen(&applied.fallen);
        if let Some(held) = applied.held_back {
            log::held_back(held, self.broker.release_at().map(|at| at.duration_since(Instant::now())));
        }
        trace.end();
        self.tell_quarantined();
    }

    fn failed(&mut self, error: &StoreError) {
        self.broker.database(Err(error.to_string()));
        let is_loaded = self.broker.head_status().digest.is_some();
        match (self.outage.failed(&error.cause(), Instant::now()), error) {
            (None, _) => tracing::debug!(%error, "the database is still unavailable"),
            (Some(record), StoreError::NoTables { .. }) if !is_loaded => log::tables_awaited(error, record),
            (Some(record), _) => {
                self.error_logged = true;
                log::database_unavailable(error, record, is_loaded);
            }
        }
    }

    fn tell_quarantined(&mut self) {
        let now: BTreeSet<QuarantineEntry> = self.broker.quarantined().into_iter().collect();
        let found = now.difference(&self.quarantined).count();
        let singly = self.records.take(found, Instant::now().into_std());
        if !singly {
            log::many_quarantined(found);
        }
        for row in now.difference(&self.quarantined) {
            if singly {
                log::quarantined(row);
            }
            metrics::rejected(match row.table {
                Table::Rules => "rule_row",
                Table::States => "state_row",
            });
        }
        let still = |row: &QuarantineEntry| {
            now.iter().any(|other| (other.table, &other.key) == (row.table, &row.key))
        };
        let released: Vec<_> = self.quarantined.difference(&now).filter(|row| !still(row)).collect();
        if self.records.take(released.len(), Instant::now().into_std()) {
            released.into_iter().for_each(log::released);
        } else {
            log::many_released(released.len());
        }
        self.quarantined = now;
    }
}

/// When the next state ends by this process's timer; `None` when none will.
fn next_end(broker: &Broker, clock: Option<(Timestamp, Instant)>) -> Option<Instant> {
    let end = broker.inspect(|catalogue, _, _| catalogue.next_expiry())?;
    let (now, at) = database_now(broker, clock);
    Some(at + end.since(now))
}

fn expire(broker: &Broker, clock: Option<(Timestamp, Instant)>) {
    let (now, at) = database_now(broker, clock);
    tell(broker, &broker.expire(now.after(at.elapsed())), clock, None);
}

/// Follows the deletions that were held back long enough.
fn release(broker: &Broker) {
    let applied = broker.release();
    log::guard_lifted(broker, &applied, log::Lifted::InTime);
}

/// Tells the log and the metrics of changes that went to the stream.
fn tell(
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
            RuleChange::Written { rule, .. } => (Some(rule.updated_at), None),
            RuleChange::Deleted { .. } => (None, None),
            RuleChange::State { state, .. } => (state.set_at, Some(state.state)),
        };
        metrics::changed(change.kind(), new_state);
        if let Some(written_at) = written_at {
            metrics::propagated(Stage::WriteToStream, change.kind(), now.since(written_at));
        }
    }
}

/// The database's clock and when it showed that; before the first poll this host's has to do.
fn database_now(broker: &Broker, clock: Option<(Timestamp, Instant)>) -> (Timestamp, Instant) {
    clock.unwrap_or_else(|| (broker.clock.now(), Instant::now()))
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
