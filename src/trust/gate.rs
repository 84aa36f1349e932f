//! What a worker serves under trust: a release of the owner's as a whole, whatever the tables hold.
//!
//! The tables go in, and what is served comes out. A new manifest comes into force when the text of every listed rule
//! is at hand; until then the release before it is served, as a whole. Which manifest is in force depends on no clock,
//! but for the dates of keys at its acceptance, so clocks never make workers disagree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{
    KeyDates, ListDigest, ListedRule, Malformed, Manifest, NoEffect, Policy, Refusal, RuleList,
    SignedManifest, TrustReason, TrustState, TrustStatus,
};
use crate::clock::Timestamp;
use crate::rule::{
    Catalogue, FoundManifest, KnownRule, RowFingerprint, RuleHeader, RuleId, RuleState, TableDelta,
};

/// The host's clock may be behind the version in force by at most this: a publisher's may be ahead by as much.
const CLOCK_BEHIND: Duration = Duration::from_hours(24);

/// The most names of one kind in the status.
const NAMED: usize = 10;

/// Decides what is served. Pure.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    /// The rows of both tables, whoever wrote them.
    table: Catalogue,
    in_force: Option<InForce>,
    candidate: Option<Candidate>,
    /// The newest manifest that came into force, in this run or an earlier one. It counts as long as enough of its
    /// signers are listed (The Update Framework, section 5.3.11).
    floor: Option<SignedManifest>,
    /// Whether it is on the disk.
    is_floor_saved: bool,
    /// Why the manifest that was read last does not count.
    refusal: Option<Refusal>,
    /// Rows that the release in force does not list, as they were.
    left_out: HashMap<String, RowFingerprint>,
    altered: Names,
    unlisted: Names,
    without_effect: BTreeMap<RuleId, NoEffect>,
    changed: Changed,
}

/// The release that is served.
#[derive(Debug)]
struct InForce {
    signed: SignedManifest,
    list: RuleList,
    /// Listed rules whose texts were not at hand yet.
    missing: Vec<ListedRule>,
    /// Whether the keys that signed it were removed.
    is_unverified: bool,
}

/// A verified manifest that is not in force yet.
#[derive(Debug)]
struct Candidate {
    signed: SignedManifest,
    /// `None` until the list is known.
    list: Option<RuleList>,
    /// Whether the list must be read, because the rows do not make the signed one.
    wants_list: bool,
    /// Whether it was read, and was another one: it is read again with the manifest.
    list_failed: bool,
    missing: Names,
}

/// What the next [`Gate::take_served`] serves differently.
#[derive(Debug, Default)]
struct Changed {
    /// Another release is in force.
    release: bool,
    /// Rules whose texts came.
    filled: Vec<Arc<KnownRule>>,
    states: bool,
}

/// Some names of many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Names {
    first: Vec<String>,
    count: usize,
}

impl Names {
    fn add(&mut self, name: impl ToString) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(name.to_string());
        }
    }
}

impl Gate {
    /// A gate with nothing in force. `floor` is the manifest and the signatures that an earlier run saved; it counts
    /// only if it verifies.
    pub(crate) fn new(policy: Policy, floor: Option<(&[u8], &str)>) -> Self {
        let floor =
            floor.and_then(|(body, signatures)| policy.verify(body, signatures, KeyDates::Ignored).ok());
        Self {
            policy,
            table: Catalogue::default(),
            in_force: None,
            candidate: None,
            floor,
            is_floor_saved: true,
            refusal: None,
            left_out: HashMap::new(),
            altered: Names::default(),
            unlisted: Names::default(),
            without_effect: BTreeMap::new(),
            changed: Changed::default(),
        }
    }

    /// The rows of the tables, for the next poll.
    pub(crate) const fn table(&self) -> &Catalogue {
        &self.table
    }

    /// Whether a release is in force.
    pub(crate) const fn is_open(&self) -> bool {
        self.in_force.is_some()
    }

    /// Whether no manifest older than a known one is accepted.
    pub(crate) const fn has_floor(&self) -> bool {
        self.floor.is_some()
    }

    /// Whether the last manifest that was read was refused.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Requires this from now on. The release in force is served on, marked, if it does not verify any more. Read the
    /// manifest again afterwards.
    pub(crate) fn trust(&mut self, policy: Policy) {
        let verify = |signed: &SignedManifest| {
            policy.verify(signed.manifest.to_string().as_bytes(), &signed.signatures, KeyDates::Ignored).ok()
        };
        if let Some(in_force) = &mut self.in_force {
            let verified = verify(&in_force.signed);
            in_force.is_unverified = verified.is_none();
            if let Some(signed) = verified {
                in_force.signed = signed;
            }
        }
        self.floor = self.floor.take().and_then(|floor| verify(&floor));
        (self.candidate, self.refusal) = (None, None);
        self.policy = policy;
    }

    /// Takes the rules of an earlier run: `cached` are all that the release served, and `unparsed` the lines of listed
    /// rules that this program could not parse.
    ///
    /// # Errors
    /// A sentence: they are not exactly a release that verifies.
    pub(crate) fn restore(
        &mut self,
        body: &[u8],
        signatures: &str,
        unparsed: &[String],
        cached: &TableDelta,
    ) -> Result<(), String> {
        let signed =
            self.policy.verify(body, signatures, KeyDates::Ignored).map_err(|error| error.to_string())?;
        self.policy.admit(&signed.manifest, None).map_err(|error| error.to_string())?;
        let rules = cached.rules.iter().flatten();
        let mut lines: Vec<String> = rules.map(|rule| line_of(&listed(&rule.header))).collect();
        lines.extend(unparsed.iter().map(|line| format!("{line}\n")));
        lines.sort();
        let list =
            signed.manifest.parse_list(lines.concat().as_bytes()).map_err(|error| error.to_string())?;
        self.table.apply(cached.clone());
        self.in_force = Some(InForce { signed, list, missing: Vec::new(), is_unverified: false });
        (self.changed.release, self.changed.states) = (true, true);
        Ok(())
    }

    /// Takes what a poll of the tables found. `served` is what is served now, `host` this host's time.
    pub(crate) fn poll(&mut self, mut delta: TableDelta, served: &Catalogue, host: Timestamp) {
        let (now, manifest) = (delta.now, delta.manifest.take());
        let has_rules = !delta.rules.is_empty() || delta.rule_keys.is_some();
        let is_due = self.table.next_expiry().is_some_and(|end| end <= now);
        self.changed.states |= is_due || !delta.states.is_empty() || delta.state_keys.is_some();
        self.table.apply(delta);
        if let Some(found) = manifest {
            self.read(found, host);
        }
        if has_rules || self.candidate.is_some() || self.changed.release {
            self.advance(served);
        }
    }

    /// The length in bytes of the list that the caller must read and pass to [`Gate::take_list`]; `None` if the gate
    /// needs none.
    pub(crate) fn wants_list(&self) -> Option<usize> {
        let candidate = self.candidate.as_ref().filter(|candidate| candidate.wants_list)?;
        Some(candidate.signed.manifest.list.bytes)
    }

    /// Takes the list that [`Gate::wants_list`] asked for; `None` if it is not there.
    pub(crate) fn take_list(&mut self, list: Option<&[u8]>, served: &Catalogue) {
        if let Some(candidate) = &mut self.candidate {
            candidate.wants_list = false;
            let list = list.unwrap_or_default();
            candidate.list = candidate.signed.manifest.parse_list(list).ok();
            candidate.list_failed = candidate.list.is_none();
            self.advance(served);
        }
    }

    /// Ends the states that expire at or before `now`, by the database's clock.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.table.expire(now);
        self.changed.states = true;
    }

    /// The floor that must be saved before anything of it is served; `None` if it is on the disk.
    pub(crate) fn unsaved_floor(&self) -> Option<&SignedManifest> {
        self.floor.as_ref().filter(|_| !self.is_floor_saved)
    }

    /// The floor is on the disk.
    pub(crate) const fn floor_saved(&mut self) {
        self.is_floor_saved = true;
    }

    /// The changes to what is served since the last call, at `now` by the database's clock.
    pub(crate) fn take_served(&mut self, served: &Catalogue, now: Timestamp) -> TableDelta {
        let mut delta = TableDelta { now, ..TableDelta::default() };
        let changed = std::mem::take(&mut self.changed);
        let Some(in_force) = &self.in_force else { return delta };
        if changed.release {
            let rules = in_force.list.rules().iter().filter_map(|rule| self.at_hand(rule, served).rule());
            delta.rules = rules.map(Ok).collect();
            delta.rule_keys =
                Some(in_force.list.rules().iter().map(|rule| rule.rule_id.to_string()).collect());
        } else {
            delta.rules = changed.filled.into_iter().map(Ok).collect();
        }
        if changed.release || changed.states {
            let bound = &in_force.signed.manifest.states;
            let is_listed = |id: &RuleId| in_force.list.get(id.as_str()).is_some();
            let judged = bound.judge(self.table.state_rows(), is_listed, now);
            let effective =
                self.table.state_rows().filter(|(id, _)| !judged.without_effect.contains_key(*id));
            let effective: Vec<(RuleId, RuleState)> =
                effective.map(|(id, row)| (id.clone(), row.clone())).collect();
            delta.state_keys = Some(effective.iter().map(|(id, _)| id.to_string()).collect());
            delta.states = effective.into_iter().map(Ok).collect();
            self.without_effect = judged.without_effect;
        }
        delta
    }

    /// What a cache needs beside the rules that are served: the manifest, its signatures, and the lines of the listed
    /// rules that are not served; `None` if the release in force may not be restored.
    pub(crate) fn cacheable(&self, served: &Catalogue) -> Option<(String, String, Vec<String>)> {
        let in_force = self.in_force.as_ref()?;
        if in_force.is_unverified || !in_force.missing.is_empty() {
            return None;
        }
        let is_unparsed = |rule: &&ListedRule| served.rule_row(rule.rule_id.as_str()).is_none();
        let unparsed = in_force.list.rules().iter().filter(is_unparsed);
        let unparsed = unparsed.map(|rule| line_of(rule).trim_end().to_owned()).collect();
        Some((in_force.signed.manifest.to_string(), in_force.signed.signatures.clone(), unparsed))
    }

    /// What is trusted at `host`, this host's time.
    pub(crate) fn status(&self, host: Timestamp) -> TrustStatus {
        let manifest = self.in_force.as_ref().map(|in_force| &in_force.signed.manifest);
        let reasons = self.reasons(host);
        let state = match (manifest, reasons.is_empty()) {
            (None, _) => TrustState::None,
            (Some(_), true) => TrustState::Ok,
            (Some(_), false) => TrustState::Degraded,
        };
        let missing = match (&self.candidate, &self.in_force) {
            (Some(candidate), _) if candidate.missing.count > 0 => candidate.missing.clone(),
            (_, Some(in_force)) => {
                let mut names = Names::default();
                in_force.missing.iter().for_each(|rule| names.add(&rule.rule_id));
                names
            }
            _ => Names::default(),
        };
        TrustStatus {
            state,
            reasons,
            version: manifest.map(|manifest| manifest.version.to_string()),
            expires: manifest.map(|manifest| manifest.expires.to_string()),
            signers: self
                .in_force
                .as_ref()
                .map(|in_force| in_force.signed.signers.clone())
                .unwrap_or_default(),
            refusal: self.refusal.as_ref().map(ToString::to_string),
            missing: missing.first,
            altered: self.altered.first.clone(),
            unlisted: self.unlisted.first.clone(),
            without_effect: self
                .without_effect
                .iter()
                .map(|(id, why)| (id.clone(), why.to_string()))
                .collect(),
        }
    }

    /// Every reason that holds.
    pub(crate) fn reasons(&self, host: Timestamp) -> Vec<TrustReason> {
        let mut reasons: Vec<TrustReason> = self.refusal.iter().map(TrustReason::of).collect();
        let is_incomplete = |in_force: &InForce| !in_force.missing.is_empty();
        if self.candidate.is_some() || self.in_force.as_ref().is_some_and(is_incomplete) {
            reasons.push(TrustReason::Incomplete);
        }
        if self.altered.count > 0 {
            reasons.push(TrustReason::Altered);
        }
        if let Some(InForce { signed, is_unverified, .. }) = &self.in_force {
            let Manifest { version, expires, .. } = signed.manifest;
            let conditions = [
                (*is_unverified, TrustReason::Unverified),
                (expires.timestamp() <= host, TrustReason::Expired),
                (host.after(CLOCK_BEHIND) < version.timestamp(), TrustReason::Clock),
            ];
            reasons.extend(conditions.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason));
        }
        reasons
    }

    /// Judges a manifest that was read.
    fn read(&mut self, found: FoundManifest, host: Timestamp) {
        self.candidate = None;
        let judged = match &found {
            FoundManifest::Missing(why) => Err(Refusal::Missing(why.clone())),
            FoundManifest::Malformed(why) => Err(Malformed(why.clone()).into()),
            FoundManifest::Read { body, signatures } => self.judge(body, signatures, host),
        };
        let signed = match judged {
            Ok(signed) => signed,
            Err(refusal) => {
                self.refusal = Some(refusal);
                return;
            }
        };
        self.refusal = None;
        match &mut self.in_force {
            Some(in_force) if in_force.signed.manifest == signed.manifest => {
                if self.floor.as_ref() != Some(&signed) {
                    // Other keys sign it now: the floor counts while one of these is listed.
                    (self.floor, self.is_floor_saved) = (Some(signed.clone()), false);
                }
                (in_force.signed, in_force.is_unverified) = (signed, false);
            }
            _ => {
                let missing = Names::default();
                self.candidate =
                    Some(Candidate { signed, list: None, wants_list: false, list_failed: false, missing });
            }
        }
    }

    fn judge(&self, body: &[u8], signatures: &str, host: Timestamp) -> Result<SignedManifest, Refusal> {
        // What is in force was accepted while its keys were valid.
        let is_known = |known: &SignedManifest| known.manifest.to_string().as_bytes() == body;
        let known = self.in_force.as_ref().map(|in_force| &in_force.signed).into_iter().chain(&self.floor);
        let dates = if known.into_iter().any(is_known) { KeyDates::Ignored } else { KeyDates::At(host) };
        let signed = self.policy.verify(body, signatures, dates)?;
        self.policy.admit(&signed.manifest, self.oldest_accepted())?;
        Ok(signed)
    }

    /// The newer one of the floor and of what is in force and verified: a cache may be newer than a floor that was lost.
    fn oldest_accepted(&self) -> Option<&Manifest> {
        let in_force = self.in_force.as_ref().filter(|in_force| !in_force.is_unverified);
        let in_force = in_force.map(|in_force| &in_force.signed.manifest);
        let floor = self.floor.as_ref().map(|floor| &floor.manifest);
        in_force.into_iter().chain(floor).max_by_key(|manifest| manifest.version)
    }

    /// Brings the candidate into force if it can be, adds texts that were missing, and compares the rows with the
    /// release in force.
    fn advance(&mut self, served: &Catalogue) {
        if let Some(mut candidate) = self.candidate.take() {
            if candidate.list.is_none() {
                let list = self.list_of_rows();
                match ListDigest::of(list.as_bytes()) == candidate.signed.manifest.list {
                    true => candidate.list = candidate.signed.manifest.parse_list(list.as_bytes()).ok(),
                    false => candidate.wants_list = !candidate.list_failed,
                }
            }
            match candidate.list.take() {
                None => self.candidate = Some(candidate),
                Some(list) => self.try_force(candidate, list, served),
            }
        }
        if let Some(mut in_force) = self.in_force.take() {
            let mut filled = Vec::new();
            in_force.missing.retain(|rule| match self.at_hand(rule, served) {
                Text::Rule(rule) => {
                    filled.push(rule);
                    false
                }
                Text::Unparsed => false,
                Text::Missing => true,
            });
            self.changed.filled.extend(filled);
            self.compare(&in_force.list);
            self.in_force = Some(in_force);
        }
    }

    fn try_force(&mut self, mut candidate: Candidate, list: RuleList, served: &Catalogue) {
        let is_missing = |rule: &&ListedRule| matches!(self.at_hand(rule, served), Text::Missing);
        let missing: Vec<ListedRule> = list.rules().iter().filter(is_missing).cloned().collect();
        if !missing.is_empty() && self.in_force.is_some() {
            candidate.missing = Names::default();
            missing.iter().for_each(|rule| candidate.missing.add(&rule.rule_id));
            candidate.list = Some(list);
            self.candidate = Some(candidate);
            return;
        }
        let keys = self.table.rule_fingerprints();
        self.left_out =
            keys.filter(|(key, _)| list.get(key).is_none()).map(|(key, row)| (key.to_owned(), row)).collect();
        let signed = candidate.signed;
        (self.floor, self.is_floor_saved) = (Some(signed.clone()), false);
        self.in_force = Some(InForce { signed, list, missing, is_unverified: false });
        self.changed.release = true;
        self.changed.filled.clear();
    }

    /// The list that the rows make, without those that the release before left out and nobody touched.
    fn list_of_rows(&self) -> String {
        let is_left_out = |header: &RuleHeader<RuleId>| {
            let fingerprint = Some(RowFingerprint::rule(header));
            self.left_out.get(header.rule_id.as_str()).copied() == fingerprint
        };
        let rows = self.table.rule_rows().map(|rule| &rule.header).filter(|header| !is_left_out(header));
        let mut rules: Vec<ListedRule> = rows.map(listed).collect();
        rules.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        rules.iter().map(line_of).collect()
    }

    /// The text of a listed rule: from its row, or from what is served.
    fn at_hand(&self, rule: &ListedRule, served: &Catalogue) -> Text {
        let id = rule.rule_id.as_str();
        let has_it = |known: &&Arc<KnownRule>| known.header.content_sha256 == rule.content_sha256;
        let known = self.table.rule_row(id).filter(has_it).or_else(|| served.rule_row(id).filter(has_it));
        match known {
            Some(known) => Text::Rule(as_listed(known, rule)),
            None if self.table.has_unparsed(id, &rule.content_sha256) => Text::Unparsed,
            None => Text::Missing,
        }
    }

    /// Compares the rows with a list.
    fn compare(&mut self, list: &RuleList) {
        (self.altered, self.unlisted) = (Names::default(), Names::default());
        for rule in list.rules() {
            let id = rule.rule_id.as_str();
            let is_row = |known: &Arc<KnownRule>| listed(&known.header) == *rule;
            if !self.table.rule_row(id).is_some_and(is_row)
                && !self.table.has_unparsed(id, &rule.content_sha256)
            {
                self.altered.add(id);
            }
        }
        for (key, _) in self.table.rule_fingerprints().filter(|(key, _)| list.get(key).is_none()) {
            self.unlisted.add(key);
        }
    }
}

enum Text {
    Rule(Arc<KnownRule>),
    /// It is there, and this program cannot parse it.
    Unparsed,
    Missing,
}

impl Text {
    fn rule(self) -> Option<Arc<KnownRule>> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Unparsed | Self::Missing => None,
        }
    }
}

/// The line that lists a row. A version that no list can have is listed as -1.
fn listed(header: &RuleHeader<RuleId>) -> ListedRule {
    ListedRule {
        rule_id: header.rule_id.clone(),
        rule_version: i32::try_from(header.rule_version).unwrap_or(-1),
        content_sha256: header.content_sha256,
        source_path: header.source_path.clone(),
    }
}

fn line_of(rule: &ListedRule) -> String {
    let ListedRule { rule_id, rule_version, content_sha256, source_path } = rule;
    format!("{rule_id} {rule_version} {content_sha256} {source_path}\n")
}

/// A rule with the version and the path that the list gives it.
fn as_listed(known: &Arc<KnownRule>, rule: &ListedRule) -> Arc<KnownRule> {
    if listed(&known.header) == *rule {
        return Arc::clone(known);
    }
    let header = RuleHeader {
        rule_version: rule.rule_version.into(),
        source_path: rule.source_path.clone(),
        ..known.header.clone()
    };
    Arc::new(KnownRule { header, definition_json: known.definition_json.clone() })
}
