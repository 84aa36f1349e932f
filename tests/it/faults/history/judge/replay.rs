//! What each subscriber heard, taken in as the protocol says, and all of it compared.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use serde_json::Value;

use super::super::{Fault, Heard, History, Line, Removal, Rule, worker_host};
use super::Verdict;
use super::known::Known;

/// A subscriber that reads at once hears a change within this time of the first who heard it.
const PROMPT: u64 = 5_000;

/// A database that answers may be late: how old the last answer may be then, and from what age on that is told.
const OVERDUE: RangeInclusive<u64> = 500..=5_000;

/// A deletion is laid to a directory that was empty so long before.
const AFTERMATH: u64 = 5_000;

/// A change of an epoch, by its number.
type Number = (String, u64);

/// A worker's run.
#[derive(Default)]
struct Epoch {
    worker: usize,
    /// When it was first heard of.
    from: u64,
    /// What it began with, where that was heard.
    began: Option<Known>,
}

/// What all have heard together.
#[derive(Default)]
pub(super) struct Evidence<'h> {
    /// What each number names, when that was first heard, and by whom.
    named: HashMap<Number, (&'h Value, u64)>,
    prompt: Vec<(Number, u64, &'h str)>,
    /// What is known after a change, by who heard all since its snapshot; and by who resumed.
    whole: HashMap<Number, (u64, &'h str)>,
    resumed: Vec<(Number, u64, &'h str)>,
    /// What was last known of an epoch.
    last: HashMap<String, (u64, Known)>,
    /// Every epoch that was heard of. Their names tell no order: a clock may have stepped back.
    epochs: BTreeMap<String, Epoch>,
    /// Deletions that nobody meant, after the directory was empty for a while.
    swept: Vec<(u64, String)>,
    /// What those ended with who listened to the end.
    pub(super) ends: Vec<(&'h str, Known)>,
}

impl<'h> Evidence<'h> {
    pub(super) fn hear(&mut self, history: &'h History, heard: &'h Heard, verdict: &mut Verdict) {
        Replay {
            history,
            heard,
            evidence: self,
            known: Known::default(),
            at: Number::default(),
            newest: BTreeMap::new(),
            met: "",
            resumed: false,
        }
        .run(verdict);
    }

    /// Holds what the subscribers know against each other.
    pub(super) fn compare(&self, history: &History, verdict: &mut Verdict) {
        for (number, known, who) in &self.resumed {
            if let Some((whole, other)) = self.whole.get(number) {
                verdict.expect(4, known == whole, || {
                    format!("after change {number:?} {who}, who resumed, knows other things than {other}")
                });
            }
        }
        for (number, at, who) in &self.prompt {
            let first = self.named[number].1;
            verdict.expect(13, at.saturating_sub(first) <= PROMPT, || {
                format!("{who} heard change {number:?} {} ms after another", at - first)
            });
        }
        for fault in history.emptied() {
            let swept = self.swept.iter().find(|(at, _)| in_the_aftermath(fault, *at));
            verdict.expect(15, swept.is_none(), || swept.map(|(_, what)| what.clone()).unwrap_or_default());
        }
        for restart in &history.restarts {
            let Some(epoch) = self.epochs.get(&restart.epoch) else { continue };
            let earlier = self
                .epochs
                .iter()
                .filter(|(_, other)| other.worker == epoch.worker && other.from < epoch.from);
            let Some((name, before)) = earlier.max_by_key(|(_, other)| other.from) else { continue };
            // Who is killed may forget the last moment, and its successor can have ended unheard.
            let host = worker_host(restart.worker);
            let mut ends = history.faults_of(&host, before.from, epoch.from);
            if ends.any(|fault| fault.what == "worker killed") {
                continue;
            }
            if let (Some((_, before)), Some(began)) = (self.last.get(name), &epoch.began) {
                verdict.expect(9, before.rules == began.rules, || {
                    format!(
                        "worker {} knew {:?} and served {:?} after its restart without the database",
                        restart.worker, before.rules, began.rules
                    )
                });
            }
        }
    }
}

fn in_the_aftermath(emptied: &Fault, at: u64) -> bool {
    (emptied.from..=emptied.to + AFTERMATH).contains(&at)
}

/// One subscriber's records, taken in line by line.
struct Replay<'e, 'h> {
    history: &'h History,
    heard: &'h Heard,
    evidence: &'e mut Evidence<'h>,
    known: Known,
    /// The epoch and the last change that was heard.
    at: Number,
    /// The greatest version of each rule that was heard in this epoch.
    newest: BTreeMap<String, i64>,
    /// The epoch of the connection.
    met: &'h str,
    /// Whether it resumed since its last snapshot.
    resumed: bool,
}

impl<'h> Replay<'_, 'h> {
    fn run(mut self, verdict: &mut Verdict) {
        for connection in &self.heard.connections {
            verdict.connections += 1;
            let mut snapshot = None;
            let mut started = false;
            for line in connection {
                let said = &line.said;
                match said["type"].as_str().unwrap_or_default() {
                    "hello" => self.meet(line),
                    "snapshot_begin" => {
                        *verdict.snapshots.entry(word(said, "reason").to_owned()).or_default() += 1;
                        self.known = Known::default();
                        self.at = (word(said, "epoch").to_owned(), number(said, "seq"));
                        snapshot = Some([number(said, "rules"), number(said, "states"), 0, 0]);
                        (started, self.resumed) = (true, false);
                    }
                    "rule" => {
                        verdict.expect(3, snapshot.is_some(), || {
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
                        verdict.expect(2, counts[..2] == counts[2..], || {
                            self.complain("a snapshot of another size than it said", line)
                        });
                        self.end_snapshot(line, verdict);
                    }
                    "change" => {
                        verdict.changes += 1;
                        if !std::mem::replace(&mut started, true) {
                            self.resumed = true;
                            verdict.expect(4, self.met == self.at.0, || {
                                self.complain("it was let resume in another epoch than its own", line)
                            });
                        }
                        self.take_change(line, verdict);
                    }
                    "heartbeat" => self.take_heartbeat(line, verdict),
                    "error" => {}
                    _ => verdict.expect(3, false, || self.complain("an unknown line", line)),
                }
            }
        }
        if self.heard.to_the_end {
            self.evidence.ends.push((&self.heard.name, self.known));
        }
    }

    fn meet(&mut self, line: &'h Line) {
        let name = word(&line.said, "epoch");
        self.met = name;
        if name != self.at.0 {
            self.newest.clear();
        }
        let new = || Epoch { worker: self.heard.worker, from: line.at, began: None };
        let epoch = self.evidence.epochs.entry(name.to_owned()).or_insert_with(new);
        epoch.from = epoch.from.min(line.at);
    }

    fn end_snapshot(&mut self, line: &Line, verdict: &mut Verdict) {
        for rule_id in self.history.cast.standing.iter().filter(|id| !self.was_taken_away(id, line)) {
            verdict.expect(5, self.known.rules.contains_key(rule_id), || {
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

    /// Keeps what is known now, to be compared.
    fn note(&mut self, line: &Line, verdict: &mut Verdict) {
        let known = (self.at.clone(), self.known.sum(), &*self.heard.name);
        if self.resumed {
            self.evidence.resumed.push(known);
        } else {
            let (sum, other) = *self.evidence.whole.entry(known.0).or_insert((known.1, known.2));
            verdict.expect(2, sum == self.known.sum(), || {
                self.complain(&format!("it knows other things than {other} does"), line)
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
        verdict
            .expect(3, seq == self.at.1 + 1, || self.complain(&format!("after change {}", self.at.1), line));
        self.at.1 = seq;
        let first = self.evidence.named.entry(self.at.clone()).or_insert((said, line.at));
        let other = first.0;
        first.1 = first.1.min(line.at);
        verdict.expect(3, other == said, || {
            self.complain(&format!("two changes of one number, the other is {other}"), line)
        });
        if self.heard.prompt {
            self.evidence.prompt.push((self.at.clone(), line.at, &self.heard.name));
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

    /// A rule goes only after somebody took its file or row away.
    fn judge_deletion(&mut self, line: &Line, verdict: &mut Verdict) {
        let meant = self.was_taken_away(word(&line.said, "rule_id"), line);
        if !meant && self.history.emptied().any(|fault| in_the_aftermath(fault, line.at)) {
            self.evidence.swept.push((line.at, self.complain("a rule went with the directory", line)));
        } else {
            verdict.expect(5, meant, || self.complain("a rule was deleted whose file stood", line));
        }
    }

    fn was_taken_away(&self, rule_id: &str, line: &Line) -> bool {
        let taken = |removal: &Removal| removal.rule_id == rule_id && removal.at <= line.at;
        self.history.removals.iter().any(taken)
    }

    fn take_rule(&mut self, line: &Line, verdict: &mut Verdict) {
        let said = &line.said;
        let (rule_id, version) =
            (word(said, "rule_id"), said["new_value"]["rule_version"].as_i64().unwrap_or_default());
        let rule =
            Rule { rule_id: rule_id.to_owned(), version, sha256: word(said, "content_sha256").to_owned() };
        let invalid = self.history.cast.invalid.contains(&(rule_id.to_owned(), version));
        verdict.expect(6, !invalid, || self.complain("what stood in a file that is no rule", line));
        let bad = self.history.cast.bad_rows.contains(rule_id);
        verdict.expect(16, !bad, || self.complain("a row that is no rule", line));
        verdict.expect(8, self.history.texts.get(&rule.sha256) == Some(&rule), || {
            self.complain("a text that nobody wrote", line)
        });
        if self.history.cast.foreign.contains(rule_id) {
            verdict.expect(14, word(said, "updated_by") == "admin", || {
                self.complain("another program's rule in the master's name", line)
            });
        }
        let newest = self.newest.entry(rule_id.to_owned()).or_insert(version);
        let before = std::mem::replace(newest, version.max(*newest));
        verdict.expect(2, before <= version, || {
            self.complain(&format!("an older version after version {before}"), line)
        });
        self.known.set_rule(rule_id, Some(rule));
    }

    fn take_heartbeat(&mut self, line: &Line, verdict: &mut Verdict) {
        let stale = number(&line.said, "stale_for_ms");
        match word(&line.said, "database") {
            "up" => {
                let host = worker_host(self.heard.worker);
                let frozen = self
                    .history
                    .faults_of(&host, line.at.saturating_sub(*OVERDUE.end()), line.at)
                    .any(Fault::is_outage);
                verdict.expect(10, stale == 0 || OVERDUE.contains(&stale) || frozen, || {
                    self.complain("stale though the database answers", line)
                });
            }
            _ => verdict
                .expect(9, stale > 0, || self.complain("fresh though the database is unavailable", line)),
        }
    }

    fn complain(&self, what: &str, line: &Line) -> String {
        format!("{} (epoch {}, at {} ms): {what}: {}", self.heard.name, self.at.0, line.at, line.said)
    }
}

pub(super) fn word<'l>(line: &'l Value, key: &str) -> &'l str {
    line[key].as_str().unwrap_or_default()
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_default()
}
