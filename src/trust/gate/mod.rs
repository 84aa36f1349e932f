//! What a worker serves under trust: a release of the owner's as a whole, whatever the tables hold.
//!
//! The tables go in, and what is served comes out. A new manifest comes into force when the text of every listed rule
//! is at hand; until then the release before it is served, as a whole. Which manifest is in force depends on no clock,
//! but for the dates of keys at its acceptance, so clocks never make workers disagree.

mod force;
mod rows;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use self::status::Names;
use super::{KeyDates, ListedRule, Malformed, Manifest, NoEffect, Policy, Refusal, RuleList, SignedManifest};
use crate::clock::Timestamp;
use crate::rule::{Catalogue, FoundManifest, KnownRule, RowFingerprint, RuleId, RuleState, TableDelta};

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
        let mut lines: Vec<String> =
            rules.map(|rule| format!("{}\n", ListedRule::of(&rule.header))).collect();
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

    /// The floor, to save before its release is served; `None` if it is on the disk. If it cannot be saved, the release is
    /// served all the same, and a restart may accept an older one.
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
            let judged = bound.effects(self.table.state_rows(), is_listed, now);
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
        let unparsed = unparsed.map(ToString::to_string).collect();
        Some((in_force.signed.manifest.to_string(), in_force.signed.signatures.clone(), unparsed))
    }

    /// Judges a manifest that was read.
    fn read(&mut self, found: FoundManifest, host: Timestamp) {
        self.candidate = None;
        let judged = match &found {
            FoundManifest::Missing(why) => Err(Refusal::Missing(why.clone())),
            FoundManifest::Malformed(why) => Err(Malformed(why.clone()).into()),
            FoundManifest::Read { body, signatures } => self.verify(body, signatures, host),
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

    fn verify(&self, body: &[u8], signatures: &str, host: Timestamp) -> Result<SignedManifest, Refusal> {
        // What is in force was accepted while its keys were valid.
        let known = self.in_force.as_ref().map(|in_force| &in_force.signed).into_iter().chain(&self.floor);
        let known: Vec<_> = known.filter(|known| known.manifest.to_string().as_bytes() == body).collect();
        let dates = if known.is_empty() { KeyDates::At(host) } else { KeyDates::Ignored };
        let signed = self.policy.verify(body, signatures, dates)?;
        self.policy.admit(&signed.manifest, self.oldest_accepted())?;
        Ok(known.into_iter().fold(signed, |signed, known| self.policy.with_known(signed, known)))
    }

    /// The newer one of the floor and of what is in force and verified: a cache may be newer than a floor that was lost.
    fn oldest_accepted(&self) -> Option<&Manifest> {
        let in_force = self.in_force.as_ref().filter(|in_force| !in_force.is_unverified);
        let in_force = in_force.map(|in_force| &in_force.signed.manifest);
        let floor = self.floor.as_ref().map(|floor| &floor.manifest);
        in_force.into_iter().chain(floor).max_by_key(|manifest| manifest.version)
    }
}
