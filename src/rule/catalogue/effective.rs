//! The effective rules: of case variants, the first.

use std::collections::BTreeSet;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;

use super::super::{KnownRule, RuleId};
use super::key::{Key, SortedRule};

/// Every effective rule of one moment. It takes no memory of its own until the catalogue changes.
#[derive(Debug)]
pub(crate) struct EffectiveRules {
    /// Every valid row.
    rows: Arc<BTreeSet<SortedRule>>,
    count: usize,
}

impl EffectiveRules {
    pub(super) const fn new(rows: Arc<BTreeSet<SortedRule>>, count: usize) -> Self {
        Self { rows, count }
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Whether the rule of exactly this id is effective.
    pub(crate) fn contains(&self, rule_id: &str) -> bool {
        variant(&self.rows, rule_id).is_some_and(|rule| rule.header.rule_id.as_str() == rule_id)
    }

    /// The rules after the one of this id, or all of them, by id without regard to case.
    pub(crate) fn after<'a>(
        &'a self,
        last: Option<&RuleId>,
    ) -> impl Iterator<Item = &'a Arc<KnownRule>> + use<'a> {
        let last = last.and_then(|id| self.rows.get(&id.as_str() as &dyn Key));
        let from: Bound<&SortedRule> = last.map_or(Unbounded, Excluded);
        among(self.rows.range::<SortedRule, _>((from, Unbounded)), last)
    }
}

/// The effective of these rows, which are in order and come after `previous`.
pub(super) fn among<'a>(
    rows: impl Iterator<Item = &'a SortedRule>,
    mut previous: Option<&'a SortedRule>,
) -> impl Iterator<Item = &'a Arc<KnownRule>> {
    rows.filter(move |rule| !previous.replace(rule).is_some_and(|other| other.is_case_variant(rule)))
        .map(|SortedRule(rule)| rule)
}

/// The effective one of the rows whose ids equal `rule_id` without regard to case.
pub(super) fn variant<'a>(rows: &'a BTreeSet<SortedRule>, rule_id: &str) -> Option<&'a Arc<KnownRule>> {
    // Capitals come first in byte order, so no case variant comes before this.
    let first = rule_id.to_ascii_uppercase();
    let from: &dyn Key = &first.as_str();
    let SortedRule(rule) = rows.range::<dyn Key, _>((Included(from), Unbounded)).next()?;
    rule.header.rule_id.as_str().eq_ignore_ascii_case(rule_id).then_some(rule)
}
