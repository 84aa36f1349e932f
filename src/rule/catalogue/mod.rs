//! What is known of all rules and states, and what a look at the tables changes in it.
//!
//! What the catalogue says is a function of the tables and of the database's clock, not of the
//! way that led there: every worker that looks says the same. So a rule whose row stops being
//! valid is deleted for subscribers until it is mended, and of two ids that differ only in case
//! the first in the order of bytes is the rule, whichever came first.

mod digest;
mod held;
mod key;
mod look;
mod states;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;

pub use digest::CatalogueDigest;
pub use held::Delta;
pub use look::{Look, Rejected, Seen, Table};

use self::key::{Caseless, Folded, Key};
use self::states::States;
use super::{Known, KnownRule, RuleChange, RuleId, RuleState, StateRow};
use crate::clock::Timestamp;

/// What is known. Pure: looks and the time go in, changes come out.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Every valid row. Of ids that differ only in case, which stand side by side, the first is
    /// in force.
    rules: BTreeSet<Folded>,
    /// Those of them that the table does not hold any more, or not as rules.
    held: BTreeSet<RuleId>,
    in_force: usize,
    states: States,
    rejected_rules: BTreeMap<String, Rejected>,
    rejected_states: BTreeMap<String, Rejected>,
    digest: CatalogueDigest,
    watermark: Option<Timestamp>,
}

/// A row that takes no part, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quarantined {
    /// Where the row stands.
    pub table: Table,
    /// Its key.
    pub key: String,
    /// Why, in one sentence.
    pub reason: String,
}

impl Catalogue {
    /// Takes in what a look found and tells what changed by it: definitions in the order of their
    /// stamps, then deletions by id, then states in the order of their stamps. States whose end
    /// has come at the look's time are among them.
    pub fn apply(&mut self, look: Look) -> Vec<RuleChange> {
        self.apply_guarded(look, |_, _| false).changes
    }

    /// The same, but for rules whose row is gone or is no rule any more: where `is_too_many` says so of
    /// their number, and of the rows that were known before, all of them stay, until fewer are missing or
    /// [`Catalogue::release`] is called.
    pub fn apply_guarded(&mut self, look: Look, is_too_many: impl Fn(usize, usize) -> bool) -> Delta {
        let mut states = states::Before::new();
        for found in look.states {
            match found {
                Ok((rule_id, state)) => {
                    self.watermark = self.watermark.max(state.set_at);
                    self.rejected_states.remove(rule_id.as_str());
                    self.states.replace(&rule_id, Some(state), &mut states);
                }
                Err(rejected) => {
                    if let Ok(rule_id) = RuleId::new(&rejected.key) {
                        self.states.replace(&rule_id, None, &mut states);
                    }
                    self.rejected_states.insert(rejected.key.clone(), *rejected);
                }
            }
        }
        if let Some(keys) = key_set(look.state_keys.as_deref()) {
            self.states.retain(|key| keys.contains(key), &mut states);
            self.rejected_states.retain(|key, _| keys.contains(key.as_str()));
        }
        self.states.judge(look.now, &mut states);

        let (rows, mut going) = (self.rules.len(), BTreeSet::new());
        let mut rules = Before::new();
        for found in look.rules {
            match found {
                Ok(rule) => {
                    self.watermark = self.watermark.max(Some(rule.updated_at));
                    self.rejected_rules.remove(rule.rule_id.as_str());
                    self.held.remove(&rule.rule_id);
                    self.replace(&rule.rule_id.clone(), Some(rule), &mut rules);
                }
                Err(rejected) => {
                    if let Ok(rule_id) = RuleId::new(&rejected.key)
                        && self.rules.contains(&rule_id.as_str() as &dyn Key)
                    {
                        going.insert(rule_id);
                    }
                    self.rejected_rules.insert(rejected.key.clone(), *rejected);
                }
            }
        }
        if let Some(keys) = key_set(look.rule_keys.as_deref()) {
            let known = self.rules.iter().map(|Folded(rule)| &rule.rule_id);
            going.extend(known.filter(|id| !keys.contains(id.as_str())).cloned());
            self.rejected_rules.retain(|key, _| keys.contains(key.as_str()));
        }

        self.delete(going, rows, is_too_many, &mut rules);

        let mut delta = self.definitions(rules);
        delta.changes.extend(self.states.changes(states, &mut self.digest));
        delta
    }

    /// The states whose end has come at `now`, by the database's clock: the default is in force
    /// in their place.
    pub fn expire(&mut self, now: Timestamp) -> Vec<RuleChange> {
        let mut before = states::Before::new();
        self.states.judge(now, &mut before);
        self.states.changes(before, &mut self.digest)
    }

    /// When the next state in force ends, by the database's clock; `None` when none will.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.states.next_end()
    }

    /// Every rule in force with its state, by id without regard to case. `None` is the default.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<KnownRule>, Option<&Arc<RuleState>>)> {
        let mut previous: Option<&Folded> = None;
        self.rules
            .iter()
            .filter(move |rule| !previous.replace(rule).is_some_and(|other| other.is_twin(rule)))
            .map(|Folded(rule)| (rule, self.states.in_force(rule.rule_id.as_str())))
    }

    /// The rule of this id, if it is in force.
    pub fn rule(&self, rule_id: &str) -> Option<&Arc<KnownRule>> {
        let Folded(rule) = self.rules.get(&rule_id as &dyn Key)?;
        self.twin_in_force(rule_id).filter(|first| first.rule_id == rule.rule_id)
    }

    /// How many rules are in force.
    pub const fn rule_count(&self) -> usize {
        self.in_force
    }

    /// Every state in force that is not the default, by id; a rule of that id need not exist.
    pub fn states(&self) -> impl Iterator<Item = (&RuleId, &Arc<RuleState>)> {
        self.states.all_in_force()
    }

    /// Every valid row of the state table, in force or expired, by id.
    pub fn state_rows(&self) -> impl Iterator<Item = (&RuleId, &RuleState)> {
        self.states.rows()
    }

    /// Every valid row of the rule table, in force or not.
    pub fn rule_rows(&self) -> impl Iterator<Item = &Arc<KnownRule>> {
        self.rules.iter().map(|Folded(rule)| rule)
    }

    /// The state in force: the default for a rule that has none, or that is not known.
    pub fn state(&self, rule_id: &str) -> RuleState {
        self.states.in_force(rule_id).map_or_else(RuleState::default, |state| RuleState::clone(state))
    }

    /// The greatest stamp of all valid rows that were ever seen; `None` before the first.
    pub const fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// The digest of all rules and states in force.
    pub const fn digest(&self) -> CatalogueDigest {
        self.digest
    }

    /// The rows that take no part, rules first, by key.
    pub fn quarantined(&self) -> impl Iterator<Item = Quarantined> {
        let rejected = |table, rows| {
            BTreeMap::values(rows).map(move |row: &Rejected| Quarantined {
                table,
                key: row.key.clone(),
                reason: row.reason.clone(),
            })
        };
        // Mostly there are none, and then nothing is searched.
        let passed_over = self.rules.len() - self.in_force;
        let neighbours = self.rules.iter().zip(self.rules.iter().skip(1));
        let case_variants = neighbours.filter(|(a, b)| a.is_twin(b)).take(passed_over);
        let case_variants = case_variants.map(|(first, second)| Quarantined {
            table: Table::Rules,
            key: second.0.rule_id.to_string(),
            reason: format!(
                "the id differs from `{}` only in case, and the first in the order of bytes is taken; \
                 rename or delete one of the two",
                first.0.rule_id
            ),
        });
        rejected(Table::Rules, &self.rejected_rules)
            .chain(case_variants)
            .chain(rejected(Table::States, &self.rejected_states))
    }

    /// Writes or removes a row.
    fn replace(&mut self, rule_id: &RuleId, rule: Option<Arc<KnownRule>>, before: &mut Before) {
        let is_known = || self.rules.contains(&rule_id.as_str() as &dyn Key);
        if rule.is_some() || is_known() {
            let caseless = Caseless(rule_id.clone());
            before.entry(caseless).or_insert_with(|| self.twin_in_force(rule_id.as_str()).cloned());
        }
        match rule {
            Some(rule) => drop(self.rules.replace(Folded(rule))),
            None => drop(self.rules.take(&rule_id.as_str() as &dyn Key)),
        }
    }

    /// Of the rows whose ids differ from `rule_id` at most in case, the one that is in force.
    fn twin_in_force(&self, rule_id: &str) -> Option<&Arc<KnownRule>> {
        // Capitals come first in the order of bytes, so no twin stands before this.
        let first = rule_id.to_ascii_uppercase();
        let from: &dyn Key = &first.as_str();
        let Folded(rule) = self.rules.range::<dyn Key, _>((Included(from), Unbounded)).next()?;
        rule.rule_id.as_str().eq_ignore_ascii_case(rule_id).then_some(rule)
    }

    /// What became of the rules that were in force before, by the order of [`Catalogue::apply`].
    fn definitions(&mut self, before: Before) -> Delta {
        let (mut written, mut deleted, mut fallen) = (Vec::new(), Vec::new(), Vec::new());
        for (id, old) in before {
            let new = self.twin_in_force(id.0.as_str()).cloned();
            if let (Some(old), Some(new)) = (&old, &new)
                && old.rule_id == new.rule_id
                && old.same_content(new)
            {
                continue;
            }
            if let (Some(old), Some(new)) = (&old, &new)
                && new.rule_version < old.rule_version
            {
                fallen.push((new.rule_id.clone(), old.rule_version, new.rule_version));
            }
            if let Some(old) = old {
                self.in_force -= 1;
                self.digest.toggle_rule(&old);
                if new.as_ref().is_none_or(|new| new.rule_id != old.rule_id) {
                    deleted.push(old.rule_id.clone());
                }
            }
            if let Some(new) = new {
                self.in_force += 1;
                self.digest.toggle_rule(&new);
                written.push(new);
            }
        }
        written.sort_by(|a, b| (a.updated_at, &a.rule_id).cmp(&(b.updated_at, &b.rule_id)));
        deleted.sort();
        let default = Arc::<RuleState>::default();
        let written = written.into_iter().map(|rule| {
            let state = Arc::clone(self.states.in_force(rule.rule_id.as_str()).unwrap_or(&default));
            RuleChange::Written { rule, state }
        });
        let deleted = deleted.into_iter().map(|rule_id| RuleChange::Deleted { rule_id });
        Delta { changes: written.chain(deleted).collect(), fallen }
    }
}

impl Known for Catalogue {
    fn count(&self, table: Table) -> u64 {
        let count = match table {
            Table::Rules => self.rules.len() - self.held.len() + self.rejected_rules.len(),
            Table::States => self.states.len() + self.rejected_states.len(),
        };
        count as u64
    }

    fn seen(&self, table: Table, key: &str) -> Option<Seen> {
        match table {
            Table::Rules => self
                .rules
                .get(&key as &dyn Key)
                .filter(|Folded(rule)| !self.held.contains(&rule.rule_id))
                .map(|Folded(rule)| {
                    Seen::rule(rule.updated_at, rule.content_sha256, rule.rule_version, &rule.source_path)
                })
                .or_else(|| self.rejected_rules.get(key).map(|row| row.seen)),
            Table::States => self
                .states
                .row(key)
                .zip(RuleId::new(key).ok())
                .map(|(state, rule_id)| Seen::state(&StateRow::new(&rule_id, state)))
                .or_else(|| self.rejected_states.get(key).map(|row| row.seen)),
        }
    }

    fn memory(&self) -> usize {
        let rules: usize = self.rules.iter().map(|Folded(rule)| rule.memory()).sum();
        rules + self.states.rows().map(|(_, state)| state.memory()).sum::<usize>()
    }

    fn memory_of(&self, table: Table, key: &str) -> usize {
        match table {
            Table::Rules => self.rules.get(&key as &dyn Key).map_or(0, |Folded(rule)| rule.memory()),
            Table::States => self.states.row(key).map_or(0, RuleState::memory),
        }
    }
}

/// The rule in force under each folded id before a look touched it.
type Before = BTreeMap<Caseless, Option<Arc<KnownRule>>>;

fn key_set(keys: Option<&[String]>) -> Option<HashSet<&str>> {
    Some(keys?.iter().map(String::as_str).collect())
}
