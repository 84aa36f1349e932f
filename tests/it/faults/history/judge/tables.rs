//! Judges every write to the tables, and compares the final tables with the directory and the subscribers.

use std::collections::{BTreeMap, BTreeSet};

use rulesyncd::clock::Timestamp;

use super::super::{History, Write};
use super::evidence::Evidence;
use super::{Promise, Verdict};

/// A stamp that is off by more than this comes from a clock that is wrong, in microseconds.
const WRONG: i64 = 900_000_000;

pub(super) fn judge(history: &History, evidence: &Evidence<'_>, verdict: &mut Verdict) {
    judge_rest(history, evidence, verdict);
    judge_rows(history, verdict);
    judge_stamps(history, verdict);
    judge_turns(history, verdict);
}

/// In the final state, all are equal.
fn judge_rest(history: &History, evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let (table, foreign) = (&history.final_state.table, &history.roles.foreign);
    let last: BTreeMap<&str, &Write> = history.audit.iter().map(|write| (&*write.rule_id, write)).collect();
    let ids = |known: &BTreeMap<String, _>| known.keys().cloned().collect::<BTreeSet<String>>();
    for (who, known) in &evidence.ends {
        for rule_id in ids(table).union(&ids(&known.rules)) {
            let (row, transcript) = (table.get(rule_id), known.rules.get(rule_id));
            let promise =
                if foreign.contains(rule_id) { Promise::OtherWriters } else { Promise::Convergence };
            let complaint = || format!("{who} ended with {transcript:?}, the table with {row:?}");
            verdict.expect(promise, row == transcript, complaint);
            // Whatever clock stamped the row.
            if last.get(&**rule_id).is_some_and(|write| is_stamped_wrong(history, write)) {
                verdict.expect(Promise::Clocks, row == transcript, complaint);
            }
        }
        let states: BTreeMap<_, _> = known
            .states
            .iter()
            .map(|(id, state)| (id, state["state"].as_str().unwrap_or_default()))
            .collect();
        let permanent: BTreeMap<_, _> =
            history.final_state.states.iter().map(|(id, word)| (id, word.as_str())).collect();
        verdict.expect(Promise::State, states == permanent, || {
            format!("{who} ended with the states {states:?}, the table with {permanent:?}")
        });
    }
    for (rule_id, version) in &history.final_state.directory {
        let row = table.get(rule_id);
        verdict.expect(Promise::Convergence, row.is_some_and(|row| row.version == *version), || {
            format!("{rule_id}: the file has version {version}, the table {row:?}")
        });
    }
    for removal in &history.removals {
        let stands = history.final_state.directory.contains_key(&removal.rule_id)
            || foreign.contains(&removal.rule_id);
        verdict.expect(Promise::Deletes, stands || !table.contains_key(&removal.rule_id), || {
            format!("{}: its file is gone, and its row stands", removal.rule_id)
        });
    }
}

fn is_stamped_wrong(history: &History, write: &Write) -> bool {
    let now = history.began_at;
    stamp(write).is_some_and(|stamp| (stamp - now).abs() > WRONG)
}

fn stamp(write: &Write) -> Option<i64> {
    Timestamp::parse(&write.updated_at).map(Timestamp::as_micros)
}

/// Every committed row is complete, and was written by its writer.
fn judge_rows(history: &History, verdict: &mut Verdict) {
    let roles = &history.roles;
    for write in &history.audit {
        let Some(rule) = &write.written else { continue };
        verdict.expect(Promise::WholeRows, history.texts.get(&rule.sha256) == Some(rule), || {
            format!("{}: a row that nobody wrote: {rule:?}", write.rule_id)
        });
        let invalid = roles.invalid.contains(&(rule.rule_id.clone(), rule.version));
        verdict.expect(Promise::LastGood, !invalid, || format!("{rule:?} is no rule, and was written"));
        let by = if roles.foreign.contains(&write.rule_id) { "admin" } else { "filesystem" };
        verdict.expect(Promise::OtherWriters, write.updated_by == by, || {
            format!("{} was written by {} and is {by}'s", write.rule_id, write.updated_by)
        });
    }
    for rule_id in &roles.foreign {
        let removed = history.removals.iter().filter(|removal| removal.rule_id == *rule_id).count();
        let deleted =
            history.audit.iter().filter(|write| write.rule_id == *rule_id && write.written.is_none());
        verdict.expect(Promise::OtherWriters, deleted.count() <= removed, || {
            format!("{rule_id} was deleted more often than its writer did")
        });
    }
}

/// The master's stamps rise above every earlier one, whatever its clock does and whichever master it is.
fn judge_stamps(history: &History, verdict: &mut Verdict) {
    let mut permanent: BTreeMap<&str, i64> = BTreeMap::new();
    for write in history.audit.iter().filter(|write| write.updated_by == "filesystem") {
        if let (Some(_), Some(stamp)) = (&write.written, stamp(write)) {
            let greatest = permanent.values().max().copied().unwrap_or(i64::MIN);
            verdict.expect(Promise::TwoMasters, stamp > greatest, || {
                format!("{} was stamped {}, not above what stood", write.rule_id, write.updated_at)
            });
            permanent.insert(&write.rule_id, stamp);
        } else {
            permanent.remove(&*write.rule_id);
        }
    }
}

/// A master writes in at most as many turns as it took the lock; two masters at once would take more turns. Rows that
/// both logged, or neither logged before it was killed, do not count.
fn judge_turns(history: &History, verdict: &mut Verdict) {
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut before = None;
    for write in &history.audit {
        let Some(rule) = &write.written else { continue };
        let key = (rule.rule_id.clone(), rule.version);
        let mut writers = history.masters.iter().filter(|(_, log)| log.wrote.contains(&key));
        if let (Some((who, _)), None) = (writers.next(), writers.next())
            && before != Some(who)
        {
            *turns.entry(who).or_default() += 1;
            before = Some(who);
        }
    }
    for (who, log) in &history.masters {
        let turns = turns.get(&**who).copied().unwrap_or_default();
        verdict.expect(Promise::TwoMasters, turns <= log.took_the_lock, || {
            format!("{who} wrote in {turns} turns and took the lock {} times", log.took_the_lock)
        });
    }
}
