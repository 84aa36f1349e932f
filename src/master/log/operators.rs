//! What operators did, and what came of it.

use crate::event;
use crate::master::audit::StateChange;
use crate::master::held::Operator;
use crate::plural::{count, some_of};
use crate::rule::{COUNTS_AS_ENABLED, RuleHeader, StateKind, StateRow};

/// How many ids a record of a mass deletion names.
const LISTED: usize = 100;

/// An operator lifted the guard against mass deletion, and these rows were deleted.
pub(in crate::master) fn guard_lifted(by: &Operator, deletes: &[RuleHeader]) {
    let Operator { uid, pid, .. } = *by;
    let ids = deletes.iter().map(|delete| &delete.rule_id);
    tracing::warn!(
        message_id = event::MASS_DELETE_ALLOWED,
        uid,
        pid,
        deletions = deletes.len(),
        "user {uid} (process {}) lifted the guard against mass deletion; {} {} deleted: {}",
        pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
        count(deletes.len(), "rule"),
        if deletes.len() == 1 { "was" } else { "were" },
        some_of(ids, LISTED, ", ")
    );
}

/// An operator changed a state, or another program the row of one.
pub(in crate::master) fn state_changed(change: &StateChange) {
    macro_rules! audit {
        ($rule_id:expr, $new_state:expr, $($record:tt)*) => {
            tracing::info!(
                target: event::AUDIT, message_id = event::STATE_CHANGED, rule_id = $rule_id, change_kind = "state",
                new_state = $new_state.as_str(), $($record)*
            )
        };
    }
    let enabled = StateKind::Enabled;
    match change {
        StateChange::Set(rule_id, Ok(row)) => match row.state() {
            Ok(state) => audit!(rule_id, state.state, set_by = row.set_by, "{rule_id} {}", state.summary()),
            Err(why) => audit!(
                rule_id,
                enabled,
                set_by = row.set_by,
                "{rule_id} has a row that is no state: {why}; {COUNTS_AS_ENABLED}"
            ),
        },
        StateChange::Set(rule_id, Err(why)) => {
            audit!(rule_id, enabled, "{rule_id} has a row that is no state: {why}; {COUNTS_AS_ENABLED}");
        }
        StateChange::Cleared(rule_id, Ok(row)) => {
            audit!(rule_id, enabled, "{rule_id} enabled: its state `{}` was cleared", row.state);
        }
        StateChange::Cleared(rule_id, Err(_)) => {
            audit!(rule_id, enabled, "{rule_id} enabled: the row that was no state was removed");
        }
    }
}

pub(in crate::master) fn expired(row: &StateRow) {
    tracing::info!(
        target: event::AUDIT,
        message_id = event::STATE_CHANGED,
        rule_id = row.rule_id,
        change_kind = "state",
        "the state `{}` of {} has expired and was removed",
        row.state,
        row.rule_id
    );
}
