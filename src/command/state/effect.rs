//! Whether states have an effect under the published release.

use std::collections::BTreeMap;

use super::super::common::load_policy;
use super::super::release::{PublishedRelease, valid_states};
use super::super::{Failure, Outcome};
use crate::config::Config;
use crate::plural::some_of;
use crate::rule::{RuleId, RuleState};
use crate::store::Database;

/// The most rules of one error.
const NAMED: usize = 10;

/// Refuses a state that would have no effect on one of these rules under the published release.
///
/// # Errors
/// [`Failure::Usage`], or [`Failure::Environment`] if the database does not answer.
pub(super) async fn ensure_effect(
    config: &Config,
    database: &Database,
    rule_ids: &[RuleId],
    state: &RuleState,
) -> Outcome {
    let Some(release) = published_release(config, database).await? else { return Ok(()) };
    let now = database.now().await?;
    let mut rows = valid_states(&database.states().await?);
    // One stamp for all: which of them would be beyond the limit does not matter, since none is set then.
    let state = RuleState { set_at: Some(now), ..state.clone() };
    rows.extend(rule_ids.iter().map(|rule_id| (rule_id.clone(), state.clone())));
    let judged = release.without_effect(&rows, now);
    let refused = |id: &RuleId| judged.get(id).map(|why| (id.clone(), why));
    let refused: Vec<_> = rule_ids.iter().filter_map(refused).collect();
    match (&*refused, rule_ids) {
        ([], _) => Ok(()),
        ([(_, why)], [_]) => Err(usage!("the state would have no effect: {why}")),
        _ => Err(usage!(
            "the state would have no effect on {} of {} rules, so none is set: {}",
            refused.len(),
            rule_ids.len(),
            some_of(refused.iter().map(|(id, why)| format!("{id} ({why})")), NAMED, ", ")
        )),
    }
}

/// The states that have no effect under the published release, each with the reason.
///
/// # Errors
/// [`Failure::Environment`] if the database does not answer.
pub(super) async fn without_effect(
    config: &Config,
    database: &Database,
) -> Result<BTreeMap<RuleId, String>, Failure> {
    let Some(release) = published_release(config, database).await? else { return Ok(BTreeMap::new()) };
    let (now, rows) = (database.now().await?, valid_states(&database.states().await?));
    let judged = release.without_effect(&rows, now);
    Ok(judged.into_iter().map(|(rule_id, why)| (rule_id, why.to_string())).collect())
}

/// The published release; `None` without trust, and, with a warning, if it does not verify: in an emergency a state must
/// be set, and the workers judge it by the release that they serve.
///
/// # Errors
/// [`Failure::Usage`] if the configured keys cannot be used.
async fn published_release(
    config: &Config,
    database: &Database,
) -> Result<Option<PublishedRelease>, Failure> {
    let release = PublishedRelease::of_database(database, load_policy(config)?.as_ref()).await?;
    let log = |why: &String| {
        tracing::warn!(
            "whether the state has an effect is not known: the published release does not verify: {why}"
        );
    };
    Ok(release.and_then(|release| release.inspect_err(log).ok()))
}
