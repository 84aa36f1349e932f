//! The master's records: one for each thing that an operator acts on. No rule's text is in them.

mod files;
mod operators;
mod releases;

use std::path::Path;
use std::time::Duration;

pub(super) use self::files::{
    conflict, conflict_ended, invalid_file, invalid_file_removed, many_invalid_files, no_longer_passed_over,
    passed_over, uncompilable, valid_again,
};
pub(super) use self::operators::{expired, guard_lifted, state_changed};
pub(super) use self::releases::{
    edits_are_not_signed, release_ends, release_held, release_no_longer_held, release_published,
};
use super::held::HeldDeletes;
use crate::clock::humanize;
use crate::config::Percent;
use crate::directory::DirectoryUnavailable;
use crate::event;
use crate::fleet::{FleetNews, HostState};
use crate::outage::OutageRecord;
use crate::plural::{count, some_of};
use crate::rule::RuleHeader;
use crate::rule::plan::{Plan, Write};
use crate::store::StoreError;

/// How many files a record of many invalid files names.
const NAMED: usize = 10;

/// More rows than the budget of records allows. `restored` of the writes undo what another program did.
pub(super) fn many_written(plan: &Plan, restored: usize) {
    let (written, deleted) = (plan.writes.len(), plan.deletes.len());
    tracing::info!(
        message_id = event::RULE_WRITTEN,
        written,
        deleted,
        restored,
        "{} written{}, {deleted} deleted",
        count(written, "rule"),
        match restored {
            0 => String::new(),
            _ => format!(" ({restored} of them because another program had changed or deleted them)"),
        }
    );
}

/// A row was written again although its file did not change: another program changed or deleted it.
pub(super) fn restored(write: &Write, trace_id: Option<String>) {
    let (rule_id, source_path) = (write.rule.rule_id.as_str(), &*write.rule.source_path);
    let what = match &write.replaces {
        None => "deleted from the table by another program".to_owned(),
        Some(row) => {
            format!("changed in the table by another program (`updated_by` is `{}`)", row.updated_by)
        }
    };
    tracing::warn!(
        message_id = event::RULE_TAKEN_OVER,
        rule_id,
        rule_version = write.rule.rule_version,
        source_path,
        change_kind = "definition",
        trace_id,
        "{rule_id} was {what}; the master writes it again from {source_path}"
    );
}

pub(super) fn written(write: &Write, trace_id: Option<String>) {
    let (rule_id, rule_version) = (write.rule.rule_id.as_str(), write.rule.rule_version);
    let (source_path, updated_by) = (&*write.rule.source_path, &*write.rule.updated_by);
    let change_kind = "definition";
    match write.takes_over() {
        Some(replaced) => tracing::warn!(
            message_id = event::RULE_TAKEN_OVER,
            rule_id,
            rule_version,
            source_path,
            change_kind,
            updated_by,
            trace_id,
            "{} was written by `{}`; the master overwrites it with {source_path}",
            replaced.rule_id,
            replaced.updated_by
        ),
        None => tracing::info!(
            message_id = event::RULE_WRITTEN,
            rule_id,
            rule_version,
            source_path,
            change_kind,
            updated_by,
            trace_id,
            "{rule_id} {} from {source_path}",
            if write.replaces.is_some() { "updated" } else { "added" }
        ),
    }
}

pub(super) fn deleted(delete: &RuleHeader, trace_id: Option<String>) {
    let RuleHeader { rule_id, source_path, .. } = delete;
    tracing::info!(
        message_id = event::RULE_DELETED,
        rule_id,
        source_path = &**source_path,
        change_kind = "definition",
        trace_id,
        "{rule_id} deleted: {source_path} no longer holds it"
    );
}

pub(super) fn rejected(write: &Write, why: &StoreError, trace_id: Option<String>) {
    let (rule_id, source_path) = (write.rule.rule_id.as_str(), &*write.rule.source_path);
    if why.is_transient() {
        return tracing::warn!(rule_id, source_path, trace_id, "{rule_id} is not written yet: {why}");
    }
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rule_id,
        source_path,
        trace_id,
        "{source_path}: the database rejected {rule_id}: {why}"
    );
}

/// As [`rejected`], for the deletion of a row.
pub(super) fn not_deleted(delete: &RuleHeader, why: &StoreError, trace_id: Option<String>) {
    let (rule_id, source_path) = (delete.rule_id.as_str(), &*delete.source_path);
    if why.is_transient() {
        return tracing::debug!(rule_id, source_path, trace_id, "{rule_id} is not deleted yet: {why}");
    }
    tracing::error!(
        message_id = event::RULE_REJECTED,
        rule_id,
        source_path,
        trace_id,
        "the database rejected the deletion of {rule_id}, whose file {source_path} is gone: {why}"
    );
}

pub(super) fn version_problem(problem: Option<&str>) {
    match problem {
        Some(problem) => {
            tracing::warn!("rules are written without raising the version in rulesyncd_version: {problem}")
        }
        None => tracing::info!("the version in rulesyncd_version is raised again"),
    }
}

pub(super) fn lease_problem(problem: Option<&str>) {
    match problem {
        Some(problem) => tracing::warn!(
            "there is no lease, so a master that hangs, or whose host is gone, may keep others from writing: {problem}"
        ),
        None => tracing::info!("this master has the lease"),
    }
}

/// `window` is how long deletions are counted together.
pub(super) fn held_back(held: Option<&HeldDeletes>, max_delete: Percent, window: Duration) {
    match held {
        Some(HeldDeletes { rule_ids, owned, recent, .. }) => tracing::error!(
            message_id = event::MASS_DELETE_HELD,
            deletions = rule_ids.len(),
            owned,
            recent,
            "{} of {} would be deleted{}, which is more than master.max_delete = {max_delete} allows, or all of them: \
             nothing is deleted; bring the files back, or run `rulesyncd sync --allow-mass-delete`",
            rule_ids.len(),
            count(*owned, "rule"),
            match recent {
                0 => String::new(),
                _ => format!(" after {recent} more within {}", humanize(window)),
            }
        ),
        None => tracing::info!(message_id = event::MASS_DELETE_HELD, "no deletion is held back any more"),
    }
}

/// The duration of an outage, in parentheses; empty in its first record.
fn lasting(record: OutageRecord) -> String {
    match record {
        OutageRecord::Begun => String::new(),
        OutageRecord::CauseChanged(lasted) => {
            format!(" (unavailable for {}; the cause is new)", humanize(lasted))
        }
        OutageRecord::Reminder(lasted) => format!(" (unavailable for {})", humanize(lasted)),
    }
}

pub(super) fn database_unavailable(error: &StoreError, record: OutageRecord) {
    tracing::error!(
        message_id = event::DATABASE_UNAVAILABLE,
        "{error}{}; retrying until it works",
        lasting(record)
    );
}

pub(super) fn database_back(lasted: Duration) {
    tracing::info!(
        message_id = event::DATABASE_BACK,
        "the database answers again after {}",
        humanize(lasted)
    );
}

pub(super) fn lock_taken() {
    tracing::info!(message_id = event::LOCK_TAKEN, "this master holds the lock");
}

/// The master that held the lock has ended.
pub(super) fn took_over(stood_by: Duration) {
    tracing::warn!(
        message_id = event::LOCK_TAKEN,
        "this master holds the lock: it took over from the other one, after {} as the standby",
        humanize(stood_by)
    );
}

pub(super) fn was_taken_over(leader: &str) {
    tracing::warn!(
        message_id = event::STANDBY,
        holder = leader,
        "another master ({leader}) has taken over from this one; standing by to take over when it ends"
    );
}

/// `holder` is who holds the lock, as far as the database says.
pub(super) fn standing_by(holder: Option<&str>) {
    tracing::info!(
        message_id = event::STANDBY,
        holder,
        "another master ({}) holds the lock; standing by to take over when it ends",
        holder.unwrap_or("the database does not say which")
    );
}

pub(super) fn directory_unavailable(error: &DirectoryUnavailable, record: OutageRecord) {
    let lasting = lasting(record);
    tracing::error!(
        message_id = event::DIRECTORY_UNAVAILABLE,
        "{error}{lasting}; every rule stays as it is until the rules directory can be read: create or mount it, or name \
         another in master.rules_dir"
    );
}

pub(super) fn directory_back(directory: &Path, lasted: Duration) {
    tracing::info!(
        message_id = event::DIRECTORY_BACK,
        "{} can be read again after {}",
        directory.display(),
        humanize(lasted)
    );
}

/// Other transactions went on being in the way of one that writes rules.
pub(super) fn in_the_way(rows: usize, error: &StoreError) {
    tracing::warn!(
        "{} cannot be written, other transactions are in the way: {error}; retrying",
        count(rows, "row")
    );
}

/// Which hosts are silent or stay behind, and which are back: one record each, or one for many.
pub(super) fn fleet(news: &FleetNews) {
    match &*news.lost {
        [] => {}
        [(host, HostState::Silent { since_ms })] => {
            let since = since_ms.map(|since| format!(" for {}", humanize(Duration::from_millis(since))));
            let since = since.unwrap_or_default();
            tracing::warn!("worker {host} has reported nothing{since}; `rulesyncd fleet` shows all");
        }
        [(host, _)] => {
            tracing::warn!("worker {host} has been behind for a minute; `rulesyncd fleet` shows all");
        }
        many => tracing::warn!(
            "{} are silent or have been behind for a minute: {}; `rulesyncd fleet` shows all",
            count(many.len(), "worker"),
            some_of(many.iter().map(|(host, _)| host), NAMED, ", ")
        ),
    }
    match &*news.back {
        [] => {}
        [host] => tracing::info!("worker {host} is back"),
        many => {
            tracing::info!("{} are back: {}", count(many.len(), "worker"), some_of(many.iter(), NAMED, ", "));
        }
    }
}
