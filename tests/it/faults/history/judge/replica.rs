//! A subscriber's copy of the rules and states.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use serde_json::Value;

use super::super::Rule;

#[derive(Clone, Default)]
pub(super) struct Replica {
    pub(super) rules: BTreeMap<String, Rule>,
    pub(super) states: BTreeMap<String, Value>,
    sum: u64,
}

impl Replica {
    /// Equal for equal copies.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    pub(super) fn set_rule(&mut self, rule_id: &str, rule: Option<Rule>) {
        let sum = |rule: &Rule| hash(&(rule_id, rule));
        if let Some(rule) = &rule {
            self.sum = self.sum.wrapping_add(sum(rule));
        }
        let old = match rule {
            Some(rule) => self.rules.insert(rule_id.to_owned(), rule),
            None => self.rules.remove(rule_id),
        };
        self.sum = self.sum.wrapping_sub(old.as_ref().map_or(0, sum));
    }

    pub(super) fn set_state(&mut self, rule_id: &str, state: &Value) {
        let sum = |state: &Value| hash(&(rule_id, state.to_string()));
        let old = if state["state"] == "enabled" {
            self.states.remove(rule_id)
        } else {
            self.sum = self.sum.wrapping_add(sum(state));
            self.states.insert(rule_id.to_owned(), state.clone())
        };
        self.sum = self.sum.wrapping_sub(old.as_ref().map_or(0, sum));
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
