//! Each kind of fault is found by its promise, and no other is.

use serde_json::{Value, json};

use super::super::{
    Fault, Guest, Heard, History, Line, MasterLog, Order, Removal, Restart, Rule, Sample, Step, Write,
};

fn text(id: &str, version: i64) -> Rule {
    Rule { rule_id: id.into(), version, sha256: format!("{id} {version}") }
}

fn rule_line(id: &str, version: i64, state: Value) -> Value {
    let by = if id == "F" { "admin" } else { "filesystem" };
    json!({"type": "rule", "rule_id": id, "content_sha256": text(id, version).sha256, "updated_by": by,
        "new_value": {"rule_version": version, "state": state}})
}

fn change(seq: u64, id: &str, version: i64) -> Value {
    let mut line = rule_line(id, version, json!({"state": "enabled"}));
    (line["type"], line["seq"], line["change_kind"]) = ("change".into(), seq.into(), "definition".into());
    line
}

fn deletion(seq: u64, id: &str) -> Value {
    json!({"type": "change", "seq": seq, "change_kind": "definition", "rule_id": id, "new_value": null})
}

fn state(seq: u64, id: &str, value: Value) -> Value {
    json!({"type": "change", "seq": seq, "change_kind": "state", "rule_id": id, "new_value": value})
}

fn revert(seq: u64, id: &str) -> Value {
    let mut line = state(seq, id, json!({"state": "enabled"}));
    line["auto_revert"] = true.into();
    line
}

fn hello(epoch: &str) -> Value {
    json!({"type": "hello", "epoch": epoch})
}

fn beat() -> Value {
    json!({"type": "heartbeat", "database": "up", "stale_for_ms": 0})
}

fn down(stale_for_ms: u64) -> Value {
    json!({"type": "heartbeat", "database": "down", "stale_for_ms": stale_for_ms})
}

/// A connection that begins with a snapshot.
fn snapshot(epoch: &str, seq: u64, rules: &[Value]) -> Vec<Value> {
    let mut lines = vec![
        hello(epoch),
        json!({"type": "snapshot_begin", "epoch": epoch, "seq": seq, "rules": rules.len(), "states": 0, "reason": "initial"}),
    ];
    lines.extend_from_slice(rules);
    lines.push(json!({"type": "snapshot_end", "epoch": epoch, "seq": seq}));
    lines
}

fn standing() -> Vec<Value> {
    vec![rule_line("S", 1, json!({"state": "enabled"}))]
}

/// The moment `at` of the storm, by a right clock.
fn time(at: i64) -> String {
    rulesyncd::clock::Timestamp::from_micros(at * 1_000).to_string()
}

/// Lines a tenth of a second apart, unless a number stands between them, which is the next one's time.
fn timed(mut at: u64, lines: Vec<Value>) -> Vec<Line> {
    let mut timed = Vec::new();
    for said in lines {
        match said.as_u64() {
            Some(time) => at = time,
            None => timed.push(Line { at, said }),
        }
        at += 100;
    }
    timed
}

fn heard(name: &str, connections: Vec<Vec<Value>>) -> Heard {
    Heard {
        worker: 0,
        name: name.into(),
        prompt: true,
        connections: (0..).zip(connections).map(|(second, lines)| timed(second * 1_000, lines)).collect(),
        to_the_end: true,
    }
}

fn write(id: &str, version: i64, stamp: i64) -> Write {
    let by = if id == "F" { "admin" } else { "filesystem" };
    Write {
        rule_id: id.into(),
        written: Some(text(id, version)),
        updated_at: time(stamp),
        updated_by: by.into(),
    }
}

fn fault(what: &str, host: &str, from: u64, to: u64) -> Fault {
    Fault { what: what.into(), hosts: [host.to_owned()].into(), from, to }
}

fn sample(at: u64, resident_kib: u64, database: bool) -> Sample {
    Sample { at, host: "worker0".into(), pid: 1, resident_kib, database: Some(database) }
}

fn order(from: u64, state: &str, ends: bool, answer: Value) -> Order {
    Order { from, to: from, rule_id: "S".into(), state: Some(state.into()), ends, answer: Some(answer) }
}

/// A history with a little of everything in which every promise was kept.
fn kept() -> History {
    let lines = |name| {
        let first = [snapshot("e1", 0, &standing()), vec![change(1, "A", 1)]].concat();
        let resumed = vec![hello("e1"), change(2, "F", 1), deletion(3, "A"), change(4, "S", 2), down(10)];
        let second = [
            snapshot(
                "e2",
                0,
                &[
                    rule_line("F", 1, json!({"state": "enabled"})),
                    rule_line("S", 2, json!({"state": "enabled"})),
                ],
            ),
            vec![down(10)],
        ]
        .concat();
        let mut second = second;
        second.extend([
            json!(5_000),
            state(1, "S", json!({"state": "disabled", "set_at": time(4_000), "expires_at": time(6_000)})),
            beat(),
            json!(6_100),
            revert(2, "S"),
            beat(),
        ]);
        let connections = if name == "whole" {
            vec![[first, resumed[1..].to_vec()].concat(), second]
        } else {
            vec![first, resumed, second]
        };
        heard(name, connections)
    };
    let mut history = History {
        heard: vec![lines("whole"), lines("resumed")],
        faults: vec![
            fault("database stopped", "worker0", 1_000, 2_000),
            fault("directory emptied", "directory", 7_000, 7_500),
        ],
        clocks: [("database".to_owned(), vec![Step { at: 0, seconds: 0 }])].into(),
        clocks_can_be_stepped: true,
        removals: vec![Removal { at: 0, rule_id: "A".into() }],
        audit: vec![
            write("S", 1, 1),
            write("A", 1, 2),
            write("F", 1, 3_600_000),
            Write { written: None, ..write("A", 1, 2) },
            write("S", 2, 3),
        ],
        samples: vec![sample(500, 1_000, true), sample(1_500, 1_000, false), sample(2_500, 1_100, true)],
        lives: 2,
        orders: vec![order(
            3_900,
            "disabled",
            true,
            json!({"set_at": time(4_000), "expires_at": time(6_000)}),
        )],
        takeovers: vec![1_000],
        ..History::default()
    };
    let log = |wrote: &[(&str, i64)]| MasterLog {
        took_the_lock: 1,
        wrote: wrote.iter().map(|&(id, version)| (id.to_owned(), version)).collect(),
    };
    history.masters =
        [("master".to_owned(), log(&[("S", 1), ("A", 1)])), ("other".to_owned(), log(&[("S", 2)]))].into();
    history.texts = [text("A", 1), text("S", 1), text("S", 2), text("F", 1), text("A", 9)]
        .map(|rule| (rule.sha256.clone(), rule))
        .into();
    history.guests = vec![Guest {
        from: 0,
        to: 1,
        host: "worker0".into(),
        what: "garbage".into(),
        wanted: "bad_json".into(),
        answer: "bad_json".into(),
    }];
    history.restarts =
        vec![Restart { worker: 0, epoch: "e2".into(), database: "down".into(), stale_for_ms: 5 }];
    history.cast.standing = ["S".to_owned()].into();
    history.cast.foreign = ["F".to_owned()].into();
    history.cast.bad_files = ["bad.yaml".to_owned()].into();
    history.cast.bad_rows = ["BAD".to_owned()].into();
    history.cast.invalid = [("A".to_owned(), 9)].into();
    history.rest.directory = [("S".to_owned(), 2)].into();
    history.rest.table = [text("S", 2), text("F", 1)].map(|rule| (rule.rule_id.clone(), rule)).into();
    history.rest.rejected_files = history.cast.bad_files.clone();
    history.rest.rejected_rows = [("worker0".to_owned(), history.cast.bad_rows.clone())].into();
    history
}

/// The `place`-th line of a subscriber's connection.
fn line(history: &mut History, who: usize, connection: usize, place: usize) -> &mut Value {
    &mut history.heard[who].connections[connection][place].said
}

fn say(history: &mut History, at: u64, said: Value) {
    for heard in &mut history.heard {
        heard.connections.last_mut().unwrap().push(Line { at, said: said.clone() });
    }
}

#[test]
fn what_kept_every_promise_is_judged_on_each_and_found_without_fault() {
    let verdict = kept().judge();
    assert_eq!(verdict.violations, [""; 0]);
    assert_eq!(verdict.not_judged(), [0; 0], "{verdict}");
    let nothing = History::default().judge();
    assert_eq!(nothing.not_judged(), (1..=17).collect::<Vec<_>>(), "what was not judged is told");
    assert!(nothing.to_string().contains("without steps of clocks"), "{nothing}");
}

#[test]
fn the_judge_finds_each_kind_of_fault_and_no_other() {
    type Spoil = fn(&mut History);
    let spoilt: [(&str, &str, Spoil); 46] = [
        ("P1", "the file has version 3", |h| *h.rest.directory.get_mut("S").unwrap() = 3),
        ("P1", "ended with", |h| say(h, 6_300, deletion(3, "S"))),
        ("P2", "an older version", |h| say(h, 6_300, change(3, "S", 1))),
        ("P2", "of another size", |h| line(h, 0, 1, 1)["rules"] = 7.into()),
        ("P2", "knows other things", |h| line(h, 0, 0, 4)["content_sha256"] = text("A", 9).sha256.into()),
        ("P3", "after change 1", |h| drop(h.heard[0].connections[0].remove(5))),
        ("P3", "two changes of one number", |h| line(h, 1, 1, 3)["traceparent"] = "x".into()),
        ("P3", "outside of a snapshot", |h| *line(h, 0, 1, 6) = standing().remove(0)),
        ("P3", "unknown line", |h| *line(h, 0, 1, 6) = json!({"type": "riddle"})),
        ("P4", "who resumed, knows other things", |h| {
            *line(h, 1, 0, 2) = rule_line("S", 2, json!({"state": "enabled"}))
        }),
        ("P4", "another epoch than its own", |h| *line(h, 1, 1, 0) = hello("e0")),
        ("P5", "a rule was deleted whose file stood", |h| h.removals.clear()),
        ("P5", "a snapshot without S", |h| drop(h.heard[0].connections[1].remove(3))),
        ("P5", "its file is gone, and its row stands", |h| {
            drop(h.rest.table.insert("A".into(), text("A", 1)))
        }),
        ("P6", "what stood in a file that is no rule", |h| say(h, 6_300, change(3, "A", 9))),
        ("P6", "is no rule, and was written", |h| h.audit.push(write("A", 9, 9))),
        ("P7", "ended late", |h| line(h, 0, 1, 6)["new_value"]["expires_at"] = time(500).into()),
        ("P7", "is over and goes on", |h| {
            h.heard.iter_mut().for_each(|heard| heard.connections.last_mut().unwrap().truncate(7));
            say(h, 60_000, beat());
        }),
        ("P7", "fell to an older end", |h| {
            line(h, 0, 1, 6)["new_value"] = json!({"state": "clipped", "set_at": time(4_500)});
            h.orders.push(order(4_400, "clipped", false, json!({"set_at": time(4_500)})));
        }),
        ("P7", "fell to an older end", |h| {
            h.heard[0].connections[1].iter_mut().for_each(|line| line.at /= 5)
        }),
        ("P7", "the last word on S", |h| h.orders.push(order(9_000, "clipped", false, json!({})))),
        ("P7", "ended with the states", |h| drop(h.rest.states.insert("S".into(), "clipped".into()))),
        ("P8", "a text that nobody wrote", |h| drop(h.texts.remove("A 1"))),
        ("P8", "a row that nobody wrote", |h| h.audit[0].written = Some(Rule { version: 2, ..text("S", 1) })),
        ("P9", "served", |h| {
            for (who, connection) in [(0, 1), (1, 2)] {
                *line(h, who, connection, 3) = standing().remove(0);
            }
        }),
        ("P9", "was started without", |h| h.restarts[0].stale_for_ms = 0),
        ("P9", "fresh though the database is unavailable", |h| *line(h, 0, 1, 5) = down(0)),
        ("P10", "ended by itself", |h| h.ended.push("master".into())),
        ("P10", "found the database again", |h| h.samples[2].at = 60_000),
        ("P10", "found the database again", |h| drop(h.samples.pop())),
        ("P10", "stale though the database answers", |h| {
            say(h, 7_300, json!({"type": "heartbeat", "database": "up", "stale_for_ms": 9}));
        }),
        ("P10", "stale though the database answers", |h| {
            say(h, 7_300, json!({"type": "heartbeat", "database": "up", "stale_for_ms": 5_500}));
        }),
        ("P11", "not above what stood", |h| h.audit[4].updated_at = time(1)),
        ("P11", "in 2 turns", |h| {
            h.texts.extend([("A 2".to_owned(), text("A", 2))]);
            h.masters.get_mut("master").unwrap().wrote.insert(("A".into(), 2));
            h.audit.push(write("A", 2, 4));
        }),
        ("P11", "took over after", |h| h.takeovers.push(60_000)),
        ("P12", "ended with", |h| say(h, 6_300, deletion(3, "F"))),
        ("P13", "ms after another", |h| {
            h.heard[1].connections[2].iter_mut().for_each(|line| line.at += 9_000)
        }),
        ("P13", "KiB", |h| h.samples[1].resident_kib = 900_000),
        ("P14", "ended with", |h| say(h, 6_300, deletion(3, "F"))),
        ("P14", "in the master's name", |h| line(h, 0, 0, 5)["updated_by"] = "filesystem".into()),
        ("P14", "was written by", |h| h.audit[2].updated_by = "filesystem".into()),
        ("P15", "went with the directory", |h| say(h, 7_200, deletion(3, "S"))),
        ("P16", "the master rejects", |h| h.rest.rejected_files.clear()),
        ("P16", "worker0 rejects", |h| {
            h.rest.rejected_rows.get_mut("worker0").unwrap().insert("S".into());
        }),
        ("P16", "a row that is no rule", |h| say(h, 6_300, change(3, "BAD", 1))),
        ("P17", "garbage got `silence`", |h| h.guests[0].answer = "silence".into()),
    ];
    for (promise, complaint, spoil) in spoilt {
        let mut history = kept();
        spoil(&mut history);
        let violations = history.judge().violations;
        let found = |violation: &String| {
            violation.starts_with(&format!("{promise} ")) && violation.contains(complaint)
        };
        assert!(violations.iter().any(found), "{promise} {complaint}: {violations:?}");
    }
}
