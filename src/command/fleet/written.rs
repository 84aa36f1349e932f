//! What a command wrote that `--wait` waits for: who quarantined it, and whether it is still there.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::command::Failure;
use crate::fleet::{HostState, Look, Missing, hosts, state_of};
use crate::master::WrittenRule;
use crate::rule::{RuleHeader, RuleId, RuleState, StateRow};
use crate::store::{Database, Scope, StoreError};

/// So many rows are read by their keys; with more, all are read.
const BY_KEY: usize = 1_000;

/// What a command wrote.
#[derive(Debug)]
pub(crate) enum Written {
    /// The states of these rules.
    States(Vec<(RuleId, RuleState)>),
    /// States that were cleared, as they were before.
    Cleared(Vec<StateRow>),
    /// Rules.
    Rules(Vec<WrittenRule>),
    /// Nothing: the current version is waited for.
    Nothing,
}

/// What the database has of what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    /// All of it, or something later.
    All,
    /// A row is gone: whoever removed it later has raised the version, too.
    Gone,
    /// A row is as it was before.
    Lost,
}

impl Kept {
    /// `is_newer` says whether the version was raised after the write; it is read after the rows.
    pub(super) const fn is_lost(self, is_newer: bool) -> bool {
        match self {
            Self::All => false,
            Self::Gone => !is_newer,
            Self::Lost => true,
        }
    }
}

impl Written {
    /// The hosts that quarantined what was written.
    pub(super) fn quarantining(&self, look: &Look) -> Vec<Missing> {
        let ids: Vec<&str> = match self {
            Self::States(states) => states.iter().map(|(rule_id, _)| rule_id.as_str()).collect(),
            Self::Cleared(rows) => rows.iter().map(|row| &*row.rule_id).collect(),
            Self::Rules(rules) => {
                rules.iter().filter(|rule| rule.content_sha256.is_some()).map(|rule| &*rule.rule_id).collect()
            }
            Self::Nothing => Vec::new(),
        };
        let hosts = hosts(&look.workers, look.now).into_iter().filter(|host| {
            let report = &host.worker.report;
            !host.worker.is_silent(look.now) && ids.iter().any(|id| report.may_quarantine(id))
        });
        hosts.map(|host| Missing { host: host.name, why: host.worker.report.quarantined_ids }).collect()
    }

    /// A failure after the write, of which the error says nothing.
    pub(super) fn unknown(&self, what: &str, error: StoreError) -> Failure {
        let error = anyhow::Error::from(error);
        Failure::Environment(match self {
            Self::Nothing => error,
            _ => error.context(format!("the change was written, and {what} is not known")),
        })
    }

    /// Reads the rows again.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn kept(&self, database: &Database) -> Result<Kept, StoreError> {
        let worst = match self {
            Self::Nothing => None,
            Self::States(states) => {
                let rows = set_at_by_id(database).await?;
                states.iter().map(|(rule_id, state)| kept_state(rows.get(rule_id.as_str()), state)).max()
            }
            Self::Cleared(before) => {
                let rows = set_at_by_id(database).await?;
                let is_back = |row: &StateRow| rows.get(&row.rule_id) == Some(&row.set_at);
                before.iter().any(is_back).then_some(Kept::Lost)
            }
            Self::Rules(rules) => {
                let keys: Vec<String> = rules.iter().map(|rule| rule.rule_id.clone()).collect();
                let rows = match keys.len() {
                    0 => Vec::new(),
                    1..=BY_KEY => database.rows(Scope::Keys(&keys)).await?,
                    _ => database.rows(Scope::All).await?,
                };
                let rows: HashMap<&str, &RuleHeader> = rows.iter().map(|row| (&*row.rule_id, row)).collect();
                rules.iter().map(|rule| kept_rule(rows.get(&*rule.rule_id).copied(), rule)).max()
            }
        };
        Ok(worst.unwrap_or(Kept::All))
    }
}

/// The hosts that have every change and do not follow a change of the rules: they hold back its deletions, or do not trust
/// it. `look` has what they should serve.
pub(super) fn not_followed(look: &Look) -> Vec<Missing> {
    let missing = hosts(&look.workers, look.now).into_iter().filter_map(|host| {
        let report = &host.worker.report;
        // What is quarantined is named if it is what was written.
        let is_of_change = report.trust.is_some() || report.quarantined == 0;
        match state_of(&host, look, look) {
            HostState::Differs { reason: Some(why) } if is_of_change => {
                Some(Missing { host: host.name, why })
            }
            _ => None,
        }
    });
    missing.collect()
}

fn kept_state(set_at: Option<&Option<Timestamp>>, written: &RuleState) -> Kept {
    match set_at {
        None => Kept::Gone,
        Some(set_at) if *set_at >= written.set_at => Kept::All,
        Some(_) => Kept::Lost,
    }
}

fn kept_rule(row: Option<&RuleHeader>, written: &WrittenRule) -> Kept {
    match (row, written.content_sha256) {
        (None, None) => Kept::All,
        (None, Some(_)) => Kept::Gone,
        (Some(row), Some(content)) if row.content_sha256 == content => Kept::All,
        // Stamps rise, so what is not later than the row before is that row or one before it.
        (Some(row), _) if written.replaced_at.is_some_and(|replaced_at| row.updated_at <= replaced_at) => {
            Kept::Lost
        }
        (Some(_), _) => Kept::All,
    }
}

async fn set_at_by_id(database: &Database) -> Result<HashMap<String, Option<Timestamp>>, StoreError> {
    let rows = database.states().await?;
    Ok(rows.into_iter().map(|row| (row.rule_id, row.set_at)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::ContentDigest;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_750_000_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn a_state_that_is_gone_is_lost_unless_the_version_was_raised_since() {
        let written = RuleState { set_at: Some(at(11)), ..RuleState::default() };
        let kept =
            |set_at: Option<i64>| kept_state(set_at.map(|seconds| Some(at(seconds))).as_ref(), &written);
        assert_eq!(
            [Some(9), None, Some(11), Some(12)].map(kept),
            [Kept::Lost, Kept::Gone, Kept::All, Kept::All]
        );
        assert_eq!([Kept::All, Kept::Gone, Kept::Lost].map(|kept| kept.is_lost(true)), [false, false, true]);
        assert_eq!([Kept::All, Kept::Gone, Kept::Lost].map(|kept| kept.is_lost(false)), [false, true, true]);
    }

    #[test]
    fn a_rule_that_is_neither_the_written_one_nor_a_later_one_is_lost() {
        let row = |text: &str, seconds| RuleHeader {
            rule_id: "R1".to_owned(),
            rule_version: 1,
            source_path: "R1.yaml".into(),
            content_sha256: ContentDigest::of(text),
            updated_at: at(seconds),
            updated_by: "filesystem".into(),
        };
        let kept = |row: Option<RuleHeader>, text: Option<&str>, replaced: Option<i64>| {
            let content_sha256 = text.map(ContentDigest::of);
            let written =
                WrittenRule { rule_id: "R1".to_owned(), content_sha256, replaced_at: replaced.map(at) };
            kept_rule(row.as_ref(), &written)
        };
        assert_eq!(kept(Some(row("new", 11)), Some("new"), Some(9)), Kept::All, "the written one");
        assert_eq!(kept(Some(row("newer", 12)), Some("new"), Some(9)), Kept::All, "a later one");
        assert_eq!(kept(Some(row("old", 9)), Some("new"), Some(9)), Kept::Lost, "the one before");
        assert_eq!(kept(Some(row("older", 7)), Some("new"), Some(9)), Kept::Lost, "one before that");
        assert_eq!(kept(None, Some("new"), None), Kept::Gone);
        assert_eq!(kept(Some(row("other", 5)), Some("new"), None), Kept::All, "there was none before");
        assert_eq!(kept(None, None, Some(9)), Kept::All, "deleted");
        assert_eq!(kept(Some(row("old", 9)), None, Some(9)), Kept::Lost, "there again");
        assert_eq!(kept(Some(row("new", 12)), None, Some(9)), Kept::All, "written again later");
    }
}
