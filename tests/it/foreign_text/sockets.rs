//! Text from a program that listens in the place of a daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Writes, hostile, run_with, save_hostile_files};
use crate::support::swarm::Swarm;

/// What is answered to each request, by its `op`.
type Answers = BTreeMap<&'static str, Vec<Value>>;

/// Answers each request on this socket; what, may be changed.
struct Imposter(Arc<Mutex<Answers>>);

impl Imposter {
    fn listening(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let answers: Arc<Mutex<Answers>> = Arc::default();
        let shared = Arc::clone(&answers);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, answers) = (client.unwrap(), shared.lock().unwrap().clone());
                // It ends when the other side does.
                std::thread::spawn(move || serve(client, &answers));
            }
        });
        Self(answers)
    }
}

fn serve(mut client: UnixStream, answers: &Answers) -> std::io::Result<()> {
    let mut send = |line: &Value| writeln!(client, "{line}");
    answers["hello"].iter().try_for_each(&mut send)?;
    let requests = BufReader::new(client.try_clone()?);
    for request in requests.lines() {
        let request: Value = serde_json::from_str(&request?)?;
        let answer = answers.get(request["op"].as_str().unwrap()).into_iter().flatten();
        answer.into_iter().try_for_each(|line| writeln!(client, "{line}"))?;
    }
    Ok(())
}

/// What a real daemon answers; a worker greets whoever connects, and has a snapshot.
fn recorded(socket: &Path, is_worker: bool) -> Answers {
    let mut answers = Answers::from([("hello", Vec::new())]);
    if is_worker {
        let mut lines = BufReader::new(UnixStream::connect(socket).unwrap()).lines();
        answers.insert("hello", vec![next(&mut lines)]);
    }
    let ask = |op: &Value| {
        let mut stream = UnixStream::connect(socket).unwrap();
        writeln!(stream, "{op}").unwrap();
        let mut lines = BufReader::new(stream).lines();
        if is_worker {
            next(&mut lines);
        }
        lines
    };
    answers.insert("status", vec![next(&mut ask(&json!({ "op": "status" })))]);
    if is_worker {
        let lines = ask(&json!({ "op": "subscribe", "follow": false }));
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert_eq!(lines.last().unwrap()["type"], "snapshot_end");
        // A line of each type.
        let mut types = BTreeSet::new();
        let lines = lines.into_iter().filter(|line| types.insert(line["type"].to_string()));
        answers.insert("subscribe", lines.collect());
    }
    answers
}

fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Value {
    serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
}

/// The places of all texts, and of all names of fields.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| places(field, &format!("{at}/{name}"), found))
        }
        _ => {}
    }
}

/// The answers with the hostile text in one place after the other.
fn spoiled(answers: &Answers) -> Vec<(String, Answers)> {
    let mut all = Vec::new();
    for (op, lines) in answers {
        let mut found = Vec::new();
        places(&json!(lines), "", &mut found);
        for place in found {
            let mut lines = json!(lines);
            *lines.pointer_mut(&place).unwrap() = hostile().into();
            let mut answers = answers.clone();
            answers.insert(op, lines.as_array().unwrap().clone());
            all.push((format!("{op}{place}"), answers));
        }
    }
    let error = json!({ "type": "error", "code": "not_allowed", "message": hostile() });
    for op in ["status", "subscribe", "reconcile", "allow_mass_delete"] {
        let mut answers = answers.clone();
        answers.insert(op, vec![error.clone()]);
        all.push((format!("an error to {op}"), answers));
    }
    all
}

/// Lists that are empty on a host where all is well, and what is unknown there.
fn with_troubles(answers: &mut Answers) {
    let status = &mut answers.get_mut("status").unwrap()[0]["result"];
    let troubles = json!({
        "pending_mass_delete": ["R1"],
        "watch_error": "watching failed",
        "last_error": "unavailable",
        "passed_over": ["R9.yaml"],
        "rejected": [{ "rule_id": "R1", "source_path": "R1.yaml", "reason": "a trigger" }],
        "directory_unavailable_since": "2026-01-01T00:00:00Z",
        "database_down_since": "2026-01-01T00:00:00Z",
        "conflicts": [{ "rule_id": "R1", "held_by": "R1.yaml", "source_path": "R2.yaml" }],
    });
    for (name, trouble) in troubles.as_object().unwrap() {
        if status.get(name).is_some() {
            status[name] = trouble.clone();
        }
    }
    // Of many metrics a few.
    if let Some(Value::Array(metrics)) = status.get_mut("metrics") {
        metrics.truncate(3);
    }
    if let Some(Value::Object(database)) = status.get_mut("database") {
        database.insert("state".to_owned(), "down".into());
        database.insert("last_error".to_owned(), "unavailable".into());
    }
}

/// With colour, where more is kept.
fn run(swarm: &Swarm, commands: &[&[&str]]) {
    let commands: Vec<_> = commands.iter().map(|args| (Writes::Anything, *args)).collect();
    run_with(swarm, &["always"], &commands);
}

#[test]
fn of_a_program_in_the_place_of_a_daemon() {
    let real = Swarm::on_sqlite();
    save_hostile_files(&real);
    let (mut worker_answers, mut master_answers) = {
        let (_master, _worker) = (real.master(), real.worker());
        let mut subscriber = real.subscribe();
        subscriber.snapshot();
        (recorded(&real.socket(), true), recorded(&real.path("master.sock"), false))
    };
    with_troubles(&mut worker_answers);
    with_troubles(&mut master_answers);
    let swarm = Swarm::on(real.url());
    let worker = Imposter::listening(&swarm.socket());
    let master = Imposter::listening(&swarm.path("master.sock"));
    let answers = |worker_answers: &Answers, master_answers: &Answers| {
        *worker.0.lock().unwrap() = worker_answers.clone();
        *master.0.lock().unwrap() = master_answers.clone();
    };
    for (place, spoiled) in spoiled(&worker_answers) {
        answers(&spoiled, &master_answers);
        let commands: &[&[&str]] = match &*place {
            place if place.starts_with("status") => &[
                &["status"],
                &["status", "--json"],
                &["status", "--check"],
                &["status", "--format", "prometheus"],
            ],
            place if place.starts_with("an error") => &[
                &["status"],
                &["watch", "--once"],
                &["why", "R1"],
                &["verify"],
                &["state", "list"],
                &["allow-mass-delete"],
                &["config", "worker"],
            ],
            _ => &[&["watch", "--once"], &["watch", "--once", "--json"]],
        };
        run(&swarm, commands);
    }
    for (place, spoiled) in spoiled(&master_answers) {
        answers(&worker_answers, &spoiled);
        let commands: &[&[&str]] = match &*place {
            place if place.starts_with("an error") => &[
                &["status"],
                &["sync"],
                &["sync", "--allow-mass-delete"],
                &["verify"],
                &["config", "master"],
            ],
            _ => &[&["status"], &["status", "--json"], &["status", "--check"]],
        };
        run(&swarm, commands);
    }
}
