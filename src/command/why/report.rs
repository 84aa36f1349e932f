//! What each place knows about one rule, and how the places differ. Pure.

mod release;

use serde::{Serialize, Serializer};

pub(super) use self::release::ReleaseView;
use super::files::RuleFile;
use crate::clock::Timestamp;
use crate::command::compare::{self, Discrepancy};
use crate::master::reconcile::ReleaseStatus;
use crate::master::{LockStatus, MasterStatus};
use crate::rule::plan::Plan;
use crate::rule::{COUNTS_AS_ENABLED, Observation, RuleHeader, RuleId, RuleState, StateRow};
use crate::trust::TrustStatus;
use crate::wire::Health;
use crate::worker::{SubscriberStatus, WorkerStatus};

/// A rule in every place that this host can read.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) rule_id: RuleId,
    /// Files that hold the rule, or would.
    pub(super) files: Vec<RuleFile>,
    /// Why the directory could not be read.
    pub(super) files_unknown: Option<String>,
    /// What a master would write and delete for this rule.
    #[serde(skip)]
    pub(super) plan: Plan,
    /// The rule in the tables, or why they could not be read.
    #[serde(serialize_with = "or_error")]
    pub(super) table: Result<RuleInTables, String>,
    /// The rule in the published release, or why that does not verify; `None` without trust.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_or_error")]
    pub(super) release: Option<Result<ReleaseView, String>>,
    /// This host's master; `None` if none answers.
    #[serde(serialize_with = "lock")]
    pub(super) master: Option<MasterStatus>,
    /// This host's worker, or why it does not answer.
    #[serde(serialize_with = "or_error")]
    pub(super) worker: Result<WorkerView, String>,
    /// What did not answer on this host.
    pub(super) unanswered: Vec<&'static str>,
}

/// The rule in the tables.
#[derive(Debug, Serialize)]
pub(super) struct RuleInTables {
    /// The database's clock.
    pub(super) now: Timestamp,
    pub(super) row: Option<RuleHeader>,
    /// The row, and those of case variants of its id.
    #[serde(skip)]
    pub(super) rows: Vec<RuleHeader>,
    /// Similar ids, if the tables do not have the rule's.
    #[serde(skip)]
    did_you_mean: String,
    /// Case variants of the rule's id.
    pub(super) case_variants: Vec<String>,
    /// The row of the rule's state, expired or not; or why it cannot be read.
    #[serde(serialize_with = "some_or_error")]
    pub(super) state: Option<Result<StateRow, String>>,
}

/// The rule in the worker.
#[derive(Debug, Serialize)]
pub(super) struct WorkerView {
    /// Its version of the rule; `None` if it has none.
    pub(super) rule: Option<RuleHeader<RuleId>>,
    /// The effective state.
    pub(super) state: RuleState,
    /// Why the rule's row, or its state's, is quarantined.
    pub(super) quarantined: Vec<String>,
    /// Whether the worker has loaded rules.
    pub(super) loaded: bool,
    /// What is trusted; `None` where trust is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trust: Option<TrustStatus>,
    pub(super) database: Health,
    pub(super) stale_for_ms: u64,
    /// The newest change of the stream.
    pub(super) seq: u64,
    pub(super) subscribers: Vec<SubscriberStatus>,
}

fn or_error<T: Serialize, S: Serializer>(
    result: &Result<T, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match result {
        Ok(found) => found.serialize(serializer),
        Err(error) => serde_json::json!({ "error": error }).serialize(serializer),
    }
}

fn some_or_error<T: Serialize, S: Serializer>(
    result: &Option<Result<T, String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match result {
        Some(result) => or_error(result, serializer),
        None => serializer.serialize_none(),
    }
}

fn lock<S: Serializer>(master: &Option<MasterStatus>, serializer: S) -> Result<S::Ok, S::Error> {
    master.as_ref().map(|master| master.lock).serialize(serializer)
}

impl RuleInTables {
    pub(super) fn new(
        rule_id: &RuleId,
        now: Timestamp,
        rows: Vec<RuleHeader>,
        state: Option<Result<StateRow, String>>,
        did_you_mean: String,
    ) -> Self {
        let (exact, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.rule_id == rule_id.as_str());
        let row = exact.first().map(|&row| row.clone());
        let case_variants = others.into_iter().map(|row| row.rule_id.clone()).collect();
        Self { now, row, rows, did_you_mean, case_variants, state }
    }

    /// The rule's state, expired or not; or why its row is none.
    fn state(&self) -> Option<Result<RuleState, String>> {
        let state_of = |row: &StateRow| row.state().map_err(|why| why.to_string());
        self.state.as_ref().map(|row| row.as_ref().map_err(String::clone).and_then(state_of))
    }
}

impl WorkerView {
    pub(super) fn new(rule_id: &RuleId, status: WorkerStatus) -> Self {
        let quarantined = status.quarantined.into_iter().filter(|row| row.rule_id == rule_id.as_str());
        Self {
            rule: None,
            state: RuleState::default(),
            quarantined: quarantined.map(|row| format!("{}: {}", row.table, row.reason)).collect(),
            loaded: status.digest.is_some(),
            trust: status.trust,
            database: status.database.state,
            stale_for_ms: status.database.stale_for_ms,
            seq: status.stream.seq,
            subscribers: status.stream.subscribers.into_iter().filter(|peer| peer.subscribed).collect(),
        }
    }
}

impl Report {
    /// The problems, in sentences, in the order of the rule's way; empty if the rule is the same everywhere, or does
    /// not exist and should not.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.files_against_row(&mut wrong);
        self.row_against_release(&mut wrong);
        self.state_row(&mut wrong);
        self.tables_against_worker(&mut wrong);
        self.subscribers(&mut wrong);
        if wrong.is_empty() && self.is_nowhere() {
            let near = self.table.as_ref().map_or("", |table| &table.did_you_mean);
            wrong.push(format!("no file, no row and no worker here knows {}{near}", self.rule_id));
        }
        wrong
    }

    /// What was compared.
    pub(super) fn compared(&self) -> Vec<&'static str> {
        let mut compared = Vec::new();
        if self.files_unknown.is_none() {
            compared.push("directory");
        }
        if self.table.is_ok() {
            compared.push("tables");
        }
        if self.worker.as_ref().is_ok_and(|held| held.loaded) {
            compared.push("worker");
        }
        compared
    }

    fn is_nowhere(&self) -> bool {
        self.files.is_empty()
            && self.table.as_ref().is_ok_and(|table| table.row.is_none() && table.state.is_none())
    }

    fn files_against_row(&self, wrong: &mut Vec<String>) {
        let is_valid = self.files.iter().any(|file| file.error.is_none());
        let row = self.table.as_ref().ok().and_then(|table| table.row.as_ref());
        let stays = row.is_some_and(|row| !is_valid && !self.plan.deletes.contains(row));
        for file in &self.files {
            if let Some(error) = &file.error {
                let stays = if stays { "; its last good version stays" } else { "" };
                wrong.push(format!("{}: {error}{stays}", file.source_path));
            }
        }
        let Ok(table) = &self.table else { return };
        for variant in &table.case_variants {
            wrong.push(format!("a row `{variant}` differs only in case: rename or delete one of the two"));
        }
        let is_this = |found: &Discrepancy| found.rule_id.eq_ignore_ascii_case(self.rule_id.as_str());
        let why = self.held_back().unwrap_or_else(|| self.why_not_written());
        let planned = compare::files_with_rows(&self.plan).into_iter().filter(is_this);
        wrong.extend(planned.map(|found| found.what + &why));
        wrong.extend(compare::conflicts(&self.plan).filter(is_this).map(|found| found.what));
    }

    /// That the master holds back the deletion of this rule's row, as far as its status says.
    fn held_back(&self) -> Option<String> {
        let master = self.master.as_ref()?;
        let (named, all) = (&master.pending_mass_delete, master.pending_deletions());
        let carry_out = "`rulesyncd sync --allow-mass-delete` carries";
        if self.plan.deletes.iter().any(|row| named.contains(&row.rule_id)) {
            return Some(format!("; its deletion is held back, {carry_out} it out"));
        }
        let is_among = !self.plan.deletes.is_empty() && named.len() < all;
        is_among.then(|| {
            format!(
                "; the master holds back {all} deletions and names {} of them, so this may be another: {carry_out} them out",
                named.len()
            )
        })
    }

    /// Why the master may not have written, as far as this host knows.
    fn why_not_written(&self) -> String {
        match &self.master {
            None => ": no master answers on this host".to_owned(),
            Some(MasterStatus { release: Some(ReleaseStatus { held_back: Some(why), .. }), .. }) => {
                format!(": {why}")
            }
            Some(master) => match (master.lock, master.database_down_since) {
                (_, Some(since)) => format!(": the master cannot reach its database since {since}"),
                (LockStatus::Standby, _) => ": this host's master stands by while another writes".to_owned(),
                _ => String::new(),
            },
        }
    }

    fn state_row(&self, wrong: &mut Vec<String>) {
        let Ok(table) = &self.table else { return };
        // A worker that quarantines it says so itself.
        let is_named = self.worker.as_ref().is_ok_and(|held| !held.quarantined.is_empty());
        if let Some(Err(why)) = table.state()
            && !is_named
        {
            wrong.push(format!("the row of its state is no state: {why}; {COUNTS_AS_ENABLED}"));
        }
    }

    fn tables_against_worker(&self, wrong: &mut Vec<String>) {
        let Ok(held) = &self.worker else { return };
        wrong.extend(held.quarantined.iter().map(|why| format!("the worker quarantines the row of {why}")));
        self.trust_of_worker(held, wrong);
        if !held.loaded && held.trust.is_some() {
            return;
        }
        if !held.loaded {
            wrong.push("the worker has not loaded any rule yet: its database has not answered".to_owned());
            return;
        }
        if held.database == Health::Down {
            wrong.push(format!(
                "the worker cannot reach its database; what it has is {} s old",
                held.stale_for_ms / 1_000
            ));
        }
        let Ok(table) = &self.table else { return };
        // Under trust the worker serves what the release lists, whatever the row is.
        let (source, rule) = match (&self.release, &held.trust) {
            (Some(Err(_)), Some(_)) => return,
            (Some(Ok(release)), Some(trust)) => {
                let (published, served) = (&release.summary.version, trust.version.as_ref());
                if let Some(served) = served.filter(|served| *served != published) {
                    wrong.push(format!(
                        "the worker serves the release of {served}, and {published} is published"
                    ));
                    return;
                }
                ("release", release.rule.clone())
            }
            _ => ("row", table.row.clone().map(|row| row.with_id(self.rule_id.clone()))),
        };
        // Of a quarantined row, the reason was given above.
        let is_hidden = held.rule.is_none() && !held.quarantined.is_empty();
        let rule = rule.filter(|_| !is_hidden);
        let is_without_effect = self.is_without_effect(held);
        let state = match table.state() {
            None => RuleState::default(),
            Some(Ok(_)) if is_without_effect => RuleState::default(),
            Some(Ok(state)) => state.effective(table.now),
            Some(Err(_)) => held.state.clone(),
        };
        let (mut tables, mut worker) = (Observation::default(), Observation::default());
        tables.insert(self.rule_id.clone(), rule, state);
        worker.insert(self.rule_id.clone(), held.rule.clone(), held.state.clone());
        wrong.extend(compare::with_worker(source, &tables, &worker).into_iter().map(|found| found.what));
    }

    fn subscribers(&self, wrong: &mut Vec<String>) {
        let Ok(held) = &self.worker else { return };
        for peer in &held.subscribers {
            let taken = peer.acked.unwrap_or(peer.seq);
            if taken < held.seq {
                wrong.push(format!(
                    "subscriber {}{} has taken in change {taken} of {}",
                    peer.id,
                    peer.pid.map_or_else(String::new, |pid| format!(" (process {pid})")),
                    held.seq
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;
