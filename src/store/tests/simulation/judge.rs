//! Decides whether a worker has what it should have.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::history::Verdict;
use super::masters::Master;
use super::tables::{Commit, Key, Lease, Tables};
use super::texts::{IDS, Texts, rule_id};
use super::transactions::is_of;
use super::worker::{Known, Polled};
use super::world::World;
use crate::rule::{ContentDigest, RuleChange, RuleState};
use crate::store::lease::BEAT_INTERVAL;

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
        let (mut rules, mut states) = (known.0.rules(), known.0.states());
        let is_equal = self.rules.len() == known.0.rules().count()
            && self.states.len() == known.0.states().count()
            && rules.all(|(rule, _)| {
                self.rules.get(rule.rule_id().as_str()) == Some(&rule.header.content_sha256)
            })
            && states.all(|(id, state)| self.states.get(id.as_str()) == Some(state));
        if !is_equal {
            return Err(Verdict::new("stream: the changes do not make the catalogue"));
        }
        Ok(())
    }
}

/// What a worker has of a row, or a server holds: its content.
fn known_content(known: &Known, key: Key) -> Option<u8> {
    match key {
        Key::Rule(id) => {
            let rule = known.0.rule_row(rule_id(id))?;
            Texts::get().version_of(id, rule.header.content_sha256)
        }
        Key::State(id) => {
            let state = known.0.state(rule_id(id));
            state.reason?.parse().ok()
        }
    }
}

/// A master that gives no sign of life for so long is silent, and how often it does.
const SILENT: Duration = Duration::from_secs(6);

/// Checks the promises after a poll.
pub(super) fn judge(known: &Known, stream: &Stream, polled: &Polled, world: &World) -> Result<(), Verdict> {
    stream.judge(known)?;
    let Polled { read, full, is_whole, applied, says, lag, .. } = polled;
    if applied.is_some_and(|applied| applied > read.version) {
        return Err(Verdict::new(format!("early: reports {applied:?} and has read {}", read.version)));
    }
    if *lag > says.max(&SILENT).saturating_add(BEAT_INTERVAL).saturating_add(world.clocks_differ()) {
        return Err(Verdict::new(format!("age: says {says:?} and lacks a commit that is {lag:?} old")));
    }
    if *is_whole { compare(known, read, *full, world) } else { Ok(()) }
}

/// Checks what masters say: one that says that it leads, confirmed n s ago, had the lease then.
pub(super) fn judge_claims(world: &World) -> Result<(), Verdict> {
    for master in world.masters() {
        let Some((holder, confirmed)) = master.claim(world) else { continue };
        let is_mine = |commit: &&Commit| {
            let lease = commit.lease.as_ref();
            lease.is_some_and(|Lease { row, .. }| is_of(row, &holder.owner, holder.term))
        };
        // The first lease of another after its last.
        let leases = world.log.iter().rev().filter(|commit| commit.lease.is_some());
        let Some(lost) = leases.take_while(|commit| !is_mine(commit)).last() else { continue };
        if lost.at < confirmed {
            let ago = Duration::from_micros((confirmed - lost.at).unsigned_abs());
            return Err(Verdict::new(format!("fence: {holder:?} was confirmed {ago:?} after {lost:?}")));
        }
    }
    Ok(())
}

/// Checks the promises at the end, when the faults have ended for as long as a takeover takes: one master leads, and the
/// tables have its directory.
pub(super) fn judge_masters(world: &World) -> Result<(), Verdict> {
    let row = world.head.lease.as_ref().map(|lease| (&*lease.row.owner, lease.row.term));
    let leaders: Vec<&Master> = world.masters().filter(|master| master.leads().is_some()).collect();
    let [leader] = leaders[..] else {
        return Err(Verdict::new(format!("progress: {} masters lead", leaders.len())));
    };
    if leader.leads() != row {
        return Err(Verdict::new(format!("progress: {:?} leads, the lease is {row:?}", leader.leads())));
    }
    for id in 0..IDS {
        let cell = world.head.rows.get(&Key::Rule(id)).filter(|cell| cell.is_ours);
        let (has, should) = (cell.map(|cell| cell.content), leader.directory.files[usize::from(id)]);
        if has != should {
            return Err(Verdict::new(format!(
                "progress: {} is {has:?} in the tables and {should:?} in the directory",
                rule_id(id)
            )));
        }
    }
    let (takeovers, faults) = (world.takeovers, world.faults);
    if takeovers > faults {
        return Err(Verdict::new(format!("progress: {takeovers} takeovers after {faults} faults")));
    }
    Ok(())
}

/// Compares a catalogue with tables, without exception if `is_strict`.
pub(super) fn compare(known: &Known, tables: &Tables, is_strict: bool, world: &World) -> Result<(), Verdict> {
    let keys = (0..world.options.rules).flat_map(|id| [Key::Rule(id), Key::State(id)]);
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
