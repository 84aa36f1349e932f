//! States of many rules in one transaction: all of them or none, whatever happens to the server.

use std::time::Duration;

use rulesyncd::rule::{RuleId, RuleState, StateKind};
use rulesyncd::store::{Database, RuleStore as _, StoreError};

use crate::support::databases::{ExternalClient, TestDatabase, config, system_clock};
use crate::support::rules::id;
use crate::support::servers::{Kind, Server};

/// More rules than fit into one statement of any kind.
const MANY: usize = 1_201;

fn many() -> Vec<RuleId> {
    (0..MANY).map(|number| id(&format!("R{number:05}"))).collect()
}

fn disabled(reason: &str) -> RuleState {
    let (reason, set_by) = (Some(reason.to_owned()), Some("alice".to_owned()));
    RuleState { state: StateKind::Disabled, reason, set_by, ..RuleState::default() }
}

/// How many rows of the states another program sees, of all and of those with this reason.
async fn rows(external: &mut ExternalClient, reason: &str) -> [String; 2] {
    let mut count = async |filter: String| {
        let query = format!("SELECT CAST(COUNT(*) AS CHAR(9)) FROM ttp_rule_state {filter}");
        external.text(&query).await.unwrap().trim().to_owned()
    };
    [count(String::new()).await, count(format!("WHERE reason = '{reason}' AND set_by = 'alice'")).await]
}

/// The number of the transactions that changed rules or states.
async fn version(external: &mut ExternalClient) -> u64 {
    let version = external.text("SELECT CAST(version AS CHAR(9)) FROM rulesyncd_version").await;
    version.unwrap().trim().parse().unwrap()
}

async fn many_states_are_written_as_one(field: &TestDatabase) {
    let (rules, mut external) = (many(), field.external().await);
    let mut watcher = field.watcher().await;
    let before = version(&mut external).await;
    let written = field.database.set_states(&rules, &disabled("first")).await.unwrap();
    assert_eq!(version(&mut external).await, before + 1);
    assert_eq!(rows(&mut external, "first").await, [MANY.to_string(), MANY.to_string()]);
    // What is returned is what is stored, in order, with rising stamps.
    let stored = field.database.states().await.unwrap();
    let pairs = rules.iter().zip(&written);
    let expected: Vec<_> =
        pairs.map(|(id, state)| (id.to_string(), state.set_at, state.reason.clone())).collect();
    let stored: Vec<_> = stored.into_iter().map(|row| (row.rule_id, row.set_at, row.reason)).collect();
    assert_eq!(stored, expected);
    assert!(written.is_sorted_by(|a, b| a.set_at < b.set_at));
    // Each rule is a change of its own, in the order of the stamps.
    let changes: Vec<String> = rules.iter().map(|id| format!("state {id} disabled")).collect();
    assert_eq!(watcher.poll().await, changes);

    // Only those of one name are cleared, in whatever case another one is.
    external.run("UPDATE ttp_rule_state SET set_by = 'Alice' WHERE rule_id = 'R00003'").await;
    let cleared = field.database.clear_states(&rules, Some("alice")).await.unwrap();
    assert_eq!(cleared.iter().filter(|cleared| **cleared).count(), MANY - 1);
    assert!(!cleared[3]);
    assert_eq!(rows(&mut external, "first").await[0], "1");
    assert_eq!(field.database.clear_states(&rules, None).await.unwrap().iter().position(|is| *is), Some(3));
    assert_eq!(rows(&mut external, "first").await[0], "0");

    // The last id has a case variant: the ones before it are not written either.
    field.database.set_state(&id("r01200"), disabled("variant")).await.unwrap();
    let error = field.database.set_states(&rules, &disabled("second")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert_eq!(rows(&mut external, "second").await, ["1", "0"]);
    let error = field.database.clear_states(&rules, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    field.database.clear_state(&id("r01200")).await.unwrap();
}

/// Another session holds one of the last rows: until the time limit, or until an administrator ends the writer.
async fn what_is_stopped_has_written_nothing(server: &Server, field: &TestDatabase) {
    let rules = many();
    let mut impatient = config(&field.address);
    impatient.connect_timeout = Duration::from_secs(1);
    let impatient = Database::open(&impatient, system_clock()).await.unwrap();
    field.database.set_states(&rules[..1_200], &disabled("first")).await.unwrap();
    let (mut reader, mut external) = (field.external().await, field.external().await);
    for write in ["set", "clear"] {
        external.begin().await;
        external.run("UPDATE ttp_rule_state SET reason = 'first' WHERE rule_id = 'R01190'").await;
        external.run("UPDATE ttp_rule_state SET set_by = 'bob' WHERE rule_id = 'R01190'").await;
        let error = match write {
            "set" => impatient.set_states(&rules, &disabled("second")).await.unwrap_err(),
            _ => impatient.clear_states(&rules, None).await.unwrap_err(),
        };
        assert!(error.is_transient(), "{error}");
        assert_eq!(rows(&mut reader, "first").await, ["1200", "1200"], "{write}, {error}");

        let (database, ids) = (field.database.clone(), rules.clone());
        let blocked = tokio::spawn(async move {
            match write {
                "set" => database.set_states(&ids, &disabled("second")).await.map(drop),
                _ => database.clear_states(&ids, None).await.map(drop),
            }
        });
        server.until_a_session_is_blocked().await;
        end_the_blocked_session(server.kind(), &mut reader).await;
        let error = blocked.await.unwrap().unwrap_err();
        assert!(error.is_transient(), "{error}");
        external.run("ROLLBACK").await;
        assert_eq!(rows(&mut reader, "first").await, ["1200", "1200"], "{write}, {error}");
    }
    field.database.set_states(&rules, &disabled("second")).await.unwrap();
    assert_eq!(rows(&mut reader, "second").await, [MANY.to_string(), MANY.to_string()]);
    field.database.clear_states(&rules, None).await.unwrap();
}

async fn end_the_blocked_session(kind: Kind, external: &mut ExternalClient) {
    match kind {
        Kind::Postgres => {
            external.run("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted").await;
        }
        Kind::MariaDb => {
            let blocked = "SELECT CAST(trx_mysql_thread_id AS CHAR) FROM information_schema.innodb_trx \
                 WHERE trx_state = 'LOCK WAIT'";
            let session = external.text(blocked).await.expect("a session is blocked");
            external.run(&format!("KILL {session}")).await;
        }
    }
}

#[tokio::test]
async fn on_sqlite() {
    let field = TestDatabase::sqlite_file().await;
    many_states_are_written_as_one(&field).await;
    // Another writer holds the file.
    let mut impatient = config(&field.address);
    impatient.connect_timeout = Duration::from_millis(300);
    let impatient = Database::open(&impatient, system_clock()).await.unwrap();
    let (mut external, mut reader) = (field.external().await, field.external().await);
    external.run("BEGIN IMMEDIATE").await;
    let error = impatient.set_states(&many(), &disabled("first")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    external.run("ROLLBACK").await;
    assert_eq!(rows(&mut reader, "first").await, ["0", "0"]);
    // A row that cannot be read is overwritten.
    external.run(
        "INSERT INTO ttp_rule_state (rule_id, state, confidence_max, set_at) VALUES ('R00001', 'clipped', 'high', '2026-01-01')",
    )
    .await;
    field.database.set_states(&many(), &disabled("first")).await.unwrap();
    assert_eq!(rows(&mut reader, "first").await, [MANY.to_string(), MANY.to_string()]);
}

async fn on_a_server(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let field = TestDatabase::server(&server.create("states").await).await;
    many_states_are_written_as_one(&field).await;
    what_is_stopped_has_written_nothing(&server, &field).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    on_a_server(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres() {
    on_a_server(Kind::Postgres).await;
}
