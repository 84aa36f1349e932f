//! The table `rulesyncd_version`, on every database.

use std::time::Duration;

use rulesyncd::clock::Timestamp;
use rulesyncd::rule::{RuleState, StateKind};
use rulesyncd::store::{Follow as _, ManifestWrite, RuleStore as _, RuleWrite};

use crate::support::databases::{ExternalClient, PAST_THE_OVERLAP, TestDatabase};
use crate::support::rules::{id, rule_row, rule_text};
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text};

const NOTHING: [&str; 0] = [];

/// `version` and `deleted`.
pub(super) async fn version(external: &mut ExternalClient) -> (u64, u64) {
    let columns = "CAST(version AS CHAR(20)), CAST(deleted AS CHAR(20))";
    let rows = external.rows(&format!("SELECT {columns} FROM rulesyncd_version WHERE name = 'tables'")).await;
    let number = |cell: &Option<String>| cell.as_ref().unwrap().trim().parse().unwrap();
    (number(&rows[0][0]), number(&rows[0][1]))
}

fn written(rule_id: &str, version: i32) -> RuleWrite {
    RuleWrite::Upsert(rule_row(rule_id, version))
}

fn deletion(rule_id: &str) -> RuleWrite {
    RuleWrite::Delete { rule_id: rule_id.into(), updated_by: "filesystem".into() }
}

fn disabled(expires_at: Option<Timestamp>) -> RuleState {
    RuleState { state: StateKind::Disabled, expires_at, ..RuleState::default() }
}

async fn every_transaction_that_changes_rows_raises_it_by_one(field: &TestDatabase) {
    let mut external = field.external().await;
    assert_eq!(version(&mut external).await, (0, 0));
    let mut master = field.session().await;
    master.apply(["R1", "R2", "R3"].map(|id| written(id, 1))).await.unwrap();
    assert_eq!(version(&mut external).await, (1, 0));
    master.apply([deletion("R3"), deletion("R2"), written("R1", 2)]).await.unwrap();
    assert_eq!(version(&mut external).await, (2, 2));
    master.apply([written("R1", 3)]).await.unwrap();
    field.database.set_state(&id("R1"), disabled(None)).await.unwrap();
    assert_eq!(version(&mut external).await, (4, 2));
    assert!(field.database.clear_state(&id("R1")).await.unwrap());
    assert_eq!(version(&mut external).await, (5, 5));
    let past = field.now().await.before(Duration::from_secs(60));
    field.database.set_state(&id("R1"), disabled(Some(past))).await.unwrap();
    assert_eq!(master.remove_expired_states().await.unwrap().len(), 1);
    assert_eq!(version(&mut external).await, (7, 7));

    // Nothing is changed.
    master.apply([]).await.unwrap();
    master.apply([deletion("R9")]).await.unwrap();
    assert!(!field.database.clear_state(&id("R1")).await.unwrap());
    assert!(master.remove_expired_states().await.unwrap().is_empty());
    assert_eq!(version(&mut external).await, (7, 7));
    assert_eq!(master.version_problem(), None);

    let changed_at = external.rows("SELECT CAST(changed_at AS CHAR(26)) FROM rulesyncd_version").await;
    let changed_at = Timestamp::parse(changed_at[0][0].as_ref().unwrap().trim()).unwrap();
    let now = rulesyncd::clock::Clock::now(&rulesyncd::clock::SystemClock);
    let apart = now.since(changed_at).max(changed_at.since(now));
    assert!(apart < Duration::from_secs(60), "{changed_at} at {now}");
    master.close().await;
}

/// A change that leaves the stamp is found by the same poll if the version says that there is one.
async fn a_version_that_nothing_explains_makes_the_poll_a_full_one(field: &TestDatabase) {
    field.save(&[("R1", 1), ("R2", 1)]).await;
    let (mut external, mut watcher) = (field.external().await, field.watcher().await);
    field.pass(PAST_THE_OVERLAP).await;
    watcher.poll().await;
    let edit = async |external: &mut ExternalClient, version: i32, and: &str| {
        let content = rule_text("R1", version).replace('\'', "''");
        let edit = format!("UPDATE ttp_rule SET yaml_content = '{content}', rule_version = {version}");
        external.run(&format!("{edit} WHERE rule_id = 'R1'; {and}")).await;
    };
    edit(&mut external, 2, "").await;
    assert_eq!(watcher.poll().await, NOTHING);
    external.run("UPDATE rulesyncd_version SET version = version + 1").await;
    assert_eq!(watcher.poll().await, ["written R1 v2"]);
    assert_eq!(watcher.missed_by_watermark, 1);
    assert_eq!(watcher.poll().await, NOTHING);
    // As after the restore of a backup.
    edit(&mut external, 3, "UPDATE rulesyncd_version SET version = 1").await;
    assert_eq!(watcher.poll().await, ["written R1 v3"]);
    // Nonsense counts as no version.
    external.run("UPDATE rulesyncd_version SET version = -7").await;
    field.save(&[("R2", 2)]).await;
    assert_eq!(watcher.poll().await, ["written R2 v2"]);
}

fn release(version: &str) -> ManifestWrite {
    let text = |what: &str| format!("the {what} of {version}");
    let (realm, version) = ("prod".to_owned(), version.to_owned());
    ManifestWrite { realm, version, body: text("body"), signatures: text("signatures"), list: text("list") }
}

/// Also where only its manifest is new; not where it is not written.
async fn a_signed_release_raises_it_by_one(field: &TestDatabase) {
    let (mut external, mut master) = (field.external().await, field.session().await);
    master.published("prod".into()).await.unwrap();
    master.publish(vec![written("R1", 1), written("R2", 1)], Some(release("1"))).await.unwrap();
    assert_eq!(version(&mut external).await, (1, 0));
    assert_eq!(master.publish(vec![], Some(release("2"))).await.unwrap().rows, 0);
    assert_eq!(version(&mut external).await, (2, 0));
    master.publish(vec![deletion("R2"), written("R1", 2)], Some(release("3"))).await.unwrap();
    assert_eq!(version(&mut external).await, (3, 3));
    master.close().await;
}

async fn without_the_table_everything_works(field: &TestDatabase) {
    field.save(&[("R1", 1)]).await;
    let (mut external, mut watcher, mut master) =
        (field.external().await, field.watcher().await, field.session().await);
    master.apply([written("R1", 2)]).await.unwrap();
    assert_eq!(watcher.poll().await, ["written R1 v2"]);
    assert_eq!(watcher.follower.version_problem(), None);

    // It is dropped while master and worker run.
    external.run("DROP TABLE rulesyncd_version").await;
    assert_eq!(master.apply([written("R1", 3), written("R2", 1)]).await.unwrap().rows, 2);
    let problem = master.version_problem().unwrap();
    assert!(problem.contains("rulesyncd_version") && problem.contains("rulesyncd sync"), "{problem}");
    field.database.set_state(&id("R1"), disabled(None)).await.unwrap();
    let mut changes = watcher.poll().await;
    changes.sort();
    assert_eq!(changes, ["state R1 disabled", "written R1 v3", "written R2 v1"]);
    assert!(watcher.follower.version_problem().unwrap().contains("rulesyncd_version"));
    assert!(field.database.clear_state(&id("R1")).await.unwrap());
    master.apply([deletion("R2")]).await.unwrap();
    let mut changes = watcher.poll().await;
    changes.sort();
    assert_eq!(changes, ["deleted R2", "state R1 enabled"]);

    // And it comes back, with the next rescan of the master.
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), None);
    master.apply([written("R1", 4)]).await.unwrap();
    assert_eq!(version(&mut external).await, (1, 0));
    let mut again = field.watcher_with(Duration::ZERO).await;
    assert_eq!(again.follower.version_problem(), None);
    // Its row is deleted.
    external.run("DELETE FROM rulesyncd_version").await;
    master.apply([written("R1", 5)]).await.unwrap();
    assert_eq!(again.poll().await, ["written R1 v5"]);
    master.remove_expired_states().await.unwrap();
    master.apply([written("R1", 6)]).await.unwrap();
    assert_eq!(version(&mut external).await, (1, 0));
    assert_eq!(again.poll().await, ["written R1 v6"]);
    master.close().await;
}

/// The master and operators go on writing where the version cannot be raised, and say what to do.
async fn a_version_that_cannot_be_raised_stops_nobody(field: &TestDatabase) {
    field.save(&[("R1", 1)]).await;
    let (mut external, mut watcher, mut master) =
        (field.external().await, field.watcher().await, field.session().await);
    external.run("UPDATE rulesyncd_version SET version = 9223372036854775807").await;
    let applied = master.apply([written("R1", 2)]).await.unwrap();
    assert!(applied.rows == 1 && applied.rejected.is_empty(), "{applied:?}");
    // The next rescan finds out.
    master.remove_expired_states().await.unwrap();
    let problem = master.version_problem().unwrap().to_owned();
    assert!(problem.contains("9223372036854775807") && problem.contains("delete the row"), "{problem}");
    field.database.set_state(&id("R1"), disabled(None)).await.unwrap();
    let mut changes = watcher.poll().await;
    changes.sort();
    assert_eq!(changes, ["state R1 disabled", "written R1 v2"]);
    // It is the same to the next rescan.
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), Some(&*problem));

    external.run("DELETE FROM rulesyncd_version").await;
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), None);

    // Somebody's own trigger.
    let [create, drop] = match &external {
        ExternalClient::Sqlite(_) => [
            "CREATE TRIGGER never BEFORE UPDATE ON rulesyncd_version BEGIN SELECT RAISE(ABORT, 'never'); END",
            "DROP TRIGGER never",
        ],
        ExternalClient::MySql(_) => [
            "CREATE TRIGGER never BEFORE UPDATE ON rulesyncd_version FOR EACH ROW \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'never'",
            "DROP TRIGGER never",
        ],
        ExternalClient::Postgres(_) => [
            "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'never'; END$$; \
             CREATE TRIGGER never BEFORE UPDATE ON rulesyncd_version FOR EACH ROW EXECUTE FUNCTION never()",
            "DROP TRIGGER never ON rulesyncd_version",
        ],
    };
    external.run(create).await;
    let applied = master.apply([written("R1", 3)]).await.unwrap();
    assert!(applied.rows == 1 && applied.rejected.is_empty(), "{applied:?}");
    let problem = master.version_problem().unwrap().to_owned();
    assert!(problem.contains("never") && problem.contains("compare the table"), "{problem}");
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), Some(&*problem));
    assert!(field.database.clear_state(&id("R1")).await.unwrap());
    external.run(drop).await;
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), None);
    master.close().await;
}

/// The table was made by hand, without a key.
async fn two_rows_count_as_one(field: &TestDatabase) {
    field.save(&[("R1", 1)]).await;
    let (mut external, mut watcher, mut master) =
        (field.external().await, field.watcher().await, field.session().await);
    for statement in [
        "CREATE TABLE by_hand AS SELECT * FROM rulesyncd_version",
        "DROP TABLE rulesyncd_version",
        "ALTER TABLE by_hand RENAME TO rulesyncd_version",
        "INSERT INTO rulesyncd_version SELECT * FROM rulesyncd_version",
    ] {
        external.run(statement).await;
    }
    master.remove_expired_states().await.unwrap();
    assert_eq!(master.version_problem(), None);
    assert_eq!(master.apply([written("R1", 2)]).await.unwrap().rows, 1);
    field.database.set_state(&id("R1"), disabled(None)).await.unwrap();
    let mut changes = watcher.poll().await;
    changes.sort();
    assert_eq!(changes, ["state R1 disabled", "written R1 v2"]);
    assert_eq!(watcher.follower.tables_version(), Some(3));
    master.close().await;
}

/// A writer that is slow at the row delays a master, and makes it give up no row.
async fn a_locked_version_is_waited_for(server: &Server) {
    let field = TestDatabase::server(&server.create("locked").await).await;
    let (mut external, mut master) = (field.external().await, field.session().await);
    external.begin().await;
    external.run("UPDATE rulesyncd_version SET version = version + 1").await;
    let writing = tokio::spawn(async move {
        let applied = master.apply([written("R1", 1), written("R2", 1)]).await;
        (applied, master)
    });
    server.until_a_session_is_blocked().await;
    // Longer than one wait for a lock.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    external.commit().await;
    let (applied, mut master) = writing.await.unwrap();
    let applied = applied.unwrap();
    assert_eq!((applied.rows, applied.rejected.len()), (2, 0));
    assert_eq!(version(&mut external).await, (2, 0));

    // A session that never goes on holds it: the master says so, and writes nothing by halves.
    external.begin().await;
    external.run("UPDATE rulesyncd_version SET version = version + 1").await;
    let error = master.apply([written("R1", 2), written("R2", 2)]).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("rulesyncd_version"), "{error}");
    external.commit().await;
    assert_eq!(version(&mut external).await, (3, 0));
    let rows = external.rows("SELECT CAST(rule_version AS CHAR(1)) FROM ttp_rule").await;
    assert_eq!(rows, [[Some("1".to_owned())], [Some("1".to_owned())]]);

    // A signed release waits in the same way.
    master.published("prod".into()).await.unwrap();
    external.begin().await;
    external.run("UPDATE rulesyncd_version SET version = version + 1").await;
    let publishing = tokio::spawn(async move {
        let published = master.publish(vec![written("R1", 3)], Some(release("1"))).await;
        (published, master)
    });
    server.until_a_session_is_blocked().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    external.commit().await;
    let (published, mut master) = publishing.await.unwrap();
    assert_eq!(published.unwrap().rows, 1);
    external.begin().await;
    external.run("UPDATE rulesyncd_version SET version = version + 1").await;
    let error = master.publish(vec![written("R1", 4)], Some(release("2"))).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("rulesyncd_version"), "{error}");
    external.commit().await;
    assert_eq!(version(&mut external).await, (6, 0));
}

/// Two operators and a master write at the same time: no version is lost.
async fn no_version_is_lost(server: &Server) {
    let field = TestDatabase::server(&server.create("at_once").await).await;
    let mut master = field.session().await;
    let operator = |rule_id: &'static str| {
        let database = field.database.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                database.set_state(&id(rule_id), disabled(None)).await.unwrap();
            }
        })
    };
    let operators = [operator("R1"), operator("R2")];
    for version in 1..=20 {
        assert_eq!(master.apply([written("R1", version)]).await.unwrap().rows, 1);
    }
    for operator in operators {
        operator.await.unwrap();
    }
    assert_eq!(version(&mut field.external().await).await, (60, 0));
}

async fn on_server(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let field = async |name: &str| TestDatabase::server(&server.create(name).await).await;
    every_transaction_that_changes_rows_raises_it_by_one(&field("every").await).await;
    a_signed_release_raises_it_by_one(&field("signed").await).await;
    a_version_that_nothing_explains_makes_the_poll_a_full_one(&field("explained").await).await;
    without_the_table_everything_works(&field("without").await).await;
    a_version_that_cannot_be_raised_stops_nobody(&field("raised").await).await;
    two_rows_count_as_one(&field("two_rows").await).await;
    a_locked_version_is_waited_for(&server).await;
    no_version_is_lost(&server).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    on_server(Kind::MariaDb).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres() {
    on_server(Kind::Postgres).await;
}

#[tokio::test]
async fn on_sqlite() {
    every_transaction_that_changes_rows_raises_it_by_one(&TestDatabase::sqlite_file().await).await;
    every_transaction_that_changes_rows_raises_it_by_one(&TestDatabase::sqlite_memory().await).await;
    a_signed_release_raises_it_by_one(&TestDatabase::sqlite_file().await).await;
    a_version_that_nothing_explains_makes_the_poll_a_full_one(&TestDatabase::sqlite_file().await).await;
    without_the_table_everything_works(&TestDatabase::sqlite_file().await).await;
    a_version_that_cannot_be_raised_stops_nobody(&TestDatabase::sqlite_file().await).await;
    two_rows_count_as_one(&TestDatabase::sqlite_file().await).await;
}

/// Something else has the table's name. Both daemons say so once, in log and status, and work.
#[test]
fn daemons_that_may_not_use_the_table_say_so_once() {
    let swarm = Swarm::on_sqlite();
    swarm.succeed(&["sync"]);
    swarm.sql("drop table rulesyncd_version");
    swarm.sql("create view rulesyncd_version as select 'tables' as name");
    let (master, worker) = (swarm.master(), swarm.worker());
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    for version in 1..4 {
        swarm.save("r1.yaml", rule_text("R1", version));
        assert_eq!(subscriber.change()["rule_version"], version);
    }
    assert_eq!(
        master.count_in_log("without raising the version in rulesyncd_version"),
        1,
        "{}",
        master.log()
    );
    assert_eq!(worker.count_in_log("without their version in rulesyncd_version"), 1, "{}", worker.log());
    let status = text(&swarm.run(&["status"]).stdout);
    assert_eq!(status.matches("without rulesyncd_version").count(), 2, "{status}");
}
