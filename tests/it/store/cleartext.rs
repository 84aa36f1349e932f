//! No server but a verified one gets the cleartext password.

use std::time::Duration;

use rulesyncd::store::Database;

use crate::support::certificates::Certificates;
use crate::support::databases::{config, system_clock};
use crate::support::impostor::{Asks, Impostor, Received};
use crate::support::servers::{Kind, Server};
use crate::support::swarm::wait_for;

const CANARY: &str = "canary-pw-7f3a";

const MYSQL: [Asks; 5] = [
    Asks::MySqlGreeting("mysql_clear_password"),
    Asks::MySqlGreeting("sha256_password"),
    Asks::MySqlSwitch("mysql_clear_password"),
    Asks::MySqlSwitch("sha256_password"),
    Asks::MySqlDigestUnknown,
];

fn scheme(asks: Asks) -> &'static str {
    if asks == Asks::Postgres { "postgresql" } else { "mysql" }
}

/// Connects, and returns how the attempt ended.
async fn connect(address: &str, allow_plaintext: bool) -> String {
    let mut config = config(address);
    config.connect_timeout = Duration::from_secs(2);
    config.allow_plaintext = allow_plaintext;
    let database = Database::open(&config, system_clock()).await.unwrap();
    database.now().await.unwrap_err().to_string()
}

fn holds_the_canary(received: &Received) -> bool {
    received.all.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

/// Whether the first statement of a session came: the login is complete.
fn has_asked(received: &Received) -> bool {
    let statement = b"\x03SET NAMES utf8mb4";
    received.answer().windows(statement.len()).any(|window| window == statement)
}

#[tokio::test]
async fn a_server_that_is_not_verified_is_told_no_password_in_the_clear() {
    let certificates = Certificates::new();
    for asks in MYSQL.into_iter().chain([Asks::Postgres]) {
        for (tls, mode) in [
            (None, "disable"),
            (None, "prefer"),
            (Some(&certificates), "disable"),
            (Some(&certificates), "prefer"),
            (Some(&certificates), "require"),
        ] {
            let impostor = Impostor::new(asks, tls);
            let (scheme, port) = (scheme(asks), impostor.on_tcp());
            let address = format!("{scheme}://rules:{CANARY}@127.0.0.1:{port}/rules?sslmode={mode}");
            let said = connect(&address, false).await;
            assert!(said.contains("the password in the clear"), "{asks:?} {mode}: {said}");
            assert!(said.contains("sslmode=verify-full") && !said.contains(CANARY), "{said}");
            let received = impostor.received();
            assert!(received.connections == 1 && !received.all.is_empty(), "{received:?}");
            // Neither in cleartext nor encrypted for anyone who sends a key.
            assert!(received.answer().is_empty(), "{asks:?} {mode}: {received:?}");
            assert!(!holds_the_canary(&received), "{asks:?} {mode}: {received:?}");
        }
    }
}

/// What the test above would record.
#[tokio::test]
async fn a_server_that_is_verified_is_told_the_password_when_it_asks() {
    let certificates = Certificates::new();
    let ca = certificates.path("ca.pem");
    for asks in MYSQL.into_iter().chain([Asks::Postgres]) {
        let impostor = Impostor::new(asks, Some(&certificates));
        let (scheme, port, ca) = (scheme(asks), impostor.on_tcp(), ca.display());
        connect(&format!("{scheme}://rules:{CANARY}@localhost:{port}/rules?sslrootcert={ca}"), false).await;
        wait_for("the password", || holds_the_canary(&impostor.received()).then_some(()));
        if asks != Asks::Postgres {
            wait_for("a statement after the login", || has_asked(&impostor.received()).then_some(()));
        }
    }
    // So is one that the operator trusts.
    for asks in [Asks::Postgres, Asks::MySqlSwitch("mysql_clear_password")] {
        let impostor = Impostor::new(asks, None);
        let (scheme, port) = (scheme(asks), impostor.on_tcp());
        connect(&format!("{scheme}://rules:{CANARY}@localhost:{port}/rules?sslmode=disable"), true).await;
        wait_for("the password", || holds_the_canary(&impostor.received()).then_some(()));
    }
}

/// MySQL's `caching_sha2_password` sends the password once; the digest is enough after that.
#[tokio::test]
async fn a_server_that_knows_the_digest_is_told_no_more() {
    let impostor = Impostor::new(Asks::MySqlDigestKnown, None);
    let port = impostor.on_tcp();
    connect(&format!("mysql://rules:{CANARY}@127.0.0.1:{port}/rules"), false).await;
    wait_for("a statement after the login", || has_asked(&impostor.received()).then_some(()));
    assert!(!holds_the_canary(&impostor.received()));
}

/// A server without the certificate receives only the request for TLS.
#[tokio::test]
async fn a_server_with_the_wrong_certificate_hears_no_user_and_no_password() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    for asks in [Asks::Postgres, Asks::MySqlDigestUnknown] {
        let impostor = Impostor::new(asks, Some(&certificates));
        let (scheme, port, ca) = (scheme(asks), impostor.on_tcp(), others.path("ca.pem"));
        let address =
            format!("{scheme}://the-user:{CANARY}@localhost:{port}/rules?sslrootcert={}", ca.display());
        let said = connect(&address, false).await;
        assert!(said.contains("certificate"), "{said}");
        let received = impostor.received();
        assert!(received.connections == 1 && !holds_the_canary(&received), "{received:?}");
        assert!(!received.all.windows(8).any(|window| window == b"the-user"), "{received:?}");
    }
}

#[tokio::test]
async fn a_sockets_server_of_another_user_than_requirepeer_names_hears_nothing() {
    let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path()).unwrap());
    for (asks, name) in [(Asks::Postgres, ".s.PGSQL.5432"), (Asks::MySqlDigestUnknown, "sock")] {
        let (impostor, socket) = (Impostor::new(asks, None), directory.path().join(name));
        impostor.on_socket(&socket);
        let scheme = scheme(asks);
        let address = |peer: u32| {
            format!("{scheme}://rules:{CANARY}@/rules?socket={}&requirepeer={peer}", socket.display())
        };
        let said = connect(&address(own + 1), false).await;
        assert!(said.contains(&format!("runs as the user {own}, and `requirepeer`")), "{said}");
        wait_for("the connection", || (impostor.received().connections == 1).then_some(()));
        assert!(impostor.received().all.is_empty(), "{:?}", impostor.received());
        connect(&address(own), false).await;
        wait_for("the password", || holds_the_canary(&impostor.received()).then_some(()));
    }
    for (address, expected) in [
        ("postgresql://u@localhost/r?requirepeer=postgres", "names no socket"),
        (
            "mysql://u@/r?socket=/run/sock&requirepeer=no-such-user",
            "`no-such-user`, who is not in /etc/passwd",
        ),
    ] {
        let said = match address.parse::<rulesyncd::address::Address>() {
            Err(error) => error.to_string(),
            Ok(_) => Database::open(&config(address), system_clock()).await.unwrap_err().to_string(),
        };
        assert!(said.contains(expected), "{said}");
    }
}

/// PostgreSQL's `password` in pg_hba.conf, on a socket in the server's own directory and on one in a directory where
/// anyone can listen.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_socket_where_anybody_can_listen_is_told_no_password_as_root() {
    let open = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(open.path(), mode).unwrap();
    let mut server = Server::start(Kind::Postgres, &[]).await;
    server.run("", &format!("CREATE ROLE rules LOGIN PASSWORD '{CANARY}'")).await.unwrap();
    server.create("rules").await;
    server.put("data/pg_hba.conf", b"local all postgres trust\nlocal all all password\n");
    server.stop();
    let own = server.path().display().to_string();
    let both = format!("-cunix_socket_directories={own},{}", open.path().display());
    server.go_on_with(vec![both], 5432).await;
    let connect = async |directory: &str, peer: &str| {
        let address = format!("postgresql://rules:{CANARY}@/rules?host={directory}{peer}");
        Database::open(&config(&address), system_clock()).await.unwrap().now().await
    };
    connect(&own, "").await.unwrap();
    connect(&own, "&requirepeer=postgres").await.unwrap();
    let open = open.path().display().to_string();
    connect(&open, "&requirepeer=postgres").await.unwrap();
    let said = connect(&open, "").await.unwrap_err().to_string();
    assert!(said.contains("the password in the clear") && said.contains("`requirepeer`"), "{said}");
    let said = connect(&own, "&requirepeer=daemon").await.unwrap_err().to_string();
    assert!(said.contains("`requirepeer` asks for daemon"), "{said}");
}
