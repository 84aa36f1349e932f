//! Columns that hold less than the rules and states: 32-bit numbers, and character sets without some characters.

use serde_json::{Value, json};

use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text};

fn json_of(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_32_bit_ceiling_is_read_as_the_server_prints_it() {
    let server = Server::start(Kind::MariaDb, &[]).await;
    let swarm = Swarm::on(server.create("rules").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    for (given, printed) in [("0.3333333333", 0.333_333), ("0.85", 0.85), ("0.1234567", 0.123_457)] {
        let set = ["state", "set", "R1", "clipped", "--json", "--confidence-max", given];
        assert_eq!(json_of(&swarm.succeed(&set))["confidence_max"], json!(printed));
        let got = json_of(&swarm.succeed(&["state", "get", "R1", "--json"]));
        assert_eq!(got["confidence_max"], json!(printed));
        let mut reader = server.client("rules").await;
        let read = reader.text("SELECT CAST(confidence_max AS CHAR) FROM ttp_rule_state").await;
        assert_eq!(read.unwrap().parse(), Ok(printed), "another reader of the table");
    }
    let worker = swarm.worker();
    let snapshot = swarm.subscribe().snapshot();
    assert_eq!(snapshot[0]["new_value"]["state"]["confidence_max"], json!(0.123_457));
    drop(worker);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_text_that_a_columns_character_set_lacks_is_rejected_with_the_cure() {
    let server = Server::start(Kind::MariaDb, &["--character-set-server=latin1"]).await;
    let swarm = Swarm::on(server.create("rules").await);
    swarm.save("R1.yaml", rule_text("R1", 1));
    swarm.succeed(&["sync"]);
    server.run("rules", "ALTER TABLE ttp_rule CONVERT TO CHARACTER SET latin1").await.unwrap();
    server.run("rules", "ALTER TABLE ttp_rule_state CONVERT TO CHARACTER SET latin1").await.unwrap();

    swarm.save("R2.yaml", format!("{}# a crab: 🦀\n", rule_text("R2", 1)));
    let cure = "ALTER TABLE ttp_rule CONVERT TO CHARACTER SET utf8mb4";
    let refused = swarm.run(&["sync"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains(cure), "{}", text(&refused.stderr));
    server.run("rules", cure).await.unwrap();
    swarm.succeed(&["sync"]);

    let set = ["state", "set", "R1", "disabled", "--reason", "a crab: 🦀"];
    let cure = "ALTER TABLE ttp_rule_state CONVERT TO CHARACTER SET utf8mb4";
    let refused = swarm.run(&set);
    assert!(!refused.status.success() && text(&refused.stderr).contains(cure), "{}", text(&refused.stderr));
    server.run("rules", cure).await.unwrap();
    assert!(swarm.succeed(&set).contains("🦀"));
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_text_that_a_databases_encoding_lacks_is_rejected_with_the_cure() {
    let server = Server::start(Kind::Postgres, &[]).await;
    let make = "CREATE DATABASE rules ENCODING 'LATIN1' TEMPLATE template0";
    server.run("", make).await.unwrap();
    let swarm = Swarm::on(server.address("rules"));
    swarm.save("R1.yaml", format!("{}# a crab: 🦀\n", rule_text("R1", 1)));
    let refused = swarm.run(&["sync"]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("ENCODING 'UTF8' TEMPLATE template0"), "{said}");
}
