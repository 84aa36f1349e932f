//! Replays what a subscriber received, as the protocol says.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::super::{Fault, History, Line, MASTERS, Removal, Rule, Transcript, worker_host};
use super::evidence::{Epoch, Evidence, Number, in_the_aftermath};
use super::replica::Replica;
use super::{Promise, Verdict};

/// How old the rules of a database that answers may be, and from what age on the worker reports it, in milliseconds.
const OVERDUE: RangeInclusive<u64> = 500..=5_000;

impl<'h> Evidence<'h> {
    /// Adds what a subscriber received.
    pub(super) fn hear(&mut self, history: &'h History, transcript: &'h Transcript, verdict: &mut Verdict) {
        Replay {
            history,
            transcript,
            evidence: self,
            known: Replica::default(),
            at: Number::default(),
            newest: BTreeMap::new(),
            went_back: BTreeMap::new(),
            met: "",
            resumed: false,
        }
        .run(verdict);
    }
}

/// Replays one subscriber's lines.
struct Replay<'e, 'h> {
    history: &'h History,
    transcript: &'h Transcript,
    evidence: &'e mut Evidence<'h>,
    known: Replica,
    /// The epoch and the last change that was received.
    at: Number,
    /// The greatest version of each rule in this epoch; the last one, once it went back.
    newest: BTreeMap<String, i64>,
    /// How often each rule went back: to an older version, or away although nobody removed it.
    went_back: BTreeMap<String, usize>,
    /// The epoch of the connection.
    met: &'h str,
    /// Whether it resumed since its last snapshot.
    resumed: bool,
}

impl<'h> Replay<'_, 'h> {
    fn run(mut self, verdict: &mut Verdict) {
        for connection in &self.transcript.connections {
            verdict.connections += 1;
            let mut snapshot = None;
            let mut started = false;
            for line in connection {
                let said = &line.said;
                match said["type"].as_str().unwrap_or_default() {
                    "hello" => self.meet(line),
                    "snapshot_begin" => {
                        *verdict.snapshots.entry(word(said, "reason").to_owned()).or_default() += 1;
                        self.known = Replica::default();
                        self.at = (word(said, "epoch").to_owned(), number(said, "seq"));
                        snapshot = Some([number(said, "rules"), number(said, "states"), 0, 0]);
                        (started, self.resumed) = (true, false);
                    }
                    "rule" => {
                        verdict.expect(Promise::Order, snapshot.is_some(), || {
                            self.complain("a rule outside of a snapshot", line)
                        });
                        snapshot.iter_mut().for_each(|counts| counts[2] += 1);
                        self.take_rule(line, verdict);
                        self.known.set_state(word(said, "rule_id"), &said["new_value"]["state"]);
                    }
                    "state" => {
                        snapshot.iter_mut().for_each(|counts| counts[3] += 1);
                        self.known.set_state(word(said, "rule_id"), &said["new_value"]);
                    }
                    "snapshot_end" => {
                        let counts = snapshot.take().unwrap_or_default();
                        verdict.expect(Promise::NoLoss, counts[..2] == counts[2..], || {
                            self.complain("a snapshot of another size than announced", line)
                        });
                        self.end_snapshot(line, verdict);
                    }
                    "change" => {
                        verdict.changes += 1;
                        if !std::mem::replace(&mut started, true) {
                            self.resumed = true;
                            verdict.expect(Promise::Resume, self.met == self.at.0, || {
                                self.complain("it resumed in another epoch than its own", line)
                            });
                        }
                        self.take_change(line, verdict);
                    }
                    "heartbeat" => self.take_heartbeat(line, verdict),
                    "error" => {}
                    _ => verdict.expect(Promise::Order, false, || self.complain("an unknown line", line)),
                }
            }
        }
        if self.transcript.to_the_end {
            self.evidence.ends.push((&self.transcript.name, self.known));
        }
    }

    fn meet(&mut self, line: &'h Line) {
        let name = word(&line.said, "epoch");
        self.met = name;
        if name != self.at.0 {
            self.newest.clear();
        }
        let new = || Epoch { worker: self.transcript.worker, from: line.at, began: None };
        let epoch = self.evidence.epochs.entry(name.to_owned()).or_insert_with(new);
        epoch.from = epoch.from.min(line.at);
    }

    fn end_snapshot(&mut self, line: &Line, verdict: &mut Verdict) {
        for rule_id in self.history.roles.permanent.iter().filter(|id| !self.was_taken_away(id, line)) {
            verdict.expect(Promise::Deletes, self.known.rules.contains_key(rule_id), || {
                self.complain(&format!("a snapshot without {rule_id}, whose file stands"), line)
            });
        }
        if self.at.1 == 0
            && let Some(epoch) = self.evidence.epochs.get_mut(&self.at.0)
        {
            epoch.began = Some(self.known.clone());
        }
        self.note(line, verdict);
    }

    /// Keeps the current replica for the comparison.
    fn note(&mut self, line: &Line, verdict: &mut Verdict) {
        let known = (self.at.clone(), self.known.sum(), &*self.transcript.name);
        if self.resumed {
            self.evidence.resumed.push(known);
        } else {
            let (sum, other) = *self.evidence.whole.entry(known.0).or_insert((known.1, known.2));
            verdict.expect(Promise::NoLoss, sum == self.known.sum(), || {
                self.complain(&format!("it differs from {other}"), line)
            });
        }
        let last = self.evidence.last.entry(self.at.0.clone()).or_default();
        if self.at.1 >= last.0 {
            *last = (self.at.1, self.known.clone());
        }
    }

    fn take_change(&mut self, line: &'h Line, verdict: &mut Verdict) {
        let said = &line.said;
        let seq = number(said, "seq");
        verdict.expect(Promise::Order, seq == self.at.1 + 1, || {
            self.complain(&format!("after change {}", self.at.1), line)
        });
        self.at.1 = seq;
        let first = self.evidence.named.entry(self.at.clone()).or_insert((said, line.at));
        let other = first.0;
        first.1 = first.1.min(line.at);
        verdict.expect(Promise::Order, other == said, || {
            self.complain(&format!("two changes of one number, the other is {other}"), line)
        });
        if self.transcript.prompt {
            self.evidence.prompt.push((self.at.clone(), line.at, &self.transcript.name));
        }
        let rule_id = word(said, "rule_id");
        match (word(said, "change_kind"), &said["new_value"]) {
            ("definition", Value::Null) => {
                self.judge_deletion(line, verdict);
                self.known.set_rule(rule_id, None);
            }
            ("definition", value) => {
                self.take_rule(line, verdict);
                self.known.set_state(rule_id, &value["state"]);
            }
            (_, state) => self.known.set_state(rule_id, state),
        }
        self.note(line, verdict);
    }

    /// A rule may only be deleted after its file or row was removed.
    fn judge_deletion(&mut self, line: &Line, verdict: &mut Verdict) {
        let rule_id = word(&line.said, "rule_id");
        let meant = self.was_taken_away(rule_id, line)
            || (!self.history.roles.permanent.contains(rule_id) && self.may_go_back(rule_id, line));
        if !meant && self.history.emptied().any(|fault| in_the_aftermath(fault, line.at)) {
            self.evidence.swept.push((line.at, self.complain("a rule went with the directory", line)));
        } else {
            verdict.expect(Promise::Deletes, meant, || {
                self.complain("a rule was deleted whose file stood", line)
            });
        }
    }

    fn was_taken_away(&self, rule_id: &str, line: &Line) -> bool {
        let taken = |removal: &Removal| removal.rule_id == rule_id && removal.at <= line.at;
        self.history.removals.iter().any(taken)
    }

    /// Whether a rule may go back once more: what a failover cuts away was never committed, and a server that is behind
    /// does not have it yet. Each such change of the server takes a rule back once, and soon: a prompt subscriber says
    /// when, and every other one hears the same changes later.
    fn may_go_back(&mut self, rule_id: &str, line: &Line) -> bool {
        let host = worker_host(self.transcript.worker);
        let times = self.went_back.entry(rule_id.to_owned()).or_default();
        *times += 1;
        let mut outages = self.history.outages_of(&host, line.at);
        *times <= self.history.changes_of_server(&host, line.at)
            && (!self.transcript.prompt || outages.any(|outage| in_the_aftermath(outage, line.at)))
    }

    fn take_rule(&mut self, line: &Line, verdict: &mut Verdict) {
        let said = &line.said;
        let (rule_id, version) =
            (word(said, "rule_id"), said["new_value"]["rule_version"].as_i64().unwrap_or_default());
        let rule =
            Rule { rule_id: rule_id.to_owned(), version, sha256: word(said, "content_sha256").to_owned() };
        let invalid = self.history.roles.invalid.contains(&(rule_id.to_owned(), version));
        verdict.expect(Promise::LastGood, !invalid, || {
            self.complain("what stood in a file that is no rule", line)
        });
        let bad = self.history.roles.bad_rows.contains(rule_id);
        verdict.expect(Promise::Poison, !bad, || self.complain("a row that is no rule", line));
        verdict.expect(Promise::WholeRows, self.history.texts.get(&rule.sha256) == Some(&rule), || {
            self.complain("a text that nobody wrote", line)
        });
        if self.history.roles.foreign.contains(rule_id) {
            verdict.expect(Promise::OtherWriters, word(said, "updated_by") == "admin", || {
                self.complain("another program's rule in the master's name", line)
            });
        }
        let before = self.newest.insert(rule_id.to_owned(), version).unwrap_or(version);
        let in_order = before <= version || self.may_go_back(rule_id, line);
        verdict.expect(Promise::NoLoss, in_order, || {
            self.complain(&format!("an older version after version {before}"), line)
        });
        self.known.set_rule(rule_id, Some(rule));
    }

    fn take_heartbeat(&mut self, line: &Line, verdict: &mut Verdict) {
        let stale = number(&line.said, "stale_for_ms");
        match word(&line.said, "database") {
            // When a line was sent is only known of a prompt subscriber.
            "up" if self.transcript.prompt => {
                let host = worker_host(self.transcript.worker);
                let frozen = self
                    .history
                    .faults_of(&host, line.at.saturating_sub(*OVERDUE.end()), line.at)
                    .any(Fault::is_outage);
                verdict.expect(
                    Promise::DatabaseUnavailable,
                    stale == 0 || OVERDUE.contains(&stale) || frozen || self.no_master(line.at, stale),
                    || self.complain("stale though the database answers", line),
                );
            }
            "up" => {}
            _ => verdict.expect(Promise::WorkerKilled, stale > 0, || {
                self.complain("fresh though the database is unavailable", line)
            }),
        }
    }

    /// Whether a fault kept the masters from a sign of life for so long. Where there are several servers, nobody can tell
    /// then whether one is behind.
    fn no_master(&self, at: u64, silent: u64) -> bool {
        let since = at.saturating_sub(silent + *OVERDUE.end());
        let mut faults = MASTERS.into_iter().flat_map(|host| self.history.faults_of(host, since, at));
        self.history.servers > 1
            && faults.any(|fault| {
                fault.is_outage() || ["killed", "overflowed"].iter().any(|what| fault.what.contains(what))
            })
    }

    fn complain(&self, what: &str, line: &Line) -> String {
        format!("{} (epoch {}, at {} ms): {what}: {}", self.transcript.name, self.at.0, line.at, line.said)
    }
}

pub(super) fn word<'l>(line: &'l Value, key: &str) -> &'l str {
    line[key].as_str().unwrap_or_default()
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_default()
}
