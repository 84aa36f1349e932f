//! The rules and states after one change, shared by all subscribers that read them, and one subscriber's
//! progress in reading them.

use std::collections::HashSet;
use std::sync::Arc;

use super::journal::EncodedChange;
use crate::rule::{Catalogue, CatalogueDigest, ChangeKind, KnownRule, RuleId, RuleState};
use crate::wire::{Epoch, ServerLine, SnapshotReason, Subscribe, TrustLine, encode};

/// All effective rules and states after change `seq`.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) seq: u64,
    pub(super) digest: CatalogueDigest,
    /// Each rule with its state; `None` is the default.
    rules: Vec<(Arc<KnownRule>, Option<Arc<RuleState>>)>,
    /// Each state other than the default, and whether a rule has this id.
    states: Vec<(RuleId, Arc<RuleState>, bool)>,
}

impl Snapshot {
    pub(super) fn of(catalogue: &Catalogue, seq: u64) -> Self {
        let rules = catalogue.rules().map(|(rule, state)| (Arc::clone(rule), state.cloned())).collect();
        let states = catalogue.states().map(|(rule_id, state)| {
            (rule_id.clone(), Arc::clone(state), catalogue.rule(rule_id.as_str()).is_some())
        });
        Self { seq, digest: catalogue.digest(), rules, states: states.collect() }
    }
}

/// Which changes a subscriber wants.
#[derive(Debug, Default)]
pub(super) struct Filter {
    definitions: bool,
    states: bool,
    rule_ids: Option<HashSet<RuleId>>,
}

impl Filter {
    pub(super) fn new(subscribe: &Subscribe) -> Self {
        let wants = |kind| subscribe.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind));
        Self {
            definitions: wants(ChangeKind::Definition),
            states: wants(ChangeKind::State),
            rule_ids: subscribe.rule_ids.as_ref().map(|ids| ids.iter().cloned().collect()),
        }
    }

    pub(super) fn wants(&self, change: &EncodedChange) -> bool {
        let kind = match change.kind {
            ChangeKind::Definition => self.definitions,
            ChangeKind::State => self.states,
        };
        kind && self.wants_id(&change.rule_id)
    }

    fn wants_id(&self, rule_id: &RuleId) -> bool {
        self.rule_ids.as_ref().is_none_or(|ids| ids.contains(rule_id))
    }

    fn wants_rule(&self, rule: &KnownRule) -> bool {
        self.definitions && self.wants_id(&rule.header.rule_id)
    }

    /// A `rule` line contains its state, so a `state` line is only for a rule that has no `rule` line.
    fn wants_state(&self, rule_id: &RuleId, has_rule: bool) -> bool {
        self.states && !(has_rule && self.definitions) && self.wants_id(rule_id)
    }
}

/// One subscriber's progress in reading a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotReader {
    snapshot: Arc<Snapshot>,
    reason: SnapshotReason,
    begun: bool,
    rules: usize,
    states: usize,
}

impl SnapshotReader {
    pub(super) const fn new(snapshot: Arc<Snapshot>, reason: SnapshotReason) -> Self {
        Self { snapshot, reason, begun: false, rules: 0, states: 0 }
    }

    pub(super) fn seq(&self) -> u64 {
        self.snapshot.seq
    }

    /// Appends the next lines, about `room` bytes of them. Returns whether the last line was written.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        (epoch, trust): (&Epoch, Option<TrustLine>),
        filter: &Filter,
    ) -> bool {
        let Snapshot { seq, digest, rules, states } = &*self.snapshot;
        if !self.begun {
            self.begun = true;
            let rule_lines = rules.iter().filter(|(rule, _)| filter.wants_rule(rule)).count();
            let state_lines = states.iter().filter(|(id, _, ruled)| filter.wants_state(id, *ruled)).count();
            let begin = ServerLine::SnapshotBegin {
                epoch: epoch.clone(),
                seq: *seq,
                rules: rule_lines as u64,
                states: state_lines as u64,
                reason: self.reason,
            };
            encode::line(out, &begin);
        }
        for (rule, state) in &rules[self.rules..] {
            if out.len() >= room {
                return false;
            }
            self.rules += 1;
            if filter.wants_rule(rule) {
                encode::rule_line(out, rule, state.as_deref().unwrap_or(&RuleState::default()));
            }
        }
        for (rule_id, state, has_rule) in &states[self.states..] {
            if out.len() >= room {
                return false;
            }
            self.states += 1;
            if filter.wants_state(rule_id, *has_rule) {
                encode::state_line(out, rule_id, state);
            }
        }
        encode::line(
            out,
            &ServerLine::SnapshotEnd { epoch: epoch.clone(), seq: *seq, digest: *digest, trust },
        );
        true
    }
}
