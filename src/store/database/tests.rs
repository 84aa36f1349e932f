//! Rows as anyone may have written them.

use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use super::connector::Connector;
use super::snapshot::count::beat_of;
use super::sql::Purpose;
use super::{Database, laws, manifest};
use crate::address::DatabaseConfig;
use crate::clock::SystemClock;
use crate::testing::replay;

fn config(address: &str, connect_timeout: Duration) -> DatabaseConfig {
    DatabaseConfig {
        url_file: None,
        address: address.parse().unwrap(),
        max_connections: 8,
        connect_timeout,
        create_tables: true,
        allow_plaintext: false,
    }
}

/// A database with its tables.
pub(super) async fn database_at(address: &str, connect_timeout: Duration) -> Database {
    let config = config(address, connect_timeout);
    let database = Database::open(&config, Arc::new(SystemClock)).await.unwrap();
    database.ensure_tables().await.unwrap();
    database
}

#[test]
fn a_rule_row_of_the_corpus_or_a_mutation_of_it_is_a_rule_or_says_why_not() {
    replay("rule_row", 5, 20_000, laws::rule_row);
}

#[test]
fn a_state_row_of_the_corpus_or_a_mutation_of_it_is_a_state_or_says_why_not() {
    replay("state_row", 6, 20_000, laws::state_row);
}

#[test]
fn a_lease_that_nobody_has_taken_yet_was_not_released() {
    for (found, is_released) in [
        ("0 0 2026-11-28 07:00:00 -", false),
        ("1 7 2026-11-28 07:00:00 -", true),
        ("1 7 2026-11-28 07:00:00", false),
    ] {
        assert_eq!(beat_of(found).unwrap().is_released, is_released, "{found}");
    }
}

/// A list in tiny pieces would take as many statements as it has bytes.
#[tokio::test]
async fn a_list_is_read_only_in_the_pieces_that_a_master_writes() {
    let database = database_at("sqlite::memory:", Duration::from_secs(60)).await;
    let mut connection = Connection::open(&database.connector, Purpose::Write).await.unwrap();
    manifest::prepare(&mut connection).await.unwrap();
    let insert = "INSERT INTO rulesyncd_manifest (realm, part, version, body, updated_at) VALUES ";
    for (realm, pieces) in
        [("whole", &["abcd"][..]), ("tiny", &["a", "b", "c", "d"]), ("torn", &["abc", "d"])]
    {
        for (part, piece) in (1..).zip(pieces) {
            let row = format!("{insert} ('{realm}', {part}, 'v', '{piece}', 'now')");
            connection.run("publishing", &row).await.unwrap();
        }
        let read = manifest::read_list(&mut connection, realm, 4).await.unwrap();
        assert_eq!(read.is_some(), realm == "whole", "{realm}");
    }
}

/// The time that an error names is that which passed.
#[tokio::test]
async fn an_error_names_the_time_limit_that_was_reached() {
    let database = database_at("sqlite::memory:", Duration::from_secs(5)).await;
    let endless = |limit| database.connector.endless("asking", Duration::from_secs(limit)).to_string();
    assert!(endless(60).contains("after 1m, 12 times `database.connect_timeout`"), "{}", endless(60));
    assert!(endless(1).contains("after 1s (") && !endless(1).contains("12 times"), "{}", endless(1));
    let unreached = |hosts: &str| {
        let address = format!("postgresql://{hosts}/rules").parse().unwrap();
        let config = DatabaseConfig { address, ..config("sqlite::memory:", Duration::from_secs(5)) };
        Connector::new(&config).unwrap().unreached().to_string()
    };
    assert!(unreached("localhost").contains("no answer within 5s, the `database.connect_timeout`"));
    let several = unreached("localhost,127.0.0.1");
    assert!(
        several.contains("no answer within 2s 500ms, a host's part of `database.connect_timeout`"),
        "{several}"
    );
}
