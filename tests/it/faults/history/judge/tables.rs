//! What was written to the tables, and what stands there, in the directory and with the
//! subscribers at the end.

use std::collections::{BTreeMap, BTreeSet};

use rulesyncd::clock::Timestamp;

use super::super::{History, Write};
use super::Verdict;
use super::replay::Evidence;

/// A stamp that is wrong by more than this comes from a clock that is.
const WRONG: i64 = 900_000_000;

pub(super) fn judge(history: &History, evidence: &Evidence<'_>, verdict: &mut Verdict) {
    judge_rest(history, evidence, verdict);
    judge_rows(history, verdict);
    judge_stamps(history, verdict);
    judge_turns(history, verdict);
}

/// At rest all say the same.
fn judge_rest(history: &History, evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let (table, foreign) = (&history.rest.table, &history.cast.foreign);
    let last: BTreeMap<&str, &Write> = history.audit.iter().map(|write| (&*write.rule_id, write)).collect();
    let ids = |known: &BTreeMap<String, _>| known.keys().cloned().collect::<BTreeSet<String>>();
    for (who, known) in &evidence.ends {
        for rule_id in ids(table).union(&ids(&known.rules)) {
            let (row, heard) = (table.get(rule_id), known.rules.get(rule_id));
            let promise = if foreign.contains(rule_id) { 14 } else { 1 };
            let complaint = || format!("{who} ended with {heard:?}, the table with {row:?}");
            verdict.expect(promise, row == heard, complaint);
            // Whatever clock it was stamped by.
            if last.get(&**rule_id).is_some_and(|write| is_stamped_wrong(history, write)) {
                verdict.expect(12, row == heard, complaint);
            }
        }
        let states: BTreeMap<_, _> = known
            .states
            .iter()
            .map(|(id, state)| (id, state["state"].as_str().unwrap_or_default()))
            .collect();
        let standing: BTreeMap<_, _> =
            history.rest.states.iter().map(|(id, word)| (id, word.as_str())).collect();
        verdict.expect(7, states == standing, || {
            format!("{who} ended with the states {states:?}, the table with {standing:?}")
        });
    }
    for (rule_id, version) in &history.rest.directory {
        let row = table.get(rule_id);
        verdict.expect(1, row.is_some_and(|row| row.version == *version), || {
            format!("{rule_id}: the file has version {version}, the table {row:?}")
        });
    }
    for removal in &history.removals {
        let stands =
            history.rest.directory.contains_key(&removal.rule_id) || foreign.contains(&removal.rule_id);
        verdict.expect(5, stands || !table.contains_key(&removal.rule_id), || {
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

/// Every row that was ever committed is whole, and a writer's own.
fn judge_rows(history: &History, verdict: &mut Verdict) {
    let cast = &history.cast;
    for write in &history.audit {
        let Some(rule) = &write.written else { continue };
        verdict.expect(8, history.texts.get(&rule.sha256) == Some(rule), || {
            format!("{}: a row that nobody wrote: {rule:?}", write.rule_id)
        });
        let invalid = cast.invalid.contains(&(rule.rule_id.clone(), rule.version));
        verdict.expect(6, !invalid, || format!("{rule:?} is no rule, and was written"));
        let by = if cast.foreign.contains(&write.rule_id) { "admin" } else { "filesystem" };
        verdict.expect(14, write.updated_by == by, || {
            format!("{} was written by {} and is {by}'s", write.rule_id, write.updated_by)
        });
    }
    for rule_id in &cast.foreign {
        let removed = history.removals.iter().filter(|removal| removal.rule_id == *rule_id).count();
        let deleted =
            history.audit.iter().filter(|write| write.rule_id == *rule_id && write.written.is_none());
        verdict.expect(14, deleted.count() <= removed, || {
            format!("{rule_id} was deleted more often than its writer did")
        });
    }
}

/// The master's stamps rise above every one that stands, whatever its clock does and whoever it is.
fn judge_stamps(history: &History, verdict: &mut Verdict) {
    let mut standing: BTreeMap<&str, i64> = BTreeMap::new();
    for write in history.audit.iter().filter(|write| write.updated_by == "filesystem") {
        if let (Some(_), Some(stamp)) = (&write.written, stamp(write)) {
            let greatest = standing.values().max().copied().unwrap_or(i64::MIN);
            verdict.expect(11, stamp > greatest, || {
                format!("{} was stamped {}, not above what stood", write.rule_id, write.updated_at)
            });
            standing.insert(&write.rule_id, stamp);
        } else {
            standing.remove(&*write.rule_id);
        }
    }
}

/// A master writes in as many turns as it took the lock; two at once would take turns oftener. What
/// both wrote, or neither told of before it was killed, is nobody's.
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
        verdict.expect(11, turns <= log.took_the_lock, || {
            format!("{who} wrote in {turns} turns and took the lock {} times", log.took_the_lock)
        });
    }
}
