//! What the log says of changes and of the database: one record for each thing that an operator
//! acts on, told by whoever did it. Nothing of a rule's text is in it.

use std::time::Duration;

use super::broker::{AppliedChanges, Broker};
use crate::clock::humanize;
use crate::event;
use crate::outage::OutageRecord;
use crate::plural::{count, is_or_are};
use crate::rule::{QuarantineEntry, RuleChange, RuleId, RuleState, Table};
use crate::store::StoreError;

/// More changes of one poll than this are one record, each of them at debug alone.
const TOLD_SINGLY: usize = 100;

pub(super) fn changes(broker: &Broker, applied: &AppliedChanges, trace_id: Option<&str>) {
    if applied.first_load || applied.changes.is_empty() {
        return;
    }
    let epoch = broker.epoch.as_str();
    let singly = applied.changes.len() <= TOLD_SINGLY;
    if !singly {
        let (changes, seq) = (applied.changes.len(), applied.first_seq);
        tracing::info!(
            message_id = event::RULE_CHANGED,
            epoch,
            seq,
            trace_id,
            changes,
            "{} at once",
            count(changes, "change")
        );
    }
    for (seq, change) in (applied.first_seq..).zip(&applied.changes) {
        let rule_id = change.rule_id().as_str();
        let change_kind = change.kind().as_str();
        macro_rules! record {
            ($id:expr, $($record:tt)*) => {
                if singly {
                    tracing::info!(message_id = $id, epoch, seq, trace_id, rule_id, change_kind, $($record)*);
                } else {
                    tracing::debug!(message_id = $id, epoch, seq, trace_id, rule_id, change_kind, $($record)*);
                }
            };
        }
        // An operator's word has a record of its own, however many there are.
        macro_rules! audit {
            ($($record:tt)*) => {
                tracing::info!(
                    target: event::AUDIT, message_id = event::STATE_CHANGED, epoch, seq, trace_id, rule_id,
                    change_kind, $($record)*
                )
            };
        }
        match change {
            RuleChange::Written { rule, .. } => record!(
                event::RULE_CHANGED,
                rule_version = rule.rule_version,
                source_path = &*rule.source_path,
                updated_by = &*rule.updated_by,
                "{rule_id} written as version {}",
                rule.rule_version
            ),
            RuleChange::Deleted { .. } => record!(event::RULE_CHANGED, "{rule_id} deleted"),
            RuleChange::State { auto_revert: true, .. } => {
                audit!(auto_revert = true, "{rule_id} enabled: its state has expired")
            }
            RuleChange::State { state, .. } if **state == RuleState::default() => {
                audit!(new_state = state.state.as_str(), "{rule_id} enabled: its state was cleared");
            }
            RuleChange::State { state, .. } => audit!(
                new_state = state.state.as_str(),
                set_by = state.set_by,
                "{rule_id} {}",
                state.summary()
            ),
        }
    }
}

/// Rules of one poll that are named in a record.
const NAMED: usize = 10;

/// Deletions are held back, `0` where none are any more; followed after that time by themselves.
pub(super) fn held_back(held: usize, time_left: Option<Duration>) {
    if held == 0 {
        tracing::info!(message_id = event::MASS_DELETE_HELD, "no deletion is held back any more");
        return;
    }
    let by_itself = time_left.map_or_else(String::new, |left| {
        let left = Duration::from_secs(left.as_secs_f64().round() as u64);
        format!(", or wait: they are followed in {}", humantime::format_duration(left))
    });
    tracing::error!(
        message_id = event::MASS_DELETE_HELD,
        deletions = held,
        "{} {} gone from the tables or invalid in them, which is more than worker.max_delete allows: the worker goes \
         on serving what it has; restore the rows, or run `rulesyncd allow-mass-delete` on this host{by_itself}",
        count(held, "rule"),
        is_or_are(&held)
    );
}

/// Who had the deletions followed that were held back.
pub(super) enum Lifted {
    By { uid: u32, pid: Option<i32> },
    InTime,
}

pub(super) fn guard_lifted(broker: &Broker, applied: &AppliedChanges, lifted: Lifted) {
    changes(broker, applied, None);
    let deletions = applied.changes.len();
    match lifted {
        Lifted::By { uid, pid } => tracing::warn!(
            message_id = event::MASS_DELETE_ALLOWED,
            uid,
            pid,
            deletions,
            "user {uid} (process {}) lifted the guard against mass deletion; {} {} deleted",
            pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
            count(deletions, "rule"),
            is_or_are(&deletions)
        ),
        Lifted::InTime => tracing::warn!(
            message_id = event::MASS_DELETE_ALLOWED,
            deletions,
            "nobody brought back what was deleted within worker.max_delete_hold; {} {} deleted",
            count(deletions, "rule"),
            is_or_are(&deletions)
        ),
    }
}

/// Versions are the authors', and rise: who sets them back puts an older rule in the place of a newer one.
pub(super) fn fallen(fallen: &[(RuleId, i64, i64)]) {
    if fallen.is_empty() {
        return;
    }
    let named = fallen.iter().take(NAMED).map(|(rule_id, old, new)| format!("{rule_id} from {old} to {new}"));
    let more = match fallen.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tracing::warn!(
        message_id = event::VERSIONS_FELL,
        rules = fallen.len(),
        "the version of {} fell: {}{more}; they are served as the tables hold them",
        count(fallen.len(), "rule"),
        named.collect::<Vec<_>>().join(", ")
    );
}

pub(super) fn loaded(rules: usize) {
    tracing::info!(rules, "{} {} loaded", count(rules, "rule"), is_or_are(&rules));
}

pub(super) fn database_back(away: Duration) {
    tracing::info!(
        message_id = event::DATABASE_BACK,
        away_ms = away.as_millis(),
        "the database answers again, after {}; the catalogue is fresh",
        humanize(away)
    );
}

/// `loaded` is whether anything is known.
pub(super) fn database_unavailable(error: &StoreError, record: OutageRecord, loaded: bool) {
    let meanwhile = match loaded {
        true => "what is known is served on, marked stale",
        false => "nothing is known yet, and subscribers wait",
    };
    let what = match record {
        OutageRecord::Begun => "the database does not answer".to_owned(),
        OutageRecord::CauseChanged(lasted) => {
            format!("the database is unavailable for another cause, after {}", humanize(lasted))
        }
        OutageRecord::Reminder(lasted) => {
            format!("the database has been unavailable for {}", humanize(lasted))
        }
    };
    tracing::error!(message_id = event::DATABASE_AWAY, %error, "{what}, trying on: {error}; {meanwhile}");
}

/// The worker started before the master made the tables.
pub(super) fn tables_awaited(error: &StoreError, record: OutageRecord) {
    let cause = error.cause();
    match record {
        OutageRecord::Begun | OutageRecord::CauseChanged(_) => tracing::info!(
            message_id = event::TABLES_AWAITED,
            "waiting for {cause}: a master makes them; subscribers wait"
        ),
        OutageRecord::Reminder(lasted) => tracing::warn!(
            message_id = event::TABLES_AWAITED,
            "waiting for {cause} for {}; see that a master runs and that it uses this database",
            humanize(lasted)
        ),
    }
}

pub(super) fn tables_found(waited: Duration) {
    tracing::info!(message_id = event::TABLES_AWAITED, "the tables exist, after {}", humanize(waited));
}

pub(super) fn missed_by_watermark(rows: u64) {
    tracing::warn!(
        message_id = event::SCAN_MENDED,
        mended = rows,
        "comparing everything found {} that no stamp had told of",
        count(rows, "row")
    );
}

pub(super) fn quarantined(row: &QuarantineEntry) {
    let (rule_id, table, reason) = (&row.key, table_name(row.table), &row.reason);
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rule_id,
        table,
        reason,
        "the row `{}` of {table} takes no part: {reason}",
        rule_id.escape_debug()
    );
}

/// So many rows of one poll that they share a record.
pub(super) fn many_quarantined(rows: usize) {
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rows,
        "{rows} rows take no part: `rulesyncd status` shows them"
    );
}

pub(super) fn many_released(rows: usize) {
    tracing::info!(message_id = event::RULE_MENDED, rows, "{rows} rows are no longer rejected");
}

pub(super) fn released(row: &QuarantineEntry) {
    let (rule_id, table) = (&row.key, table_name(row.table));
    tracing::info!(
        message_id = event::RULE_MENDED,
        rule_id,
        table,
        "the row `{}` of {table} is no longer rejected",
        rule_id.escape_debug()
    );
}

fn table_name(table: Table) -> &'static str {
    match table {
        Table::Rules => "ttp_rule",
        Table::States => "ttp_rule_state",
    }
}
