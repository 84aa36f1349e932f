//! Judges that each state expires on time, by the database's clock, and that no newer state falls to an older expiry.

use std::collections::BTreeMap;

use rulesyncd::clock::Timestamp;
use serde_json::Value;

use super::super::{Fault, History, Order, Transcript, worker_host};
use super::replay::word;
use super::{Promise, Verdict};

/// A state expires within a second; the rest is for a busy machine.
const LATE: u64 = 5_000;

/// A clock that steps back by no more than this does not bring an expired state back.
const EARLY: i64 = 1_500_000;

/// For so long after an outage or its start, a worker may use an older reading of the database's clock.
const UNKNOWING: u64 = 16_000;

pub(super) fn judge(history: &History, verdict: &mut Verdict) {
    for transcript in history.transcripts.iter().filter(|transcript| transcript.prompt) {
        Watch { history, transcript, states: BTreeMap::new(), began: 0 }.run(verdict);
    }
    judge_last_words(history, verdict);
}

/// One subscriber's states as it received them.
struct Watch<'h> {
    history: &'h History,
    transcript: &'h Transcript,
    states: BTreeMap<&'h str, &'h Value>,
    /// When the epoch was first received.
    began: u64,
}

impl<'h> Watch<'h> {
    fn run(mut self, verdict: &mut Verdict) {
        let mut epoch = "";
        for connection in &self.transcript.connections {
            for line in connection {
                let (said, at) = (&line.said, line.at);
                match word(said, "type") {
                    "hello" if word(said, "epoch") != epoch => {
                        (epoch, self.began) = (word(said, "epoch"), at)
                    }
                    "snapshot_begin" => self.states.clear(),
                    "rule" => self.set(word(said, "rule_id"), &said["new_value"]["state"]),
                    "state" => self.set(word(said, "rule_id"), &said["new_value"]),
                    "change" => {
                        if said["auto_revert"] == true {
                            self.judge_end(word(said, "rule_id"), at, verdict);
                        }
                        match word(said, "change_kind") {
                            "state" => self.set(word(said, "rule_id"), &said["new_value"]),
                            _ if said["new_value"].is_object() => {
                                self.set(word(said, "rule_id"), &said["new_value"]["state"]);
                            }
                            _ => {}
                        }
                    }
                    // Everything before a heartbeat was received, so no expired state may be left.
                    "heartbeat" => self.judge_overdue(at, verdict),
                    _ => {}
                }
            }
        }
    }

    fn set(&mut self, rule_id: &'h str, state: &'h Value) {
        if state["state"] == "enabled" {
            self.states.remove(rule_id);
        } else {
            self.states.insert(rule_id, state);
        }
    }

    /// The least and the greatest time of the database's clock that the worker may know; the least is so long ago
    /// that a state which expired before it is late.
    fn clock(&self, at: u64) -> (i64, i64) {
        let host = worker_host(self.transcript.worker);
        let long_ago = at.saturating_sub(UNKNOWING);
        let unknowing =
            self.began >= long_ago || self.history.faults_of(&host, long_ago, at).any(Fault::is_outage);
        let offsets = |clock: &str, since| self.history.offsets(clock, since, at);
        let (least, most) = if unknowing {
            let (database, own) = (offsets("database", long_ago), offsets(&host, long_ago));
            (database.0.min(own.0), database.1.max(own.1))
        } else {
            offsets("database", at.saturating_sub(LATE))
        };
        let late = i64::try_from(LATE).unwrap_or_default() * 1_000;
        (self.history.time(at) - late + least, self.history.time(at) + most)
    }

    fn judge_end(&self, rule_id: &str, at: u64, verdict: &mut Verdict) {
        let last = self.states.get(rule_id).copied();
        let (least, greatest) = self.clock(at);
        let end = last.and_then(end_of);
        if let Some(end) = end.filter(|&end| end <= greatest + EARLY) {
            verdict.slowest_expiry =
                verdict.slowest_expiry.max((least - end) / 1_000 + i64::try_from(LATE).unwrap_or(0));
            verdict.expect(Promise::State, least <= end, || {
                format!("{}: the state of {rule_id} ended late, at {at} ms: {last:?}", self.transcript.name)
            });
            return;
        }
        // A failover may have cut away the newer state.
        if self.history.failovers().any(|fault| (fault.from..=fault.to + UNKNOWING).contains(&at)) {
            return;
        }
        // The last state that was received does not expire yet; so a newer one must have expired.
        let orders =
            || self.history.orders.iter().filter(|order| order.rule_id == rule_id && order.from <= at);
        let since = last.and_then(|last| orders().position(|order| is_answer(order, last)));
        let newer = orders().skip(since.map_or(0, |place| place + 1));
        let mut ended = newer.filter(|order| {
            let end = order.answer.as_ref().and_then(end_of);
            order.ends && end.is_none_or(|end| end <= greatest + EARLY)
        });
        let found = ended.next().is_some();
        verdict.expect(Promise::State, found, || {
            format!(
                "{}: a newer state of {rule_id} fell to an older end, at {at} ms: {last:?}",
                self.transcript.name
            )
        });
    }

    fn judge_overdue(&self, at: u64, verdict: &mut Verdict) {
        for (rule_id, state) in &self.states {
            if let Some(end) = end_of(state) {
                let (least, _) = self.clock(at);
                verdict.expect(Promise::State, least <= end, || {
                    format!(
                        "{}: the state of {rule_id} is over and goes on, at {at} ms: {state}",
                        self.transcript.name
                    )
                });
            }
        }
    }
}

fn end_of(state: &Value) -> Option<i64> {
    Timestamp::parse(state["expires_at"].as_str()?).map(Timestamp::as_micros)
}

/// Whether this state is the result of the order.
fn is_answer(order: &Order, state: &Value) -> bool {
    order
        .answer
        .as_ref()
        .is_some_and(|answer| !answer["set_at"].is_null() && answer["set_at"] == state["set_at"])
}

/// The last order for each rule is effective at the end, unless its state was to expire. An order that was carried out
/// during a failover may have been cut away; then the one before it counts, too.
fn judge_last_words(history: &History, verdict: &mut Verdict) {
    let mut last: BTreeMap<&str, Vec<Option<&Order>>> = BTreeMap::new();
    for order in &history.orders {
        // Before the first order there was no state.
        let words = last.entry(&order.rule_id).or_insert_with(|| vec![None]);
        let mut failovers = history.failovers();
        if !failovers.any(|fault| fault.from <= order.to && order.from <= fault.to) {
            words.clear();
        }
        words.push(Some(order));
    }
    for (rule_id, words) in last {
        if words.iter().flatten().all(|order| order.answer.is_some() && !order.ends) {
            let stands = history.final_state.states.get(rule_id);
            let words: Vec<_> =
                words.into_iter().map(|order| order.and_then(|order| order.state.as_ref())).collect();
            verdict.expect(Promise::State, words.contains(&stands), || {
                format!("the last word on {rule_id} was {words:?}, and {stands:?} stands")
            });
        }
    }
}
