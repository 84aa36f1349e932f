//! The guard against mass deletion: how many deletions the worker follows without confirmation.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{AppliedChanges, Broker};
use crate::clock::Timestamp;
use crate::config::{MasterConfig, Percent};
use crate::rule::RuleChange;

/// Deletions within this time count together, so that tables that are emptied row by row are held back, too.
const RECENT: Duration = Duration::from_secs(60);

/// The limit, and the deletions that count towards it.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` allows everything.
    max_delete: Option<Percent>,
    hold_for: Duration,
    /// Deletions that were followed within [`RECENT`]: when, and how many.
    recent: VecDeque<(Instant, usize)>,
    /// When the newest of the deletions that are held back joined them, and since when there are such deletions.
    pub(super) since: Option<(Instant, Timestamp)>,
}

impl Guard {
    pub(super) const fn none() -> Self {
        Self { max_delete: None, hold_for: Duration::MAX, recent: VecDeque::new(), since: None }
    }

    /// A test whether to delete so many of so many rows is too much.
    pub(super) fn limit(&mut self) -> impl Fn(usize, usize) -> bool + use<> {
        self.recent.retain(|(at, _)| at.elapsed() < RECENT);
        let recent: usize = self.recent.iter().map(|(_, count)| count).sum();
        let max_delete = self.max_delete;
        move |going, rows| {
            let total = going + recent;
            total > MasterConfig::FREE_DELETES
                && max_delete.is_some_and(|share| share.is_exceeded_by(total, rows + recent))
        }
    }

    /// Records the deletions that were followed, and that `held` are held back, `more` of them or not than before.
    /// Returns whether holding back began, began anew or ended: each deletion waits for the whole time, so those that
    /// join others begin it anew.
    pub(super) fn record(&mut self, changes: &[RuleChange], held: usize, more: bool, now: Timestamp) -> bool {
        let deleted = changes.iter().filter(|change| matches!(change, RuleChange::Deleted { .. })).count();
        if deleted > 0 {
            self.recent.push_back((Instant::now(), deleted));
        }
        let turned = more || self.since.is_some() != (held > 0);
        if turned {
            let begun = self.since.map_or(now, |(_, begun)| begun);
            self.since = (held > 0).then(|| (Instant::now(), begun));
        }
        turned
    }
}

impl Broker {
    /// Holds back deletions above `max_delete` for `hold_for`.
    pub(in crate::worker) fn guarded(self, max_delete: Percent, hold_for: Duration) -> Self {
        let guard = Guard { max_delete: Some(max_delete), hold_for, ..Guard::none() };
        self.lock().guard = guard;
        self
    }

    /// When the worker follows the deletions that it holds back; `None` if it holds back none.
    pub(in crate::worker) fn release_at(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.guard.since.and_then(|(newest, _)| newest.checked_add(inner.guard.hold_for))
    }

    /// Follows the deletions that are held back.
    pub(in crate::worker) fn release(&self) -> AppliedChanges {
        let mut inner = self.lock();
        let changes = inner.catalogue.release();
        // These deletions are confirmed and do not count towards the limit.
        (inner.guard.since, inner.guard.recent) = (None, VecDeque::new());
        let applied = inner.number(changes, self.clock.now(), &[]);
        drop(inner);
        self.announce();
        applied
    }
}
