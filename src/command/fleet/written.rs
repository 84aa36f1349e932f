//! What a command wrote that `--wait` waits for: who quarantined it, and whether it is still there.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::fleet::{Look, Missing, hosts};
use crate::rule::{RuleHeader, RuleId, RuleState, StateRow};
use crate::store::{Database, Scope, StoreError};

/// What a command wrote.
#[derive(Debug)]
pub(crate) enum Written {
    /// The states of these rules.
    States(Vec<(RuleId, RuleState)>),
    /// States that were cleared, as they were before.
    Cleared(Vec<StateRow>),
    /// Rules; their rows before.
    Rules(Vec<RuleHeader>),
    /// Nothing: the current version is waited for.
    Nothing,
}

/// The same, with what can only be read after the write.
#[derive(Debug)]
pub(super) enum Found {
    States(Vec<(RuleId, RuleState)>),
    Cleared(Vec<StateRow>),
    Rules {
        /// The rows that are new or changed.
        written: Vec<RuleHeader>,
        /// Those that were deleted, as they were before.
        deleted: Vec<RuleHeader>,
    },
    Nothing,
}

impl Written {
    /// Reads after the write what of the rules was written.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn found(self, database: &Database) -> Result<Found, StoreError> {
        Ok(match self {
            Self::States(states) => Found::States(states),
            Self::Cleared(rows) => Found::Cleared(rows),
            Self::Nothing => Found::Nothing,
            Self::Rules(before) => {
                let mut before: HashMap<String, RuleHeader> =
                    before.into_iter().map(|row| (row.rule_id.clone(), row)).collect();
                let mut written = database.rows(Scope::All).await?;
                written.retain(|row| before.remove(&row.rule_id).as_ref() != Some(row));
                Found::Rules { written, deleted: before.into_values().collect() }
            }
        })
    }
}

impl Found {
    /// The hosts that quarantined what was written.
    pub(super) fn quarantining(&self, look: &Look) -> Vec<Missing> {
        let ids: Vec<&str> = match self {
            Self::States(states) => states.iter().map(|(rule_id, _)| rule_id.as_str()).collect(),
            Self::Cleared(rows) => rows.iter().map(|row| &*row.rule_id).collect(),
            Self::Rules { written, .. } => written.iter().map(|row| &*row.rule_id).collect(),
            Self::Nothing => Vec::new(),
        };
        let hosts = hosts(&look.workers, look.now).into_iter().filter(|host| {
            let report = &host.worker.report;
            !host.worker.is_silent(look.now) && ids.iter().any(|id| report.may_quarantine(id))
        });
        hosts.map(|host| Missing { host: host.name, why: host.worker.report.quarantined_ids }).collect()
    }

    /// Whether the database still has what was written, or something later. `is_newer` says whether the version was
    /// raised since: a row that is gone then was removed later.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn is_still_there(
        &self,
        database: &Database,
        is_newer: bool,
    ) -> Result<bool, StoreError> {
        Ok(match self {
            Self::Nothing => true,
            Self::States(states) => {
                let rows = set_at_by_id(database).await?;
                states.iter().all(|(rule_id, state)| {
                    rows.get(rule_id.as_str()).map_or(is_newer, |set_at| *set_at >= state.set_at)
                })
            }
            Self::Cleared(before) => {
                let rows = set_at_by_id(database).await?;
                before.iter().all(|row| rows.get(&row.rule_id).is_none_or(|set_at| *set_at != row.set_at))
            }
            Self::Rules { written, deleted } => {
                let rows = database.rows(Scope::All).await?;
                let rows: HashMap<&str, &RuleHeader> = rows.iter().map(|row| (&*row.rule_id, row)).collect();
                let is_there = |row: &RuleHeader| {
                    rows.get(&*row.rule_id).map_or(is_newer, |now| now.updated_at >= row.updated_at)
                };
                let is_back = |row: &RuleHeader| {
                    rows.get(&*row.rule_id).is_some_and(|now| now.updated_at == row.updated_at)
                };
                written.iter().all(is_there) && !deleted.iter().any(is_back)
            }
        })
    }
}

async fn set_at_by_id(database: &Database) -> Result<HashMap<String, Option<Timestamp>>, StoreError> {
    let rows = database.states().await?;
    Ok(rows.into_iter().map(|row| (row.rule_id, row.set_at)).collect())
}
