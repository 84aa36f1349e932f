//! Which states operators changed between two readings.

use std::collections::BTreeMap;

use crate::rule::StateRow;

/// The states as they were last read.
#[derive(Debug, Default)]
pub(super) struct StateAudit {
    /// What [`crate::store::MasterSession::states_since`] said of them; `None` before the first reading.
    pub(super) mark: Option<String>,
    /// `None` before the first reading: what stood before has no record.
    known: Option<BTreeMap<String, StateRow>>,
}

/// A difference between two readings.
#[derive(Debug, PartialEq)]
pub(super) enum StateChange {
    /// It is new, or another.
    Set(StateRow),
    /// It is gone.
    Cleared(StateRow),
}

impl StateAudit {
    /// Replaces the known states by `rows`. Returns the rules whose state differs from before.
    pub(super) fn read(&mut self, mark: String, rows: Vec<StateRow>) -> Vec<StateChange> {
        self.mark = Some(mark);
        let now: BTreeMap<_, _> = rows.into_iter().map(|row| (row.rule_id.clone(), row)).collect();
        let Some(mut before) = self.known.replace(now.clone()) else { return Vec::new() };
        let mut changes = Vec::new();
        for (rule_id, row) in now {
            if before.remove(&rule_id).as_ref() != Some(&row) {
                changes.push(StateChange::Set(row));
            }
        }
        changes.extend(before.into_values().map(StateChange::Cleared));
        changes
    }

    /// The master itself removed this state, which had expired.
    pub(super) fn forget(&mut self, rule_id: &str) {
        if let Some(known) = &mut self.known {
            known.remove(rule_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{RuleId, RuleState};

    fn row(rule_id: &str, reason: &str) -> StateRow {
        let state = RuleState { reason: Some(reason.into()), ..RuleState::default() };
        StateRow::new(&RuleId::new(rule_id).unwrap(), &state)
    }

    #[test]
    fn what_is_set_changed_and_cleared_is_found_and_what_stood_before_is_not() {
        let mut audit = StateAudit::default();
        assert_eq!(audit.read("1".into(), vec![row("A", "a"), row("B", "b"), row("C", "c")]), []);
        let changes = audit.read("2".into(), vec![row("A", "a"), row("B", "another"), row("D", "d")]);
        let expected = [
            StateChange::Set(row("B", "another")),
            StateChange::Set(row("D", "d")),
            StateChange::Cleared(row("C", "c")),
        ];
        assert_eq!(changes, expected);
        audit.forget("A");
        assert_eq!(audit.read("3".into(), vec![row("B", "another"), row("D", "d")]), []);
        assert_eq!(audit.mark.as_deref(), Some("3"));
    }
}
