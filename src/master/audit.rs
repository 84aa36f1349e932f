//! Which states operators changed between two readings.

use std::collections::BTreeMap;

use crate::rule::{FoundStateRow, StateRow};

/// The states as they were last read.
#[derive(Debug, Default)]
pub(super) struct StateAudit {
    /// What [`crate::store::MasterSession::states_since`] said of them; `None` before the first reading.
    pub(super) mark: Option<String>,
    /// `None` before the first reading: what stood before has no record.
    known: Option<BTreeMap<String, FoundRow>>,
}

/// A row, or why it cannot be read.
type FoundRow = Result<StateRow, String>;

/// A difference between two readings, with the row's key.
#[derive(Debug, PartialEq)]
pub(super) enum StateChange {
    /// It is new, or another.
    Set(String, FoundRow),
    /// It is gone.
    Cleared(String, FoundRow),
}

impl StateAudit {
    /// Replaces the known states by `rows`. Returns the rules whose state differs from before.
    pub(super) fn read(&mut self, mark: String, rows: Vec<FoundStateRow>) -> Vec<StateChange> {
        self.mark = Some(mark);
        let now: BTreeMap<_, _> = rows.into_iter().collect();
        let Some(mut before) = self.known.replace(now.clone()) else { return Vec::new() };
        let mut changes = Vec::new();
        for (rule_id, row) in now {
            if before.remove(&rule_id).as_ref() != Some(&row) {
                changes.push(StateChange::Set(rule_id, row));
            }
        }
        changes.extend(before.into_iter().map(|(rule_id, row)| StateChange::Cleared(rule_id, row)));
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

    fn row(rule_id: &str, reason: &str) -> (String, FoundRow) {
        let state = RuleState { reason: Some(reason.into()), ..RuleState::default() };
        (rule_id.into(), Ok(StateRow::new(&RuleId::new(rule_id).unwrap(), &state)))
    }

    fn unreadable(rule_id: &str) -> (String, FoundRow) {
        (rule_id.into(), Err("no time".into()))
    }

    fn set((rule_id, row): (String, FoundRow)) -> StateChange {
        StateChange::Set(rule_id, row)
    }

    fn cleared((rule_id, row): (String, FoundRow)) -> StateChange {
        StateChange::Cleared(rule_id, row)
    }

    #[test]
    fn what_is_set_changed_and_cleared_is_found_and_what_stood_before_is_not() {
        let mut audit = StateAudit::default();
        assert_eq!(audit.read("1".into(), vec![row("A", "a"), row("B", "b"), row("C", "c")]), []);
        let changes = audit.read("2".into(), vec![row("A", "a"), row("B", "another"), row("D", "d")]);
        let expected = [set(row("B", "another")), set(row("D", "d")), cleared(row("C", "c"))];
        assert_eq!(changes, expected);
        audit.forget("A");
        assert_eq!(audit.read("3".into(), vec![row("B", "another"), row("D", "d")]), []);
        assert_eq!(audit.mark.as_deref(), Some("3"));
        assert_eq!(audit.read("4".into(), vec![unreadable("B"), row("D", "d")]), [set(unreadable("B"))]);
        assert_eq!(audit.read("5".into(), vec![row("D", "d")]), [cleared(unreadable("B"))]);
    }
}
