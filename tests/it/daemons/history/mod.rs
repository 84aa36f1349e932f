//! The history of a worker, compared with what a subscriber heard.

mod limits;

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::mounts::Mount;
use crate::support::rules::rule_text;
use crate::support::swarm::{Daemon, Swarm, text, wait_for};

/// A subscriber of one run of a worker, from its first change on, that writes what it hears into a file.
struct Listener {
    child: Child,
    heard: PathBuf,
}

impl Listener {
    fn start(swarm: &Swarm, run: usize) -> Self {
        let heard = swarm.path(&format!("heard-{run}"));
        let mut command = swarm.command(&["watch", "--json", "--from", "0"]);
        command.stdout(fs::File::create(&heard).unwrap()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), heard }
    }

    /// Waits until it has heard a change whose line has all these texts, and after it, if `then` is not empty, one with
    /// all of those.
    fn wait_for(&self, texts: &[&str], then: &[&str]) {
        wait_for(&format!("{texts:?} and then {then:?}"), || {
            let heard = fs::read_to_string(&self.heard).unwrap();
            let has = |line: &str, texts: &[&str]| texts.iter().all(|text| line.contains(text));
            let mut changes = heard.lines().filter(|line| line.contains(r#""type":"change""#));
            changes.find(|line| has(line, texts))?;
            (then.is_empty() || changes.any(|line| has(line, then))).then_some(())
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Python reads in the files of the history that differs from what listeners heard, one after the other; changes
/// that a run repeats after a kill count once. Nothing if the two agree.
fn differences(history: &Path, heard: &[PathBuf]) -> String {
    let script = r#"
import json, os, sys
def told(line):
    kind, value = line["change_kind"], line["new_value"]
    if kind == "state":
        return ("state", line["rule_id"]), json.dumps([value, bool(line.get("auto_revert"))], sort_keys=True)
    fields = ["rule_version", "content_sha256", "source_path", "updated_at", "updated_by"]
    return ("definition", line["rule_id"]), json.dumps([value and line[field] for field in fields])
def kept(line):
    if line["kind"] == "state":
        return ("state", line["rule_id"]), json.dumps([line["new_value"], line.get("auto_revert", False)], sort_keys=True)
    fields = ["rule_version", "content_sha256", "source_path", "updated_at", "updated_by"]
    return ("definition", line["rule_id"]), json.dumps([line.get(field) for field in fields])
expected, last = [], {}
for run, name in enumerate(sys.argv[2:]):
    for line in map(json.loads, open(name)):
        if line["type"] == "change":
            key, content = told(line)
            if last.get(key) != content:
                expected.append((line["emitted_at"], key, content))
            last[key] = content
found = []
for name in [sys.argv[1] + ".old", sys.argv[1]]:
    if os.path.exists(name):
        for line in open(name, errors="replace"):
            try: record = json.loads(line)
            except ValueError: continue
            found.append((record["emitted_at"], *kept(record)))
# A change that was heard, and not yet recorded at a kill, is recorded by the next run.
strip = lambda records: [record[1:] for record in records]
by_rule = lambda records: sorted(records, key=lambda record: record[0])
if by_rule(strip(found)) != by_rule(strip(expected)):
    print("heard:", *expected, "recorded:", *found, sep="\n")
if [record[0] for record in found] != sorted(record[0] for record in found):
    print("not in order:", *found, sep="\n")
print(len(found), file=sys.stderr)
"#;
    let output = Command::new("python3").args(["-c", script]).arg(history).args(heard).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_ne!(text(&output.stderr).trim(), "0", "the history is empty");
    text(&output.stdout)
}

fn history_of(swarm: &Swarm) -> PathBuf {
    swarm.path("catalogue.ndjson.history")
}

/// The records that the command prints.
fn records(swarm: &Swarm, args: &[&str]) -> Vec<Value> {
    let printed = swarm.succeed(&[&["history", "--json"], args].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn started(swarm: &Swarm) -> Daemon {
    let worker = swarm.worker();
    // From the database, or from its cache.
    wait_for("the rules", || swarm.run(&["watch", "--once"]).status.success().then_some(()));
    worker
}

#[test]
fn what_a_subscriber_hears_is_recorded_once_through_kills_and_restarts() {
    let swarm = Swarm::on_sqlite();
    for id in ["A", "B", "C"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    swarm.succeed(&["sync"]);
    let mut heard = Vec::new();
    for run in 0..6 {
        let worker = started(&swarm);
        let listener = Listener::start(&swarm, run);
        heard.push(listener.heard.clone());
        let version = i32::try_from(run).unwrap() + 2;
        swarm.save("A.yaml", rule_text("A", version));
        swarm.succeed(&["sync"]);
        let new_version = format!(r#""rule_version":{version}"#);
        listener.wait_for(&[r#""rule_id":"A""#, &new_version], &[]);
        let (b, new_value) =
            (r#""rule_id":"B""#, if run % 2 == 0 { r#""new_value":null"# } else { &new_version });
        match run % 2 {
            0 => fs::remove_file(swarm.rules().join("B.yaml")).unwrap(),
            _ => swarm.save("B.yaml", rule_text("B", version)),
        }
        swarm.succeed(&["sync"]);
        listener.wait_for(&[b, new_value], &[]);
        let reason = format!("reason {run}");
        if run % 3 == 0 {
            // Longer than a busy machine takes until the worker polls.
            swarm.succeed(&["state", "set", "C", "disabled", "--expires-in", "3s", "--reason", &reason]);
            let c = r#""rule_id":"C""#;
            listener.wait_for(&[c, &reason], &[c, r#""auto_revert":true"#]);
        }
        swarm.succeed(&["state", "set", "A", "clipped", "--reason", &reason]);
        listener.wait_for(&[r#""rule_id":"A""#, r#""state":"clipped""#, &reason], &[]);
        // The cache is now older than what was heard, except after a soft stop.
        match run {
            5 => worker.stop(),
            _ => worker.kill(),
        }
    }
    let differences = differences(&history_of(&swarm), &heard);
    assert!(differences.is_empty(), "{differences}");
    let mode = fs::metadata(history_of(&swarm)).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn records_are_chosen_by_rule_and_time_and_what_is_no_record_is_left_out() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.save("B.yaml", rule_text("B", 1));
    swarm.succeed(&["sync"]);
    let refused = swarm.run(&["history"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("there is no history at"), "{}", text(&refused.stderr));

    let worker = started(&swarm);
    wait_for("the file", || history_of(&swarm).exists().then_some(()));
    // What it loads at its start is no change.
    let nothing = |args: &[&str], what: &str| {
        let output = swarm.run(&[&["history"], args].concat());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
        let said = text(&output.stderr);
        assert!(said.starts_with(what) && said.trim_end().ends_with(".history"), "{said:?}");
    };
    nothing(&[], "no change is in ");
    nothing(&["R9", "--since", "90m"], "no change of R9 in the last 1h 30m is in ");
    let hostile = "\u{1b}[2Jnoisy\n2026-01-01 forged";
    let mut recorded = 0;
    let mut set = |args: &[&str]| {
        swarm.succeed(&[&["state", "set"], args].concat());
        recorded += 1;
        wait_for("the record", || (records(&swarm, &[]).len() == recorded).then_some(()));
    };
    set(&["A", "disabled", "--reason", hostile, "--set-by", "alice"]);
    set(&["B", "clipped", "--confidence-max", "0.5"]);
    let [a, b] = &*records(&swarm, &[]) else { panic!("not two records") };
    assert_eq!((&a["rule_id"], &a["kind"], &a["seq"]), (&"A".into(), &"state".into(), &1.into()));
    assert_eq!((&a["new_value"]["reason"], &a["new_value"]["set_by"]), (&hostile.into(), &"alice".into()));
    assert_eq!((&b["rule_id"], &b["new_value"]["confidence_max"]), (&"B".into(), &0.5.into()));
    assert_eq!(records(&swarm, &["B"]), std::slice::from_ref(b));
    assert_eq!(records(&swarm, &["--since", "1h"]).len(), 2);
    assert_eq!(records(&swarm, &["--since", "0s"]).len(), 0);
    let shown = swarm.succeed(&["history"]);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert!(shown.contains("A disabled by alice: \\u001b[2Jnoisy\\n2026-01-01 forged"), "{shown}");

    // A reader who has gone away is no failure, and a full disk is not one of the history.
    let printed_to = |stdout: Stdio| {
        let mut command = swarm.command(&["history"]);
        let output =
            command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(printed_to(writer.into()), (Some(0), String::new()));
    let (code, said) = printed_to(OpenOptions::new().write(true).open("/dev/full").unwrap().into());
    assert_eq!(code, Some(3));
    assert!(said.contains("standard output broke") && !said.contains("cannot be read"), "{said}");

    // Another time, a line that was torn by a kill, and one that somebody has damaged.
    worker.kill();
    let text_of_file = fs::read_to_string(history_of(&swarm)).unwrap();
    let (first, second) = text_of_file.split_once('\n').unwrap();
    let long_ago = first.replace("\"emitted_at\":\"20", "\"emitted_at\":\"19");
    fs::write(history_of(&swarm), format!("{long_ago}\nnothing\n{second}{}", &second[..50])).unwrap();
    let output = swarm.run(&["history", "--json"]);
    assert_eq!(text(&output.stdout), format!("{long_ago}\n{second}"));
    assert!(text(&output.stderr).contains("1 line of"), "{}", text(&output.stderr));
    assert_eq!(records(&swarm, &["--since", "7d"]).len(), 1);
    let _worker = started(&swarm);
    swarm.succeed(&["state", "clear", "B"]);
    wait_for("the record after the torn line", || {
        let last = records(&swarm, &["B"]).pop()?;
        (last["new_value"]["state"] == "enabled").then_some(())
    });
    let listed = swarm.succeed(&["history", "B"]);
    assert!(listed.lines().last().unwrap().ends_with("state    B enabled again"), "{listed}");

    for (args, code) in [(&["history", "--since", "yesterday"][..], 2), (&["history", "R 1"], 2)] {
        assert_eq!(swarm.run(args).status.code(), Some(code), "{args:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_delays_no_change_and_loses_no_record_as_root() {
    let swarm = Swarm::on_sqlite();
    let state = swarm.path("state");
    fs::create_dir(&state).unwrap();
    let _mount = Mount::tmpfs(&state, "256k");
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let cache = state.join("catalogue.ndjson");
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_CACHE", &cache);
    });
    worker.wait_for_log(" loaded");
    wait_for("the cache", || cache.exists().then_some(()));
    let listener = Listener::start(&swarm, 0);
    let mut filler = OpenOptions::new().create(true).append(true).open(state.join("filler")).unwrap();
    let fill = |filler: &mut fs::File| while filler.write_all(&[0; 512]).is_ok() {};
    for number in 0..40 {
        fill(&mut filler);
        let reason = format!("reason {number:02} {}", "x".repeat(1_000));
        swarm.succeed(&["state", "set", "A", "disabled", "--reason", &reason]);
        listener.wait_for(&[&reason[..9]], &[]);
    }
    worker.wait_for_log("the history");
    let history = state.join("catalogue.ndjson.history");
    let complete = fs::read(&history).unwrap();
    assert!(complete.is_empty() || complete.ends_with(b"\n"), "a torn line");
    assert_eq!(worker.count_in_log("the history"), 1, "{}", worker.log());
    filler.set_len(0).unwrap();
    worker.wait_for_log("is written again");
    wait_for("every record", || {
        let mut text = String::new();
        fs::File::open(&history).unwrap().read_to_string(&mut text).unwrap();
        text.contains("reason 39").then_some(())
    });
    let differences = differences(&history, std::slice::from_ref(&listener.heard));
    assert!(differences.is_empty(), "{differences}");
}
