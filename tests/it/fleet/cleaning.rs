//! The master deletes the reports that count for nothing any more, and no other.

use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm};

async fn what_counts_for_nothing_is_deleted(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    let mut sql = server.client("fleet").await;
    let before = |minutes: i64| match kind {
        Kind::Postgres => {
            format!("clock_timestamp() AT TIME ZONE 'UTC' - {minutes} * interval '1 minute'")
        }
        Kind::MariaDb => format!("UTC_TIMESTAMP(6) - INTERVAL {minutes} MINUTE"),
    };
    const DAY: i64 = 24 * 60;
    // Epoch, worker's id, minutes since the first and the last report.
    for (epoch, id, started, reported) in [
        ("old predecessor", "a", 200, 70),
        ("fresh predecessor", "a", 60, 50),
        ("successor", "a", 40, 0),
        ("clone", "a", 100, 0),
        ("silent for 6 days", "b", 9 * DAY, 6 * DAY),
        ("silent for 8 days", "c", 9 * DAY, 8 * DAY),
        ("from the future", "d", 10, -2),
    ] {
        sql.run(&format!(
            "INSERT INTO rulesyncd_worker (epoch, worker_id, host, program, started_at, reported_at, interval_ms, seq, \
             rules, states, quarantined, quarantined_ids, subscribers, acknowledging, acknowledged, server, stale_ms) \
             VALUES ('{epoch}', '{id}', 'h', '0.1.0', {}, {}, 30000, 0, 1, 0, 0, '', 0, 0, 0, 's', 0)",
            before(started),
            before(reported)
        ))
        .await;
    }
    let master = swarm.master();
    let deadline = std::time::Instant::now() + DEADLINE;
    let left = loop {
        let left: Vec<String> = sql
            .rows("SELECT epoch FROM rulesyncd_worker ORDER BY epoch")
            .await
            .into_iter()
            .map(|row| row[0].clone().unwrap())
            .collect();
        if left.len() <= 4 || std::time::Instant::now() > deadline {
            break left;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(left, ["clone", "fresh predecessor", "silent for 6 days", "successor"], "{}", master.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_counts_for_nothing_is_deleted_on_postgres() {
    what_counts_for_nothing_is_deleted(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn what_counts_for_nothing_is_deleted_on_mariadb() {
    what_counts_for_nothing_is_deleted(Kind::MariaDb).await;
}
