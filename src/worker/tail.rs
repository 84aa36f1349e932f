//! The one loop that follows the tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::log;
use crate::backoff::{Backoff, jittered};
use crate::clock::Timestamp;
use crate::lifecycle::Pulse;
use crate::rule::{Look, Quarantined};
use crate::store::{Follow, StoreError};

/// Follows the tables and writes what it hears into the hub.
#[derive(Debug)]
pub(super) struct Tail<F> {
    follower: F,
    hub: Arc<Hub>,
    poll_interval: Duration,
    /// The database's clock at the last look, and when that was.
    clock: Option<(Timestamp, Instant)>,
    /// Whether the last look failed, and how long to wait then.
    failing: bool,
    backoff: Backoff,
    /// What was already logged.
    quarantined: BTreeSet<Quarantined>,
}

impl<F: Follow> Tail<F> {
    pub(super) fn new(follower: F, hub: Arc<Hub>, poll_interval: Duration) -> Self {
        Self {
            follower,
            hub,
            poll_interval,
            clock: None,
            failing: false,
            backoff: Backoff::default(),
            quarantined: BTreeSet::new(),
        }
    }

    /// Follows until the shutdown.
    pub(super) async fn run(mut self, pulse: &Pulse, shutdown: &CancellationToken) {
        loop {
            pulse.beat();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.pause() => {}
            }
        }
    }

    /// Looks once. States end on time though the database lets the look wait.
    async fn look(&mut self) {
        let found = {
            let look = self.follower.look(&*self.hub);
            tokio::pin!(look);
            loop {
                let end = next_end(&self.hub, self.clock);
                tokio::select! {
                    found = &mut look => break found,
                    () = until(end) => expire(&self.hub, self.clock),
                }
            }
        };
        match found {
            Ok(look) => self.heard(look),
            Err(error) => self.failed(&error),
        }
    }

    /// Waits until there is a reason to look: a hint, the interval, or, while the database is
    /// away, the end of the backoff. States end meanwhile.
    async fn pause(&mut self) {
        let wait = if self.failing { self.backoff.wait() } else { jittered(self.poll_interval) };
        let poll = Instant::now() + wait;
        loop {
            let end = next_end(&self.hub, self.clock);
            tokio::select! {
                () = sleep_until(poll) => return,
                () = self.follower.hint(), if !self.failing => return,
                () = until(end) => expire(&self.hub, self.clock),
            }
        }
    }

    fn heard(&mut self, look: Look) {
        self.clock = Some((look.now, Instant::now()));
        self.failing = false;
        self.backoff.reset();
        let mended = look.mended;
        let heard = self.hub.apply(look);
        let back = self.hub.database(Ok(()));
        if heard.first_load {
            log::loaded(self.hub.inspect(|catalogue, _, _| catalogue.rule_count()));
        } else if let Some(since) = back {
            log::database_back(self.hub.clock.now().since(since));
        }
        if mended > 0 && !heard.first_load {
            log::mended(mended);
        }
        log::changes(&self.hub, &heard);
        self.tell_quarantined();
    }

    fn failed(&mut self, error: &StoreError) {
        let error = error.to_string();
        self.hub.database(Err(error.clone()));
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(error, "the database still does not answer");
        } else {
            log::database_away(&error);
        }
    }

    fn tell_quarantined(&mut self) {
        let now: BTreeSet<Quarantined> = self.hub.quarantined().into_iter().collect();
        now.difference(&self.quarantined).for_each(log::quarantined);
        let still =
            |row: &Quarantined| now.iter().any(|other| (other.table, &other.key) == (row.table, &row.key));
        self.quarantined.difference(&now).filter(|row| !still(row)).for_each(log::released);
        self.quarantined = now;
    }
}

/// When the next state ends by this process's timer; `None` when none will.
fn next_end(hub: &Hub, clock: Option<(Timestamp, Instant)>) -> Option<Instant> {
    let end = hub.inspect(|catalogue, _, _| catalogue.next_expiry())?;
    let (now, at) = database_now(hub, clock);
    Some(at + end.since(now))
}

fn expire(hub: &Hub, clock: Option<(Timestamp, Instant)>) {
    let (now, at) = database_now(hub, clock);
    log::changes(hub, &hub.expire(now.after(at.elapsed())));
}

/// The database's clock and when it showed that; before the first look this host's has to do.
fn database_now(hub: &Hub, clock: Option<(Timestamp, Instant)>) -> (Timestamp, Instant) {
    clock.unwrap_or_else(|| (hub.clock.now(), Instant::now()))
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}
