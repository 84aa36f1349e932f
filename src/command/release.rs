//! The published release as commands see it: verified with the keys of this host's configuration, and what the workers
//! that verify it serve.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::directory::ReleaseFiles;
use crate::rule::{FoundManifest, Observation, RuleHeader, RuleId, RuleState, StateRow};
use crate::store::Database;
use crate::trust::{JudgedStates, KeyDates, ListedRule, Policy, Refusal, RuleList, SignedManifest};

/// A release that verifies.
#[derive(Debug)]
pub(super) struct PublishedRelease {
    signed: SignedManifest,
    list: RuleList,
}

/// What a command shows of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ReleaseSummary {
    pub(super) version: String,
    pub(super) expires: String,
    /// Whether it has expired, by this host's clock.
    pub(super) is_expired: bool,
    pub(super) signers: Vec<String>,
    /// Which states may have an effect, as in the manifest.
    pub(super) states: String,
}

impl PublishedRelease {
    /// The release of a database. The dates of keys do not count: they did when it was published.
    ///
    /// # Errors
    /// A sentence: it cannot be read, or does not verify.
    pub(super) async fn of_database(database: &Database, policy: &Policy) -> Result<Self, String> {
        let found = database.release(policy.realm.as_str()).await.map_err(|error| error.to_string())?;
        let (body, signatures, list) = match found {
            (FoundManifest::Read { body, signatures }, Some(list)) => (body, signatures, list),
            (FoundManifest::Read { .. }, None) => return Err("a part of its list is missing".to_owned()),
            (FoundManifest::Missing(why), _) => return Err(Refusal::Missing(why).to_string()),
            (FoundManifest::Malformed(why), _) => return Err(Refusal::Malformed(why).to_string()),
        };
        let signed =
            policy.verify(&body, &signatures, KeyDates::Ignored).map_err(|refusal| refusal.to_string())?;
        policy.admit(&signed.manifest, None).map_err(|refusal| refusal.to_string())?;
        let list = signed.manifest.parse_list(&list).map_err(|error| error.to_string())?;
        Ok(Self { signed, list })
    }

    /// The release of a rules directory that a worker follows without a database.
    ///
    /// # Errors
    /// A sentence: it cannot be read, or does not verify.
    pub(super) async fn of_directory(directory: &Path, policy: &Policy) -> Result<Self, String> {
        let (directory, policy) = (directory.to_owned(), policy.clone());
        let read = tokio::task::spawn_blocking(move || {
            let files = ReleaseFiles::read(&directory)?;
            let release = files.verify(&policy, SystemClock.now(), KeyDates::Ignored)?;
            Ok(Self { signed: release.signed, list: release.list })
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    pub(super) fn version(&self) -> String {
        self.signed.manifest.version.to_string()
    }

    pub(super) fn summary(&self) -> ReleaseSummary {
        let manifest = &self.signed.manifest;
        ReleaseSummary {
            version: self.version(),
            expires: manifest.expires.to_string(),
            is_expired: manifest.expires.timestamp() <= SystemClock.now(),
            signers: self.signed.signers.clone(),
            states: manifest.states.to_string(),
        }
    }

    /// A rule as the release lists it.
    pub(super) fn rule(&self, rule_id: &str) -> Option<RuleHeader<RuleId>> {
        self.list.get(rule_id).map(as_header)
    }

    /// Every rule that the release lists.
    pub(super) fn rules(&self) -> impl Iterator<Item = RuleHeader<RuleId>> {
        self.list.rules().iter().map(as_header)
    }

    /// Judges the valid rows of the state table at `now`, by the database's clock.
    pub(super) fn judge(&self, states: &BTreeMap<RuleId, RuleState>, now: Timestamp) -> JudgedStates {
        let is_listed = |rule_id: &RuleId| self.list.get(rule_id.as_str()).is_some();
        self.signed.manifest.states.judge(states.iter(), is_listed, now)
    }

    /// What a worker serves of this release and these states, once it has every text.
    pub(super) fn observation(&self, states: &BTreeMap<RuleId, RuleState>, now: Timestamp) -> Observation {
        let without_effect = self.judge(states, now).without_effect;
        let mut observation = Observation::default();
        for rule in self.rules() {
            observation.insert(rule.rule_id.clone(), Some(rule), RuleState::default());
        }
        for (rule_id, state) in states.iter().filter(|(rule_id, _)| !without_effect.contains_key(*rule_id)) {
            observation.insert(rule_id.clone(), None, state.clone().effective(now));
        }
        observation
    }
}

impl ReleaseSummary {
    /// One sentence for people.
    pub(super) fn sentence(&self) -> String {
        let Self { version, expires, is_expired, signers, states } = self;
        let verb = if *is_expired { "expired" } else { "expires" };
        format!("of {version}, {verb} at {expires}, signed by {}, states {states}", signers.join(", "))
    }
}

/// The valid rows of the state table, by id.
pub(super) fn valid_states(rows: &[StateRow]) -> BTreeMap<RuleId, RuleState> {
    rows.iter().filter_map(|row| Some((RuleId::new(&row.rule_id).ok()?, row.state().ok()?))).collect()
}

fn as_header(listed: &ListedRule) -> RuleHeader<RuleId> {
    RuleHeader {
        rule_id: listed.rule_id.clone(),
        rule_version: listed.rule_version.into(),
        source_path: listed.source_path.clone(),
        content_sha256: listed.content_sha256,
        updated_at: Timestamp::MIN,
        updated_by: "".into(),
    }
}
