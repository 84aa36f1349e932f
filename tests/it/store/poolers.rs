//! pgbouncer before PostgreSQL: session mode works, and the modes in which a client has no session are refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Database, Follow as _, RuleStore as _, StoreError};
use sqlx::{Connection as _, PgConnection};

use crate::support::databases::{config, made, system_clock};
use crate::support::pooler::Pooler;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, text, wait_for};

const CURE: &str = "`pool_mode = session`";

#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn session_mode_works_and_a_locked_row_delays_no_other() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("rules").await;
    let pooler = Pooler::before(&server, "session");
    let swarm = Swarm::on(pooler.address("rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    wait_for("the rule", || (swarm.subscribe().snapshot().len() == 1).then_some(()));
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    swarm.succeed(&["state", "set", "R1", "disabled"]);
    assert_eq!(subscriber.nothing_before("R1")["new_value"]["state"], "disabled");

    // The limit for locks is a setting of the session, which the pooler does not pass on.
    let mut external = server.client("rules").await;
    external.begin().await;
    external.run("UPDATE ttp_rule SET updated_by = updated_by WHERE rule_id = 'R1'").await;
    let begun = Instant::now();
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.save("R2.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    external.commit().await;
    assert_eq!(subscriber.nothing_before("R1")["rule_version"], 2);
    for daemon in [&master, &worker] {
        assert!(!daemon.log().contains(CURE), "{}", daemon.log());
    }
}

async fn is_refused(mode: &str) {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.create("rules").await;
    let pooler = Pooler::before(&server, mode);
    let swarm = Swarm::on(pooler.address("rules"));
    swarm.save("R1.yaml", rule_text("R1", 1));
    let (master, worker) = (swarm.master(), swarm.worker());
    for daemon in [&master, &worker] {
        daemon.wait_for_log(CURE);
        assert!(!daemon.log().contains("holds the lock"), "{}", daemon.log());
    }
    for command in [&["sync"][..], &["state", "set", "R1", "disabled"]] {
        let refused = swarm.run(command);
        assert!(
            !refused.status.success() && text(&refused.stderr).contains("pool"),
            "{}",
            text(&refused.stderr)
        );
    }
    // What a daemon sets for itself is not set for others.
    let mut other = PgConnection::connect_with(
        &pooler
            .address("rules")
            .parse::<sqlx::postgres::PgConnectOptions>()
            .unwrap()
            .extra_float_digits(None),
    )
    .await
    .unwrap();
    let row = sqlx::raw_sql("SHOW statement_timeout").fetch_one(&mut other).await.unwrap();
    assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "0");
}

#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn transaction_mode_is_refused() {
    is_refused("transaction").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn statement_mode_is_refused() {
    is_refused("statement").await;
}

/// A pooler whose mode is changed while the daemons run is noticed by the next polls, and by a master's sign of life.
#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn a_session_that_is_lost_later_is_noticed() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let direct = server.create("rules").await;
    drop(made(&direct, system_clock()).await);
    let pooler = Pooler::before(&server, "session");
    let database = Database::open(&config(&pooler.address("rules")), system_clock()).await.unwrap();
    let (mut one, mut other) = (database.follow(), database.follow());
    let catalogue = Arc::<Catalogue>::default();
    one.poll(&catalogue).await.unwrap();
    other.poll(&catalogue).await.unwrap();
    let mut master = database.try_lock().await.unwrap().expect("nobody holds the lock");
    master.ping().await.unwrap();

    pooler.change_mode("transaction");
    let deadline = Instant::now() + DEADLINE;
    let refused = |error: Option<StoreError>, wanted: &str| {
        assert!(Instant::now() < deadline, "not noticed");
        error.is_some_and(|error| error.to_string().contains(wanted))
    };
    while !refused(one.poll(&catalogue).await.err(), CURE) {
        let _ = other.poll(&catalogue).await;
    }
    while !refused(master.ping().await.err(), "lock was lost") {
        let _ = other.poll(&catalogue).await;
    }
}
