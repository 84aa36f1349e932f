//! The rules and states after one change, shared by all subscribers that read them, and one subscriber's
//! progress in reading them.

use std::collections::HashSet;
use std::sync::Arc;

use super::journal::EncodedChange;
use crate::rule::{Catalogue, CatalogueDigest, ChangeKind, EffectiveRules, KnownRule, RuleId, RuleState};
use crate::wire::{Epoch, ServerLine, SnapshotReason, Subscribe, TrustLine, encode};

/// How many rules are fetched at once.
const FETCHED: usize = 16;

/// How many bytes a processor reads from memory at once.
const CACHE_LINE: usize = 64;

/// All effective rules and states after change `seq`.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) seq: u64,
    pub(super) digest: CatalogueDigest,
    rules: EffectiveRules,
    /// Each state other than the default, by id, and whether a rule has this id.
    states: Vec<(RuleId, Arc<RuleState>, bool)>,
}

impl Snapshot {
    pub(super) fn of(catalogue: &Catalogue, seq: u64) -> Self {
        let states = catalogue.states().map(|(rule_id, state)| {
            (rule_id.clone(), Arc::clone(state), catalogue.rule(rule_id.as_str()).is_some())
        });
        let states = states.collect();
        Self { seq, digest: catalogue.digest(), rules: catalogue.effective_rules(), states }
    }

    /// The rule's state, unless it is the default.
    fn state(&self, rule_id: &RuleId) -> Option<&RuleState> {
        let found = self.states.binary_search_by_key(&rule_id, |(id, ..)| id).ok()?;
        Some(&self.states[found].1)
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

    /// How many of these rules it wants.
    fn count(&self, rules: &EffectiveRules) -> usize {
        match &self.rule_ids {
            _ if !self.definitions => 0,
            None => rules.count(),
            Some(ids) => ids.iter().filter(|id| rules.contains(id.as_str())).count(),
        }
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
    /// The last rule that was written.
    rule: Option<RuleId>,
    /// Whether no rule is left.
    ruled: bool,
    states: usize,
}

impl SnapshotReader {
    pub(super) const fn new(snapshot: Arc<Snapshot>, reason: SnapshotReason) -> Self {
        Self { snapshot, reason, begun: false, rule: None, ruled: false, states: 0 }
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
        let default = RuleState::default();
        if !self.begun {
            self.begun = true;
            let state_lines = states.iter().filter(|(id, _, ruled)| filter.wants_state(id, *ruled)).count();
            let begin = ServerLine::SnapshotBegin {
                epoch: epoch.clone(),
                seq: *seq,
                rules: filter.count(rules) as u64,
                states: state_lines as u64,
                reason: self.reason,
            };
            encode::line(out, &begin);
        }
        if !self.ruled {
            let mut last: Option<&RuleId> = None;
            let rest = rules.after(self.rule.as_ref()).filter(|rule| filter.wants_rule(rule));
            for rule in fetched(rest) {
                if out.len() >= room {
                    self.rule = last.cloned().or_else(|| self.rule.take());
                    return false;
                }
                let state = self.snapshot.state(rule.rule_id()).unwrap_or(&default);
                encode::rule_line(out, rule, state);
                last = Some(rule.rule_id());
            }
            self.ruled = true;
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

/// The same rules. The processor fetches the texts of some of them from memory at once, as it has to wait for each that
/// it finds it needs.
fn fetched<'a>(
    mut rules: impl Iterator<Item = &'a Arc<KnownRule>>,
) -> impl Iterator<Item = &'a Arc<KnownRule>> {
    let bytes = |text: &str| text.as_bytes().iter().step_by(CACHE_LINE).fold(0, |all, byte| all ^ byte);
    std::iter::from_fn(move || {
        let some: Vec<_> = rules.by_ref().take(FETCHED).collect();
        let read = some.iter().fold(0, |all, rule| {
            let KnownRule { header, definition_json } = &***rule;
            all ^ bytes(header.rule_id.as_str()) ^ bytes(&header.source_path) ^ bytes(definition_json)
        });
        std::hint::black_box(read);
        (!some.is_empty()).then_some(some)
    })
    .flatten()
}
