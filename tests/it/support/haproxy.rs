//! haproxy before a server, as a process that can be stopped; it ends with the test.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::servers::{Kind, Server};

pub(crate) struct Haproxy {
    directory: tempfile::TempDir,
    child: Child,
    kind: Kind,
}

impl Haproxy {
    /// Starts a proxy that passes on the connections to a server's socket.
    pub(crate) fn before(server: &Server) -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let (kind, path) = (server.kind(), directory.path());
        let here = path.join(kind.socket());
        let settings = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen database\n bind unix@{}\n server database unix@{}\n",
            here.display(),
            server.path().join(kind.socket()).display()
        );
        let file = path.join("haproxy.cfg");
        std::fs::write(&file, settings).unwrap();
        let log = std::fs::File::create(path.join("log")).unwrap();
        let child = Command::new("/usr/sbin/haproxy")
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        super::swarm::wait_for("the proxy", || UnixStream::connect(&here).ok());
        Self { directory, child, kind }
    }

    /// The address of a database through the proxy.
    pub(crate) fn address(&self, database: &str) -> String {
        self.kind.address(self.directory.path(), database)
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
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
