//! The contract and the watermark tests on real servers: once with tables that the daemon creates, on a server with
//! common settings, and once with tables as found in practice, on a server with unusual settings.

use super::{contract, watermark};
use crate::support::databases::TestDatabase;
use crate::support::servers::{Kind, Server};

/// The tables as another program created them.
pub(super) const FOUND_ON_MYSQL: &str = "
    CREATE TABLE ttp_rule (
        rule_id varchar(255) NOT NULL, rule_version int(11) NOT NULL, source_path varchar(255) NOT NULL,
        yaml_content mediumtext NOT NULL, updated_at datetime NOT NULL, updated_by varchar(255) NOT NULL,
        PRIMARY KEY (rule_id)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
    CREATE TABLE ttp_rule_state (
        rule_id varchar(255) NOT NULL, state varchar(255) NOT NULL, confidence_max float DEFAULT NULL,
        expires_at datetime DEFAULT NULL, reason varchar(255) DEFAULT NULL,
        set_by varchar(255) DEFAULT NULL, set_at datetime NOT NULL,
        PRIMARY KEY (rule_id)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci";

pub(super) const FOUND_ON_POSTGRES: &str = "
    CREATE TABLE ttp_rule (
        rule_id varchar PRIMARY KEY, rule_version integer NOT NULL, source_path varchar NOT NULL,
        yaml_content text NOT NULL, updated_at timestamp NOT NULL, updated_by varchar NOT NULL,
        a_column_of_theirs integer
    );
    CREATE TABLE ttp_rule_state (
        rule_id varchar PRIMARY KEY, state varchar NOT NULL, confidence_max real, expires_at timestamp,
        reason varchar, set_by varchar, set_at timestamp NOT NULL
    )";

/// Runs the contract and every watermark test, each on a database of its own, whose tables `found` creates.
async fn everything(server: &Server, found: &str) {
    let field = async |name: &str| {
        let address = server.create(name).await;
        if !found.is_empty() {
            server.run(name, found).await.unwrap();
        }
        TestDatabase::server(&address).await
    };
    contract::of_a_database(field("contract").await.database).await;
    watermark::all(server.kind(), field).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_with_tables_made_by_the_daemon() {
    everything(&Server::start(Kind::Postgres, &[]).await, "").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_with_tables_as_found() {
    let odd = [
        "-ctimezone=Asia/Tokyo",
        "-cdatestyle=German",
        "-cdefault_transaction_isolation=serializable",
        "-cextra_float_digits=0",
    ];
    everything(&Server::start(Kind::Postgres, &odd).await, FOUND_ON_POSTGRES).await;
}

/// The watermark tests share a server, where someone always writes; this one needs a server on which nobody does.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_where_nobody_else_writes() {
    let server = Server::start(Kind::Postgres, &["-cautovacuum=off"]).await;
    watermark::what_comes_after_a_long_quiet(&TestDatabase::server(&server.create("quiet").await).await)
        .await;
    watermark::a_deletion_that_was_under_way(&TestDatabase::server(&server.create("late").await).await).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_with_tables_made_by_the_daemon() {
    everything(&Server::start(Kind::MariaDb, &[]).await, "").await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_with_tables_as_found() {
    let odd = [
        "--default-time-zone=+05:00",
        "--transaction-isolation=READ-COMMITTED",
        "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
        "--character-set-server=latin1",
    ];
    everything(&Server::start(Kind::MariaDb, &odd).await, FOUND_ON_MYSQL).await;
}
