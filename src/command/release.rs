//! The published release as commands see it: verified with the keys of this host's configuration where it has some, and
//! what the workers that verify it serve.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::address::Address;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::directory::ReleaseFiles;
use crate::rule::{Catalogue, FoundManifest, Observation, RuleHeader, RuleId, RuleState, StateRow};
use crate::store::{Database, StoreError};
use crate::trust::{KeyDates, ListedRule, Manifest, NoEffect, Policy, Refusal, RuleList};

/// A release.
#[derive(Debug)]
pub(super) struct PublishedRelease {
    manifest: Manifest,
    /// Who signed it; nobody where nothing was verified.
    signers: Vec<String>,
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
    /// The release of a database; `None` without trust. The dates of keys do not count: they did when it was published.
    ///
    /// The inner error is a sentence: it is not there, or does not verify.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn of_database(
        database: &Database,
        policy: Option<&Policy>,
    ) -> Result<Option<Result<Self, String>>, StoreError> {
        let Some(policy) = policy else { return Ok(None) };
        let found = read(database, policy.realm.as_str()).await?;
        Ok(Some(found.and_then(|(body, signatures, list)| {
            let signed = policy
                .verify(&body, &signatures, KeyDates::Ignored)
                .map_err(|refusal| refusal.to_string())?;
            policy.admit(&signed.manifest, None).map_err(|refusal| refusal.to_string())?;
            let list = signed.manifest.parse_list(&list).map_err(|error| error.to_string())?;
            Ok(Self { manifest: signed.manifest, signers: signed.signers, list })
        })))
    }

    /// The release of a database without any verification, for who only compares and has no keys.
    ///
    /// The inner error is a sentence: it is not there, or is malformed.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn unverified(database: &Database) -> Result<Result<Self, String>, StoreError> {
        let realm = match database.published_realm().await? {
            Ok(realm) => realm,
            Err(why) => return Ok(Err(Refusal::Missing(why).to_string())),
        };
        let found = read(database, &realm).await?;
        Ok(found.and_then(|(body, _, list)| {
            let manifest = Manifest::parse(&body).map_err(|error| error.to_string())?;
            let list = manifest.parse_list(&list).map_err(|error| error.to_string())?;
            Ok(Self { manifest, signers: Vec::new(), list })
        }))
    }

    /// The release of the rules directory that the worker of this configuration follows without a database; `None`
    /// without trust. The error is a sentence: it cannot be read, or does not verify.
    pub(super) async fn of_directory(
        config: &Config,
        policy: Option<&Policy>,
    ) -> Option<Result<Self, String>> {
        let Address::Directory(directory) = &config.database.address else { return None };
        let (directory, policy, links) =
            (directory.clone(), policy?.clone(), config.master.follow_links_to.clone());
        let read = tokio::task::spawn_blocking(move || {
            let files = ReleaseFiles::read(&directory, &links)?;
            let release = files.verify(&policy, SystemClock.now(), KeyDates::Ignored)?;
            let signed = release.signed;
            Ok(Self { manifest: signed.manifest, signers: signed.signers, list: release.list })
        });
        Some(read.await.unwrap_or_else(|error| Err(error.to_string())))
    }

    pub(super) fn version(&self) -> String {
        self.manifest.version.to_string()
    }

    pub(super) fn summary(&self) -> ReleaseSummary {
        let manifest = &self.manifest;
        ReleaseSummary {
            version: self.version(),
            expires: manifest.expires.to_string(),
            is_expired: manifest.expires.timestamp() <= SystemClock.now(),
            signers: self.signers.clone(),
            states: manifest.states.to_string(),
        }
    }

    /// A rule as the release lists it.
    pub(super) fn rule(&self, rule_id: &str) -> Option<RuleHeader<RuleId>> {
        self.list.get(rule_id).map(as_header)
    }

    /// Which of the valid rows of the state table have no effect at `now`, by the database's clock.
    pub(super) fn without_effect(
        &self,
        states: &BTreeMap<RuleId, RuleState>,
        now: Timestamp,
    ) -> BTreeMap<RuleId, NoEffect> {
        let is_listed = |rule_id: &RuleId| self.list.get(rule_id.as_str()).is_some();
        self.manifest.states.effects(states.iter(), is_listed, now).without_effect
    }

    /// What a worker serves of this release and the states of these tables, once it has every text. What this program
    /// cannot parse, a worker cannot either.
    pub(super) fn served(&self, tables: &Catalogue, now: Timestamp) -> Observation {
        let states = states_of(tables);
        let without_effect = self.without_effect(&states, now);
        let mut observation = Observation::default();
        for rule in self.list.rules().iter().map(as_header) {
            observation.insert(rule.rule_id.clone(), Some(rule), RuleState::default());
        }
        for (rule_id, state) in states.iter().filter(|(rule_id, _)| !without_effect.contains_key(*rule_id)) {
            observation.insert(rule_id.clone(), None, state.clone().effective(now));
        }
        observation.rules.retain(|id, rule| !tables.has_unparsed(id.as_str(), &rule.content_sha256));
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

/// A manifest, its signatures and its list, as they are stored.
type Parts = (Vec<u8>, String, Vec<u8>);

/// The manifest, its signatures and the list of a database, of which nothing is verified.
async fn read(database: &Database, realm: &str) -> Result<Result<Parts, String>, StoreError> {
    Ok(match database.release(realm).await? {
        (FoundManifest::Read { body, signatures }, Some(list)) => Ok((body, signatures, list)),
        (FoundManifest::Read { body, .. }, None) => Err(match Manifest::parse(&body) {
            Ok(_) => "a part of its list is missing".to_owned(),
            Err(error) => Refusal::from(error).to_string(),
        }),
        (FoundManifest::Missing(why), _) => Err(Refusal::Missing(why).to_string()),
        (FoundManifest::Malformed(why), _) => Err(Refusal::Malformed(why).to_string()),
    })
}

/// The valid rows of the state table, by id.
pub(super) fn states_of(tables: &Catalogue) -> BTreeMap<RuleId, RuleState> {
    tables.state_rows().map(|(id, state)| (id.clone(), state.clone())).collect()
}

/// The same of rows as they were read.
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
