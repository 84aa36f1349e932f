//! What servers do that others have set up.

use rulesyncd::rule::Catalogue;
use rulesyncd::store::{Follow, RuleStore, Scope};

use crate::support::databases::Field;
use crate::support::servers::{Kind, Server};

/// What `initdb --locale=C` makes takes any bytes for a text, and then refuses to hand them over as UTF-8.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_text_that_is_no_utf8_is_quarantined_alone() {
    let server = Server::start(Kind::Postgres, &[]).await;
    server.run("", "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII'").await.unwrap();
    let field = Field::server(&server.address("bytes")).await;
    let many: Vec<_> = (0..100).map(|n| format!("Re{n}")).collect();
    field.save(&many.iter().map(|id| (id.as_str(), 1)).collect::<Vec<_>>()).await;
    let mut watcher = field.watcher().await;
    let mut scanner = field.watcher_with(std::time::Duration::ZERO).await;

    let mut hand = field.hand().await;
    hand.run(
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
        assert_eq!(watcher.look().await, ["written Re1 v2", "state Re3 disabled"]);
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
                "Re2: reason is not UTF-8"
            ]
        );
        assert_eq!(watcher.catalogue.state("Re3").reason.as_deref(), Some("é"));
        assert!(watcher.look().await.is_empty());
    }
    // The master's look is not held up either, and no row that can be read differs from its file's.
    let rows = field.database.rows(Scope::All).await.unwrap();
    assert_eq!(rows.len(), 103);
    assert!(rows.iter().all(|row| row.updated_by != "filesystem" || row.rule_id.starts_with("Re")));
    assert_eq!(field.database.load_compiled().await.unwrap().len(), 100);
    let mut again = Catalogue::default();
    let look = field.database.follow().look(&again).await.unwrap();
    assert_eq!(again.apply(look).len(), 101);
}
