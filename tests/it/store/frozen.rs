//! Processes that are frozen while something of the server is in their hands.

use std::time::{Duration, Instant};

use crate::support::databases::ExternalClient;
use crate::support::pooler::Pooler;
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, wait_for};

/// How many of the worker's sessions have begun to wait for a lock, which they give up after a second, and how many do
/// nothing in a transaction.
async fn sessions(kind: Kind, external: &mut ExternalClient) -> [String; 2] {
    let [waits, idle] = match kind {
        Kind::Postgres => [
            "wait_event_type = 'Lock' AND clock_timestamp() - query_start < INTERVAL '400 ms'",
            "state = 'idle in transaction'",
        ]
            .map(|state| format!("SELECT CAST(count(*) AS text) FROM pg_stat_activity WHERE {state}")),
        Kind::MariaDb => ["STATE LIKE 'Waiting for table%' AND TIME_MS < 400", "COMMAND = 'Sleep' AND trx_id IS NOT NULL"].map(|state| {
            format!(
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.PROCESSLIST LEFT JOIN \
                 information_schema.INNODB_TRX ON trx_mysql_thread_id = ID WHERE ID <> CONNECTION_ID() AND {state}"
            )
        }),
    };
    [external.text(&waits).await.unwrap(), external.text(&idle).await.unwrap()]
}

/// A worker that is frozen within a poll keeps neither its snapshot, which no server cleans up, nor its locks, for which
/// every change of a table waits.
async fn a_worker_that_is_frozen_within_a_poll_holds_up_nobody(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("frozen").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let (mut external, mut locking) = (server.client("frozen").await, server.client("frozen").await);
    let (lock, unlock) = match kind {
        Kind::Postgres => ("BEGIN; LOCK TABLE ttp_rule_state IN ACCESS EXCLUSIVE MODE", "COMMIT"),
        Kind::MariaDb => ("LOCK TABLES ttp_rule_state WRITE", "UNLOCK TABLES"),
    };
    locking.run(lock).await;
    let worker = swarm.daemon("worker", |command| {
        command.env("RULESYNCD_DATABASE_CONNECT_TIMEOUT", "1s");
    });
    let sees = async |what: &str, external: &mut ExternalClient, is_so: fn([&str; 2]) -> bool| {
        let begin = Instant::now();
        loop {
            let [waits, idle] = sessions(kind, external).await;
            if is_so([&waits, &idle]) {
                return;
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "no {what}: {waits} wait, {idle} do nothing in a transaction"
            );
            // InnoDB shows what it showed, unless nobody asked for a tenth of a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    // Its first poll.
    sees("poll that waits for the lock", &mut external, |[waits, _]| waits != "0").await;
    worker.freeze();
    locking.run(unlock).await;
    sees("transaction of a frozen worker", &mut external, |[_, idle]| idle != "0").await;
    sees("end of it", &mut external, |[_, idle]| idle == "0").await;
    external.run("ALTER TABLE ttp_rule_state ADD COLUMN note VARCHAR(9)").await;
    swarm.save("R1.yaml", rule_text("R1", 2));
    swarm.succeed(&["sync"]);
    worker.thaw();
    let version = || Some(swarm.subscribe().snapshot().first()?["rule_version"].clone());
    wait_for("the worker to go on", || (version()? == 2).then_some(()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_worker_that_is_frozen_within_a_poll_holds_up_nobody_on_postgres() {
    a_worker_that_is_frozen_within_a_poll_holds_up_nobody(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_worker_that_is_frozen_within_a_poll_holds_up_nobody_on_mariadb() {
    a_worker_that_is_frozen_within_a_poll_holds_up_nobody(Kind::MariaDb).await;
}

/// pgbouncer is frozen while master and worker go through it: the worker says that it is stale, and serves. Another master,
/// which goes directly, takes over; once the pooler goes on, the frozen one writes nothing, and the worker has everything.
#[tokio::test]
#[ignore = "needs PostgreSQL and pgbouncer"]
async fn a_pooler_that_is_frozen_costs_freshness_only() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let address = server.create("rules").await;
    let pooler = Pooler::before(&server, "session");
    let (through, direct) = (Swarm::on(pooler.address("rules")), Swarm::on(&address));
    let short = |swarm: &Swarm, mode| {
        let file = swarm.path("rulesyncd.yaml");
        std::fs::write(&file, "master:\n  lease: 5s\ndatabase:\n  connect_timeout: 2s\n").unwrap();
        swarm.daemon(mode, |command| {
            command.env("RULESYNCD_CONFIG", &file);
        })
    };
    through.save("R1.yaml", rule_text("R1", 1));
    direct.save("R1.yaml", rule_text("R1", 2));
    let (first, worker) = (short(&through, "master"), short(&through, "worker"));
    wait_for("the rule", || (through.subscribe().snapshot().len() == 1).then_some(()));
    let mut subscriber = through.subscribe();
    assert_eq!(subscriber.snapshot()[0]["rule_version"], 1);
    let standby = short(&direct, "master");
    standby.wait_for_log("standing by");

    pooler.freeze();
    standby.wait_for_log("this master holds the lock: it took over from the other one");
    let stale = || {
        let status = through.succeed(&["status", "--json", "--socket", through.socket().to_str().unwrap()]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status.get("worker").unwrap_or(&status)["database"]["stale_for_ms"].as_u64().unwrap()
    };
    wait_for("the worker to say that it is stale", || (stale() > 0).then_some(()));
    assert_eq!(through.subscribe().snapshot()[0]["rule_version"], 1);
    through.save("R1.yaml", rule_text("R1", 3));

    pooler.thaw();
    assert_eq!(subscriber.nothing_before("R1")["rule_version"], 2);
    wait_for("the worker to be fresh", || (stale() == 0).then_some(()));
    first.wait_for_log("standing by");
    direct.save("R2.yaml", rule_text("R2", 1));
    assert_eq!(subscriber.nothing_before("R2")["rule_version"], 1);
    drop(worker);
}
