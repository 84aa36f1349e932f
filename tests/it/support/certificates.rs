//! Certificates for tests, created with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory with `ca.pem`, which signed `server.pem` for localhost and `client.pem` for the user `guest`, and
/// `stranger.pem`, which signed only itself. The keys are in the same directory.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        let by_ca = "-addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key";
        for arguments in [
            format!("{new} -keyout ca.key -out ca.pem -subj /CN=ours"),
            format!("{new} -keyout stranger.key -out stranger.pem -subj /CN=guest"),
            format!(
                "{new} -keyout server.key -out server.pem -subj /CN=server -addext subjectAltName=DNS:localhost {by_ca}"
            ),
            format!("{new} -keyout client.key -out client.pem -subj /CN=guest {by_ca}"),
        ] {
            let made = Command::new("openssl").current_dir(&directory).args(arguments.split(' ')).output();
            let made = made.unwrap();
            assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
        }
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(Path::new(&self.path(name))).unwrap()
    }
}
