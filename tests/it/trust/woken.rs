//! A poll that a wake-up asks for reads the manifest's hint in its transaction.

use serde_json::json;

use super::worker::{status, wait_for_reasons};
use crate::support::databases::TestDatabase;
use crate::support::releases::Owner;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::Swarm;

/// An error ends a transaction of PostgreSQL, so the poll must begin again without asking for the manifest in it.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_wake_up_after_the_manifest_was_dropped_is_heard_and_is_no_outage() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let database = TestDatabase::server(&server.create("signed").await).await;
    let swarm = Swarm::on(&database.address);
    let owner = Owner::new();
    owner.release(1, &[("R1", 1), ("R2", 1)]).check_out(&swarm);
    let master = owner.daemon(&swarm, "master");
    master.wait_for_log("is published");
    // It polls so seldom that it hears nothing unless it is woken.
    let worker = swarm.daemon("worker", |command| {
        owner.trusted_by(&swarm, command);
        command.env("RULESYNCD_WORKER_POLL_INTERVAL", "1h");
    });
    wait_for_reasons(&swarm, &[]);
    let mut subscriber = swarm.subscribe();
    subscriber.snapshot();
    // The next release is found by a wake-up, too.
    owner.release(2, &[("R1", 2), ("R2", 1)]).check_out(&swarm);
    assert_eq!(subscriber.change()["rule_version"], 2);
    master.stop();

    database.external().await.run("DROP TABLE rulesyncd_manifest").await;
    swarm.succeed(&["state", "set", "R2", "disabled"]);
    let change = subscriber.change();
    assert_eq!((&change["rule_id"], &change["new_value"]["state"]), (&json!("R2"), &json!("disabled")));
    wait_for_reasons(&swarm, &["missing"]);
    assert_eq!(status(&swarm)["database"]["last_error"], json!(null));
    assert!(!worker.log().contains("unavailable"), "{}", worker.log());
}
