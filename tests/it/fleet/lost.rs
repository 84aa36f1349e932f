//! What `--wait` takes for its own write, and for a lost one.

use super::{stderr, until_in_sync, worker};
use crate::support::rules::rule_text;
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{Swarm, text};

/// Makes another program follow each raise of the version at once, before anyone looks.
async fn follow_each_write(server: &Server, statement: &str) {
    let (begin, end) = match server.kind() {
        Kind::Postgres => (
            "CREATE OR REPLACE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN",
            "NEW.version := NEW.version + 1; RETURN NEW; END $$; DROP TRIGGER IF EXISTS later ON rulesyncd_version; \
             CREATE TRIGGER later BEFORE UPDATE ON rulesyncd_version FOR EACH ROW EXECUTE FUNCTION later()",
        ),
        Kind::MariaDb => (
            "CREATE OR REPLACE TRIGGER later BEFORE UPDATE ON rulesyncd_version FOR EACH ROW BEGIN",
            "SET NEW.version = NEW.version + 1; END",
        ),
    };
    server.run("fleet", &format!("{begin} {statement}; {end}")).await.unwrap();
}

async fn what_others_write_meanwhile(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let swarm = Swarm::on(server.create("fleet").await);
    for rule_id in ["R1", "R2"] {
        swarm.save(&format!("{rule_id}.yaml"), rule_text(rule_id, 1));
    }
    swarm.succeed(&["sync"]);
    let _worker = worker(&swarm, "w1", "w1");
    until_in_sync(&swarm, &["w1"]);

    follow_each_write(&server, "DELETE FROM ttp_rule_state").await;
    let output = swarm.run(&["state", "set", "R1", "disabled", "--wait=30s"]);
    assert!(output.status.success(), "a state that was cleared later is not lost: {}", stderr(&output));
    assert!(text(&output.stdout).contains("the host has it"), "{}", text(&output.stdout));
    assert!(!swarm.succeed(&["state", "list"]).contains("disabled"), "it was cleared");

    let columns = "rule_id, rule_version, source_path, yaml_content, updated_at, updated_by";
    follow_each_write(
        &server,
        &format!(
            "INSERT INTO ttp_rule ({columns}) SELECT 'BAD', 1, 'bad.yaml', 'nothing', CURRENT_TIMESTAMP, 'someone' \
             WHERE NOT EXISTS (SELECT 1 FROM ttp_rule WHERE rule_id = 'BAD')"
        ),
    )
    .await;
    swarm.save("R2.yaml", rule_text("R2", 2));
    let output = swarm.run(&["sync", "--wait=30s"]);
    assert!(output.status.success(), "another program's row is not of this sync: {}", stderr(&output));
    assert!(text(&output.stdout).contains("the host has it"), "{}", text(&output.stdout));
    let shown = text(&swarm.run(&["fleet"]).stdout);
    assert!(shown.contains("quarantined BAD") || shown.contains("1 of 1 in sync"), "{shown}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_others_write_meanwhile_on_postgres() {
    what_others_write_meanwhile(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn what_others_write_meanwhile_on_mariadb() {
    what_others_write_meanwhile(Kind::MariaDb).await;
}
