//! What each place knows about one rule, and how the places differ. Pure.

use serde::{Serialize, Serializer};

use super::files::RuleFile;
use crate::clock::Timestamp;
use crate::master::{LockStatus, MasterStatus};
use crate::rule::{RuleHeader, RuleId, RuleState, StateRow};
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
    /// The label of the rows that this host's master owns.
    #[serde(skip)]
    pub(super) owner: String,
    /// The rule in the tables, or why they could not be read.
    #[serde(serialize_with = "or_error")]
    pub(super) table: Result<RuleInTables, String>,
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
    /// Similar ids, if the tables do not have the rule's.
    #[serde(skip)]
    pub(super) did_you_mean: String,
    /// Case variants of the rule's id.
    pub(super) case_variants: Vec<String>,
    pub(super) state: Option<StateOfRow>,
}

/// A row of `ttp_rule_state`, expired or not.
#[derive(Debug, Serialize)]
pub(super) struct StateOfRow {
    pub(super) state: String,
    pub(super) confidence_max: Option<f64>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) reason: Option<String>,
    pub(super) set_by: Option<String>,
    pub(super) set_at: Option<Timestamp>,
    /// The effective state, or why there is none.
    #[serde(skip)]
    means: Result<RuleState, String>,
}

/// The rule in the worker.
#[derive(Debug, Serialize)]
pub(super) struct WorkerView {
    /// Its version of the rule; `None` if it has none.
    pub(super) rule: Option<RuleHeader>,
    /// The effective state.
    pub(super) state: RuleState,
    /// Why the rule's row, or its state's, is quarantined.
    pub(super) quarantined: Vec<String>,
    /// Whether the worker has loaded rules.
    pub(super) loaded: bool,
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

fn lock<S: Serializer>(master: &Option<MasterStatus>, serializer: S) -> Result<S::Ok, S::Error> {
    master.as_ref().map(|master| master.lock).serialize(serializer)
}

impl From<StateRow> for StateOfRow {
    fn from(row: StateRow) -> Self {
        let means = row.state().map_err(|why| why.to_string());
        let StateRow { rule_id: _, state, confidence_max, expires_at, reason, set_by, set_at } = row;
        Self { state, confidence_max, expires_at, reason, set_by, set_at, means }
    }
}

impl StateOfRow {
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
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
        self.row_against_worker(&mut wrong);
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
        let valid: Vec<_> = self.files.iter().filter(|file| file.error.is_none()).collect();
        for file in &self.files {
            if let Some(error) = &file.error {
                let stays = if valid.is_empty() { "; its last good version stays" } else { "" };
                wrong.push(format!("{}: {error}{stays}", file.source_path));
            }
        }
        let Ok(table) = &self.table else { return };
        for variant in &table.case_variants {
            wrong.push(format!("a row `{variant}` differs only in case: rename or delete one of the two"));
        }
        if let [first, others @ ..] = &*valid
            && !others.is_empty()
        {
            let row_path = table.row.as_ref().map_or(&*first.source_path, |row| &row.source_path);
            let others = valid.iter().map(|file| &*file.source_path).filter(|path| *path != row_path);
            let others = others.collect::<Vec<_>>().join(", ");
            wrong.push(format!("the same id is in {others}, passed over: {row_path} keeps it"));
        }
        let from_row =
            |file: &&&RuleFile| table.row.as_ref().is_some_and(|row| *row.source_path == *file.source_path);
        match (valid.iter().find(from_row).or(valid.first()), &table.row) {
            (Some(file), None) => {
                wrong.push(format!("{} is not in the table{}", file.source_path, self.why_not_written()));
            }
            (Some(file), Some(row)) => {
                let differs = if !row.is_owned_by(&self.owner) {
                    Some(format!("the row is of `{}`", row.updated_by))
                } else if *row.source_path != *file.source_path {
                    Some(format!("the row is of {}", row.source_path))
                } else if Some(row.content_sha256) != file.content_sha256 {
                    Some("the row has another text".to_owned())
                } else if file.rule_version.map(i64::from) != Some(row.rule_version) {
                    Some(format!("the row has version {}", row.rule_version))
                } else {
                    None
                };
                if let Some(differs) = differs {
                    let why = self.why_not_written();
                    wrong.push(format!("{} is not yet in the table: {differs}{why}", file.source_path));
                }
            }
            (None, Some(row))
                if self.files_unknown.is_none() && self.files.is_empty() && row.is_owned_by(&self.owner) =>
            {
                let held = self.master.as_ref().is_some_and(|master| {
                    master.pending_mass_delete.iter().any(|held| held == self.rule_id.as_str())
                });
                let why = if held {
                    "; its deletion is held back, `rulesyncd sync --allow-mass-delete` carries it out"
                        .to_owned()
                } else {
                    self.why_not_written()
                };
                wrong.push(format!("{} is gone, and its row still stands{why}", row.source_path));
            }
            _ => {}
        }
    }

    /// Why the master may not have written, as far as this host knows.
    fn why_not_written(&self) -> String {
        match &self.master {
            None => ": no master answers on this host".to_owned(),
            Some(master) => match (master.lock, master.database_down_since) {
                (_, Some(since)) => format!(": the master cannot reach its database since {since}"),
                (LockStatus::Standby, _) => ": this host's master stands by while another writes".to_owned(),
                _ => String::new(),
            },
        }
    }

    fn row_against_worker(&self, wrong: &mut Vec<String>) {
        let Ok(held) = &self.worker else { return };
        wrong.extend(held.quarantined.iter().map(|why| format!("the worker quarantines the row of {why}")));
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
        let is = |row: &RuleHeader, other: &RuleHeader| {
            row.content_sha256 == other.content_sha256
                && row.rule_version == other.rule_version
                && row.source_path == other.source_path
        };
        match (&table.row, &held.rule) {
            (Some(_), None) if held.quarantined.is_empty() => {
                wrong.push("the row is not with the worker".to_owned());
            }
            (None, Some(_)) => wrong.push("the worker has the rule, and no row stands for it".to_owned()),
            (Some(row), Some(rule)) if !is(row, rule) => wrong.push(format!(
                "the worker has version {} of {}, the row is version {} of {}",
                rule.rule_version, rule.updated_at, row.rule_version, row.updated_at
            )),
            _ => {}
        }
        let means = table.state.as_ref().map_or_else(|| Ok(RuleState::default()), |row| row.means.clone());
        if let Ok(state) = means.map(|state| state.effective(table.now))
            && state != held.state
        {
            wrong.push(format!(
                "the worker has the state `{}`, the table `{}`",
                held.state.state, state.state
            ));
        }
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
