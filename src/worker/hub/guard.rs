//! The guard against mass deletion: how many deletions are followed without anyone's word.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Heard, Hub};
use crate::clock::Timestamp;
use crate::config::{MasterConfig, Percent};
use crate::rule::RuleChange;
use crate::worker::trace::TailTrace;

/// Deletions of this time are judged together: tables that empty row by row are emptied, too.
const RECENT: Duration = Duration::from_secs(60);

/// What the guard allows, and what it saw.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` allows everything.
    max_delete: Option<Percent>,
    hold_for: Duration,
    /// Deletions that were followed a short while ago.
    recent: VecDeque<(Instant, usize)>,
    /// Since when deletions are held back, by the timer and by the clock.
    pub(super) since: Option<(Instant, Timestamp)>,
}

impl Guard {
    pub(super) const fn none() -> Self {
        Self { max_delete: None, hold_for: Duration::MAX, recent: VecDeque::new(), since: None }
    }

    /// Whether so many of so many rows may not go without anyone's word.
    pub(super) fn judge(&mut self) -> impl Fn(usize, usize) -> bool + use<> {
        self.recent.retain(|(at, _)| at.elapsed() < RECENT);
        let recent: usize = self.recent.iter().map(|(_, count)| count).sum();
        let max_delete = self.max_delete;
        move |going, rows| {
            let total = going + recent;
            total > MasterConfig::FREE_DELETES
                && max_delete.is_some_and(|share| share.is_exceeded_by(total, rows + recent))
        }
    }

    /// Notes what was followed and how many are `held` back; tells whether that is a turn.
    pub(super) fn note(&mut self, changes: &[RuleChange], held: usize, now: Timestamp) -> bool {
        let deleted = changes.iter().filter(|change| matches!(change, RuleChange::Deleted { .. })).count();
        if deleted > 0 {
            self.recent.push_back((Instant::now(), deleted));
        }
        let turned = self.since.is_some() != (held > 0);
        if turned {
            self.since = (held > 0).then(|| (Instant::now(), now));
        }
        turned
    }
}

impl Hub {
    /// The same, which holds back larger deletions for so long.
    pub(in crate::worker) fn guarded(self, max_delete: Percent, hold_for: Duration) -> Self {
        let guard = Guard { max_delete: Some(max_delete), hold_for, ..Guard::none() };
        self.lock().guard = guard;
        self
    }

    /// When deletions that are held back are to be followed; `None` where there are none.
    pub(in crate::worker) fn release_at(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.guard.since.and_then(|(since, _)| since.checked_add(inner.guard.hold_for))
    }

    /// Follows the deletions that are held back.
    pub(in crate::worker) fn release(&self) -> Heard {
        let mut inner = self.lock();
        let changes = inner.catalogue.release();
        // They were judged, and count no more.
        (inner.guard.since, inner.guard.recent) = (None, VecDeque::new());
        let heard = inner.number(changes, self.clock.now(), &TailTrace::default());
        drop(inner);
        self.announce();
        heard
    }
}
