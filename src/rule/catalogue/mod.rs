//! The catalogue: all known rules and states, and the changes that a poll of the tables makes to them.
//!
//! The catalogue depends on the tables and on the database's clock only, and not on the order of polls, so every
//! worker that follows the same tables has the same catalogue. A rule whose row becomes invalid is therefore deleted
//! for subscribers until the row is valid again, and of ids that differ only in case the first in byte order is the
//! rule, whichever came first.

mod delta;
mod digest;
mod effective;
mod held_back;
mod index;
mod key;
mod quarantine;
mod states;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

pub(crate) use delta::MAX_MEMORY_KEY;
pub use delta::{FoundManifest, MasterSilence, QuarantinedRow, RowFingerprint, Table, TableDelta};
pub use digest::CatalogueDigest;
pub(crate) use effective::EffectiveRules;
pub(crate) use held_back::CatalogueDelta;
pub use quarantine::QuarantineEntry;

use self::key::{Key, SortedRule};
use self::states::States;
use super::{CompiledRule, ContentDigest, KnownRule, RuleChange, RuleId, RuleState};
use crate::clock::Timestamp;

/// All known rules and states. Pure: table deltas and the time go in, changes come out.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Every valid row. Case variants are adjacent, and only the first of them is effective. Shared with
    /// [`EffectiveRules`], and copied at the first change after one was made.
    rules: Arc<BTreeSet<SortedRule>>,
    /// The memory of all of them: a poll of one edit must not ask each.
    rules_memory: usize,
    /// The rules that the table no longer holds, or holds as invalid rows, and whose deletion is held back.
    held_back: BTreeSet<RuleId>,
    effective: usize,
    states: States,
    quarantined_rules: BTreeMap<String, QuarantinedRow>,
    quarantined_states: BTreeMap<String, QuarantinedRow>,
    digest: CatalogueDigest,
    watermark: Option<Timestamp>,
}

impl Catalogue {
    /// Applies what a poll found, and returns the changes: definitions in the order of their stamps, then deletions
    /// by id, then states in the order of their stamps. States that expired by the delta's time are among them.
    pub fn apply(&mut self, delta: TableDelta) -> Vec<RuleChange> {
        self.apply_guarded(delta, |_, _| false).changes
    }

    /// Like [`Catalogue::apply`], but holds back deletions: if `is_too_many(deletions, rows before)`, all of these
    /// rules stay until fewer are missing or [`Catalogue::release`] is called.
    pub(crate) fn apply_guarded(
        &mut self,
        delta: TableDelta,
        is_too_many: impl Fn(usize, usize) -> bool,
    ) -> CatalogueDelta {
        let mut states = states::Before::new();
        for found in delta.states {
            match found {
                Ok((rule_id, state)) => {
                    self.watermark = self.watermark.max(state.set_at);
                    self.quarantined_states.remove(rule_id.as_str());
                    self.states.replace(&rule_id, Some(state), &mut states);
                }
                Err(rejected) => {
                    if let Ok(rule_id) = RuleId::new(&rejected.key) {
                        self.states.replace(&rule_id, None, &mut states);
                    }
                    self.quarantined_states.insert(rejected.key.clone(), *rejected);
                }
            }
        }
        if let Some(keys) = key_set(delta.state_keys.as_deref()) {
            self.states.retain(|key| keys.contains(key), &mut states);
            self.quarantined_states.retain(|key, _| keys.contains(key.as_str()));
        }
        self.states.advance_to(delta.now, &mut states);

        let (rows, mut going) = (self.rules.len(), BTreeSet::new());
        let mut rules = Before::new();
        for found in delta.rules {
            match found {
                Ok(rule) => {
                    self.watermark = self.watermark.max(Some(rule.header.updated_at));
                    self.quarantined_rules.remove(rule.header.rule_id.as_str());
                    self.held_back.remove(&rule.header.rule_id);
                    self.replace(&rule.header.rule_id.clone(), Some(rule), &mut rules);
                }
                Err(rejected) => {
                    if let Ok(rule_id) = RuleId::new(&rejected.key)
                        && self.rules.contains(&rule_id.as_str() as &dyn Key)
                    {
                        going.insert(rule_id);
                    }
                    self.quarantined_rules.insert(rejected.key.clone(), *rejected);
                }
            }
        }
        if let Some(keys) = key_set(delta.rule_keys.as_deref()) {
            let known = self.rules.iter().map(|SortedRule(rule)| &rule.header.rule_id);
            going.extend(known.filter(|id| !keys.contains(id.as_str())).cloned());
            self.quarantined_rules.retain(|key, _| keys.contains(key.as_str()));
        }

        let holds_more = self.delete(going, rows, is_too_many, &mut rules);

        let mut delta = CatalogueDelta { holds_more, ..self.definitions(rules) };
        delta.changes.extend(self.states.changes(states, &mut self.digest));
        delta
    }

    /// Ends the states that expire at or before `now`, by the database's clock, so that the default is effective.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<RuleChange> {
        let mut before = states::Before::new();
        self.states.advance_to(now, &mut before);
        self.states.changes(before, &mut self.digest)
    }

    /// When the next effective state expires, by the database's clock; `None` if none will.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.states.next_end()
    }

    /// Every effective rule with its state, by id without regard to case. `None` is the default state.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<KnownRule>, Option<&Arc<RuleState>>)> {
        effective::among(self.rules.iter(), None)
            .map(|rule| (rule, self.states.effective(rule.header.rule_id.as_str())))
    }

    /// Every effective rule of this moment, without copying them.
    pub(crate) fn effective_rules(&self) -> EffectiveRules {
        EffectiveRules::new(Arc::clone(&self.rules), self.effective)
    }

    /// The rule of this id, if it is effective.
    pub(crate) fn rule(&self, rule_id: &str) -> Option<&Arc<KnownRule>> {
        self.effective_variant(rule_id).filter(|first| first.header.rule_id.as_str() == rule_id)
    }

    /// How many rules are effective.
    pub const fn rule_count(&self) -> usize {
        self.effective
    }

    /// Every effective state other than the default, by id; a rule of that id need not exist.
    pub fn states(&self) -> impl Iterator<Item = (&RuleId, &Arc<RuleState>)> {
        self.states.all_effective()
    }

    /// Every valid row of the state table, effective or expired, by id.
    pub fn state_rows(&self) -> impl Iterator<Item = (&RuleId, &RuleState)> {
        self.states.rows()
    }

    /// Every valid row of the rule table, effective or not.
    pub fn rule_rows(&self) -> impl Iterator<Item = &Arc<KnownRule>> {
        self.rules.iter().map(|SortedRule(rule)| rule)
    }

    /// The valid row of exactly this id, effective or not.
    pub fn rule_row(&self, rule_id: &str) -> Option<&Arc<KnownRule>> {
        self.rules.get(&rule_id as &dyn Key).map(|SortedRule(rule)| rule)
    }

    /// Whether the row of this id has a text of this digest that is no valid rule of this id.
    pub(crate) fn has_unparsed(&self, rule_id: &str, content: &ContentDigest) -> bool {
        let row = self.quarantined_rules.get(rule_id);
        row.is_some_and(|row| row.is_text_invalid && row.fingerprint.has_content(content))
    }

    /// Every row of the rule table, quarantined ones included, by key.
    pub(crate) fn rule_fingerprints(&self) -> impl Iterator<Item = (&str, RowFingerprint)> {
        let rules = self
            .rules
            .iter()
            .map(|SortedRule(rule)| (rule.header.rule_id.as_str(), RowFingerprint::rule(&rule.header)));
        rules.chain(self.quarantined_rules.iter().map(|(key, row)| (key.as_str(), row.fingerprint)))
    }

    /// The effective state: the default for a rule that has no state or is not known.
    pub fn state(&self, rule_id: &str) -> RuleState {
        self.states.effective(rule_id).map_or_else(RuleState::default, |state| RuleState::clone(state))
    }

    /// The greatest stamp of all valid rows that were ever applied; `None` before the first.
    pub(crate) const fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// The digest of all effective rules and states.
    pub(crate) const fn digest(&self) -> CatalogueDigest {
        self.digest
    }

    /// Every effective rule with its effective state, by id.
    pub(crate) fn compiled(&self) -> Vec<CompiledRule> {
        let state = |rule: &KnownRule| self.state(rule.rule_id().as_str());
        self.rules().filter_map(|(rule, _)| rule.compiled(state(rule)).ok()).collect()
    }

    /// Writes or removes a row.
    fn replace(&mut self, rule_id: &RuleId, rule: Option<Arc<KnownRule>>, before: &mut Before) {
        let is_known = || self.rules.contains(&rule_id.as_str() as &dyn Key);
        if rule.is_some() || is_known() {
            before
                .entry(rule_id.folded())
                .or_insert_with(|| self.effective_variant(rule_id.as_str()).cloned());
        }
        self.rules_memory += rule.as_ref().map_or(0, |rule| rule.memory());
        let replaced = match rule {
            Some(rule) => Arc::make_mut(&mut self.rules).replace(SortedRule(rule)),
            None => Arc::make_mut(&mut self.rules).take(&rule_id.as_str() as &dyn Key),
        };
        self.rules_memory -= replaced.map_or(0, |SortedRule(rule)| rule.memory());
    }

    /// The effective one of the rows whose ids equal `rule_id` without regard to case.
    fn effective_variant(&self, rule_id: &str) -> Option<&Arc<KnownRule>> {
        effective::variant(&self.rules, rule_id)
    }

    /// The changes to the rules that were effective before, in the order of [`Catalogue::apply`].
    fn definitions(&mut self, before: Before) -> CatalogueDelta {
        let (mut written, mut deleted, mut fallen) = (Vec::new(), Vec::new(), Vec::new());
        for (id, old) in before {
            let new = self.effective_variant(&id).cloned();
            if let (Some(old), Some(new)) = (&old, &new)
                && old.header.rule_id == new.header.rule_id
                && old.header.same_content(&new.header)
            {
                continue;
            }
            if let (Some(old), Some(new)) = (&old, &new)
                && new.header.rule_version < old.header.rule_version
            {
                fallen.push((new.header.rule_id.clone(), old.header.rule_version, new.header.rule_version));
            }
            if let Some(old) = old {
                self.effective -= 1;
                self.digest.toggle_rule(&old.header);
                if new.as_ref().is_none_or(|new| new.header.rule_id != old.header.rule_id) {
                    deleted.push(old.header.rule_id.clone());
                }
            }
            if let Some(new) = new {
                self.effective += 1;
                self.digest.toggle_rule(&new.header);
                written.push(new);
            }
        }
        written.sort_by(|a, b| (a.header.updated_at, a.rule_id()).cmp(&(b.header.updated_at, b.rule_id())));
        deleted.sort();
        let default = Arc::<RuleState>::default();
        let written = written.into_iter().map(|rule| {
            let state = Arc::clone(self.states.effective(rule.header.rule_id.as_str()).unwrap_or(&default));
            RuleChange::Written { rule, state }
        });
        let deleted = deleted.into_iter().map(|rule_id| RuleChange::Deleted { rule_id });
        CatalogueDelta { changes: written.chain(deleted).collect(), fallen, holds_more: false }
    }
}

/// The effective rule under each folded id before a delta touched it.
type Before = BTreeMap<String, Option<Arc<KnownRule>>>;

fn key_set(keys: Option<&[String]>) -> Option<HashSet<&str>> {
    Some(keys?.iter().map(String::as_str).collect())
}
