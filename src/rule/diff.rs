//! Compares two sources of rules, such as the tables and a worker. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Catalogue, CatalogueDigest, RuleHeader, RuleId, RuleState};

/// What one source serves.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Observation {
    /// The effective rules.
    pub(crate) rules: BTreeMap<RuleId, RuleHeader<RuleId>>,
    /// The effective states other than the default; a rule of that id need not exist.
    pub(crate) states: BTreeMap<RuleId, RuleState>,
}

/// A rule or a state that two sources do not have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Difference<'o> {
    /// The rule in each source; `None` if the source does not have it.
    Rule(Option<&'o RuleHeader<RuleId>>, Option<&'o RuleHeader<RuleId>>),
    /// The effective state in each source.
    State(RuleState, RuleState),
}

impl Observation {
    /// Adds a rule with its effective state.
    pub(crate) fn insert(&mut self, rule_id: RuleId, rule: Option<RuleHeader<RuleId>>, state: RuleState) {
        if state != RuleState::default() {
            self.states.insert(rule_id.clone(), state);
        }
        self.rules.extend(rule.map(|rule| (rule_id, rule)));
    }

    /// The digest that a catalogue of the same rules and states has.
    pub(crate) fn digest(&self) -> CatalogueDigest {
        let mut digest = CatalogueDigest::default();
        self.rules.values().for_each(|rule| digest.toggle_rule(rule));
        self.states.iter().for_each(|(rule_id, state)| digest.toggle_state(rule_id, state));
        digest
    }
}

impl From<&Catalogue> for Observation {
    fn from(catalogue: &Catalogue) -> Self {
        let rules = catalogue.rules().map(|(rule, _)| (rule.rule_id().clone(), rule.header.clone()));
        let states = catalogue.states().map(|(rule_id, state)| (rule_id.clone(), RuleState::clone(state)));
        Self { rules: rules.collect(), states: states.collect() }
    }
}

/// The differences between `a` and `b`, by id: of each rule its content, then its state. When and by whom a row was
/// written is no difference.
pub(crate) fn diff<'o>(a: &'o Observation, b: &'o Observation) -> Vec<(&'o RuleId, Difference<'o>)> {
    let ids = [a, b].into_iter().flat_map(|side| side.rules.keys().chain(side.states.keys()));
    let mut differences = Vec::new();
    for id in ids.collect::<BTreeSet<_>>() {
        let (rule, other) = (a.rules.get(id), b.rules.get(id));
        let is_same = match (rule, other) {
            (Some(rule), Some(other)) => rule.same_content(other),
            (rule, other) => rule.is_none() && other.is_none(),
        };
        if !is_same {
            differences.push((id, Difference::Rule(rule, other)));
        }
        let state = |side: &Observation| side.states.get(id).cloned().unwrap_or_default();
        if a.states.get(id) != b.states.get(id) {
            differences.push((id, Difference::State(state(a), state(b))));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rule::{ContentDigest, StateKind};

    fn observed(rules: &[(&str, &str, &str)], disabled: &[&str]) -> Observation {
        let mut observed = Observation::default();
        for &(id, text, updated_by) in rules {
            let rule_id = RuleId::new(id).unwrap();
            let header = RuleHeader {
                rule_id: rule_id.clone(),
                rule_version: 1,
                source_path: "a.yaml".into(),
                content_sha256: ContentDigest::of(text),
                updated_at: Timestamp::MIN,
                updated_by: updated_by.into(),
            };
            let state = match disabled.contains(&id) {
                true => StateKind::Disabled,
                false => StateKind::Enabled,
            };
            observed.insert(rule_id, Some(header), RuleState { state, ..RuleState::default() });
        }
        observed
    }

    #[test]
    fn each_rule_and_each_state_that_differs_is_named_once() {
        let a = observed(&[("A", "1", "me"), ("B", "1", "me"), ("C", "1", "me"), ("E", "1", "me")], &["E"]);
        let b = observed(&[("A", "1", "git"), ("B", "2", "me"), ("D", "1", "me"), ("E", "1", "me")], &[]);
        let found: Vec<_> = diff(&a, &b)
            .into_iter()
            .map(|(id, difference)| match difference {
                Difference::Rule(a, b) => format!("{id} {} {}", a.is_some(), b.is_some()),
                Difference::State(a, b) => format!("{id} {} {}", a.state, b.state),
            })
            .collect();
        assert_eq!(found, ["B true true", "C true false", "D false true", "E disabled enabled"]);
    }

    #[test]
    fn a_source_equals_itself_and_the_other_way_round_there_are_as_many_differences() {
        let a = observed(&[("A", "1", "me"), ("B", "1", "me")], &["A"]);
        let b = observed(&[("B", "2", "me")], &["B"]);
        assert_eq!(diff(&a, &a), []);
        assert_eq!(diff(&a, &b).len(), diff(&b, &a).len());
        assert_eq!(diff(&a, &Observation::default()).len(), 3);
    }
}
