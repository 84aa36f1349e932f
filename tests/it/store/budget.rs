//! A worker's memory is bounded, whatever anyone writes into the tables.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;

use crate::driver::status;
use crate::support::databases::TestDatabase;
use crate::support::forged::most_resident;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Daemon, Swarm, wait_for, wait_within};

const MIB: usize = 1 << 20;

/// How long a busy machine may need to read 700 MB.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Texts of many sizes in each kind of column: those that are too long are quarantined, those that are too much
/// together as well, and everything else is served.
async fn hostile_rows(
    field: TestDatabase,
    long_rules: usize,
    longest: usize,
    repeated: impl Fn(usize) -> String,
) {
    let mut external = field.external().await;
    let now = field.now().await;
    let column = |name: &str| {
        format!(
            "INSERT INTO ttp_rule (rule_id, rule_version, source_path, yaml_content, updated_at, updated_by) SELECT {name} FROM ttp_rule WHERE rule_id = 'R1'"
        )
    };
    external.begin().await;
    for number in 1..=20 {
        external.put(&format!("R{number}"), 1, now).await;
    }
    let last = format!("A{:03}", long_rules - 1);
    // Valid rules with a description of almost 4 MiB.
    for number in 0..long_rules {
        let id = format!("A{number:03}");
        external.put_text(&id, 1, &(rule_text(&id, 1) + "description: "), now).await;
    }
    external.commit().await;
    let long = repeated(4 * MIB - 1_000);
    let concatenated = match field.database.backend() {
        "mysql" => format!("CONCAT(yaml_content, {long})"),
        _ => format!("yaml_content || {long}"),
    };
    external.run(&format!("UPDATE ttp_rule SET yaml_content = {concatenated} WHERE rule_id LIKE 'A%'")).await;
    let huge = repeated(longest);
    external.run(&column(&format!("'B1', 1, 'B1.yaml', {huge}, updated_at, updated_by"))).await;
    external
        .run(&column(&format!("'B2', 1, {}, yaml_content, updated_at, updated_by", repeated(30 * MIB))))
        .await;
    external
        .run(&column(&format!("'B3', 1, 'B3.yaml', yaml_content, updated_at, {}", repeated(30 * MIB))))
        .await;
    external.put_state("R1", "disabled", None, now).await;
    external.put_state("R2", "disabled", None, now).await;
    let reason = repeated(longest.min(300 * MIB));
    external.run(&format!("UPDATE ttp_rule_state SET reason = {reason} WHERE rule_id = 'R2'")).await;

    let swarm = Swarm::on(field.address.clone());
    let worker = swarm.daemon("worker", quick);
    wait_for("the socket", || UnixStream::connect(swarm.socket()).ok());
    let quarantined = wait_within(TIME_LIMIT, "the quarantined rows", || {
        let status = status(&swarm.socket());
        let quarantined = status["quarantined"].as_array()?.clone();
        (quarantined.len() >= long_rules / 2).then_some(quarantined)
    });
    let served = |swarm: &Swarm| -> Vec<String> {
        let wanted: Vec<_> =
            (1..=21).map(|number| format!("R{number}")).chain([last.clone(), "M1".to_owned()]).collect();
        let line = json!({ "op": "subscribe", "rule_ids": wanted });

        let rules = swarm.subscribe_with(&line.to_string()).snapshot();
        rules.iter().filter_map(|line| line["rule_id"].as_str().map(str::to_owned)).collect()
    };
    let ids = served(&swarm);
    for number in 1..=20 {
        assert!(ids.contains(&format!("R{number}")), "{ids:?}");
    }
    let of =
        |id: &str| quarantined.iter().find(|row| row["rule_id"] == id).map(|row| row["reason"].to_string());
    for (id, column) in [
        ("B1", "yaml_content has "),
        ("B2", "source_path has "),
        ("B3", "updated_by has "),
        ("R2", "reason has "),
    ] {
        let reason = of(id).unwrap_or_else(|| panic!("{id} of {quarantined:?}"));
        assert!(reason.contains(column) && reason.contains("are possible"), "{id}: {reason}");
    }
    let over = of(&last).unwrap();
    assert!(over.contains("worker.max_memory"), "{over}");
    // All of it, while another poll runs.
    let all = swarm.subscribe().snapshot();
    assert!(all.len() > 25);
    let first = all.iter().find(|line| line["rule_id"] == "R1").unwrap();
    assert_eq!(first["new_value"]["state"]["state"], "disabled");
    within_bounds(&worker);

    // The master reads the same rows.
    swarm.save("M1.yaml", rule_text("M1", 1));
    let master = swarm.master();
    wait_within(TIME_LIMIT, "the master's rule", || served(&swarm).contains(&"M1".to_owned()).then_some(()));
    within_bounds(&master);
    master.stop();

    // A new rule is served at once, and freed memory is used at the next full poll.
    external.put("R21", 1, field.now().await).await;
    wait_within(TIME_LIMIT, "the new rule", || served(&swarm).contains(&"R21".to_owned()).then_some(()));
    external.run(&format!("DELETE FROM ttp_rule WHERE rule_id LIKE 'A%' AND rule_id <> '{last}'")).await;
    wait_within(TIME_LIMIT, "a rule that fits now", || served(&swarm).contains(&last).then_some(()));
    within_bounds(&worker);

    // So do the commands.
    for arguments in ["state list", "sync --dry-run", "why B1", "verify"] {
        let output = limited(&swarm, arguments, "60s");
        let error = String::from_utf8_lossy(&output.stderr);
        let ended = output.status.code().filter(|code| *code < 3);
        assert!(ended.is_some(), "{arguments}: {:?} {error}", output.status);
    }
    worker.stop();
}

fn quick(command: &mut Command) {
    command.env("RULESYNCD_WORKER_FULL_SCAN_INTERVAL", "2s").env("RULESYNCD_WORKER_MAX_DELETE", "100%");
}

/// Runs a command with as much memory as the units allow.
fn limited(swarm: &Swarm, arguments: &str, connect_timeout: &str) -> Output {
    let command = swarm.command(&arguments.split(' ').collect::<Vec<_>>());
    let mut limited = Command::new("sh");
    // In KiB.
    limited.args(["-c", "ulimit -v 1048576; exec \"$@\"", "sh"]).arg(command.get_program());
    limited.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", connect_timeout).output().unwrap()
}

/// The budget for the catalogue, as much for a poll, and as much for what subscribers are reading.
fn within_bounds(daemon: &Daemon) {
    let most = most_resident(daemon.pid());
    assert!(most < 3 * 64 * 1024, "{most} KiB: {}", daemon.log());
}

#[tokio::test]
async fn hostile_rows_of_sqlite_take_no_more_than_the_budget() {
    let field = TestDatabase::sqlite_file().await;
    hostile_rows(field, 40, 300 * MIB, |length| format!("printf('%.*c', {length}, 'x')")).await;
}

#[tokio::test]
#[ignore = "starts a MariaDB server"]
async fn hostile_rows_of_mariadb_take_no_more_than_the_budget() {
    let server =
        Server::start(Kind::MariaDb, &["--max-allowed-packet=1G", "--innodb-log-file-size=512M"]).await;
    let field = TestDatabase::server(&server.create("rules").await).await;
    let mut external = field.external().await;
    let wider = ["source_path LONGTEXT", "updated_by LONGTEXT", "yaml_content LONGTEXT NOT NULL"];
    for column in wider {
        external.run(&format!("ALTER TABLE ttp_rule MODIFY {column}")).await;
    }
    external.run("ALTER TABLE ttp_rule_state MODIFY reason LONGTEXT").await;
    hostile_rows(field, 40, 64 * MIB, |length| format!("REPEAT('x', {length})")).await;
}

#[tokio::test]
#[ignore = "starts a MariaDB server"]
async fn rows_that_mariadb_takes_long_to_measure_arrive_one_by_one() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let field = TestDatabase::server(&server.create("rules").await).await;
    let mut external = field.external().await;
    let now = field.now().await;
    for number in 0..15 {
        external.put(&format!("R{number}"), 1, now).await;
    }
    // Each look at one of these texts takes the server 150 ms, and a row has a few. All rows together take
    // longer than one statement may be silent.
    external.run("RENAME TABLE ttp_rule TO kept").await;
    external.run(
        "CREATE VIEW ttp_rule AS SELECT rule_id, rule_version, source_path, updated_at, updated_by, \
         IF(rule_id = 'R0', yaml_content, CONCAT(REPEAT('x', 5000000), SLEEP(0.15))) AS yaml_content FROM kept",
    )
    .await;
    let swarm = Swarm::on(field.address.clone());
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
    });
    wait_for("the socket", || UnixStream::connect(swarm.socket()).ok());
    let quarantined = wait_within(TIME_LIMIT, "the rows that are too long", || {
        status(&swarm.socket())["quarantined"].as_array().filter(|rows| !rows.is_empty()).cloned()
    });
    assert_eq!(quarantined.len(), 14, "{quarantined:?}");
    assert_eq!(swarm.subscribe().snapshot().len(), 1);
    worker.stop();
}

#[tokio::test]
#[ignore = "starts a PostgreSQL server"]
async fn hostile_rows_of_postgresql_take_no_more_than_the_budget() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("rules").await).await;
    hostile_rows(field, 150, 900 * MIB, |length| format!("repeat('x', {length})")).await;
}

#[test]
fn a_table_of_too_many_rows_is_not_read_and_what_was_read_stays_served() {
    let swarm = Swarm::on_sqlite();
    for number in 0..8 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    let _master = swarm.master();
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_MAX_RULES", "10");
    });
    wait_for("the rules", || (swarm.subscribe().snapshot().len() == 8).then_some(()));
    for number in 8..11 {
        swarm.save(&format!("R{number}.yaml"), rule_text(&format!("R{number}"), 1));
    }
    worker.wait_for_log("worker.max_rules");
    assert!(worker.log().contains("ttp_rule has 11 rows; at most 10 are read"), "{}", worker.log());
    assert!(swarm.subscribe().snapshot().len() >= 8);
    fs::remove_file(swarm.rules().join("R8.yaml")).unwrap();
    wait_for("the rules of a table that is short enough", || {
        (swarm.subscribe().snapshot().len() == 10).then_some(())
    });
}

#[tokio::test]
async fn rows_that_are_no_rules_take_no_more_than_their_part_of_the_memory() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    external.put("R1", 1, field.now().await).await;
    let swarm = Swarm::on(field.address.clone());
    let worker = swarm.daemon("worker", |command| {
        quick(command);
        command.env("RULESYNCD_WORKER_MAX_MEMORY", "1MiB");
    });
    wait_for("the rule", || {
        let socket = UnixStream::connect(swarm.socket()).ok();
        socket.and_then(|_| (swarm.subscribe().snapshot().len() == 1).then_some(()))
    });
    let junk = |first: usize, last: usize| {
        format!(
            "WITH RECURSIVE n(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {last}) INSERT INTO ttp_rule \
             SELECT 'J' || n, 1, 'J.yaml', 'no rule', updated_at, updated_by FROM ttp_rule, n WHERE rule_id = 'R1'"
        )
    };
    external.run(&junk(1, 300)).await;
    let quarantined = |swarm: &Swarm| status(&swarm.socket())["quarantined"].as_array().map_or(0, Vec::len);
    wait_for("rows that are no rules", || (quarantined(&swarm) > 0).then_some(()));
    // A few at a time do not come in either.
    for first in (301..=2_001).step_by(100) {
        external.run(&junk(first, first + 99)).await;
        std::thread::sleep(Duration::from_millis(20));
    }
    worker.wait_for_log("of ttp_rule and all quarantined rows take more than 262144 bytes");
    assert!(worker.log().contains("raise `worker.max_memory`"), "{}", worker.log());
    assert_eq!(swarm.subscribe().snapshot().len(), 1);

    external.run("DELETE FROM ttp_rule WHERE rule_id LIKE 'J%' AND rule_id <> 'J1'").await;
    external.put("R2", 1, field.now().await).await;
    wait_for("the new rule", || (swarm.subscribe().snapshot().len() == 2).then_some(()));
    wait_for("one row that is no rule", || (quarantined(&swarm) == 1).then_some(()));
    worker.stop();
}

/// The database's owner may replace a table by a view, and a view may have no end.
#[tokio::test]
async fn commands_give_up_tables_without_end() {
    let field = TestDatabase::sqlite_file().await;
    let mut external = field.external().await;
    external.put("R1", 1, field.now().await).await;
    for table in ["ttp_rule", "ttp_rule_state"] {
        external.run(&format!("ALTER TABLE {table} RENAME TO kept_{table}")).await;
    }
    let endless = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n), \
         t(t) AS (SELECT printf('%.*c', 4000, 'x'))";
    external.run(&format!(
        "CREATE VIEW ttp_rule AS {endless} SELECT 'R' || n AS rule_id, 1 AS rule_version, t AS source_path, \
         'x' AS yaml_content, '2026-01-01 00:00:00.5' AS updated_at, t AS updated_by FROM n, t"
    ))
    .await;
    external
        .run(&format!(
            "CREATE VIEW ttp_rule_state AS {endless} SELECT 'R' || n AS rule_id, 'disabled' AS state, \
         NULL AS confidence_max, NULL AS expires_at, t AS reason, t AS set_by, \
         '2026-01-01 00:00:00.5' AS set_at FROM n, t"
        ))
        .await;
    let swarm = Swarm::on(field.address.clone());
    let too_long = "look for rows that nobody needs";
    for (arguments, timeout, expected) in [
        ("state list", "60s", too_long),
        ("sync --dry-run", "60s", too_long),
        // These look for a row, and count all of them.
        ("why R1", "2s", "no answer within 2s"),
        ("verify", "2s", "no answer within 2s"),
    ] {
        let output = limited(&swarm, arguments, timeout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{arguments}: {:?} {error}", output.status);
    }
}
