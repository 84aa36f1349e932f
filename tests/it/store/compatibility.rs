//! Unusual databases and settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, Follow, RuleStore, Scope};

use sqlx::Connection as _;

use super::servers::{FOUND_ON_MYSQL, FOUND_ON_POSTGRES};
use super::sqlite::heard;
use crate::support::databases::{ExternalClient, TestDatabase, config, poll, system_clock};
use crate::support::servers::{Kind, Server};

/// A database from `initdb --locale=C` accepts any bytes as text, and then refuses to send them as UTF-8.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_text_that_is_no_utf8_is_quarantined_alone() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.run("", "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII'").await.unwrap();
    let field = TestDatabase::server(&server.address("bytes")).await;
    let many: Vec<_> = (0..100).map(|n| format!("Re{n}")).collect();
    field.save(&many.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    let mut scanner = field.watcher_with(Duration::ZERO).await;

    let mut external = field.external().await;
    external.run(
        r"INSERT INTO ttp_rule VALUES ('A', 1, 'a.yaml', E'name: \xff', now() AT TIME ZONE 'utc', 'admin'),
            ('B', 1, E'b\xff.yaml', '', now() AT TIME ZONE 'utc', 'admin'),
            (E'C\xff', 1, 'c.yaml', '', now() AT TIME ZONE 'utc', 'admin');
          INSERT INTO ttp_rule_state (rule_id, state, reason, set_at)
            VALUES ('Re2', 'disabled', E'\xff', now() AT TIME ZONE 'utc'),
            ('Re3', 'disabled', 'é', now() AT TIME ZONE 'utc')",
    )
    .await;
    field.save(&[("Re1", 2)]).await;
    let mut late = field.watcher().await;
    for watcher in [&mut watcher, &mut scanner] {
        assert_eq!(watcher.poll().await, ["written Re1 v2", "state Re3 disabled"]);
    }
    for watcher in [&mut watcher, &mut scanner, &mut late] {
        let mut quarantined: Vec<_> =
            watcher.catalogue.quarantined().map(|row| format!("{}: {}", row.key, row.reason)).collect();
        quarantined.sort();
        assert_eq!(
            quarantined,
            [
                "A: yaml_content is not UTF-8",
                "B: source_path is not UTF-8",
                "C\u{fffd}: rule_id is not UTF-8",
                "Re2: reason is not UTF-8; the rule counts as enabled meanwhile"
            ]
        );
        assert_eq!(watcher.catalogue.state("Re3").reason.as_deref(), Some("é"));
        assert!(watcher.poll().await.is_empty());
    }
    // The master's poll is not delayed either, and no readable row differs from its file.
    let rows = field.database.rows(Scope::All).await.unwrap();
    assert_eq!(rows.len(), 103);
    assert!(rows.iter().all(|row| !row.is_owned_by("filesystem") || row.rule_id.starts_with("Re")));
    assert_eq!(field.database.load_compiled().await.unwrap().len(), 100);
    let mut again = Arc::<Catalogue>::default();
    assert_eq!(poll(&mut field.database.follow(), &mut again).await.unwrap().len(), 101);
}

/// No index is added later, and the watch of the file does not count either.
#[tokio::test]
async fn one_connection_is_enough_to_follow_a_file() {
    let field = TestDatabase::sqlite_file().await;
    let mut scarce = config(&field.address);
    scarce.max_connections = 1;
    let database = Database::open(&scarce, system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (database.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    field.save(&[("R1", 1)]).await;
    assert_eq!(heard(&mut follower, &mut catalogue).await, ["written R1 v1"]);
}

/// A worker with one connection polls again after an outage: it is notified on the connection that polls.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn one_connection_is_enough_to_follow() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let field = TestDatabase::server(&server.create("scarce").await).await;
    let mut scarce = config(&field.address);
    (scarce.max_connections, scarce.connect_timeout) = (1, Duration::from_secs(1));
    let database = Database::open(&scarce, system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (database.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let mut external = field.external().await;
    let own = "FROM pg_stat_activity WHERE application_name = 'rulesyncd' AND datname = 'scarce'";
    for version in 1..4 {
        field.save(&[("R1", version)]).await;
        assert_eq!(heard(&mut follower, &mut catalogue).await, [format!("written R1 v{version}")]);
        external.run(&format!("SELECT pg_terminate_backend(pid) {own}")).await;
        // The end of the only connection wakes it.
        tokio::time::timeout(Duration::from_secs(60), follower.woken()).await.unwrap();
        if let Err(error) = follower.poll(&catalogue).await {
            // The first poll after it may find its connection broken.
            assert!(error.is_transient(), "{error}");
            poll(&mut follower, &mut catalogue).await.unwrap();
        }
    }
}

/// Tables that another program created, without an index, while someone reads them in a transaction without end.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn an_index_that_cannot_be_made_holds_nobody_up() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let address = server.create("busy").await;
    server.run("busy", FOUND_ON_MYSQL).await.unwrap();
    let open = async || Database::open(&config(&address), system_clock()).await.unwrap();
    let mut reader = ExternalClient::MySql(sqlx::MySqlConnection::connect(&address).await.unwrap());
    let mut worker = open().await.follow();
    reader.begin().await;
    reader.run("SELECT * FROM ttp_rule LEFT JOIN ttp_rule_state USING (rule_id)").await;
    let database = open().await;
    let waiting = tokio::spawn({
        let database = database.clone();
        async move {
            let start = Instant::now();
            database.ensure_tables().await.map(|()| start.elapsed())
        }
    });
    server.until_a_session_is_blocked().await;
    let start = Instant::now();
    worker.poll(&Arc::<Catalogue>::default()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "a reader waited for {:?}", start.elapsed());
    let waited = waiting.await.unwrap().unwrap();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    // It is tried once: a standby tries every second.
    let start = Instant::now();
    database.ensure_tables().await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    // The next start finds the tables unlocked.
    reader.commit().await;
    open().await.ensure_tables().await.unwrap();
    let indexes = "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.statistics \
                   WHERE table_schema = 'busy' AND index_name LIKE 'ix%'";
    assert_eq!(reader.text(indexes).await.as_deref(), Some("2"));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn an_index_is_asked_for_once_where_it_is_not_allowed() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("theirs").await;
    server.run("theirs", FOUND_ON_POSTGRES).await.unwrap();
    let grant = "CREATE ROLE master LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ttp_rule, ttp_rule_state TO master";
    server.run("theirs", grant).await.unwrap();
    let address = server.address_as("master", "theirs");
    let database = Database::open(&config(&address), system_clock()).await.unwrap();
    for _ in 0..5 {
        database.ensure_tables().await.unwrap();
    }
    let log = std::fs::read_to_string(server.path().join("log")).unwrap();
    assert_eq!(log.matches("must be owner of table").count(), 2, "{log}");
}

/// As many daemons that start together on an empty database.
async fn tables_that_many_make_at_once(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    for round in 0..5 {
        let address = server.create(&format!("empty{round}")).await;
        let makers = (0..8).map(|_| {
            let address = address.clone();
            tokio::spawn(async move {
                let database = Database::open(&config(&address), system_clock()).await.unwrap();
                database.ensure_tables().await
            })
        });
        for maker in makers.collect::<Vec<_>>() {
            maker.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn tables_that_many_make_at_once_are_no_error_on_postgres() {
    tables_that_many_make_at_once(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn tables_that_many_make_at_once_are_no_error_on_mariadb() {
    tables_that_many_make_at_once(Kind::MariaDb).await;
}
