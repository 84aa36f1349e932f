//! What a worker serves from its cache, and for how long.

use std::fs;

use rulesyncd::rule::ContentDigest;
use serde_json::Value;

use crate::support::forged::resident;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Subscriber, Swarm, wait_for};

/// A swarm whose worker had R1 and R2 and was stopped, and its master.
fn stopped() -> (Swarm, Daemon) {
    stopped_on(Swarm::on_sqlite())
}

fn stopped_on(swarm: Swarm) -> (Swarm, Daemon) {
    for id in ["R1", "R2"] {
        swarm.save(&format!("{id}.yaml"), rule_text(id, 1));
    }
    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 2).then_some(()));
    worker.stop();
    (swarm, master)
}

/// Edits the rows of the cache, and corrects all of its digests.
fn poison(swarm: &Swarm, edit: impl Fn(&mut Value)) {
    let path = swarm.path("catalogue.ndjson");
    let text = fs::read_to_string(&path).unwrap();
    let mut body = String::new();
    for line in text.lines().take(text.lines().count() - 1) {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line["yaml_content"].is_string() {
            edit(&mut line);
            let content = line["yaml_content"].as_str().unwrap();
            line["content_sha256"] = ContentDigest::of(content).to_string().into();
        }
        body += &format!("{line}\n");
    }
    let sealed = serde_json::json!({ "sha256": ContentDigest::of(&body).to_string() });
    fs::write(path, format!("{body}{sealed}\n")).unwrap();
}

fn pattern(rule: &Value) -> &str {
    rule["new_value"]["match_spec"]["pattern"].as_str().unwrap()
}

#[test]
fn a_poisoned_cache_is_mended_by_the_first_look() {
    a_poisoned_cache_is_mended_on(Swarm::on_sqlite());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_poisoned_cache_is_mended_on_postgresql() {
    let server = Server::start(Kind::Postgres, &[]).await;
    a_poisoned_cache_is_mended_on(Swarm::on(server.create("rules").await));
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_poisoned_cache_is_mended_on_mariadb() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    a_poisoned_cache_is_mended_on(Swarm::on(server.create("rules").await));
}

fn a_poisoned_cache_is_mended_on(swarm: Swarm) {
    let (swarm, _master) = stopped_on(swarm);
    let text = |row: &Value| row["yaml_content"].as_str().unwrap().to_owned();
    let edits: [&dyn Fn(&mut Value); 3] = [
        &|row| row["yaml_content"] = text(row).replace("'v1'", "'harmless'").into(),
        // A field that no digest covers.
        &|row| row["updated_by"] = "mallory".into(),
        // A state of the row that its stamp would not make a poll read again.
        &|row| {
            row["yaml_content"] = text(row).replace("'v1'", "'harmless'").into();
            row["updated_at"] = "2100-01-01T00:00:00.000000Z".into();
        },
    ];
    for edit in edits {
        poison(&swarm, edit);
        let worker = swarm.worker();
        let rules = swarm.subscribe().snapshot();
        assert_eq!(rules.len(), 2);
        for rule in &rules {
            assert_eq!((pattern(rule), &rule["updated_by"]), ("v1", &"filesystem".into()), "{rule}");
        }
        swarm.succeed(&["verify"]);
        swarm.succeed(&["why", "R1"]);
        worker.stop();
    }
}

#[test]
fn a_poisoned_cache_is_served_as_stale_and_mended_when_the_database_is_back() {
    let (swarm, master) = stopped();
    master.stop();
    poison(&swarm, |row| {
        row["yaml_content"] = row["yaml_content"].as_str().unwrap().replace("'v1'", "'harmless'").into();
    });
    let (database, away) = (swarm.path("rules.db"), swarm.path("away.db"));
    fs::rename(&database, &away).unwrap();
    let _worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    for rule in subscriber.snapshot() {
        // The rule and its digest belong together: the digest is that of the text.
        assert_eq!(pattern(&rule), "harmless");
        let text = rule_text(rule["rule_id"].as_str().unwrap(), 1).replace("'v1'", "'harmless'");
        assert_eq!(rule["content_sha256"], ContentDigest::of(text).to_string(), "{rule}");
    }
    assert_eq!(swarm.run(&["verify"]).status.code(), Some(3), "nothing can be compared");
    fs::rename(&away, &database).unwrap();
    for _ in ["R1", "R2"] {
        assert_eq!(pattern(&subscriber.change()), "v1");
    }
    swarm.succeed(&["verify"]);
}

#[test]
fn a_cache_of_no_size_that_a_worker_writes_is_set_aside() {
    let (swarm, _master) = stopped();
    let cache = swarm.path("catalogue.ndjson");
    let sparse = fs::File::create(&cache).unwrap();
    sparse.set_len(1536 << 20).unwrap();
    let worker = swarm.worker();
    assert_eq!(swarm.subscribe().snapshot().len(), 2);
    assert_eq!(fs::metadata(swarm.path("catalogue.ndjson.corrupt")).unwrap().len(), 1536 << 20);
    assert!(resident(worker.pid()) < 128 * 1024, "{} KiB", resident(worker.pid()));
    wait_for("a cache", || cache.exists().then_some(()));
}

/// As where a second unit has the configuration of the first, but for the socket.
#[test]
fn a_second_worker_leaves_the_cache_to_the_first_and_keeps_it_once_it_is_started_alone() {
    let (swarm, _master) = stopped();
    let (cache, socket) = (swarm.path("catalogue.ndjson"), swarm.path("other.sock"));
    let second = || {
        swarm.daemon("worker", |command| {
            command.env("RULESYNCD_SOCKET", &socket);
        })
    };
    let subscribe = || {
        let mut subscriber = Subscriber::connect(&socket);
        subscriber.send(r#"{"op":"subscribe"}"#);
        assert_eq!(subscriber.snapshot().len(), 2);
        subscriber
    };
    let save = |subscriber: &mut Subscriber, version| {
        swarm.save("R1.yaml", rule_text("R1", version));
        assert_eq!(subscriber.change()["rule_version"], version);
    };
    let recorded = || {
        let history = swarm.succeed(&["history", "R1", "--json"]);
        history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let warning = "another worker keeps the cache";

    let before = recorded().len();
    let (first, other) = (swarm.worker(), second());
    other.wait_for_log(warning);
    let mut subscriber = subscribe();
    let mut of_first = swarm.subscribe();
    of_first.snapshot();
    save(&mut subscriber, 2);
    assert_eq!(of_first.change()["rule_version"], 2);
    wait_for("the record of the change", || (recorded().len() > before).then_some(()));
    drop(of_first);
    first.stop();
    let left = fs::read_to_string(&cache).unwrap();
    assert!(left.contains("pattern: 'v2'"), "{left}");

    // It goes on serving, and keeps no cache and no history.
    save(&mut subscriber, 3);
    drop(subscriber);
    other.stop();
    assert_eq!(fs::read_to_string(&cache).unwrap(), left);
    assert_eq!(recorded().len(), before + 1, "one worker records a change: {:?}", recorded());

    let other = second();
    let mut subscriber = subscribe();
    save(&mut subscriber, 4);
    wait_for("the cache", || fs::read_to_string(&cache).unwrap().contains("pattern: 'v4'").then_some(()));
    assert_eq!(other.count_in_log(warning), 0, "{}", other.log());
}

/// Only the cache and the database have the texts.
#[test]
fn a_cache_that_was_removed_is_written_anew() {
    let (swarm, _master) = stopped();
    let cache = swarm.path("catalogue.ndjson");
    let worker = swarm.worker();
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    let save = |subscriber: &mut Subscriber, version| {
        swarm.save("R1.yaml", rule_text("R1", version));
        assert_eq!(subscriber.change()["rule_version"], version);
    };
    let wait_for_version = |version| {
        wait_for("all rules in the cache", || {
            let text = fs::read_to_string(&cache).unwrap_or_default();
            (text.contains("R2.yaml") && text.contains(&format!("pattern: 'v{version}'"))).then_some(())
        });
    };
    save(&mut subscriber, 2);
    wait_for_version(2);
    fs::remove_file(&cache).unwrap();
    save(&mut subscriber, 3);
    worker.wait_for_log("the texts of 1 rule are missing");
    // They are read again without a change for subscribers; the next change finds them there.
    save(&mut subscriber, 4);
    wait_for_version(4);
    worker.wait_for_log("is written again");
}
