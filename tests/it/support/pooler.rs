//! pgbouncer before a PostgreSQL server, as the server's user; it ends with the test.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::servers::Server;

pub(crate) struct Pooler {
    directory: tempfile::TempDir,
    child: Child,
    server: PathBuf,
}

fn settings(server: &Path, own: &Path, mode: &str) -> String {
    format!(
        "[databases]\n* = host={} port=5432 user=postgres\n[pgbouncer]\nauth_type = any\nlisten_addr =\n\
         unix_socket_dir = {}\nlisten_port = 6432\npool_mode = {mode}\n",
        server.display(),
        own.display()
    )
}

impl Pooler {
    /// Starts a pooler that keeps a server's session for each `session`, `transaction` or `statement` of a client. Its
    /// other settings are those of a new installation.
    pub(crate) fn before(server: &Server, mode: &str) -> Self {
        use std::os::unix::process::CommandExt as _;
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let path = directory.path();
        let settings = settings(server.path(), path, mode);
        std::fs::write(path.join("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        if let Some((uid, gid)) = server.ids() {
            chown(path, Some(uid), Some(gid)).unwrap();
            command.uid(uid).gid(gid);
        }
        let log = std::fs::File::create(path.join("log")).unwrap();
        let command = command.arg("-q").arg(path.join("pgbouncer.ini"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pooler = Self { directory, child, server: server.path().to_owned() };
        super::swarm::wait_for("the pooler", || {
            let socket = pooler.directory.path().join(".s.PGSQL.6432");
            std::os::unix::net::UnixStream::connect(socket).ok()
        });
        pooler
    }

    /// Changes the mode while clients are connected.
    pub(crate) fn change_mode(&self, mode: &str) {
        let own = self.directory.path();
        std::fs::write(own.join("pgbouncer.ini"), settings(&self.server, own, mode)).unwrap();
        self.signal("HUP");
    }

    /// SIGSTOP: connections stand, and nothing goes through.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// The address of a database through the pooler.
    pub(crate) fn address(&self, database: &str) -> String {
        format!(
            "postgresql://postgres@localhost/{database}?host={}&port=6432",
            self.directory.path().display()
        )
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
