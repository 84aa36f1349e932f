//! Held back deletions: a program that may write the tables must not empty every worker at once.

use std::collections::BTreeSet;

use super::super::{RuleChange, RuleId};
use super::{Before, Catalogue};

/// What applying a table delta did.
#[derive(Debug, Default)]
pub(crate) struct CatalogueDelta {
    /// The changes for subscribers, in the order of [`Catalogue::apply`].
    pub(crate) changes: Vec<RuleChange>,
    /// Rules whose version fell, with the version before and after.
    pub(crate) fallen: Vec<(RuleId, i64, i64)>,
    /// Whether deletions are held back that were not before.
    pub(crate) holds_more: bool,
}

impl Catalogue {
    /// The rules that are served although their row is missing or invalid: their deletion is held back.
    pub(crate) const fn held_back(&self) -> &BTreeSet<RuleId> {
        &self.held_back
    }

    /// Follows the deletions that are held back.
    pub(crate) fn release(&mut self) -> Vec<RuleChange> {
        let mut before = Before::new();
        for rule_id in std::mem::take(&mut self.held_back) {
            self.replace(&rule_id, None, &mut before);
        }
        self.definitions(before).changes
    }

    /// Deletes these rules and those whose deletion is held back, or holds back all of them if `is_too_many` says so
    /// about their number and about the `rows` before. Returns whether some are held back that were not before.
    pub(super) fn delete(
        &mut self,
        going: BTreeSet<RuleId>,
        rows: usize,
        is_too_many: impl Fn(usize, usize) -> bool,
        before: &mut Before,
    ) -> bool {
        let is_more = going.iter().any(|rule_id| !self.held_back.contains(rule_id));
        self.held_back.extend(going);
        if !self.held_back.is_empty() && !is_too_many(self.held_back.len(), rows) {
            for rule_id in std::mem::take(&mut self.held_back) {
                self.replace(&rule_id, None, before);
            }
        }
        is_more && !self.held_back.is_empty()
    }
}
