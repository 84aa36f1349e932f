//! `verify` compares what it finds, and names the differences.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text};

fn verify(swarm: &Swarm, code: i32) -> Value {
    verify_with(swarm, &["verify", "--json"], code)
}

fn verify_with(swarm: &Swarm, args: &[&str], code: i32) -> Value {
    let output = swarm.run(args);
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn differences(verdict: &Value) -> Vec<(String, String)> {
    let differences = verdict["differences"].as_array().unwrap().iter();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    differences.map(|difference| (word(&difference["rule_id"]), word(&difference["what"]))).collect()
}

#[test]
fn places_that_say_the_same_are_in_sync() {
    let swarm = Swarm::on_sqlite();
    for id in ["A", "B", "C"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    // The master says that it has started before it creates the tables.
    swarm.succeed(&["sync"]);
    let _master = swarm.master();
    let _worker = swarm.worker();
    swarm.succeed(&["state", "set", "B", "disabled"]);
    let verdict = verify(&swarm, 0);
    assert_eq!((&verdict["rules"], &verdict["states"]), (&3.into(), &1.into()));
    assert_eq!(verdict["left_out"], Value::Array(Vec::new()));
    assert_eq!(verdict["compared"], serde_json::json!(["tables", "directory", "worker"]));
    let status: Value = serde_json::from_str(&swarm.succeed(&[
        "status",
        "--json",
        "--socket",
        &swarm.socket().display().to_string(),
    ]))
    .unwrap();
    assert_eq!(status["digest"], verdict["digest"]);
}

#[test]
fn each_kind_of_difference_is_named() {
    let swarm = Swarm::on_sqlite();
    for id in ["SAME", "EDITED", "GONE"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    swarm.succeed(&["sync"]);
    // The worker follows another database than the one that `verify` compares.
    let other = Swarm::on_sqlite();
    for (id, version) in [("SAME", 1), ("EDITED", 7), ("EXTRA", 1)] {
        other.save(&format!("{id}.yaml"), rule_text(id, version));
    }
    other.succeed(&["sync"]);
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_URL", format!("sqlite://{}", other.path("rules.db").display()));
    });
    swarm.subscribe().snapshot();
    let refused = swarm.run(&["state", "set", "SAME", "disabled"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the worker of this host uses sqlite://") && said.contains("--database-url"),
        "{said}"
    );
    swarm.succeed(&["state", "set", "SAME", "disabled", "--database-url", swarm.url()]);
    swarm.save("EDITED.yaml", rule_text("EDITED", 2));
    swarm.save("NEW.yaml", rule_text("NEW", 1));
    swarm.remove("GONE.yaml");
    let expected = [
        ("EDITED", "EDITED.yaml holds version 2, the row version 1"),
        ("EDITED", "the worker holds version 7, the row version 1"),
        ("EXTRA", "the worker holds it, and no row does"),
        ("GONE", "the table still has the row, and GONE.yaml no longer holds it"),
        ("GONE", "the worker does not hold it"),
        ("NEW", "NEW.yaml holds version 1, and the table has no row"),
        ("SAME", "the worker says `enabled`, the table `disabled` by operator"),
    ];
    assert_eq!(
        differences(&verify_with(&swarm, &["verify", "--json", "--database-url", swarm.url()], 1)),
        expected.map(|(id, what)| (id.to_owned(), what.to_owned()))
    );
}

#[test]
fn what_is_not_here_is_left_out_unless_it_was_named() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    assert_eq!(verify(&swarm, 0)["left_out"].as_array().unwrap().len(), 1);
    let socket = swarm.socket().display().to_string();
    assert_eq!(swarm.run(&["verify", "--socket", &socket]).status.code(), Some(3));
}

#[test]
fn an_invalid_file_is_a_difference_and_nothing_is_said_to_be_in_sync() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.save("B.yaml", rule_text("B", 1));
    swarm.succeed(&["sync"]);
    swarm.save("A.yaml", "rule_id: A\nrule_version: [");
    swarm.save("new.yaml", "no rule");
    let found = differences(&verify(&swarm, 1));
    let ids: Vec<_> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["A", "new.yaml"]);
    assert!(found[0].1.starts_with("A.yaml is invalid: line 2, "), "{found:?}");
    let said = text(&swarm.run(&["verify"]).stdout);
    assert!(said.contains("2 differences") && !said.contains("in sync"), "{said}");
}

#[test]
fn what_does_not_answer_is_named_soon_and_not_said_to_be_in_sync() {
    let swarm = Swarm::on_sqlite();
    swarm.save("A.yaml", rule_text("A", 1));
    swarm.succeed(&["sync"]);
    let (master, worker) = (swarm.master(), swarm.worker());
    swarm.subscribe().snapshot();
    verify(&swarm, 0);
    for (daemon, hung) in [("worker", &worker), ("master", &master)] {
        hung.freeze();
        for command in [&["verify"][..], &["why", "A"]] {
            let begun = Instant::now();
            let output = swarm.run(command);
            let said = text(&output.stdout);
            assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
            assert!(said.contains(&format!("no answer: the {daemon}")), "{command:?}: {said}");
            assert!(begun.elapsed() < Duration::from_secs(15), "{command:?}: {:?}", begun.elapsed());
            let in_sync = said.lines().find(|line| line.contains("in sync")).unwrap();
            assert_eq!(in_sync.contains("worker"), daemon == "master", "{said}");
        }
        hung.thaw();
    }
}

#[test]
fn a_database_that_does_not_answer_is_no_sync_of_anything() {
    let swarm = Swarm::on("postgresql://someone@127.0.0.1:1/rules");
    swarm.save("A.yaml", rule_text("A", 1));
    for command in [&["verify"][..], &["why", "A"]] {
        let output = swarm.run(command);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
        assert!(said.contains("Connection refused") && !said.contains("in sync"), "{command:?}: {said}");
    }
}
