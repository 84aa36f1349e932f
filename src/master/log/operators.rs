//! What operators did, and what came of it.

use crate::event;
use crate::master::audit::StateChange;
use crate::master::held::Operator;
use crate::plural::{count, some_of};
use crate::rule::{RuleHeader, StateKind, StateRow};

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

/// An operator changed a state.
pub(in crate::master) fn state_changed(change: &StateChange) {
    match change {
        StateChange::Set(row) => tracing::info!(
            target: event::AUDIT,
            message_id = event::STATE_CHANGED,
            rule_id = row.rule_id,
            change_kind = "state",
            new_state = row.state,
            set_by = row.set_by,
            "{} {}",
            row.rule_id,
            row.state().map_or_else(|why| format!("has a row that is no state: {why}"), |state| state.summary())
        ),
        StateChange::Cleared(row) => tracing::info!(
            target: event::AUDIT,
            message_id = event::STATE_CHANGED,
            rule_id = row.rule_id,
            change_kind = "state",
            new_state = StateKind::Enabled.as_str(),
            "{} enabled: its state `{}` was cleared",
            row.rule_id,
            row.state
        ),
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
