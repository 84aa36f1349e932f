//! Whoever has the workers' password can write any row: it forges no line, and fills no memory.

use super::{stderr, worker};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, text};

/// A name that would clear a terminal, forge the last line of `fleet`, and run a script in a page.
const EVIL: &str = "evil\n9 of 9 in sync\r\u{1b}[2J\u{7}\u{202e}<script>alert(1)</script>";

/// The statement that inserts a report which says so of itself.
fn report(epoch: &str, host: &str, silent_for: &str, interval_ms: u64) -> String {
    format!(
        "INSERT INTO rulesyncd_worker (epoch, worker_id, host, program, started_at, reported_at, interval_ms, applied, \
         seq, digest, rules, states, quarantined, quarantined_ids, trust, subscribers, acknowledging, acknowledged, \
         server, stale_ms) \
         SELECT {epoch}, {host}, {host}, left({host}, 64), at, at, {interval_ms}, 1, 0, 'no', \
         1, 0, 1, {host}, {host}, 0, 0, 0, {host}, 0 \
         FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' - interval '{silent_for}' AS at) AS times"
    )
}

fn is_clean(what: &str) {
    assert!(!what.contains(['\r', '\u{1b}', '\u{7}', '\u{202e}']), "{what:?}");
    assert!(!what.lines().any(|line| line.trim_start().starts_with("9 of 9")), "{what}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn rows_of_strangers_forge_nothing_and_are_bounded() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let mut sql = server.client("fleet").await;
    let evil = format!("'{EVIL}'");
    sql.run(&report("'silent'", &evil, "1 hour", 1_000)).await;
    sql.run(&report("'fresh'", &evil.replace("evil", "sly"), "0 s", 3_600_000)).await;
    let page = swarm.path("fleet.html");
    let shown = swarm.run(&["fleet", "--html", page.to_str().unwrap()]);
    assert!(text(&shown.stdout).contains("sly\\n9 of 9 in sync"), "{}", text(&shown.stdout));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script"), "{page}");
    is_clean(&(text(&shown.stdout) + &stderr(&shown) + &page));
    let json: serde_json::Value =
        serde_json::from_slice(&swarm.run(&["fleet", "--json"]).stdout).expect("one object");
    assert!(json["hosts"].as_array().unwrap().iter().any(|host| host["host"] == EVIL), "{json}");
    let waited = swarm.run(&["state", "set", "R1", "disabled", "--wait=1s"]);
    let said = stderr(&waited);
    assert!(waited.status.code() == Some(1) && said.contains("1 of 1 host lacks the change: sly"), "{said}");
    assert!(said.contains("not waited for: evil"), "{said}");
    is_clean(&said);
    let master = swarm.master();
    master.wait_for_log("worker evil\\n9 of 9 in sync");
    is_clean(&master.log());

    // A text that is longer than its column would be: the row is left out.
    sql.run("ALTER TABLE rulesyncd_worker ALTER host TYPE text, ALTER worker_id TYPE text").await;
    let long = "repeat('long', 500000)";
    sql.run(&report("'long'", "'x'", "0 s", 1_000)).await;
    sql.run(&format!("UPDATE rulesyncd_worker SET host = {long} WHERE epoch = 'long'")).await;
    let shown = text(&swarm.run(&["fleet"]).stdout);
    assert!(
        shown.len() < 4_000 && !shown.contains("longlong") && shown.contains("0 of 2 in sync"),
        "{shown}"
    );

    // More rows than any fleet has.
    sql.run(&format!(
        "{} , generate_series(1, 20001) AS number",
        report("number", "'x' || number", "0 s", 1_000)
    ))
    .await;
    let refused = |args: &[&str], code: i32| {
        let output = swarm.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("rulesyncd_worker has more than 20000 rows; delete the rows"), "{said}");
        said
    };
    refused(&["fleet"], 3);
    assert!(refused(&["state", "set", "R1", "clipped", "--wait"], 2).contains("nothing was written"));
    // The master and the workers go on.
    let worker = worker(&swarm, "w1", "w1");
    worker.wait_for_log("1 rule is loaded");
    swarm.save("R2.yaml", rule_text("R2", 1));
    let deadline = std::time::Instant::now() + DEADLINE;
    while sql.text("SELECT rule_id FROM ttp_rule WHERE rule_id = 'R2'").await.is_none() {
        assert!(std::time::Instant::now() < deadline, "{}", master.log());
    }
}
