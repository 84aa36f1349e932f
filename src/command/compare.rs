//! What `verify` compares of all rules, and `why` of one: directory, tables and worker.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use tokio::time::timeout;

use crate::client::{ClientError, SocketClient};
use crate::directory::InvalidFile;
use crate::rule::plan::Plan;
use crate::rule::{CatalogueDigest, Difference, Observation, RuleHeader, RuleState, diff};
use crate::socket::WORK_TIMEOUT;
use crate::wire::Subscribe;

/// One difference, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Discrepancy {
    pub(super) rule_id: String,
    pub(super) what: String,
}

impl Discrepancy {
    pub(super) fn new(rule_id: impl ToString, what: impl Into<String>) -> Self {
        Self { rule_id: rule_id.to_string(), what: what.into() }
    }
}

/// Files and rows that differ: what a master would write and delete.
pub(super) fn files_with_rows(plan: &Plan) -> Vec<Discrepancy> {
    let write = plan.writes.iter().map(|write| {
        let (path, version) = (&write.rule.source_path, write.rule.rule_version);
        let what = match &write.replaces {
            None => format!("{path} holds version {version}, and the table has no row"),
            Some(row) if row.rule_version != version => {
                format!("{path} holds version {version}, the row version {}", row.rule_version)
            }
            Some(row) if *row.source_path != **path => {
                format!("{path} holds it, the row is of {}", row.source_path)
            }
            Some(row) => format!("{path} and the row by `{}` differ", row.updated_by),
        };
        Discrepancy::new(&write.rule.rule_id, what)
    });
    let delete = plan.deletes.iter().map(|row| {
        Discrepancy::new(
            &row.rule_id,
            format!("the table still has the row, and {} no longer holds it", row.source_path),
        )
    });
    write.chain(delete).collect()
}

/// Files whose id another file holds.
pub(super) fn conflicts(plan: &Plan) -> impl Iterator<Item = Discrepancy> {
    plan.conflicts.iter().map(|conflict| {
        let (path, held_by) = (&conflict.source_path, &conflict.held_by);
        Discrepancy::new(&conflict.rule_id, format!("{path} holds it too, and is passed over for {held_by}"))
    })
}

/// The invalid files: under the id of the row that came from them, or under their name.
pub(super) fn invalid_files<'f>(
    files: impl Iterator<Item = (&'f str, &'f InvalidFile)>,
    rows: &[RuleHeader],
) -> Vec<Discrepancy> {
    let ids: BTreeMap<&str, &str> = rows.iter().map(|row| (&*row.source_path, &*row.rule_id)).collect();
    files
        .map(|(path, why)| {
            let what = format!("{path} is invalid: {}", why.sentence());
            Discrepancy::new(ids.get(path).unwrap_or(&path), what)
        })
        .collect()
}

/// Rules and effective states that the worker does not serve as they are. `source` has the rules: `row`, or `release`.
pub(super) fn with_worker(source: &str, tables: &Observation, worker: &Observation) -> Vec<Discrepancy> {
    let in_words = |(id, difference)| {
        let what = match difference {
            Difference::Rule(_, None) => "the worker does not hold it".to_owned(),
            Difference::Rule(None, _) => format!("the worker holds it, and no {source} does"),
            Difference::Rule(Some(row), Some(rule)) if rule.rule_version != row.rule_version => {
                format!(
                    "the worker holds version {}, the {source} version {}",
                    rule.rule_version, row.rule_version
                )
            }
            Difference::Rule(..) => format!("the worker holds another text or path than the {source}"),
            Difference::State(row, worker) => {
                format!("the worker says {}, the table {}", state(&worker), state(&row))
            }
        };
        Discrepancy::new(id, what)
    };
    diff(tables, worker).into_iter().map(in_words).collect()
}

fn state(state: &RuleState) -> String {
    match &state.set_by {
        Some(who) => format!("`{}` by {who}", state.state),
        None => format!("`{}`", state.state),
    }
}

/// What the worker serves of the rules that `subscribe` names, and the digest of all that it serves.
///
/// # Errors
/// As [`SocketClient::snapshot`]; it takes at most [`WORK_TIMEOUT`].
pub(super) async fn worker(
    socket: &Path,
    subscribe: Subscribe,
) -> Result<(CatalogueDigest, Observation), ClientError> {
    let read = async { SocketClient::connect(socket).await?.snapshot(subscribe).await };
    timeout(WORK_TIMEOUT, read).await.unwrap_or(Err(ClientError::Timeout(WORK_TIMEOUT)))
}
