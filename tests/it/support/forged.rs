//! A proxy between a daemon and a real PostgreSQL or MariaDB on a Unix socket: passes on the server's bytes, or sends
//! others.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::servers::{Kind, Server};

/// What a client receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// The server's bytes.
    TheTruth,
    /// These bytes, at once, and nothing more.
    Once(Vec<u8>),
    /// These bytes, without end.
    Forever(Vec<u8>),
    /// On PostgreSQL, the server's first row again and again.
    RowsWithoutEnd,
    /// On PostgreSQL, the server's bytes, with a pause before each row.
    Slowly(Duration),
}

/// Ends with this value, and its connections with it.
pub(crate) struct Forged {
    directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    kind: Kind,
    server: PathBuf,
    says: Mutex<Says>,
    open: Mutex<Vec<UnixStream>>,
    /// Connections that received bytes that are not the server's.
    deceived: AtomicUsize,
}

impl Forged {
    pub(crate) fn before(server: &Server) -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let name = socket_name(server.kind());
        let listener = UnixListener::bind(directory.path().join(name)).unwrap();
        let shared = Arc::new(Shared {
            kind: server.kind(),
            server: server.path().join(name),
            says: Mutex::new(Says::TheTruth),
            open: Mutex::default(),
            deceived: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        // Ends when the listener's file is connected to once more, after this value is gone.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { directory, shared }
    }

    /// The address of one of the server's databases through this proxy.
    pub(crate) fn address(&self, database: &str) -> String {
        let directory = self.directory.path().display();
        match self.shared.kind {
            Kind::MariaDb => {
                format!("mysql://root@localhost/{database}?socket={directory}/sock&ssl-mode=disabled")
            }
            Kind::Postgres => {
                format!("postgresql://postgres@localhost/{database}?host={directory}&port=5432")
            }
        }
    }

    /// Applies from here on; open connections are cut.
    pub(crate) fn say(&self, says: Says) {
        *self.shared.says.lock().unwrap() = says;
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections received bytes that are not the server's.
    pub(crate) fn deceived(&self) -> usize {
        self.shared.deceived.load(Ordering::SeqCst)
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        self.say(Says::Once(Vec::new()));
    }
}

fn socket_name(kind: Kind) -> &'static str {
    match kind {
        Kind::MariaDb => "sock",
        Kind::Postgres => ".s.PGSQL.5432",
    }
}

impl Shared {
    fn serve(&self, mut client: UnixStream) {
        self.open.lock().unwrap().push(client.try_clone().unwrap());
        let says = self.says.lock().unwrap().clone();
        // Each ends when the other side does.
        let _ = match &says {
            Says::Once(bytes) => {
                self.deceived.fetch_add(1, Ordering::SeqCst);
                client.write_all(bytes).and_then(|()| io::copy(&mut client, &mut io::sink()).map(drop))
            }
            Says::Forever(bytes) => {
                self.deceived.fetch_add(1, Ordering::SeqCst);
                forever(&mut client, bytes)
            }
            Says::TheTruth | Says::RowsWithoutEnd | Says::Slowly(_) => self.pass(client, &says),
        };
    }

    fn pass(&self, mut client: UnixStream, says: &Says) -> io::Result<()> {
        let mut server = UnixStream::connect(&self.server)?;
        self.open.lock().unwrap().push(server.try_clone()?);
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let passed = match says {
            Says::TheTruth => io::copy(&mut server, &mut client).map(drop),
            _ => self.row_by_row(&mut server, &mut client, says),
        };
        let _ = client.shutdown(Shutdown::Both);
        passed
    }

    /// PostgreSQL's messages: a letter, a length that counts itself, and the rest.
    fn row_by_row(&self, server: &mut UnixStream, client: &mut UnixStream, says: &Says) -> io::Result<()> {
        loop {
            let mut head = [0; 5];
            server.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut message = head.to_vec();
            message.resize(1 + length, 0);
            server.read_exact(&mut message[5..])?;
            if head[0] == b'D' {
                self.deceived.fetch_add(1, Ordering::SeqCst);
                match says {
                    Says::Slowly(pause) => std::thread::sleep(*pause),
                    _ => forever(client, &message)?,
                }
            }
            client.write_all(&message)?;
        }
    }
}

fn forever(client: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    // In large pieces: it must be as fast as its reader.
    let many = bytes.repeat((1 << 20) / bytes.len().max(1));
    loop {
        client.write_all(&many)?;
    }
}

/// A message of PostgreSQL.
pub(crate) fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![letter];
    message.extend(u32::try_from(4 + body.len()).unwrap().to_be_bytes());
    message.extend(body);
    message
}

/// The resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in KiB.
pub(crate) fn most_resident(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
