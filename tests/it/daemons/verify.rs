//! `verify` compares what it finds, and names what differs.

use serde_json::Value;

use crate::support::rules::rule_text;
use crate::support::swarm::{Swarm, text};

fn verify(swarm: &Swarm, code: i32) -> Value {
    let output = swarm.run(&["verify", "--json"]);
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn differences(verdict: &Value) -> Vec<(String, String)> {
    let differences = verdict["differences"].as_array().unwrap().iter();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    differences.map(|difference| (word(&difference["rule_id"]), word(&difference["what"]))).collect()
}

#[test]
fn places_that_say_the_same_are_in_step() {
    let swarm = Swarm::on_sqlite();
    for id in ["A", "B", "C"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    // The master says that it started before it has made the tables.
    swarm.succeed(&["sync"]);
    let _master = swarm.master();
    let _worker = swarm.worker();
    swarm.succeed(&["state", "set", "B", "disabled"]);
    let verdict = verify(&swarm, 0);
    assert_eq!((&verdict["rules"], &verdict["states"]), (&3.into(), &1.into()));
    assert_eq!(verdict["left_out"], Value::Array(Vec::new()));
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
    // The worker follows another database than the one that is compared.
    let other = Swarm::on_sqlite();
    for (id, version) in [("SAME", 1), ("EDITED", 7), ("EXTRA", 1)] {
        other.save(&format!("{id}.yaml"), rule_text(id, version));
    }
    other.succeed(&["sync"]);
    let _worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_URL", format!("sqlite://{}", other.path("rules.db").display()));
    });
    swarm.subscribe().snapshot();
    swarm.succeed(&["state", "set", "SAME", "disabled"]);
    swarm.save("EDITED.yaml", rule_text("EDITED", 2));
    swarm.save("NEW.yaml", rule_text("NEW", 1));
    swarm.remove("GONE.yaml");
    let expected = [
        ("EDITED", "EDITED.yaml holds version 2, the row version 1"),
        ("EDITED", "the worker holds version 7, the row version 1"),
        ("EXTRA", "the worker holds it, and no row does"),
        ("GONE", "the row stands, and GONE.yaml no longer holds it"),
        ("GONE", "the worker does not hold it"),
        ("NEW", "NEW.yaml holds version 1, and the table has no row"),
        ("SAME", "the worker says `enabled`, the table `disabled` by operator"),
    ];
    assert_eq!(differences(&verify(&swarm, 1)), expected.map(|(id, what)| (id.to_owned(), what.to_owned())));
}

#[test]
fn what_is_not_here_is_left_out_unless_it_was_named() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    assert_eq!(verify(&swarm, 0)["left_out"].as_array().unwrap().len(), 1);
    let socket = swarm.socket().display().to_string();
    assert_eq!(swarm.run(&["verify", "--socket", &socket]).status.code(), Some(3));
}
