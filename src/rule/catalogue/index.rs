//! The known rows, so that a poll reads only new and changed ones.

use super::super::{RowIndex, RuleId, RuleState, StateRow};
use super::key::{Key, SortedRule};
use super::{Catalogue, RowFingerprint, Table, key_set};

impl RowIndex for Catalogue {
    fn count(&self, table: Table) -> u64 {
        let count = match table {
            Table::Rules => self.rules.len() - self.held_back.len() + self.quarantined_rules.len(),
            Table::States => self.states.len() + self.quarantined_states.len(),
        };
        count as u64
    }

    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint> {
        match table {
            Table::Rules => self
                .rules
                .get(&key as &dyn Key)
                .filter(|SortedRule(rule)| !self.held_back.contains(&rule.header.rule_id))
                .map(|SortedRule(rule)| RowFingerprint::rule(&rule.header))
                .or_else(|| self.quarantined_rules.get(key).map(|row| row.fingerprint)),
            Table::States => self
                .states
                .row(key)
                .zip(RuleId::new(key).ok())
                .map(|(state, rule_id)| RowFingerprint::state(&StateRow::new(&rule_id, state)))
                .or_else(|| self.quarantined_states.get(key).map(|row| row.fingerprint)),
        }
    }

    fn memory(&self) -> usize {
        self.rules_memory + self.states.memory()
    }

    fn quarantined_memory(&self, table: Table, keys: Option<&[String]>) -> usize {
        let rows = match table {
            Table::Rules => &self.quarantined_rules,
            Table::States => &self.quarantined_states,
        };
        let keys = key_set(keys.filter(|_| !rows.is_empty()));
        let is_there = |key: &str| keys.as_ref().is_none_or(|keys| keys.contains(key));
        rows.iter().filter(|(key, _)| is_there(key)).map(|(_, row)| row.memory()).sum()
    }

    fn memory_of(&self, table: Table, key: &str) -> usize {
        match table {
            Table::Rules => self.rules.get(&key as &dyn Key).map_or(0, |SortedRule(rule)| rule.memory()),
            Table::States => self.states.row(key).map_or(0, RuleState::memory),
        }
    }
}
