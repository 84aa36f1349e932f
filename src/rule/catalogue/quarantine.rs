//! The rows that are not served.

use std::collections::BTreeMap;

use super::super::state::COUNTS_AS_ENABLED;
use super::{Catalogue, QuarantinedRow, Table};

/// A row that is not served, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuarantineEntry {
    /// The table of the row.
    pub table: Table,
    /// The row's `rule_id`.
    pub key: String,
    /// Why it is not served, in one sentence; of a state also what that means for the rule.
    pub reason: String,
}

impl Catalogue {
    /// The quarantined rows, rules first, by key.
    pub fn quarantined(&self) -> impl Iterator<Item = QuarantineEntry> {
        let rejected = |table, rows| {
            BTreeMap::values(rows).map(move |row: &QuarantinedRow| QuarantineEntry {
                table,
                key: row.key.clone(),
                reason: match table {
                    Table::Rules => row.reason.clone(),
                    Table::States => format!("{}; {COUNTS_AS_ENABLED}", row.reason),
                },
            })
        };
        // Usually no id has a case variant, and then nothing is searched.
        let passed_over = self.case_variants();
        let neighbours = self.rules.iter().zip(self.rules.iter().skip(1));
        let case_variants = neighbours.filter(|(a, b)| a.is_case_variant(b)).take(passed_over);
        let case_variants = case_variants.map(|(first, second)| QuarantineEntry {
            table: Table::Rules,
            key: second.0.rule_id().to_string(),
            reason: format!(
                "the id differs from `{}` only in case, and the first in the order of bytes is taken; \
                 rename or delete one of the two",
                first.0.rule_id()
            ),
        });
        rejected(Table::Rules, &self.quarantined_rules)
            .chain(case_variants)
            .chain(rejected(Table::States, &self.quarantined_states))
    }

    /// Why the row of this rule's state is quarantined; `None` if it is not.
    pub(crate) fn quarantined_state(&self, rule_id: &str) -> Option<&str> {
        self.quarantined_states.get(rule_id).map(|row| &*row.reason)
    }

    /// How many rows [`Self::quarantined`] has.
    pub fn quarantined_count(&self) -> usize {
        self.quarantined_rules.len() + self.case_variants() + self.quarantined_states.len()
    }

    /// How many rows are not effective because of a case variant of their id.
    fn case_variants(&self) -> usize {
        self.rules.len() - self.effective
    }
}
