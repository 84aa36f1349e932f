//! What the drivers do not do by themselves: limits of the server, settings of the session, connections that are cut
//! while they are idle, conflicts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rulesyncd::clock::Timestamp;
use rulesyncd::rule::{Catalogue, RuleState, StateKind};
use rulesyncd::store::{Database, RuleStore as _, RuleWrite, Scope};

use super::contract;
use super::servers::FOUND_ON_POSTGRES;
use crate::support::databases::{ExternalClient, TestDatabase, config, poll, system_clock};
use crate::support::mysql9::MySql9;
use crate::support::rules::{id, in_words, rule_row, rule_text};
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, text, wait_for};

/// A rule with a text of so many bytes.
fn large(rule_id: &str, bytes: usize) -> RuleWrite {
    let mut row = rule_row(rule_id, 1);
    row.yaml_content.push('#');
    row.yaml_content.extend(std::iter::repeat_n('x', bytes - row.yaml_content.len()));
    RuleWrite::Upsert(row)
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_row_above_max_allowed_packet_is_rejected_and_every_other_row_is_written() {
    const PACKET: usize = 256 << 10;
    let server = Server::start(Kind::MariaDb, &["--max-allowed-packet=256K"]).await;
    let field = TestDatabase::server(&server.create("packet").await).await;
    let mut master = field.session().await;
    // Together they have far more than a packet, and the largest just fits into one.
    let mut writes: Vec<_> = (0..40).map(|number| large(&format!("R{number:02}"), 60_000)).collect();
    writes.push(large("FITS", PACKET - 2_000));
    writes.push(large("LARGE", PACKET));
    writes.push(RuleWrite::Upsert(rule_row("LAST", 1)));
    let applied = master.apply(writes).await.unwrap();
    assert_eq!(applied.rows, 42);
    let (rejected, why) = (&applied.rejected[0].0, applied.rejected[0].1.to_string());
    assert_eq!((applied.rejected.len(), rejected.as_str()), (1, "LARGE"));
    assert!(why.contains("`max_allowed_packet`") && why.contains("262144") && !why.contains("lock"), "{why}");
    // The session goes on, and a deletion of many long ids, too.
    master.ping().await.unwrap();
    let long = |number: usize| format!("{number:0>240}");
    master.apply((0..1_000).map(|number| large(&long(number), 2_000)).collect::<Vec<_>>()).await.unwrap();
    let gone = |number| RuleWrite::Delete { rule_id: long(number), updated_by: "filesystem".into() };
    assert_eq!(master.apply((0..1_000).map(gone).collect::<Vec<_>>()).await.unwrap().rows, 1_000);
    assert_eq!(master.rows(Scope::All).await.unwrap().len(), 42);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_master_names_the_file_that_is_too_large_for_the_server_and_goes_on() {
    let server = Server::start(Kind::MariaDb, &["--max-allowed-packet=64K"]).await;
    let swarm = Swarm::on(server.create("packet").await);
    swarm.save("large.yaml", format!("{}#{}\n", rule_text("LARGE", 1), "x".repeat(100_000)));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, _worker) = (swarm.master(), swarm.worker());
    master.wait_for_log("`max_allowed_packet`");
    wait_for("the other rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.save("R2.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
    let log = master.log();
    let named = log.lines().find(|line| line.contains("`max_allowed_packet`")).unwrap();
    assert!(named.contains("large.yaml") || named.contains("LARGE"), "{named}");
    assert!(!log.contains("lock was lost"), "{log}");
    master.stop();
    let sync = swarm.run(&["sync"]);
    assert!(text(&sync.stderr).contains("`max_allowed_packet`"), "{}", text(&sync.stderr));
    assert!(!sync.status.success());
}

/// Ends every other session, as a time limit of the server or of a proxy does.
async fn cut(server: &Server, external: &mut ExternalClient) {
    match server.kind() {
        Kind::Postgres => {
            external
                .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
                .await;
        }
        Kind::MariaDb => {
            let others = "SELECT CAST(id AS CHAR) FROM information_schema.processlist \
                 WHERE id <> CONNECTION_ID() AND user = 'root'";
            for session in external.rows(others).await {
                external.run(&format!("KILL {}", session[0].as_deref().unwrap())).await;
            }
        }
    }
}

async fn a_connection_that_was_cut_while_idle_is_no_outage(server: &Server) {
    let field = TestDatabase::server(&server.create("idle").await).await;
    field.save(&[("R1", 1)]).await;
    let (mut follower, mut catalogue) = (field.database.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let mut external = field.external().await;
    for version in 2..5 {
        cut(server, &mut external).await;
        external.put("R1", version, field.now().await).await;
        let changes = poll(&mut follower, &mut catalogue).await.expect("one silent reconnect");
        assert_eq!(changes.iter().map(in_words).collect::<Vec<_>>(), [format!("written R1 v{version}")]);
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_connection_that_was_cut_while_idle_is_no_outage_on_postgres() {
    a_connection_that_was_cut_while_idle_is_no_outage(&Server::start(Kind::Postgres, &[]).await).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_connection_that_was_cut_while_idle_is_no_outage_on_mariadb() {
    a_connection_that_was_cut_while_idle_is_no_outage(&Server::start(Kind::MariaDb, &[]).await).await;
}

/// A master scans for long, and meanwhile its session is cut: the lease is confirmed on another connection, so it stays.
async fn a_master_whose_idle_session_is_cut_goes_on(server: &Server) {
    let address = server.create("scan").await;
    let field = TestDatabase::server(&address).await;
    let database = Database::open(&config(&address), system_clock()).await.unwrap();
    let mut master = database.leasing(Duration::from_secs(4)).try_lock().await.unwrap().expect("the lock");
    master.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let mut external = field.external().await;
    match server.kind() {
        Kind::Postgres => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let cut = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity \
                       WHERE datname = 'scan' AND query = 'COMMIT'";
            assert_eq!(external.text(cut).await.as_deref(), Some("1"));
        }
        // The server ends a session that is silent for as long as the lease.
        Kind::MariaDb => {
            let sessions =
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.processlist WHERE db = 'scan'";
            let (before, deadline) = (external.text(sessions).await, Instant::now() + DEADLINE);
            while external.text(sessions).await >= before {
                assert!(Instant::now() < deadline, "no session was ended");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    master.apply([RuleWrite::Upsert(rule_row("R1", 2))]).await.expect("the lease is held");
    let term = external.text("SELECT CONCAT(term, '') FROM rulesyncd_lease").await;
    assert_eq!(term.as_deref(), Some("1"));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_master_whose_idle_session_is_cut_goes_on_on_postgres() {
    a_master_whose_idle_session_is_cut_goes_on(&Server::start(Kind::Postgres, &[]).await).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_master_whose_idle_session_is_cut_goes_on_on_mariadb() {
    a_master_whose_idle_session_is_cut_goes_on(&Server::start(Kind::MariaDb, &[]).await).await;
}

/// The server ends idle sessions after a time that is shorter than a worker's pause.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_ends_idle_sessions_ends_no_daemons() {
    let server =
        Server::start(Kind::Postgres, &["-cidle_session_timeout=300ms", "-clog_connections=on"]).await;
    let swarm = Swarm::on(server.create("idle").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    let _master = swarm.master();
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_WORKER_POLL_INTERVAL", "1s");
    });
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    let idle = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'rulesyncd' \
         AND state = 'idle' AND state_change < now() - interval '700 ms'";
    let deadline = Instant::now() + DEADLINE;
    while server.client("idle").await.text(idle).await.as_deref() == Some("0") {
        assert!(Instant::now() < deadline, "no session is idle for longer");
    }
    swarm.save("R2.yaml", rule_text("R2", 1));
    if subscriber.change()["rule_id"] == "R1" {
        assert_eq!(subscriber.change()["rule_id"], "R2");
    }
    assert!(!worker.log().contains("unavailable"), "{}", worker.log());
}

/// Operators who set the states of the same rules at once, in different orders.
async fn states_of_many_operators(server: &Server) {
    let address = server.create("conflicts").await;
    let field = TestDatabase::server(&address).await;
    let rules: Vec<_> = (0..60).map(|number| id(&format!("R{number:02}"))).collect();
    field.database.set_states(&rules, &RuleState::default()).await.unwrap();
    let operators = (0..6).map(|operator| {
        let (address, mut rules) = (address.clone(), rules.clone());
        tokio::spawn(async move {
            let database = Database::open(&config(&address), system_clock()).await.unwrap();
            rules.rotate_left(operator * 10);
            for round in 0..8 {
                rules.reverse();
                let reason = Some(format!("{operator} {round}"));
                let state = RuleState { state: StateKind::Disabled, reason, ..RuleState::default() };
                database.set_states(&rules, &state).await.map(drop)?;
            }
            Ok::<(), rulesyncd::store::StoreError>(())
        })
    });
    for operator in operators.collect::<Vec<_>>() {
        operator.await.unwrap().unwrap();
    }
    let reasons = "SELECT DISTINCT reason FROM ttp_rule_state";
    assert_eq!(field.external().await.rows(reasons).await.len(), 1, "each transaction was whole");
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn conflicts_of_operators_are_no_errors_on_mariadb() {
    let options = ["--innodb-snapshot-isolation=ON", "--transaction-isolation=REPEATABLE-READ"];
    let server = Server::start(Kind::MariaDb, &options).await;
    states_of_many_operators(&server).await;
    let deadlocks = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'";
    let deadlocks = server.client("").await.rows(deadlocks).await;
    assert_ne!(deadlocks[0][1].as_deref(), Some("0"), "the test must cause conflicts");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn conflicts_of_operators_are_no_errors_on_postgres() {
    let server = Server::start(Kind::Postgres, &["-cdeadlock_timeout=20ms"]).await;
    states_of_many_operators(&server).await;
    let deadlocks = "SELECT deadlocks::text FROM pg_stat_database WHERE datname = 'conflicts'";
    let mut external = server.client("").await;
    let deadline = Instant::now() + DEADLINE;
    while external.text(deadlocks).await.as_deref() == Some("0") {
        assert!(Instant::now() < deadline, "the test must cause conflicts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn times_with_a_zone_are_read_with_their_offset() {
    let server = Server::start(Kind::Postgres, &["-ctimezone=Asia/Kolkata"]).await;
    let address = server.create("zones").await;
    let found = FOUND_ON_POSTGRES.replace(" timestamp", " timestamptz");
    server.run("zones", &found).await.unwrap();
    let field = TestDatabase::server(&address).await;
    // Written by a program in another zone.
    let mut external = field.external().await;
    external.run("SET TimeZone = 'America/New_York'").await;
    external.put("R1", 1, Timestamp::parse("2026-05-01T07:25:09.5Z").unwrap()).await;
    let written = field.database.rows(Scope::All).await.unwrap();
    assert_eq!(written[0].updated_at.to_string(), "2026-05-01T11:25:09.500000Z");
    assert_eq!(field.database.load_compiled().await.unwrap().len(), 1, "the row is served");

    let address = server.create("contract").await;
    server.run("contract", &found).await.unwrap();
    contract::of_a_database(TestDatabase::server(&address).await.database).await;
}

/// A server that has just started knows no digest of a password, and wants the password itself; a Unix socket is a
/// channel that is as private as TLS.
#[tokio::test]
#[ignore = "needs MySQL 9 in target/mysql: tests/run"]
async fn a_password_is_right_on_a_socket_of_mysql_9_that_has_just_started() {
    let mut server = MySql9::start();
    server
        .run(
            "CREATE DATABASE rules; CREATE USER rules@localhost IDENTIFIED WITH caching_sha2_password BY 's3cret'; \
             GRANT ALL ON rules.* TO rules@localhost",
        )
        .await;
    server.restart();
    let address =
        |password: &str| format!("mysql://rules:{password}@localhost/rules?socket={}", server.socket());
    let open =
        async |password: &str| Database::open(&config(&address(password)), system_clock()).await.unwrap();
    let wrong = open("wrong").await.now().await.unwrap_err().to_string();
    assert!(wrong.contains("check user and password"), "{wrong}");
    open("s3cret").await.now().await.unwrap();
    // And again, now that the digest is known.
    open("s3cret").await.now().await.unwrap();
    contract::of_a_database(TestDatabase::server(&address("s3cret")).await.database).await;
}

#[tokio::test]
#[ignore = "needs MySQL 9 in target/mysql: tests/run"]
async fn daemons_work_on_mysql_9_and_leave_it_when_it_is_read_only() {
    let server = MySql9::start();
    server.run("CREATE DATABASE rules").await;
    let swarm = Swarm::on(server.address("rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, _worker) = (swarm.master(), swarm.worker());
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    // As a group's member that is no primary: the user may write all the same.
    server.run("SET GLOBAL read_only = ON").await;
    master.wait_for_log("takes no writes");
    let refused = swarm.run(&["state", "set", "R1", "disabled"]);
    assert!(text(&refused.stderr).contains("takes no writes"), "{}", text(&refused.stderr));
    server.run("SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF").await;
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.save("R2.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
}
