//! States: that each ends on time, by the database's clock, and no newer one to an older end.

use std::collections::BTreeMap;

use rulesyncd::clock::Timestamp;
use serde_json::Value;

use super::super::{Fault, Heard, History, Order, worker_host};
use super::Verdict;
use super::replay::word;

/// A state ends within a second of its end; so much is given to a busy machine.
const LATE: u64 = 5_000;

/// Expiry is judged so much early where a clock is behind what was judged before by no more.
const EARLY: i64 = 1_500_000;

/// For so long after an outage, or its own start, a worker may go by a clock of before.
const UNKNOWING: u64 = 16_000;

pub(super) fn judge(history: &History, verdict: &mut Verdict) {
    for heard in history.heard.iter().filter(|heard| heard.prompt) {
        Watch { history, heard, states: BTreeMap::new(), began: 0 }.run(verdict);
    }
    judge_last_words(history, verdict);
}

/// One subscriber's states as it heard of them.
struct Watch<'h> {
    history: &'h History,
    heard: &'h Heard,
    states: BTreeMap<&'h str, &'h Value>,
    /// When the epoch was first heard of.
    began: u64,
}

impl<'h> Watch<'h> {
    fn run(mut self, verdict: &mut Verdict) {
        let mut epoch = "";
        for connection in &self.heard.connections {
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
                    // All that was said before has been heard: what has ended must have been told.
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

    /// What the database's clock shows at least and at most, as far as the worker may know; the
    /// first so much ago that whatever ended until then is late.
    fn clock(&self, at: u64) -> (i64, i64) {
        let host = worker_host(self.heard.worker);
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
            verdict.expect(7, least <= end, || {
                format!("{}: the state of {rule_id} ended late, at {at} ms: {last:?}", self.heard.name)
            });
            return;
        }
        // What was heard last does not end yet; then one must have that was set after it.
        let orders =
            || self.history.orders.iter().filter(|order| order.rule_id == rule_id && order.from <= at);
        let since = last.and_then(|last| orders().position(|order| is_answer(order, last)));
        let newer = orders().skip(since.map_or(0, |place| place + 1));
        let mut ended = newer.filter(|order| {
            let end = order.answer.as_ref().and_then(end_of);
            order.ends && end.is_none_or(|end| end <= greatest + EARLY)
        });
        let found = ended.next().is_some();
        verdict.expect(7, found, || {
            format!(
                "{}: a newer state of {rule_id} fell to an older end, at {at} ms: {last:?}",
                self.heard.name
            )
        });
    }

    fn judge_overdue(&self, at: u64, verdict: &mut Verdict) {
        for (rule_id, state) in &self.states {
            if let Some(end) = end_of(state) {
                let (least, _) = self.clock(at);
                verdict.expect(7, least <= end, || {
                    format!(
                        "{}: the state of {rule_id} is over and goes on, at {at} ms: {state}",
                        self.heard.name
                    )
                });
            }
        }
    }
}

fn end_of(state: &Value) -> Option<i64> {
    Timestamp::parse(state["expires_at"].as_str()?).map(Timestamp::as_micros)
}

/// Whether this state is what the order came to.
fn is_answer(order: &Order, state: &Value) -> bool {
    order
        .answer
        .as_ref()
        .is_some_and(|answer| !answer["set_at"].is_null() && answer["set_at"] == state["set_at"])
}

/// The last order on each rule stands at the end, unless it was to end by itself.
fn judge_last_words(history: &History, verdict: &mut Verdict) {
    let last: BTreeMap<&str, &Order> =
        history.orders.iter().map(|order| (order.rule_id.as_str(), order)).collect();
    for (rule_id, order) in last {
        if order.answer.is_some() && !order.ends {
            let stands = history.rest.states.get(rule_id);
            verdict.expect(7, stands == order.state.as_ref(), || {
                format!("the last word on {rule_id} was {:?}, and {stands:?} stands", order.state)
            });
        }
    }
}
