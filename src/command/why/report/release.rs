//! The rule in the published release, and what that explains of the other places.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Report, WorkerView};
use crate::clock::Timestamp;
use crate::command::release::{PublishedRelease, ReleaseSummary};
use crate::rule::{RuleHeader, RuleId, RuleState};
use crate::trust::{TrustReason, TrustState};

/// The rule in the published release.
#[derive(Debug, Serialize)]
pub(in crate::command::why) struct ReleaseView {
    #[serde(flatten)]
    pub(in crate::command::why) summary: ReleaseSummary,
    /// The rule as the release lists it.
    #[serde(serialize_with = "listed")]
    pub(in crate::command::why) rule: Option<RuleHeader<RuleId>>,
    /// Why the rule's state has no effect; `None` if it has one, and if there is no state.
    pub(in crate::command::why) without_effect: Option<String>,
}

/// What a list says of a rule.
fn listed<S: Serializer>(rule: &Option<RuleHeader<RuleId>>, serializer: S) -> Result<S::Ok, S::Error> {
    let line = rule.as_ref().map(|RuleHeader { rule_version, content_sha256, source_path, .. }| {
        serde_json::json!({
            "rule_version": rule_version,
            "content_sha256": content_sha256,
            "source_path": source_path,
        })
    });
    line.serialize(serializer)
}

impl ReleaseView {
    pub(in crate::command::why) fn new(
        release: &PublishedRelease,
        rule_id: &RuleId,
        states: &BTreeMap<RuleId, RuleState>,
        now: Timestamp,
    ) -> Self {
        let without_effect = release.without_effect(states, now);
        Self {
            summary: release.summary(),
            rule: release.rule(rule_id.as_str()),
            without_effect: without_effect.get(rule_id).map(ToString::to_string),
        }
    }
}

impl Report {
    /// Why the workers that verify do not serve the row or the state.
    pub(super) fn row_against_release(&self, wrong: &mut Vec<String>) {
        let release = match &self.release {
            None => return,
            Some(Err(why)) => {
                wrong.push(format!("the published release does not verify: {why}"));
                return;
            }
            Some(Ok(release)) => release,
        };
        let version = &release.summary.version;
        let row = self.table.as_ref().ok().and_then(|table| table.row.as_ref());
        match (&release.rule, row) {
            (None, Some(_)) => wrong.push(format!(
                "the release of {version} does not list the rule: workers that verify do not serve the row"
            )),
            (Some(_), None) => {
                wrong.push(format!("the release of {version} lists the rule, and the table has no row"));
            }
            (Some(rule), Some(row)) if !rule.same_content(row) => wrong.push(format!(
                "the row was altered: the release of {version} lists version {} of {}, sha256 {}, and workers that verify \
                 serve no other",
                rule.rule_version, rule.source_path, rule.content_sha256
            )),
            _ => {}
        }
        wrong.extend(release.without_effect.as_ref().map(|why| format!("the state has no effect: {why}")));
    }

    /// What speaks against the release that the worker serves, as far as it concerns the rule.
    pub(super) fn trust_of_worker(&self, held: &WorkerView, wrong: &mut Vec<String>) {
        let Some(trust) = held.trust.as_ref().filter(|trust| trust.state != TrustState::Ok) else { return };
        // Rows of other rules are theirs.
        let is_others = |reason: &TrustReason| *reason == TrustReason::Altered;
        if trust.reasons.iter().all(is_others) && !trust.altered.iter().any(|id| id == self.rule_id.as_str())
        {
            return;
        }
        wrong.push(format!("the worker: {}", trust.sentence()));
    }

    /// Whether the release, or the worker, says that the rule's state has no effect.
    pub(super) fn is_without_effect(&self, held: &WorkerView) -> bool {
        match (&self.release, &held.trust) {
            (Some(Ok(release)), Some(_)) => release.without_effect.is_some(),
            (_, Some(trust)) => trust.without_effect.contains_key(&self.rule_id),
            (_, None) => false,
        }
    }
}
