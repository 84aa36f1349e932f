//! Whatever happens to the tables, the changes replayed are the tables.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The tables, and what happens to them.
#[derive(Debug, Default, Clone)]
struct Tables {
    now: i64,
    rules: BTreeMap<String, Result<Arc<KnownRule>, Box<QuarantinedRow>>>,
    states: BTreeMap<String, Result<RuleState, Box<QuarantinedRow>>>,
}

impl Tables {
    /// The effective rules and states, by the plainest reading of the contract.
    fn effective(&self) -> (BTreeMap<String, i64>, BTreeMap<String, RuleState>) {
        let mut rules = BTreeMap::new();
        let valid = || self.rules.iter().filter_map(|(key, row)| Some((key, row.as_ref().ok()?)));
        for (key, row) in valid() {
            if !valid().any(|(other, _)| other < key && other.eq_ignore_ascii_case(key)) {
                rules.insert(key.clone(), row.header.rule_version);
            }
        }
        let states = self.states.iter().filter_map(|(key, row)| {
            let state = row.as_ref().ok()?.effective(at(self.now));
            (state != RuleState::default()).then(|| (key.clone(), state))
        });
        (rules, states.collect())
    }

    /// A poll that finds the rows which `pick` picks among those that are known already, and all
    /// that are not.
    fn poll(&self, known: &Catalogue, pick: u64) -> TableDelta {
        let news = |table, key: &str, fingerprint: RowFingerprint, position: usize| {
            known.fingerprint(table, key) != Some(fingerprint) || pick >> (position % 64) & 1 == 1
        };
        let mut delta = TableDelta { now: at(self.now), ..TableDelta::default() };
        for (position, (key, row)) in self.rules.iter().enumerate() {
            let fingerprint = match row {
                Ok(rule) => RowFingerprint::rule(&rule.header),
                Err(rejected) => rejected.fingerprint,
            };
            if news(Table::Rules, key, fingerprint, position) {
                delta.rules.push(row.clone());
            }
        }
        for (position, (key, row)) in self.states.iter().enumerate() {
            let found = row.clone().map(|state| (id(key), state));
            let fingerprint = match &found {
                Ok((id, state)) => RowFingerprint::state(&StateRow::new(id, state)),
                Err(rejected) => rejected.fingerprint,
            };
            if news(Table::States, key, fingerprint, position) {
                delta.states.push(found);
            }
        }
        let known_rules = delta.rules.iter().filter(|row| match row {
            Ok(rule) => known.fingerprint(Table::Rules, rule.header.rule_id.as_str()).is_none(),
            Err(row) => known.fingerprint(Table::Rules, &row.key).is_none(),
        });
        let count = known.count(Table::Rules) + known_rules.count() as u64;
        if count != self.rules.len() as u64 || pick.is_multiple_of(3) {
            delta.rule_keys = Some(self.rules.keys().cloned().collect());
        }
        delta.state_keys = Some(self.states.keys().cloned().collect());
        delta
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, i64),
    Break(usize),
    Delete(usize),
    Set(usize, Option<i64>),
    BreakState(usize),
    Clear(usize),
    Pass(i64),
    Poll(u64),
    Timer,
}

const KEYS: [&str; 6] = ["R1", "r1", "R2", "RULE_b", "rule_B", "R-3"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        4 => (key.clone(), 0..3_i64).prop_map(|(key, version)| Step::Write(key, version)),
        1 => key.clone().prop_map(Step::Break),
        2 => key.clone().prop_map(Step::Delete),
        3 => (key.clone(), proptest::option::of(-2..20_i64)).prop_map(|(key, end)| Step::Set(key, end)),
        1 => key.clone().prop_map(Step::BreakState),
        1 => key.prop_map(Step::Clear),
        2 => (1..10_i64).prop_map(Step::Pass),
        4 => any::<u64>().prop_map(Step::Poll),
        2 => Just(Step::Timer),
    ]
}

proptest! {
    /// Whatever happens to the tables and however it is looked at, the changes replayed are the
    /// tables.
    #[test]
    fn changes_replayed_equal_the_tables(steps in proptest::collection::vec(step(), 1..60)) {
        let mut tables = Tables { now: 100, ..Tables::default() };
        let mut catalogue = Catalogue::default();
        let mut heard = (BTreeMap::new(), BTreeMap::new());
        for (stamp, step) in steps.into_iter().chain([Step::Poll(0)]).enumerate() {
            let stamp = 1_000 + i64::try_from(stamp).unwrap();
            let key = |position: usize| KEYS[position].to_owned();
            let changes = match step {
                Step::Write(k, version) => {
                    tables.rules.insert(key(k), Ok(rule(KEYS[k], version, stamp)));
                    continue;
                }
                Step::Break(k) => { tables.rules.insert(key(k), Err(rejected(KEYS[k]))); continue; }
                Step::Delete(k) => { tables.rules.remove(KEYS[k]); continue; }
                Step::Set(k, end) => {
                    tables.states.insert(key(k), Ok(disabled(stamp, end.map(|end| tables.now + end))));
                    continue;
                }
                Step::BreakState(k) => { tables.states.insert(key(k), Err(rejected(KEYS[k]))); continue; }
                Step::Clear(k) => { tables.states.remove(KEYS[k]); continue; }
                Step::Pass(seconds) => { tables.now += seconds; continue; }
                Step::Poll(pick) => catalogue.apply(tables.poll(&catalogue, pick)),
                Step::Timer => catalogue.expire(at(tables.now)),
            };
            for change in changes {
                match change {
                    RuleChange::Written { rule, .. } => {
                        let old = heard.0.insert(rule.header.rule_id.to_string(), rule.header.rule_version);
                        prop_assert_ne!(old, Some(rule.header.rule_version), "no change is heard twice");
                    }
                    RuleChange::Deleted { rule_id } => {
                        prop_assert!(heard.0.remove(rule_id.as_str()).is_some());
                    }
                    RuleChange::State { rule_id, state, auto_revert } => {
                        prop_assert!(!auto_revert || *state == RuleState::default());
                        let default = *state == RuleState::default();
                        let old = heard.1.insert(rule_id.to_string(), RuleState::clone(&state));
                        prop_assert_ne!(old.as_ref(), Some(&*state));
                        if default { heard.1.remove(rule_id.as_str()); }
                    }
                }
            }
            if matches!(step, Step::Poll(_)) {
                prop_assert_eq!(&heard, &tables.effective());
                let told: Vec<_> = catalogue.rules().map(|(rule, _)| rule.header.rule_id.to_string()).collect();
                prop_assert_eq!(told.len(), catalogue.rule_count());
                prop_assert_eq!(catalogue.states().count(), heard.1.len());
                let mut fresh = Catalogue::default();
                fresh.apply(tables.poll(&fresh, u64::MAX));
                prop_assert_eq!(fresh.digest(), catalogue.digest());
            }
            let rules = catalogue.rules.iter().map(|SortedRule(rule)| rule.memory()).sum::<usize>();
            let states = catalogue.states.rows().map(|(_, state)| state.memory()).sum::<usize>();
            prop_assert_eq!(catalogue.memory(), rules + states);
        }
    }
}
