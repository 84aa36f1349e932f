//! A proxy between a daemon and a real PostgreSQL or MariaDB: passes on the server's bytes up to the step of the
//! protocol at which it attacks. Written from the protocols' documentation:
//! <https://www.postgresql.org/docs/current/protocol.html>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::servers::{Kind, Server};

/// The step of a conversation that is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What follows the client's request for TLS.
    Tls,
    /// PostgreSQL's first message of this kind.
    Message(u8),
    /// Of MySQL, in the order in which they come: what the server sends first, what answers the login, the
    /// preparing of a statement, a statement with rows or without, what describes a column, rows, their end.
    Greeting,
    Login,
    Prepared,
    Answer,
    Definition,
    Row,
    End,
}

#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// These bytes instead of the server's, and nothing after them.
    Instead(Vec<u8>),
    /// These bytes, and the end of the connection.
    Close(Vec<u8>),
    /// These bytes again and again.
    Forever(Vec<u8>),
    /// These bytes, and then the server's.
    Before(Vec<u8>),
    /// These bytes one by one, slowly, and then zeros without end.
    Drip(Vec<u8>),
    /// The first bytes of the server, and the end of the connection.
    Cut(usize),
    /// The server's bytes at this step, again and again.
    Repeat,
}

#[derive(Debug, Clone)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) step: Step,
    pub(crate) act: Act,
}

/// Listens on loopback for as long as the tests run.
#[derive(Clone)]
pub(crate) struct Hostile {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    kind: Kind,
    server: PathBuf,
    attack: Mutex<Option<Attack>>,
    open: Mutex<Vec<TcpStream>>,
    attacked: AtomicUsize,
}

impl Hostile {
    pub(crate) fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = match server.kind() {
            Kind::MariaDb => "sock",
            Kind::Postgres => ".s.PGSQL.5432",
        };
        let shared = Arc::new(Shared {
            kind: server.kind(),
            server: server.path().join(name),
            attack: Mutex::default(),
            open: Mutex::default(),
            attacked: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.unwrap(), Arc::clone(&accepting));
                std::thread::spawn(move || {
                    client.set_nodelay(true).unwrap();
                    shared.open.lock().unwrap().push(client.try_clone().unwrap());
                    // It ends when one of the sides does.
                    let _ = match shared.kind {
                        Kind::Postgres => shared.postgres(&client),
                        Kind::MariaDb => shared.mysql(&client),
                    };
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { shared, port }
    }

    pub(crate) fn address(&self, database: &str) -> String {
        match self.shared.kind {
            Kind::MariaDb => format!("mysql://root@127.0.0.1:{}/{database}?ssl-mode=preferred", self.port),
            Kind::Postgres => {
                format!("postgresql://postgres@127.0.0.1:{}/{database}?sslmode=prefer", self.port)
            }
        }
    }

    /// Applies from here on; open connections are cut.
    pub(crate) fn attack(&self, attack: Option<Attack>) {
        *self.shared.attack.lock().unwrap() = attack;
        self.shared.attacked.store(0, Ordering::SeqCst);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were attacked since.
    pub(crate) fn attacked(&self) -> usize {
        self.shared.attacked.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Attacks where the step has come; `truth` is what the server sends there. Whether the conversation goes on.
    fn step(&self, client: &TcpStream, step: Step, truth: &[u8]) -> io::Result<bool> {
        let attack = self.attack.lock().unwrap().clone();
        let mut out = client;
        let Some(attack) = attack.filter(|attack| attack.step == step) else {
            out.write_all(truth)?;
            return Ok(true);
        };
        self.attacked.fetch_add(1, Ordering::SeqCst);
        let silence = |mut client: &TcpStream| io::copy(&mut client, &mut io::sink()).map(drop);
        match attack.act {
            Act::Instead(bytes) => {
                out.write_all(&bytes)?;
                silence(client)?;
            }
            Act::Close(bytes) => out.write_all(&bytes)?,
            Act::Forever(bytes) => forever(out, &bytes)?,
            Act::Before(bytes) => {
                out.write_all(&bytes)?;
                out.write_all(truth)?;
                return Ok(true);
            }
            Act::Drip(bytes) => {
                for byte in bytes.iter().chain(std::iter::repeat(&0)) {
                    out.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Act::Cut(count) => out.write_all(&truth[..count.min(truth.len())])?,
            Act::Repeat => forever(out, truth)?,
        }
        Ok(false)
    }

    fn postgres(&self, client: &TcpStream) -> io::Result<()> {
        const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
        let mut from = client;
        let startup = loop {
            let startup = message(&mut from, 0)?;
            if startup[4..] != SSL_REQUEST {
                break startup;
            }
            if !self.step(client, Step::Tls, b"N")? {
                return Ok(());
            }
        };
        let mut server = UnixStream::connect(&self.server)?;
        server.write_all(&startup)?;
        self.pass_requests(client, &server, |from| {
            let mut bytes = vec![0; 16 << 10];
            let count = from.read(&mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        })?;
        loop {
            let message = message(&mut server, 1)?;
            if !self.step(client, Step::Message(message[0]), &message)? {
                return Ok(());
            }
        }
    }

    fn mysql(&self, client: &TcpStream) -> io::Result<()> {
        const SSL: u8 = 1 << 3;
        let mut from = client;
        let mut server = UnixStream::connect(&self.server)?;
        let mut greeting = packet(&mut server)?;
        let attacks_tls = self.attack.lock().unwrap().as_ref().is_some_and(|attack| attack.step == Step::Tls);
        if attacks_tls {
            // Behind the version, the connection's number, half of the nonce and a filler.
            let version = greeting[5..].iter().position(|byte| *byte == 0).unwrap();
            greeting[5 + version + 1 + 4 + 8 + 1 + 1] |= SSL;
        }
        if !self.step(client, Step::Greeting, &greeting)? {
            return Ok(());
        }
        let response = packet(&mut from)?;
        if attacks_tls {
            self.step(client, Step::Tls, b"")?;
            return Ok(());
        }
        server.write_all(&response)?;
        loop {
            let packet = packet(&mut server)?;
            if !self.step(client, Step::Login, &packet)? {
                return Ok(());
            }
            if packet[4] == 0 {
                break;
            }
            server.write_all(&self::packet(&mut from)?)?;
        }
        // What was asked last: the answer depends on it.
        let asked = Arc::new(AtomicU8::new(0));
        let sent = Arc::clone(&asked);
        self.pass_requests(client, &server, move |from| {
            let packet = packet(from)?;
            if packet[3] == 0 {
                sent.store(packet[4], Ordering::SeqCst);
            }
            Ok(packet)
        })?;
        loop {
            let packet = packet(&mut server)?;
            let is_first = packet[3] == 1;
            let step = match packet[4] {
                0xff => None,
                0x03 if packet[4..].starts_with(b"\x03def") => Some(Step::Definition),
                _ if is_first && asked.load(Ordering::SeqCst) == 0x16 => Some(Step::Prepared),
                _ if is_first => Some(Step::Answer),
                0xfe => Some(Step::End),
                _ => Some(Step::Row),
            };
            match step {
                Some(step) if !self.step(client, step, &packet)? => return Ok(()),
                Some(_) => {}
                None => (&mut &*client).write_all(&packet)?,
            }
        }
    }

    /// Passes on what the client sends, on a thread of its own.
    fn pass_requests(
        &self,
        client: &TcpStream,
        server: &UnixStream,
        mut next: impl FnMut(&mut TcpStream) -> io::Result<Vec<u8>> + Send + 'static,
    ) -> io::Result<()> {
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            while let Ok(bytes) = next(&mut from) {
                if bytes.is_empty() || to.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        Ok(())
    }
}

fn forever(mut out: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    // In large pieces: it must be as quick as who reads it.
    let many = bytes.repeat((1 << 18) / bytes.len().max(1) + 1);
    loop {
        out.write_all(&many)?;
    }
}

/// A message of PostgreSQL whose length stands behind so many bytes.
fn message(from: &mut impl io::Read, before: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; before + 4];
    from.read_exact(&mut bytes)?;
    let length = u32::from_be_bytes(bytes[before..].try_into().unwrap()) as usize;
    bytes.resize(before + length, 0);
    from.read_exact(&mut bytes[before + 4..])?;
    Ok(bytes)
}

/// A packet of MySQL.
fn packet(from: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    from.read_exact(&mut bytes)?;
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize;
    bytes.resize(4 + length, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}
