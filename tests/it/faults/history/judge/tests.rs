//! Each kind of violation is found under its promise.

use serde_json::{Value, json};

use super::super::{
    Fault, History, HostileClient, Line, MasterLog, Order, Removal, Restart, Rule, Sample, Step, Transcript,
    Write,
};
use super::Promise;

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

fn permanent() -> Vec<Value> {
    vec![rule_line("S", 1, json!({"state": "enabled"}))]
}

/// The moment `at` of the storm, by a clock that is right.
fn time(at: i64) -> String {
    rulesyncd::clock::Timestamp::from_micros(at * 1_000).to_string()
}

/// Lines a tenth of a second apart; a number between them is the time of the next.
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

fn transcript(name: &str, connections: Vec<Vec<Value>>) -> Transcript {
    Transcript {
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

/// A history in which every promise was kept, with at least one fact for each.
fn kept() -> History {
    let lines = |name| {
        let first = [snapshot("e1", 0, &permanent()), vec![change(1, "A", 1)]].concat();
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
        transcript(name, connections)
    };
    let mut history = History {
        transcripts: vec![lines("whole"), lines("resumed")],
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
    history.hostile_clients = vec![HostileClient {
        from: 0,
        to: 1,
        host: "worker0".into(),
        what: "garbage".into(),
        wanted: "bad_json".into(),
        answer: "bad_json".into(),
    }];
    history.restarts =
        vec![Restart { worker: 0, epoch: "e2".into(), database: "down".into(), stale_for_ms: 5 }];
    history.roles.permanent = ["S".to_owned()].into();
    history.roles.foreign = ["F".to_owned()].into();
    history.roles.bad_files = ["bad.yaml".to_owned()].into();
    history.roles.bad_rows = ["BAD".to_owned()].into();
    history.roles.invalid = [("A".to_owned(), 9)].into();
    history.final_state.directory = [("S".to_owned(), 2)].into();
    history.final_state.table = [text("S", 2), text("F", 1)].map(|rule| (rule.rule_id.clone(), rule)).into();
    history.final_state.rejected_files = history.roles.bad_files.clone();
    history.final_state.rejected_rows = [("worker0".to_owned(), history.roles.bad_rows.clone())].into();
    history
}

/// The `index`-th line of a subscriber's connection.
fn line(history: &mut History, who: usize, connection: usize, index: usize) -> &mut Value {
    &mut history.transcripts[who].connections[connection][index].said
}

fn say(history: &mut History, at: u64, said: Value) {
    for transcript in &mut history.transcripts {
        transcript.connections.last_mut().unwrap().push(Line { at, said: said.clone() });
    }
}

#[test]
fn a_history_that_keeps_every_promise_has_a_fact_for_each_and_no_violation() {
    let verdict = kept().judge();
    assert_eq!(verdict.violations, [""; 0]);
    assert!(verdict.not_judged().is_empty(), "{verdict}");
    let nothing = History::default().judge();
    assert_eq!(nothing.not_judged(), Promise::ALL, "a promise without a fact is reported");
    assert!(nothing.to_string().contains("without steps of clocks"), "{nothing}");
}

/// Several servers, of which one fails over: what it cuts away was rolled back, and nothing else.
#[test]
fn what_a_failover_cuts_away_is_rolled_back_and_not_lost() {
    let violations = |spoil: fn(&mut History), failover: Option<(u64, u64)>| {
        let mut history = kept();
        history.servers = 2;
        history.samples.push(sample(8_100, 1_100, true));
        spoil(&mut history);
        let what = "database failed over, commits lost";
        history.faults.extend(failover.map(|(from, to)| fault(what, "worker0", from, to)));
        history.judge().violations
    };
    // The second outage of the worker: each rule may have gone back twice.
    let older: fn(&mut History) = |h| say(h, 8_050, change(3, "S", 1));
    let lost_word: fn(&mut History) = |h| {
        drop(h.final_state.states.insert("S".into(), "clipped".into()));
        h.orders
            .extend([order(7_700, "clipped", false, json!({})), order(7_900, "disabled", false, json!({}))]);
    };
    let is_about = |violations: &[String], what: &str| violations.iter().any(|it| it.contains(what));
    assert!(!is_about(&violations(older, Some((7_800, 8_000))), "an older version"));
    assert!(is_about(&violations(older, Some((1_000, 1_100))), "an older version"), "long after it");
    let heard_late: fn(&mut History) = |h| {
        say(h, 8_050, change(3, "S", 1));
        let slow = &mut h.transcripts[0];
        slow.prompt = false;
        slow.connections.last_mut().unwrap().last_mut().unwrap().at = 30_000;
    };
    assert!(!is_about(&violations(heard_late, Some((7_800, 8_000))), "an older version"), "by a slow reader");
    let on_one_server: fn(&mut History) = |h| {
        h.servers = 1;
        say(h, 8_050, change(3, "S", 1));
    };
    assert!(is_about(&violations(on_one_server, Some((7_800, 8_000))), "an older version"));
    assert!(!is_about(&violations(lost_word, Some((7_800, 8_000))), "the last word"));
    assert!(
        is_about(&violations(lost_word, Some((8_000, 8_050))), "the last word"),
        "it was committed before"
    );
    // A rule whose file stood all the time was there before.
    let deleted: fn(&mut History) = |h| say(h, 20_000, deletion(3, "S"));
    assert!(is_about(&violations(deleted, Some((7_800, 8_000))), "whose file stood"));
}

#[test]
fn each_kind_of_violation_is_found_under_its_promise() {
    type Spoil = fn(&mut History);
    let spoilt: [(Promise, &str, Spoil); 46] = [
        (Promise::Convergence, "the file has version 3", |h| {
            *h.final_state.directory.get_mut("S").unwrap() = 3
        }),
        (Promise::Convergence, "ended with", |h| say(h, 6_300, deletion(3, "S"))),
        (Promise::NoLoss, "an older version", |h| say(h, 6_300, change(3, "S", 1))),
        (Promise::NoLoss, "of another size", |h| line(h, 0, 1, 1)["rules"] = 7.into()),
        (Promise::NoLoss, "it differs from", |h| {
            line(h, 0, 0, 4)["content_sha256"] = text("A", 9).sha256.into()
        }),
        (Promise::Order, "after change 1", |h| drop(h.transcripts[0].connections[0].remove(5))),
        (Promise::Order, "two changes of one number", |h| line(h, 1, 1, 3)["traceparent"] = "x".into()),
        (Promise::Order, "outside of a snapshot", |h| *line(h, 0, 1, 6) = permanent().remove(0)),
        (Promise::Order, "unknown line", |h| *line(h, 0, 1, 6) = json!({"type": "riddle"})),
        (Promise::Resume, "which resumed, differs from", |h| {
            *line(h, 1, 0, 2) = rule_line("S", 2, json!({"state": "enabled"}))
        }),
        (Promise::Resume, "another epoch than its own", |h| *line(h, 1, 1, 0) = hello("e0")),
        (Promise::Deletes, "a rule was deleted whose file stood", |h| h.removals.clear()),
        (Promise::Deletes, "a snapshot without S", |h| drop(h.transcripts[0].connections[1].remove(3))),
        (Promise::Deletes, "its file is gone, and its row stands", |h| {
            drop(h.final_state.table.insert("A".into(), text("A", 1)))
        }),
        (Promise::LastGood, "what stood in a file that is no rule", |h| say(h, 6_300, change(3, "A", 9))),
        (Promise::LastGood, "is no rule, and was written", |h| h.audit.push(write("A", 9, 9))),
        (Promise::State, "ended late", |h| line(h, 0, 1, 6)["new_value"]["expires_at"] = time(500).into()),
        (Promise::State, "is over and goes on", |h| {
            h.transcripts
                .iter_mut()
                .for_each(|transcript| transcript.connections.last_mut().unwrap().truncate(7));
            say(h, 60_000, beat());
        }),
        (Promise::State, "fell to an older end", |h| {
            line(h, 0, 1, 6)["new_value"] = json!({"state": "clipped", "set_at": time(4_500)});
            h.orders.push(order(4_400, "clipped", false, json!({"set_at": time(4_500)})));
        }),
        (Promise::State, "fell to an older end", |h| {
            h.transcripts[0].connections[1].iter_mut().for_each(|line| line.at /= 5)
        }),
        (Promise::State, "the last word on S", |h| h.orders.push(order(9_000, "clipped", false, json!({})))),
        (Promise::State, "ended with the states", |h| {
            drop(h.final_state.states.insert("S".into(), "clipped".into()))
        }),
        (Promise::WholeRows, "a text that nobody wrote", |h| drop(h.texts.remove("A 1"))),
        (Promise::WholeRows, "a row that nobody wrote", |h| {
            h.audit[0].written = Some(Rule { version: 2, ..text("S", 1) })
        }),
        (Promise::WorkerKilled, "served", |h| {
            for (who, connection) in [(0, 1), (1, 2)] {
                *line(h, who, connection, 3) = permanent().remove(0);
            }
        }),
        (Promise::WorkerKilled, "was started without", |h| h.restarts[0].stale_for_ms = 0),
        (Promise::WorkerKilled, "fresh though the database is unavailable", |h| *line(h, 0, 1, 5) = down(0)),
        (Promise::DatabaseUnavailable, "ended by itself", |h| h.ended.push("master".into())),
        (Promise::DatabaseUnavailable, "found the database again", |h| h.samples[2].at = 60_000),
        (Promise::DatabaseUnavailable, "found the database again", |h| drop(h.samples.pop())),
        (Promise::DatabaseUnavailable, "stale though the database answers", |h| {
            say(h, 7_300, json!({"type": "heartbeat", "database": "up", "stale_for_ms": 9}));
        }),
        (Promise::DatabaseUnavailable, "stale though the database answers", |h| {
            say(h, 7_300, json!({"type": "heartbeat", "database": "up", "stale_for_ms": 5_500}));
        }),
        (Promise::TwoMasters, "not above what stood", |h| h.audit[4].updated_at = time(1)),
        (Promise::TwoMasters, "in 2 turns", |h| {
            h.texts.extend([("A 2".to_owned(), text("A", 2))]);
            h.masters.get_mut("master").unwrap().wrote.insert(("A".into(), 2));
            h.audit.push(write("A", 2, 4));
        }),
        (Promise::TwoMasters, "took over after", |h| h.takeovers.push(60_000)),
        (Promise::Clocks, "ended with", |h| say(h, 6_300, deletion(3, "F"))),
        (Promise::SlowReader, "ms after another", |h| {
            h.transcripts[1].connections[2].iter_mut().for_each(|line| line.at += 9_000)
        }),
        (Promise::SlowReader, "KiB", |h| h.samples[1].resident_kib = 900_000),
        (Promise::OtherWriters, "ended with", |h| say(h, 6_300, deletion(3, "F"))),
        (Promise::OtherWriters, "in the master's name", |h| {
            line(h, 0, 0, 5)["updated_by"] = "filesystem".into()
        }),
        (Promise::OtherWriters, "was written by", |h| h.audit[2].updated_by = "filesystem".into()),
        (Promise::MassDelete, "went with the directory", |h| say(h, 7_200, deletion(3, "S"))),
        (Promise::Poison, "the master rejects", |h| h.final_state.rejected_files.clear()),
        (Promise::Poison, "worker0 rejects", |h| {
            h.final_state.rejected_rows.get_mut("worker0").unwrap().insert("S".into());
        }),
        (Promise::Poison, "a row that is no rule", |h| say(h, 6_300, change(3, "BAD", 1))),
        (Promise::HostileClient, "garbage got `silence`", |h| h.hostile_clients[0].answer = "silence".into()),
    ];
    for (promise, complaint, spoil) in spoilt {
        let mut history = kept();
        spoil(&mut history);
        let violations = history.judge().violations;
        let found = |violation: &String| {
            violation.starts_with(&format!("{promise}: ")) && violation.contains(complaint)
        };
        assert!(violations.iter().any(found), "{promise} {complaint}: {violations:?}");
    }
}
