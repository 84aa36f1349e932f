//! Encrypted connections, and unencrypted ones that are refused.

use std::process::Command;
use std::time::Duration;

use rulesyncd::store::{Database, StoreError};

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
        // TLS that verifies nothing gives the password to whoever answers.
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
    }
}

fn openssl(directory: &std::path::Path, arguments: &str) {
    let done = Command::new("openssl").current_dir(directory).args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A certificate for localhost that `ca.pem` has signed, and `stranger.pem`, which has signed nothing.
fn certificates(directory: &std::path::Path) {
    let new = "req -x509 -newkey rsa:2048 -nodes -days 2";
    openssl(directory, &format!("{new} -keyout ca.key -out ca.pem -subj /CN=ours"));
    openssl(directory, &format!("{new} -keyout stranger.key -out stranger.pem -subj /CN=stranger"));
    openssl(
        directory,
        &format!(
            "{new} -keyout server.key -out server.pem -subj /CN=server -addext subjectAltName=DNS:localhost \
             -addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key"
        ),
    );
}

/// Whoever the server's certificate does not convince is not told a password.
async fn certificates_are_verified(kind: Kind) {
    let kept = tempfile::tempdir().unwrap();
    certificates(kept.path());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Server::start(kind, &[]).await;
    for name in ["server.key", "server.pem"] {
        server.put(name, &std::fs::read(kept.path().join(name)).unwrap());
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
        ],
        Kind::MariaDb => vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--ssl-cert={}", place("server.pem")),
            format!("--ssl-key={}", place("server.key")),
        ],
    };
    server.go_on_with(options, port).await;
    server.create("rules").await;
    server.admit("127.0.0.0/8").await;

    let connect = async |host: &str, ca: &str, mode: &str| {
        let (scheme, user) = match kind {
            Kind::Postgres => ("postgresql", "postgres"),
            Kind::MariaDb => ("mysql", "guest"),
        };
        let ca = kept.path().join(ca);
        let address = format!("{scheme}://{user}@{host}:{port}/rules?sslrootcert={}{mode}", ca.display());
        let mut config = config(&address);
        config.connect_timeout = Duration::from_secs(10);
        Database::open(&config, system_clock()).await.unwrap().now().await
    };
    // With a file of certificates everything is verified, unless less is asked for.
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
