//! Faults of servers, and the rights of their users.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rulesyncd::clock::{Clock as _, ManualClock, SystemClock};
use rulesyncd::rule::{Catalogue, RuleState, StateKind};
use rulesyncd::store::{Database, Follow, MasterSession, RuleStore, RuleWrite, Scope, StoreError};

use super::assert_lock_lost;
use super::sqlite::heard;
use crate::support::databases::{ExternalClient, TestDatabase, config, poll, system_clock};
use crate::support::rules::{id, in_words, rule_row};
use crate::support::servers::{Kind, Server};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Ends the session that holds the master's lock, as an administrator would.
pub(super) async fn end_the_lock_holder(kind: Kind, external: &mut ExternalClient) {
    let holder = match kind {
        Kind::Postgres => "SELECT pid::text FROM pg_locks WHERE locktype = 'advisory'",
        Kind::MariaDb => {
            "SELECT CAST(IS_USED_LOCK(CONCAT('rulesyncd:', LEFT(SHA2(DATABASE(), 256), 32))) AS CHAR)"
        }
    };
    let holder = external.text(holder).await.expect("somebody holds the lock");
    match kind {
        Kind::Postgres => external.run(&format!("SELECT pg_terminate_backend({holder})")).await,
        Kind::MariaDb => external.run(&format!("KILL {holder}")).await,
    };
}

async fn a_standby_takes_over(server: &Server) {
    let field = TestDatabase::server(&server.create("standby").await).await;
    let mut external = field.external().await;
    let mut master = field.session().await;
    // The same lock in another database is another lock.
    let elsewhere = TestDatabase::server(&server.create("elsewhere").await).await;
    elsewhere.session().await.close().await;
    assert!(field.database.try_lock().await.unwrap().is_none());

    end_the_lock_holder(server.kind(), &mut external).await;
    let mut second = took_over(&field.database).await;
    let write = [RuleWrite::Upsert(rule_row("R1", 1))];
    assert_lock_lost(master.apply(&write).await, "confirming the lease: ");
    assert_lock_lost(master.ping().await, "confirming the lease: ");
    assert!(second.rows(Scope::All).await.unwrap().is_empty(), "a master without the lock wrote");
    second.apply(&write).await.unwrap();
}

async fn a_row_that_another_session_holds_stops_no_other(server: &Server) {
    let field = TestDatabase::server(&server.create("held").await).await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    let (mut master, mut external) = (field.session().await, field.external().await);
    let now = field.now().await;
    external.put_state("R1", "disabled", Some(now.before(YEAR)), now).await;
    external.begin().await;
    external.run("UPDATE ttp_rule SET updated_by = 'me' WHERE rule_id = 'R1'").await;
    external.run("UPDATE ttp_rule_state SET reason = 'mine' WHERE rule_id = 'R1'").await;

    let error = master.remove_expired_states().await.unwrap_err();
    assert!(matches!(error, StoreError::RowLocked { .. }), "{error}");
    let writes =
        [("R1", 2), ("R2", 2), ("R3", 1)].map(|(id, version)| RuleWrite::Upsert(rule_row(id, version)));
    let applied = master.apply(&writes).await.unwrap();
    let refused: Vec<_> =
        applied.rejected.iter().map(|(id, why)| (id.as_str(), why.is_transient())).collect();
    assert_eq!((refused, applied.rows), (vec![("R1", true)], 2));

    external.commit().await;
    assert!(master.apply(&writes).await.unwrap().rejected.is_empty());
    assert_eq!(master.remove_expired_states().await.unwrap().len(), 1);
    let rows = master.rows(Scope::All).await.unwrap();
    assert!(rows.iter().all(|row| row.is_owned_by("filesystem")), "{rows:?}");
}

/// Takes the lock as soon as it is free.
async fn took_over(database: &Database) -> MasterSession {
    let start = Instant::now();
    loop {
        if let Some(session) = database.try_lock().await.unwrap() {
            return session;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the lock did not come free");
    }
}

async fn an_outage_loses_nothing(server: &mut Server) {
    let field = TestDatabase::server(&server.create("outage").await).await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    let (mut follower, mut catalogue) = (field.database.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let mut master = field.session().await;

    server.stop();
    let error = follower.poll(&catalogue).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_lock_lost(master.ping().await, "asking for ");
    let error = field.database.try_lock().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    // A daemon starts while its database is unavailable.
    let late = Database::open(&config(&field.address), system_clock()).await.unwrap();
    assert!(late.load_compiled().await.unwrap_err().is_transient());

    server.go_on().await;
    took_over(&field.database).await.apply(&[RuleWrite::Upsert(rule_row("R1", 2))]).await.unwrap();
    // As a restored backup may leave it.
    field.external().await.put("R2", 9, field.now().await.before(YEAR)).await;
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    let changes: Vec<_> = changes.iter().map(in_words).collect();
    assert_eq!(changes, ["written R2 v9", "written R1 v2"]);
    assert_eq!(late.load_compiled().await.unwrap().len(), 2);
}

async fn each_does_with_its_own_grants_alone(server: &Server) {
    let address = server.create("granted").await;
    let field = TestDatabase::server(&address).await;
    field.save(&[("R1", 1)]).await;
    let to = |user: &str| match server.kind() {
        Kind::MariaDb => format!("'{user}'@'localhost'"),
        Kind::Postgres => user.to_owned(),
    };
    for (user, rules, states) in [
        ("worker", "SELECT", "SELECT"),
        ("master", "SELECT, INSERT, UPDATE, DELETE", "SELECT, DELETE"),
        ("operator", "SELECT", "SELECT, INSERT, UPDATE, DELETE"),
    ] {
        let to = to(user);
        let create = match server.kind() {
            Kind::MariaDb => format!("CREATE USER {to}"),
            Kind::Postgres => format!("CREATE ROLE {to} LOGIN"),
        };
        server.run("granted", &create).await.unwrap();
        server.run("granted", &format!("GRANT {rules} ON ttp_rule TO {to}")).await.unwrap();
        server.run("granted", &format!("GRANT {states} ON ttp_rule_state TO {to}")).await.unwrap();
    }
    let open = async |user: &str| {
        Database::open(&config(&server.address_as(user, "granted")), system_clock()).await.unwrap()
    };
    let (worker, master, operator) = (open("worker").await, open("master").await, open("operator").await);
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };

    let (mut follower, mut catalogue) = (worker.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    assert_eq!(worker.get_state(&id("R1")).await.unwrap(), RuleState::default());
    let error = worker.set_state(&id("R1"), disabled.clone()).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("grant"), "{error}");

    master.ensure_tables().await.unwrap();
    let mut session = master.try_lock().await.unwrap().unwrap();
    session.apply(&[RuleWrite::Upsert(rule_row("R1", 2))]).await.unwrap();
    session
        .apply(&[RuleWrite::Delete { rule_id: "R9".into(), updated_by: "filesystem".into() }])
        .await
        .unwrap();
    let soon = RuleState { expires_at: Some(field.now().await.before(YEAR)), ..disabled.clone() };
    operator.set_state(&id("R1"), soon).await.unwrap();
    assert_eq!(session.remove_expired_states().await.unwrap().len(), 1);
    operator.set_state(&id("R1"), disabled).await.unwrap();
    let changes = poll(&mut follower, &mut catalogue).await.unwrap();
    let changes: Vec<_> = changes.iter().map(in_words).collect();
    assert_eq!(changes, ["written R1 v2", "state R1 disabled"]);
    assert!(operator.clear_state(&id("R1")).await.unwrap());

    // Nobody may use the table of the version, and everything works.
    let mut external = field.external().await;
    assert_eq!(super::version::version(&mut external).await, (1, 0));
    let rights = |problem: Option<&str>, rights: &str| {
        let problem = problem.unwrap();
        assert!(problem.contains(&format!("`GRANT {rights} ON rulesyncd_version`")), "{problem}");
    };
    rights(session.version_problem(), "SELECT, INSERT, UPDATE");
    let problem = session.lease_problem().unwrap();
    assert!(problem.contains("`GRANT SELECT, INSERT, UPDATE ON rulesyncd_lease`"), "{problem}");
    rights(follower.version_problem(), "SELECT");
    // Once they may, the master's next rescan and the worker's next full scan use it.
    for (user, granted) in
        [("worker", "SELECT"), ("master", "SELECT, INSERT, UPDATE"), ("operator", "SELECT, UPDATE")]
    {
        let grant = format!("GRANT {granted} ON rulesyncd_version TO {}", to(user));
        server.run("granted", &grant).await.unwrap();
    }
    session.remove_expired_states().await.unwrap();
    session.apply(&[RuleWrite::Upsert(rule_row("R1", 3))]).await.unwrap();
    operator.set_state(&id("R1"), RuleState::default()).await.unwrap();
    assert_eq!(super::version::version(&mut external).await, (3, 0));
    assert_eq!(session.version_problem(), None);
    let (mut follower, mut catalogue) = (worker.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    assert_eq!(follower.version_problem(), None);

    // A master that leads loses the right to the lease: it is not the version that cannot be updated.
    session.close().await;
    let to = to("master");
    let grant = format!("GRANT SELECT, INSERT, UPDATE ON rulesyncd_lease TO {to}");
    server.run("granted", &grant).await.unwrap();
    let mut session = took_over(&master).await;
    assert_eq!((session.lease_problem(), session.version_problem()), (None, None));
    server.run("granted", &format!("REVOKE UPDATE ON rulesyncd_lease FROM {to}")).await.unwrap();
    let error = session.apply(&[RuleWrite::Upsert(rule_row("R1", 4))]).await.unwrap_err().to_string();
    assert!(error.contains("rulesyncd_lease") && error.contains("grant"), "{error}");
    assert_eq!(session.version_problem(), None);
}

async fn expiry_is_judged_by_the_databases_clock(server: &Server) {
    let field = TestDatabase::server(&server.create("clocks").await).await;
    let now = field.now().await;
    for wrong in [now.before(YEAR), now.after(YEAR)] {
        let clock = Arc::new(ManualClock::at(wrong));
        let database = Database::open(&config(&field.address), clock).await.unwrap();
        let state =
            |end| RuleState { state: StateKind::Disabled, expires_at: Some(end), ..RuleState::default() };
        let set = database.set_state(&id("R1"), state(now.after(YEAR / 2))).await.unwrap();
        assert!(set.set_at.unwrap().since(now) < Duration::from_secs(60), "{set:?}");
        assert_eq!(database.get_state(&id("R1")).await.unwrap(), set);
        database.set_state(&id("R2"), state(now.before(YEAR / 2))).await.unwrap();
        assert_eq!(database.get_state(&id("R2")).await.unwrap(), RuleState::default());
        let mut catalogue = Arc::<Catalogue>::default();
        poll(&mut database.follow(), &mut catalogue).await.unwrap();
        assert_eq!(catalogue.states().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["R1"]);
    }
    // The master uses it for its stamps, too.
    let database = Database::open(&config(&field.address), Arc::new(ManualClock::at(now.before(YEAR)))).await;
    let mut session = database.unwrap().try_lock().await.unwrap().unwrap();
    session.apply(&[RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    let stamp = session.rows(Scope::All).await.unwrap()[0].updated_at;
    assert!(stamp.since(now.before(Duration::from_secs(2))) < Duration::from_secs(60), "{stamp} at {now}");
}

async fn what_hangs_is_given_up(server: &Server) {
    let field = TestDatabase::server(&server.create("hanging").await).await;
    let mut impatient = config(&field.address);
    impatient.connect_timeout = Duration::from_millis(500);
    let database = Database::open(&impatient, system_clock()).await.unwrap();
    let mut follower = database.follow();
    follower.poll(&Arc::<Catalogue>::default()).await.unwrap();
    let mut external = field.external().await;
    let (lock, unlock) = match server.kind() {
        Kind::MariaDb => ("LOCK TABLES ttp_rule WRITE", "UNLOCK TABLES"),
        Kind::Postgres => ("BEGIN; LOCK TABLE ttp_rule", "COMMIT"),
    };
    external.run(lock).await;
    let start = Instant::now();
    let error = follower.poll(&Arc::<Catalogue>::default()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    external.run(unlock).await;
    follower.poll(&Arc::<Catalogue>::default()).await.unwrap();
}

/// A state that is set again while the master removes the old one is kept.
async fn a_fresh_state_is_not_removed(server: &Server) {
    let field = TestDatabase::server(&server.create("fresh").await).await;
    let mut external = field.external().await;
    let now = field.now().await;
    external.put_state("R1", "disabled", Some(now.before(Duration::from_secs(60))), now).await;
    let mut session = field.session().await;
    external.begin().await;
    let later = now.after(YEAR).to_sql_text();
    external.run(&format!("UPDATE ttp_rule_state SET expires_at = '{later}', state = 'clipped'")).await;
    // The master reads the old row, and must wait for the new one.
    let removing = tokio::spawn(async move { session.remove_expired_states().await });
    server.until_a_session_is_blocked().await;
    assert!(!removing.is_finished());
    external.commit().await;
    assert!(removing.await.unwrap().unwrap().is_empty());
    assert_eq!(field.database.states().await.unwrap()[0].state, "clipped");
}

/// A table is altered, or created, between a poll's snapshot and its reading.
async fn a_poll_outlives_an_altered_table(server: &Server) {
    let field = TestDatabase::server(&server.create("altered").await).await;
    let alter = match server.kind() {
        Kind::MariaDb => "ALTER TABLE ttp_rule FORCE",
        Kind::Postgres => "CREATE INDEX extra ON ttp_rule (source_path); DROP INDEX extra",
    };
    let mut external = field.external().await;
    let altering = tokio::spawn(async move {
        for _ in 0..30 {
            external.run(alter).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    while !altering.is_finished() {
        field.database.follow().poll(&Arc::<Catalogue>::default()).await.unwrap();
    }
    altering.await.unwrap();
}

async fn a_worker_waits_for_the_tables(server: &Server) {
    let address = server.create("empty").await;
    let database = Database::open(&config(&address), system_clock()).await.unwrap();
    let mut follower = database.follow();
    let error = follower.poll(&Arc::<Catalogue>::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoTables { .. }) && error.is_transient(), "{error:?}");
    database.ensure_tables().await.unwrap();
    // Daemons that find them leave them unchanged.
    database.ensure_tables().await.unwrap();
    follower.poll(&Arc::<Catalogue>::default()).await.unwrap();
}

async fn what_cannot_come_right_says_what_to_do(server: &Server) {
    let refused = async |address: String| {
        let database = Database::open(&config(&address), system_clock()).await.unwrap();
        let error = database.ensure_tables().await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        error.to_string()
    };
    let said = refused(server.address("nowhere")).await;
    assert!(said.contains("nowhere") && said.contains("create the database"), "{said}");
    let stranger = server.address_as("stranger:s3cr3t-w0rd", "nowhere");
    let said = refused(stranger).await;
    assert!(said.contains("stranger") && said.contains("check user and password"), "{said}");
    assert!(!said.contains("s3cr3t-w0rd"), "{said}");
}

async fn everything(kind: Kind) -> Server {
    let mut server = Server::start(kind, &[]).await;
    a_poll_outlives_an_altered_table(&server).await;
    a_worker_waits_for_the_tables(&server).await;
    what_cannot_come_right_says_what_to_do(&server).await;
    a_standby_takes_over(&server).await;
    a_row_that_another_session_holds_stops_no_other(&server).await;
    each_does_with_its_own_grants_alone(&server).await;
    expiry_is_judged_by_the_databases_clock(&server).await;
    what_hangs_is_given_up(&server).await;
    a_fresh_state_is_not_removed(&server).await;
    an_outage_loses_nothing(&mut server).await;
    server
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn on_mariadb() {
    let server = everything(Kind::MariaDb).await;
    let field = TestDatabase::server(&server.create("zeros").await).await;
    let mut external = field.external().await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    external.run("SET sql_mode = ''; UPDATE ttp_rule SET updated_at = 0 WHERE rule_id = 'R1'").await;
    let watcher = field.watcher().await;
    assert_eq!(watcher.catalogue.rule_count(), 1);
    let reasons: Vec<_> = watcher.catalogue.quarantined().map(|row| row.reason).collect();
    assert_eq!(reasons, ["updated_at is `0000-00-00 00:00:00.000000`; expected a time"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn on_postgres() {
    let server = everything(Kind::Postgres).await;
    let field = TestDatabase::server(&server.create("infinite").await).await;
    let mut external = field.external().await;
    field.save(&[("R1", 1), ("R2", 1)]).await;
    external.run("UPDATE ttp_rule SET updated_at = '-infinity' WHERE rule_id = 'R1'").await;
    external.put_state("R2", "disabled", None, SystemClock.now()).await;
    external.run("UPDATE ttp_rule_state SET expires_at = 'infinity'").await;
    let watcher = field.watcher().await;
    assert_eq!(watcher.catalogue.rule_count(), 1);
    assert_eq!(watcher.catalogue.state("R2").expires_at, None);
    let reasons: Vec<_> = watcher.catalogue.quarantined().map(|row| row.reason).collect();
    assert_eq!(reasons, ["updated_at is `-infinity`; expected a time"]);
    // A state may expire at infinity; an infinite stamp is reported.
    external.run("UPDATE ttp_rule SET updated_at = 'infinity' WHERE rule_id = 'R1'").await;
    let watcher = field.watcher().await;
    let reasons: Vec<_> = watcher.catalogue.quarantined().map(|row| row.reason).collect();
    assert_eq!(reasons, ["updated_at is `infinity`; expected a time"]);

    // A notification is a wake-up, and so is reconnecting.
    let other = Database::open(&config(&field.address), system_clock()).await.unwrap();
    let (mut follower, mut catalogue) = (other.follow(), Arc::<Catalogue>::default());
    poll(&mut follower, &mut catalogue).await.unwrap();
    let disabled = RuleState { state: StateKind::Disabled, ..RuleState::default() };
    for version in 2..5 {
        field.save(&[("R2", version)]).await;
        assert_eq!(heard(&mut follower, &mut catalogue).await, [format!("written R2 v{version}")]);
        field.database.set_state(&id("R1"), disabled.clone()).await.unwrap();
        assert_eq!(heard(&mut follower, &mut catalogue).await, ["state R1 disabled"]);
        field.database.clear_state(&id("R1")).await.unwrap();
        assert_eq!(heard(&mut follower, &mut catalogue).await, ["state R1 enabled"]);
        external
            .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            .await;
    }
}
