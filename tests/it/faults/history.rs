//! What was heard and what stood at the end, and the judge of it. Knows nothing of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Serialize, Deserialize)]
pub(super) struct History {
    pub(super) seed: u64,
    pub(super) backend: String,
    pub(super) faults: BTreeMap<String, usize>,
    pub(super) heard: Vec<Heard>,
    /// Versions of the valid files at rest.
    pub(super) directory: BTreeMap<String, i64>,
    /// Versions of the rows at rest, others' rows too.
    pub(super) table: BTreeMap<String, i64>,
    /// States in force at rest.
    pub(super) states: BTreeMap<String, String>,
    /// Rules whose file stood all the time.
    pub(super) never_deleted: BTreeSet<String>,
    /// What stood in files that were no rules.
    pub(super) invalid: BTreeSet<(String, i64)>,
}

/// What one subscriber heard.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Heard {
    pub(super) worker: usize,
    pub(super) name: String,
    /// The lines of each connection.
    pub(super) connections: Vec<Vec<Value>>,
    /// Whether it listened to the end.
    pub(super) to_the_end: bool,
}

#[derive(Default)]
pub(super) struct Verdict {
    pub(super) violations: Vec<String>,
    subscribers: usize,
    connections: usize,
    changes: usize,
    resumes: usize,
    snapshots: BTreeMap<String, usize>,
    faults: BTreeMap<String, usize>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "judged {} changes on {} connections of {} subscribers ({} resumes, snapshots {:?}) under faults {:?}: {} violations",
            self.changes,
            self.connections,
            self.subscribers,
            self.resumes,
            self.snapshots,
            self.faults,
            self.violations.len()
        )
    }
}

impl History {
    pub(super) fn judge(&self) -> Verdict {
        let mut verdict = Verdict { faults: self.faults.clone(), ..Verdict::default() };
        // P3: a number of an epoch names one change, to whoever hears it.
        let mut named: BTreeMap<(String, u64), &Value> = BTreeMap::new();
        for heard in &self.heard {
            verdict.subscribers += 1;
            Replay::new(self, heard).run(&mut named, &mut verdict);
        }
        for (id, version) in &self.directory {
            if self.table.get(id) != Some(version) {
                verdict.violations.push(format!(
                    "P1: {id}: the file has version {version}, the table {:?}",
                    self.table.get(id)
                ));
            }
        }
        verdict
    }
}

/// One subscriber's records, taken in as the protocol says.
struct Replay<'a> {
    history: &'a History,
    heard: &'a Heard,
    epoch: String,
    seq: u64,
    rules: BTreeMap<String, i64>,
    states: BTreeMap<String, String>,
    /// The greatest version of each rule that was heard in this epoch.
    newest: BTreeMap<String, i64>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, heard: &'a Heard) -> Self {
        let (epoch, rules, states, newest) = Default::default();
        Self { history, heard, epoch, seq: 0, rules, states, newest }
    }

    fn run(mut self, named: &mut BTreeMap<(String, u64), &'a Value>, verdict: &mut Verdict) {
        for connection in &self.heard.connections {
            verdict.connections += 1;
            let mut snapshot = None;
            let mut started = false;
            for line in connection {
                match line["type"].as_str().unwrap() {
                    "hello" => {
                        let epoch = line["epoch"].as_str().unwrap();
                        if epoch != self.epoch {
                            self.newest.clear();
                        }
                    }
                    "snapshot_begin" => {
                        *verdict.snapshots.entry(line["reason"].as_str().unwrap().to_owned()).or_default() +=
                            1;
                        (self.rules, self.states) = Default::default();
                        self.epoch = line["epoch"].as_str().unwrap().to_owned();
                        self.seq = line["seq"].as_u64().unwrap();
                        snapshot =
                            Some((line["rules"].as_u64().unwrap(), line["states"].as_u64().unwrap(), 0, 0));
                        started = true;
                    }
                    "rule" => {
                        let Some((_, _, rules, _)) = &mut snapshot else {
                            verdict.violations.push(self.complain("a rule outside of a snapshot", line));
                            continue;
                        };
                        *rules += 1;
                        self.take_rule(line, verdict);
                        self.take_state(&line["rule_id"], &line["new_value"]["state"]);
                    }
                    "state" => {
                        if let Some((_, _, _, states)) = &mut snapshot {
                            *states += 1;
                        }
                        self.take_state(&line["rule_id"], &line["new_value"]);
                    }
                    "snapshot_end" => {
                        let Some((rules, states, heard_rules, heard_states)) = snapshot.take() else {
                            continue;
                        };
                        if (rules, states) != (heard_rules, heard_states) {
                            verdict
                                .violations
                                .push(self.complain("a snapshot of another size than it said", line));
                        }
                    }
                    "change" => {
                        verdict.changes += 1;
                        if !std::mem::replace(&mut started, true) {
                            verdict.resumes += 1;
                        }
                        self.take_change(line, named, verdict);
                    }
                    "heartbeat" | "error" => {}
                    _ => verdict.violations.push(self.complain("an unknown line", line)),
                }
            }
        }
        if self.heard.to_the_end {
            if self.rules != self.history.table {
                verdict.violations.push(format!(
                    "P1: {} ended with {:?}, the table with {:?}",
                    self.heard.name, self.rules, self.history.table
                ));
            }
            if self.states != self.history.states {
                verdict.violations.push(format!(
                    "P7: {} ended with states {:?}, the table with {:?}",
                    self.heard.name, self.states, self.history.states
                ));
            }
        }
    }

    fn take_change(
        &mut self,
        line: &'a Value,
        named: &mut BTreeMap<(String, u64), &'a Value>,
        verdict: &mut Verdict,
    ) {
        let seq = line["seq"].as_u64().unwrap();
        if seq != self.seq + 1 {
            verdict.violations.push(self.complain(&format!("P3: after change {}", self.seq), line));
        }
        self.seq = seq;
        let first = *named.entry((self.epoch.clone(), seq)).or_insert(line);
        if first != line {
            verdict
                .violations
                .push(self.complain(&format!("P3: two changes of one number, the other is {first}"), line));
        }
        let id = line["rule_id"].as_str().unwrap();
        match (line["change_kind"].as_str().unwrap(), &line["new_value"]) {
            ("definition", Value::Null) => {
                if self.history.never_deleted.contains(id) {
                    verdict.violations.push(self.complain("P5: a rule was deleted whose file stood", line));
                }
                self.rules.remove(id);
            }
            ("definition", _) => self.take_rule(line, verdict),
            (_, state) => self.take_state(&line["rule_id"], state),
        }
    }

    fn take_rule(&mut self, line: &Value, verdict: &mut Verdict) {
        let (id, version) =
            (line["rule_id"].as_str().unwrap(), line["new_value"]["rule_version"].as_i64().unwrap());
        if self.history.invalid.contains(&(id.to_owned(), version)) {
            verdict.violations.push(self.complain("P6: what stood in a file that is no rule", line));
        }
        let newest = self.newest.entry(id.to_owned()).or_insert(version);
        if version < *newest {
            let before = *newest;
            verdict
                .violations
                .push(self.complain(&format!("P2: an older version after version {before}"), line));
        } else {
            *newest = version;
        }
        self.rules.insert(id.to_owned(), version);
    }

    fn take_state(&mut self, id: &Value, state: &Value) {
        let (id, word) = (id.as_str().unwrap(), state["state"].as_str().unwrap());
        if word == "enabled" {
            self.states.remove(id);
        } else {
            self.states.insert(id.to_owned(), word.to_owned());
        }
    }

    fn complain(&self, what: &str, line: &Value) -> String {
        format!("{} (worker {}, epoch {}): {what}: {line}", self.heard.name, self.heard.worker, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(seq: u64, id: &str, version: i64) -> Value {
        json!({"type": "change", "seq": seq, "change_kind": "definition", "rule_id": id, "new_value": {"rule_version": version}})
    }

    fn begin(seq: u64) -> Vec<Value> {
        vec![
            json!({"type": "hello", "epoch": "e"}),
            json!({"type": "snapshot_begin", "epoch": "e", "seq": seq, "rules": 0, "states": 0, "reason": "initial"}),
            json!({"type": "snapshot_end", "epoch": "e", "seq": seq}),
        ]
    }

    fn judged(lines: &[Vec<Value>], table: &[(&str, i64)]) -> Vec<String> {
        let heard = Heard { name: "s".into(), connections: lines.to_vec(), to_the_end: true, worker: 0 };
        let table: BTreeMap<_, _> = table.iter().map(|&(id, version)| (id.to_owned(), version)).collect();
        let history = History {
            seed: 0,
            backend: String::new(),
            faults: BTreeMap::new(),
            heard: vec![heard],
            directory: table.clone(),
            table,
            states: BTreeMap::new(),
            never_deleted: ["STANDS".to_owned()].into(),
            invalid: [("A".to_owned(), 9)].into(),
        };
        history.judge().violations
    }

    #[test]
    fn the_judge_finds_each_kind_of_fault_and_no_other() {
        let heard = |changes: &[Value]| vec![[begin(0), changes.to_vec()].concat()];
        assert_eq!(judged(&heard(&[change(1, "A", 1), change(2, "A", 2)]), &[("A", 2)]), [""; 0]);
        let resumed = [
            [begin(0), vec![change(1, "A", 1)]].concat(),
            vec![json!({"type": "hello", "epoch": "e"}), change(2, "A", 2)],
        ];
        assert_eq!(judged(&resumed, &[("A", 2)]), [""; 0]);

        let deletion = json!({"type": "change", "seq": 1, "change_kind": "definition", "rule_id": "STANDS", "new_value": null});
        for (changes, table, fault) in [
            (vec![change(2, "A", 1)], ("A", 1), "P3: after change 0"),
            (vec![change(1, "A", 1), change(1, "A", 1)], ("A", 1), "P3: after change 1"),
            (vec![change(1, "A", 2), change(2, "A", 1)], ("A", 1), "P2"),
            (vec![change(1, "A", 1)], ("A", 2), "P1"),
            (vec![deletion, change(2, "A", 1)], ("A", 1), "P5"),
            (vec![change(1, "A", 9)], ("A", 9), "P6"),
        ] {
            let violations = judged(&heard(&changes), &[table]);
            assert!(violations.iter().any(|violation| violation.contains(fault)), "{fault}: {violations:?}");
        }
    }
}
