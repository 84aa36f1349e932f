//! With trust off nothing of it is asked: judged by the server's own log of statements. `dev` is always without.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::databases::ExternalClient;
use crate::support::releases::Owner;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, wait_for};

/// How many statements of this kind the server has been sent, in which `condition` holds.
async fn sent(sql: &mut ExternalClient, command: &str, condition: &str) -> u32 {
    let query = format!(
        "SELECT CAST(COUNT(*) AS CHAR) FROM general_log WHERE command_type = '{command}' \
         AND argument NOT LIKE '%general_log%' AND {condition}"
    );
    sql.text(&query).await.unwrap().parse().unwrap()
}

/// A master looks once, at its start, whether the table is there, for its warning; nothing else names it, at idle polls, an
/// edit and a state. An idle poll is one statement.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn one_statement_names_the_manifest_with_trust_off() {
    let server = Server::start(Kind::MariaDb, &["--general-log=1", "--log-output=TABLE"]).await;
    let swarm = Swarm::on(server.create("plain").await);
    let mut sql = server.client("mysql").await;
    // The log lacks statements that name a table that is missing.
    sql.run(
        "CREATE TABLE plain.rulesyncd_manifest (realm VARCHAR(64), part INTEGER, version VARCHAR(32), body MEDIUMTEXT, \
         signatures MEDIUMTEXT, updated_at VARCHAR(32), PRIMARY KEY (realm, part))",
    )
    .await;
    sql.run("TRUNCATE general_log").await;
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, worker) = (
        swarm.master(),
        swarm.daemon("worker", |command| {
            command
                .env("RULESYNCD_WORKER_POLL_INTERVAL", "100ms")
                .env("RULESYNCD_WORKER_OVERLAP", "1s")
                .env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "1h")
                .env("RULESYNCD_WORKER_REPORT_INTERVAL", "1h");
        }),
    );
    worker.wait_for_log(" loaded");
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.save_atomically("R1.yaml", rule_text("R1", 2));
    assert_eq!(subscriber.change()["new_value"]["rule_version"], 2);
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.change()["new_value"]["state"], "disabled");
    let named = "argument LIKE '%rulesyncd_manifest%'";
    assert_eq!(sent(&mut sql, "Execute", named).await, 1, "the look at the start");
    assert_eq!(sent(&mut sql, "Query", named).await, 0);

    master.stop();
    // Until what was changed is older than the overlap, a poll reads it again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    sql.run("TRUNCATE general_log").await;
    let deadline = Instant::now() + DEADLINE;
    while sent(&mut sql, "Execute", "argument LIKE '%ttp_rule_state%'").await < 20 {
        assert!(Instant::now() < deadline, "no idle polls");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Counted in this order, a poll that comes meanwhile is among the polls. One may be in a transaction, for it read rows
    // again, and a delayed report may come.
    let all = sent(&mut sql, "Execute", "TRUE").await + sent(&mut sql, "Query", "TRUE").await;
    let polls = sent(&mut sql, "Execute", "argument LIKE '%ttp_rule_state%'").await;
    let others = sql
        .rows(
            "SELECT CAST(LEFT(argument, 200) AS CHAR) FROM general_log WHERE command_type IN ('Execute', 'Query') \
             AND argument NOT LIKE '%general_log%' AND argument NOT LIKE '%ttp_rule_state%'",
        )
        .await;
    assert!(all <= polls + 4, "{all} statements at {polls} idle polls: {others:?}");
    assert_eq!(sent(&mut sql, "Execute", named).await, 0);
}

#[test]
fn dev_shows_unsigned_rules_though_trust_is_configured() {
    let (swarm, owner) = (Swarm::on_sqlite(), Owner::new());
    let (signers, printed) = (owner.signers(&swarm, ""), swarm.path("printed"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _dev = swarm.daemon("dev", |command| {
        command.current_dir(swarm.path(".")).args(["--rules-dir", "rules"]).env_remove("RULESYNCD_RULES_DIR");
        command.env("RULESYNCD_TRUST_ALLOWED_SIGNERS", signers).env("RULESYNCD_TRUST_REALM", owner.realm);
        command.stdout(fs::File::create(&printed).unwrap());
    });
    let wait_for_line = |wanted: &str| {
        wait_for(wanted, || fs::read_to_string(&printed).unwrap().contains(wanted).then_some(()));
    };
    wait_for_line("R1 v1");
    swarm.save_atomically("R1.yaml", rule_text("R1", 2));
    wait_for_line("written  R1 v2");
}
