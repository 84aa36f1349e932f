//! The worker's log records about changes and the database: one record for each event that an operator acts
//! on, without the text of any rule.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::broker::{AppliedChanges, Broker};
use crate::clock::humanize;
use crate::event;
use crate::outage::OutageRecord;
use crate::plural::{count, is_or_are, some_of};
use crate::rule::{QuarantineEntry, RuleChange, RuleId, RuleState, Table};
use crate::store::StoreError;
use crate::trust::{TrustState, TrustStatus};

/// A poll with more changes than this has one record for all of them; each has one only at debug.
const MAX_SINGLE_RECORDS: usize = 100;

pub(super) fn changes(broker: &Broker, applied: &AppliedChanges, trace_id: Option<&str>) {
    if applied.first_load || applied.changes.is_empty() {
        return;
    }
    let epoch = broker.epoch.as_str();
    let singly = applied.changes.len() <= MAX_SINGLE_RECORDS;
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
        // Each decision of an operator has a record, however many there are.
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
                rule_version = rule.header.rule_version,
                source_path = &*rule.header.source_path,
                updated_by = &*rule.header.updated_by,
                "{rule_id} written as version {}",
                rule.header.rule_version
            ),
            RuleChange::Deleted { .. } => record!(event::RULE_CHANGED, "{rule_id} deleted"),
            RuleChange::State { auto_revert: true, .. } => {
                audit!(auto_revert = true, "{rule_id} enabled: its state has expired")
            }
            RuleChange::State { state, .. } if **state == RuleState::default() => {
                let why = broker.why_enabled(rule_id);
                audit!(new_state = state.state.as_str(), "{rule_id} enabled: {why}");
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

/// The most rules that one record names.
const NAMED: usize = 10;

/// `held` deletions are now held back, for `time_left`; if 0, the guard held back some and holds back none now.
pub(super) fn held_back(held: usize, time_left: Option<Duration>) {
    if held == 0 {
        tracing::info!(message_id = event::MASS_DELETE_HELD, "no deletion is held back any more");
        return;
    }
    let by_itself = time_left.map_or_else(String::new, |left| {
        let left = Duration::from_secs(left.as_secs_f64().round() as u64);
        format!(", or wait: the worker follows the deletions in {}", humantime::format_duration(left))
    });
    tracing::error!(
        message_id = event::MASS_DELETE_HELD,
        deletions = held,
        "{} {} missing from the tables or invalid, which is more than worker.max_delete allows: the worker holds back \
         the deletions and goes on serving the rules; restore the rows, or run `rulesyncd allow-mass-delete` on this \
         host{by_itself}",
        count(held, "rule"),
        is_or_are(&held)
    );
}

/// Why held back deletions were followed.
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
            "the missing rows did not come back within worker.max_delete_hold; {} {} deleted",
            count(deletions, "rule"),
            is_or_are(&deletions)
        ),
    }
}

/// Authors raise versions with each edit, so a version that falls means that an older rule replaced a newer one.
pub(super) fn fallen(fallen: &[(RuleId, i64, i64)]) {
    if fallen.is_empty() {
        return;
    }
    let changes = fallen.iter().map(|(rule_id, old, new)| format!("{rule_id} from {old} to {new}"));
    tracing::warn!(
        message_id = event::VERSIONS_FELL,
        rules = fallen.len(),
        "the version of {} fell: {}; they are served as the tables hold them",
        count(fallen.len(), "rule"),
        some_of(changes, NAMED, ", ")
    );
}

pub(super) fn report_problem(problem: Option<&str>) {
    match problem {
        Some(problem) => tracing::info!("this worker is unknown to `rulesyncd fleet`: {problem}"),
        None => tracing::info!("this worker reports to `rulesyncd fleet` again"),
    }
}

pub(super) fn version_problem(problem: Option<&str>) {
    match problem {
        Some(problem) => {
            tracing::info!("the tables are followed without their version in rulesyncd_version: {problem}");
        }
        None => tracing::info!("the tables' version in rulesyncd_version is read"),
    }
}

pub(super) fn loaded(rules: usize) {
    tracing::info!(rules, "{} {} loaded", count(rules, "rule"), is_or_are(&rules));
}

/// What the worker follows, as its records call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Database,
    /// A directory, without a database.
    Directory,
}

impl Source {
    /// The source of a store with this name.
    pub(super) fn of(backend: &str) -> Self {
        if backend == "filesystem" { Self::Directory } else { Self::Database }
    }

    /// Where a quarantined row is.
    fn row(self, row: &QuarantineEntry) -> String {
        let key = row.key.escape_debug();
        match self {
            Self::Database => format!("the row `{key}` of {}", table_name(row.table)),
            Self::Directory => format!("`{key}` in the rules directory"),
        }
    }
}

pub(super) fn database_back(source: Source, lasted: Duration) {
    let what = match source {
        Source::Database => "the database answers again",
        Source::Directory => "the rules directory can be read again",
    };
    tracing::info!(
        message_id = event::DATABASE_BACK,
        away_ms = lasted.as_millis(),
        "{what}, after {}; the catalogue is fresh",
        humanize(lasted)
    );
}

/// `loaded` says whether the worker has rules to serve.
pub(super) fn database_unavailable(source: Source, error: &StoreError, record: OutageRecord, loaded: bool) {
    let meanwhile = match loaded {
        true => "the worker serves the rules that it has, marked stale",
        false => "no rules are loaded yet, and subscribers wait",
    };
    let (name, begun) = match source {
        Source::Database => ("the database", "does not answer"),
        Source::Directory => ("the rules directory", "cannot be read"),
    };
    let what = match record {
        OutageRecord::Begun => format!("{name} {begun}"),
        OutageRecord::CauseChanged(lasted) => {
            format!("{name} is unavailable for another cause, after {}", humanize(lasted))
        }
        OutageRecord::Reminder(lasted) => {
            format!("{name} has been unavailable for {}", humanize(lasted))
        }
    };
    tracing::error!(message_id = event::DATABASE_UNAVAILABLE, %error, "{what}: {error}; retrying; {meanwhile}");
}

/// The worker started before the master created the tables.
pub(super) fn tables_awaited(error: &StoreError, record: OutageRecord) {
    let cause = error.cause();
    match record {
        OutageRecord::Begun | OutageRecord::CauseChanged(_) => {
            tracing::info!(
                message_id = event::TABLES_AWAITED,
                "waiting for the tables: {cause}; subscribers wait"
            )
        }
        OutageRecord::Reminder(lasted) => tracing::warn!(
            message_id = event::TABLES_AWAITED,
            "waiting for the tables for {}: {cause}; check that a master runs and that it uses this database",
            humanize(lasted)
        ),
    }
}

pub(super) fn tables_found(waited: Duration) {
    tracing::info!(message_id = event::TABLES_AWAITED, "the tables exist, after {}", humanize(waited));
}

/// A failover lost commits, or a backup was restored.
pub(super) fn rolled_back(changes: usize) {
    tracing::warn!(
        message_id = event::ROLLED_BACK,
        changes,
        "rolled back: {}; the tables went back, as after a failover that lost commits: a master writes its rules again, set \
         states that are lost again",
        count(changes, "row")
    );
}

pub(super) fn missed_by_watermark(rows: u64) {
    tracing::warn!(
        message_id = event::MISSED_BY_WATERMARK,
        rows,
        "the full scan found {} that the watermark had missed",
        count(rows, "row")
    );
}

pub(super) fn quarantined(source: Source, row: &QuarantineEntry) {
    let (rule_id, table, reason) = (&row.key, table_name(row.table), &row.reason);
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rule_id,
        table,
        reason,
        "{} is quarantined: {reason}",
        source.row(row)
    );
}

/// So many rows of one poll that they share one record.
pub(super) fn many_quarantined(rows: usize) {
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rows,
        "{rows} rows are quarantined: `rulesyncd status` shows them"
    );
}

pub(super) fn many_released(rows: usize) {
    tracing::info!(message_id = event::RULE_VALID_AGAIN, rows, "{rows} rows are no longer quarantined");
}

pub(super) fn released(source: Source, row: &QuarantineEntry) {
    let (rule_id, table) = (&row.key, table_name(row.table));
    tracing::info!(
        message_id = event::RULE_VALID_AGAIN,
        rule_id,
        table,
        "{} is no longer quarantined",
        source.row(row)
    );
}

fn table_name(table: Table) -> &'static str {
    match table {
        Table::Rules => "ttp_rule",
        Table::States => "ttp_rule_state",
    }
}

/// The reasons against the signed release, or its version, changed.
pub(super) fn trust(before: Option<&TrustStatus>, now: &TrustStatus) {
    let is_same = |before: &TrustStatus| (before.state, &before.reasons) == (now.state, &now.reasons);
    if before.is_some_and(is_same) {
        return;
    }
    let reasons: Vec<&str> = now.reasons.iter().map(|reason| reason.as_str()).collect();
    let (reasons, version, sentence) = (reasons.join(" "), now.version.as_deref(), now.sentence());
    match now.state {
        TrustState::Ok => tracing::info!(message_id = event::TRUST_CHANGED, reasons, version, "{sentence}"),
        TrustState::Degraded => tracing::warn!(
            message_id = event::TRUST_CHANGED,
            reasons,
            version,
            "{sentence}; the worker serves this release as a whole"
        ),
        TrustState::None => tracing::error!(
            message_id = event::TRUST_CHANGED,
            reasons,
            version,
            "{sentence}; the worker serves nothing until one is"
        ),
    }
}

pub(super) fn floor_saved(path: &Path) {
    tracing::info!("{} is written again: no older release is accepted after a restart", path.display());
}

pub(super) fn floor_unsaved(path: &Path, error: &io::Error) {
    tracing::error!(
        "{} cannot be written: {error}; the release is served, and after a restart an older one would be accepted",
        path.display()
    );
}

/// Without the lock two workers could share a cache, and without the floor an older release could be accepted.
pub(super) fn start_waits_for_disk(cache: &Path) {
    tracing::error!(
        message_id = event::CACHE_SET_ASIDE,
        "the disk of the cache {} does not answer: the worker waits for it at its start, and serves nothing meanwhile",
        cache.display()
    );
}
