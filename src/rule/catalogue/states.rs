//! The operators' states, and which of them are effective.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::super::{RuleChange, RuleId, RuleState};
use super::CatalogueDigest;
use crate::clock::Timestamp;

/// How far the clock may step back without bringing an expired state back: slewed clocks and the delays of replies
/// differ by less.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Every valid row of the state table, and the time up to which they have expired.
#[derive(Debug, Default)]
pub(super) struct States {
    rows: BTreeMap<RuleId, Arc<RuleState>>,
    /// The memory of all of them.
    memory: usize,
    /// The rows by their `expires_at`: those up to `now` have expired.
    ends: BTreeMap<Timestamp, BTreeSet<RuleId>>,
    now: Timestamp,
}

/// The effective states before a delta touched them.
pub(super) type Before = BTreeMap<RuleId, StateBefore>;

/// One state before a delta touched it.
pub(super) struct StateBefore {
    row: Option<Arc<RuleState>>,
    effective: Option<Arc<RuleState>>,
}

impl States {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn row(&self, rule_id: &str) -> Option<&RuleState> {
        self.rows.get(rule_id).map(|row| &**row)
    }

    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&RuleId, &RuleState)> {
        self.rows.iter().map(|(id, row)| (id, &**row))
    }

    /// The effective state; `None` is the default.
    pub(super) fn effective(&self, rule_id: &str) -> Option<&Arc<RuleState>> {
        self.rows.get(rule_id).filter(|row| self.is_effective(row))
    }

    /// Every effective state other than the default.
    pub(super) fn all_effective(&self) -> impl Iterator<Item = (&RuleId, &Arc<RuleState>)> {
        self.rows.iter().filter(|(_, row)| self.is_effective(row))
    }

    fn is_effective(&self, row: &RuleState) -> bool {
        !row.is_expired(self.now) && *row != RuleState::default()
    }

    /// The next time at which a state expires.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.range((Excluded(self.now), Unbounded)).next().map(|(end, _)| *end)
    }

    /// Writes or removes a row.
    pub(super) fn replace(&mut self, rule_id: &RuleId, row: Option<RuleState>, before: &mut Before) {
        if self.row(rule_id.as_str()) == row.as_ref() {
            return;
        }
        self.touch(rule_id, before);
        let old = self.rows.remove(rule_id);
        self.memory -= old.as_ref().map_or(0, |old| old.memory());
        self.memory += row.as_ref().map_or(0, RuleState::memory);
        if let Some(end) = old.and_then(|old| old.expires_at)
            && let Some(ids) = self.ends.get_mut(&end)
        {
            ids.remove(rule_id);
            if ids.is_empty() {
                self.ends.remove(&end);
            }
        }
        if let Some(row) = row {
            if let Some(end) = row.expires_at {
                self.ends.entry(end).or_default().insert(rule_id.clone());
            }
            self.rows.insert(rule_id.clone(), Arc::new(row));
        }
    }

    /// Removes the rows whose key `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool, before: &mut Before) {
        let gone: Vec<RuleId> = self.rows.keys().filter(|id| !keep(id.as_str())).cloned().collect();
        for rule_id in gone {
            self.replace(&rule_id, None, before);
        }
    }

    /// Moves the time of expiry to `now`. A clock that stepped back makes expired states effective again, as they
    /// then are for a program that reads the database.
    pub(super) fn advance_to(&mut self, now: Timestamp, before: &mut Before) {
        let now = if now.after(TOLERANCE) < self.now { now } else { self.now.max(now) };
        let (from, to) = (self.now.min(now), self.now.max(now));
        for rule_id in self.ends.range((Excluded(from), Included(to))).flat_map(|(_, ids)| ids) {
            self.touch(rule_id, before);
        }
        self.now = now;
    }

    fn was_written_expired(&self, rule_id: &RuleId, before: &StateBefore) -> bool {
        let written = self.rows.get(rule_id).filter(|row| before.row.as_ref() != Some(row));
        written.is_some_and(|row| row.is_expired(self.now))
    }

    fn touch(&self, rule_id: &RuleId, before: &mut Before) {
        before.entry(rule_id.clone()).or_insert_with(|| StateBefore {
            row: self.rows.get(rule_id).cloned(),
            effective: self.effective(rule_id.as_str()).cloned(),
        });
    }

    /// The states that became or ceased to be effective, and those that had expired when they were written: their
    /// writer gets a change in any case. By stamp and id.
    pub(super) fn changes(&self, before: Before, digest: &mut CatalogueDigest) -> Vec<RuleChange> {
        let mut changes = Vec::new();
        for (rule_id, touched) in before {
            let after = self.effective(rule_id.as_str());
            if touched.effective.as_ref() == after && !self.was_written_expired(&rule_id, &touched) {
                continue;
            }
            for state in touched.effective.iter().chain(after) {
                digest.toggle_state(&rule_id, state);
            }
            let ended = self.rows.get(&rule_id).or(touched.row.as_ref());
            let auto_revert = after.is_none() && ended.is_some_and(|row| row.is_expired(self.now));
            let state = after.cloned().unwrap_or_default();
            changes.push(RuleChange::State { rule_id, state, auto_revert });
        }
        changes.sort_by_key(|change| match change {
            RuleChange::State { state, .. } => state.set_at,
            RuleChange::Written { .. } | RuleChange::Deleted { .. } => None,
        });
        changes
    }
}
