//! Decides whether a worker has what it should have.

use std::collections::BTreeMap;
use std::fmt;

use super::history::Verdict;
use super::texts::{IDS, Texts, rule_id};
use super::worker::{Known, Polled};
use super::world::{Key, Tables, time};
use crate::rule::{ContentDigest, RuleChange, RuleState};

/// What a subscriber has, that started with an empty catalogue.
#[derive(Default)]
pub(super) struct Stream {
    rules: BTreeMap<String, ContentDigest>,
    states: BTreeMap<String, RuleState>,
    /// The first change that changed nothing.
    wrong: Option<String>,
}

impl Stream {
    /// Applies changes in their order.
    pub(super) fn pass(&mut self, changes: Vec<RuleChange>) {
        for change in changes {
            let id = change.rule_id().to_string();
            let is_change = match &change {
                RuleChange::Written { rule, .. } => {
                    let content = rule.header.content_sha256;
                    self.rules.insert(id, content) != Some(content)
                }
                RuleChange::Deleted { .. } => self.rules.remove(&id).is_some(),
                RuleChange::State { state, .. } if **state == RuleState::default() => {
                    self.states.remove(&id).is_some()
                }
                RuleChange::State { state, .. } => {
                    self.states.insert(id, RuleState::clone(state)).as_ref() != Some(state)
                }
            };
            if !is_change {
                self.wrong.get_or_insert_with(|| format!("{change:?} changes nothing"));
            }
        }
    }

    fn judge(&self, known: &Known) -> Result<(), Verdict> {
        if let Some(wrong) = &self.wrong {
            return Err(Verdict::new(format!("stream: {wrong}")));
        }
        let rules = known.0.rules().map(|(rule, _)| (rule.rule_id().to_string(), rule.header.content_sha256));
        let states = known.0.states().map(|(id, state)| (id.to_string(), RuleState::clone(state)));
        if self.rules != rules.collect() || self.states != states.collect() {
            return Err(Verdict::new("stream: the changes do not make the catalogue"));
        }
        Ok(())
    }
}

/// What a worker has of a row, or a server holds: its content.
fn known_content(known: &Known, key: Key) -> Option<u8> {
    match key {
        Key::Rule(id) => {
            let rule = known.0.rule_row(&rule_id(id))?;
            let texts = Texts::get();
            (0..super::texts::VERSIONS).find(|version| {
                let row = texts.row(id, *version, time(0));
                row.header.content_sha256 == rule.header.content_sha256
            })
        }
        Key::State(id) => {
            let state = known.0.state(&rule_id(id));
            state.reason?.parse().ok()
        }
    }
}

/// Checks the promises after a poll.
pub(super) fn judge(known: &Known, stream: &Stream, polled: &Polled) -> Result<(), Verdict> {
    stream.judge(known)?;
    let Polled { read, full, applied } = polled;
    if applied.is_some_and(|applied| applied > read.version) {
        return Err(Verdict::new(format!("early: reports {applied:?} and has read {}", read.version)));
    }
    compare(known, read, *full)
}

/// Compares a catalogue with tables, without exception if `is_strict`.
pub(super) fn compare(known: &Known, tables: &Tables, is_strict: bool) -> Result<(), Verdict> {
    let keys = (0..IDS).flat_map(|id| [Key::Rule(id), Key::State(id)]);
    let differing: Vec<Difference> = keys
        .filter_map(|key| {
            let (has, should) = (known_content(known, key), tables.rows.get(&key));
            let differs = has != should.map(|cell| cell.content);
            let is_late = should.is_some_and(|cell| cell.is_late);
            differs.then_some(Difference { key, has, should: should.map(|cell| cell.content), is_late })
        })
        .collect();
    // A row that a poll may miss makes the number of rows right although another one was deleted.
    let excuses_deletions = differing.iter().any(|difference| difference.is_late && difference.has.is_none());
    let is_excused = |difference: &Difference| {
        !is_strict && (difference.is_late || (difference.should.is_none() && excuses_deletions))
    };
    match differing.into_iter().find(|difference| !is_excused(difference)) {
        Some(difference) => Err(Verdict::new(format!("poll: {difference}"))),
        None => Ok(()),
    }
}

struct Difference {
    key: Key,
    has: Option<u8>,
    should: Option<u8>,
    is_late: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is {:?}, should be {:?}", self.key, self.has, self.should)
    }
}
