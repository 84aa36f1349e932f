//! Encrypted connections, and unencrypted ones that are refused.

use std::time::Duration;

use rulesyncd::store::{Database, StoreError};

use crate::support::certificates::Certificates;
use crate::support::databases::{config, system_clock};
use crate::support::servers::{Kind, Server};

#[tokio::test]
async fn plaintext_to_another_host_is_refused_unless_it_is_allowed() {
    let open = async |address: &str, allow_plaintext: bool| {
        let mut config = config(address);
        config.allow_plaintext = allow_plaintext;
        Database::open(&config, system_clock()).await.map(drop)
    };
    for scheme in ["mysql", "postgresql"] {
        // TLS without verification gives the password to anyone who answers.
        for mode in ["sslmode=disable", "sslmode=prefer", "sslmode=require", "ssl=true", "ssl-mode=REQUIRED"]
        {
            let address = format!("{scheme}://someone:s3cr3t@db.example/rules?{mode}");
            let error = open(&address, false).await.unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, StoreError::Refused { .. }), "{said}");
            assert!(said.contains("db.example") && said.contains("allow_plaintext"), "{said}");
            assert!(!said.contains("s3cr3t"), "{said}");
            open(&address, true).await.unwrap();
        }
        open(&format!("{scheme}://someone@db.example/rules"), false).await.unwrap();
        for local in ["localhost", "127.0.0.1", "[::1]"] {
            open(&format!("{scheme}://someone@{local}/rules?sslmode=disable"), false).await.unwrap();
        }
        let error = open(&format!("{scheme}://someone@h/rules?sslrootcert=/nowhere.pem"), false).await;
        assert!(error.unwrap_err().to_string().contains("/nowhere.pem"));
        // An empty file of roots would accept nobody, or everybody.
        let error = open(&format!("{scheme}://someone@h/rules?sslrootcert=/dev/null"), false).await;
        let said = error.unwrap_err().to_string();
        assert!(said.contains("/dev/null: there is no certificate in it"), "{said}");
    }
}

/// A client that does not accept the server's certificate sends no password.
async fn certificates_are_verified(kind: Kind) {
    let certificates = Certificates::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Server::start(kind, &[]).await;
    for name in ["server.key", "server.pem", "ca.pem"] {
        server.put(name, &certificates.read(name));
    }
    server.stop();
    let place = |name: &str| server.path().join(name).display().to_string();
    let options = match kind {
        Kind::Postgres => vec![
            "-clisten_addresses=127.0.0.1".to_owned(),
            format!("-cport={port}"),
            "-cssl=on".into(),
            format!("-cssl_cert_file={}", place("server.pem")),
            format!("-cssl_key_file={}", place("server.key")),
            format!("-cssl_ca_file={}", place("ca.pem")),
        ],
        Kind::MariaDb => vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--ssl-cert={}", place("server.pem")),
            format!("--ssl-key={}", place("server.key")),
            format!("--ssl-ca={}", place("ca.pem")),
        ],
    };
    server.go_on_with(options, port).await;
    server.create("rules").await;
    server.admit("127.0.0.0/8").await;

    let (scheme, user) = match kind {
        Kind::Postgres => ("postgresql", "postgres"),
        Kind::MariaDb => ("mysql", "guest"),
    };
    let connect_as = async |user: &str, host: &str, ca: &str, mode: &str| {
        let ca = certificates.path(ca);
        let address = format!("{scheme}://{user}@{host}:{port}/rules?sslrootcert={}{mode}", ca.display());
        let mut config = config(&address);
        config.connect_timeout = Duration::from_secs(10);
        Database::open(&config, system_clock()).await.unwrap().now().await
    };
    let connect = async |host: &str, ca: &str, mode: &str| connect_as(user, host, ca, mode).await;
    // With a file of roots everything is verified, unless less is configured.
    connect("localhost", "ca.pem", "").await.unwrap();
    connect("127.0.0.1", "ca.pem", "&sslmode=verify-ca").await.unwrap();
    for (host, ca, mode) in [
        ("localhost", "stranger.pem", ""),
        ("localhost", "stranger.pem", "&sslmode=verify-ca"),
        ("localhost", "stranger.pem", "&sslmode=require"),
        ("127.0.0.1", "ca.pem", ""),
    ] {
        let error = connect(host, ca, mode).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("certificate"), "{host} {ca}: {error}");
    }

    // Of several hosts, the certificate must name the one that is tried.
    let hosts = |other: &str| format!("127.0.0.1:{port},{other}");
    connect(&hosts("localhost"), "ca.pem", "&target_session_attrs=read-write").await.unwrap();
    let error = connect(&hosts("127.0.0.1"), "ca.pem", "&target_session_attrs=read-write").await.unwrap_err();
    assert_eq!(
        error.to_string().matches("invalid peer certificate").count(),
        2,
        "each with its reason: {error}"
    );

    // An account for the owner of a certificate only.
    match kind {
        Kind::Postgres => {
            server.run("", "CREATE ROLE guest LOGIN").await.unwrap();
            server.put(
                "data/pg_hba.conf",
                b"local all all trust\nhostssl all guest all cert\nhostssl all all all trust\n",
            );
            server.run("", "SELECT pg_reload_conf()").await.unwrap();
        }
        Kind::MariaDb => server.run("", "ALTER USER guest@'%' REQUIRE X509").await.unwrap(),
    }
    let shown = |name: &str| {
        let (certificate, key) = (certificates.path(name), certificates.path(&name.replace("pem", "key")));
        format!("&sslcert={}&sslkey={}", certificate.display(), key.display())
    };
    let user = "guest";
    connect_as(user, "localhost", "ca.pem", &shown("client.pem")).await.unwrap();
    for refused in [String::new(), shown("stranger.pem")] {
        connect_as(user, "localhost", "ca.pem", &refused).await.unwrap_err();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and openssl"]
async fn on_postgres() {
    certificates_are_verified(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB and openssl"]
async fn on_mariadb() {
    certificates_are_verified(Kind::MariaDb).await;
}
