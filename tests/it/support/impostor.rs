//! A listener that answers instead of a database server, asks for the cleartext password, and records what it
//! receives. Written from the protocols' documentation: <https://www.postgresql.org/docs/current/protocol-flow.html>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certificates::Certificates;
use super::forged::message;

/// How to ask for the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// PostgreSQL's AuthenticationCleartextPassword.
    Postgres,
    /// MySQL's greeting names the plugin.
    MySqlGreeting(&'static str),
    /// MySQL's greeting names `mysql_native_password`, and then switches to the plugin.
    MySqlSwitch(&'static str),
    /// The greeting names `caching_sha2_password`, whose digest is then not known.
    MySqlDigestUnknown,
    /// The same, and the digest is enough.
    MySqlDigestKnown,
}

/// The bytes that it received.
#[derive(Debug, Default, Clone)]
pub(crate) struct Received {
    /// Decrypted, where it was encrypted.
    pub(crate) all: Vec<u8>,
    /// How much of it came before the password was asked for.
    before: usize,
    pub(crate) connections: usize,
}

impl Received {
    /// What came after the password was asked for.
    pub(crate) fn answer(&self) -> &[u8] {
        &self.all[self.before..]
    }
}

#[derive(Clone)]
pub(crate) struct Impostor {
    asks: Asks,
    tls: Option<Arc<ServerConfig>>,
    received: Arc<Mutex<Received>>,
}

trait Channel: Read + Write + Send {}

impl<C: Read + Write + Send> Channel for C {}

impl Impostor {
    pub(crate) fn new(asks: Asks, certificates: Option<&Certificates>) -> Self {
        let tls = certificates.map(|certificates| {
            let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
            Arc::new(builder.with_single_cert(chain, key).unwrap())
        });
        Self { asks, tls, received: Arc::default() }
    }

    /// Listens on loopback, and returns the port.
    pub(crate) fn on_tcp(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                this.spawn(client.unwrap());
            }
        });
        port
    }

    pub(crate) fn on_socket(&self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        let this = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                this.spawn(client.unwrap());
            }
        });
    }

    pub(crate) fn received(&self) -> Received {
        self.received.lock().unwrap().clone()
    }

    fn spawn(&self, client: impl Channel + 'static) {
        let this = self.clone();
        std::thread::spawn(move || {
            this.received.lock().unwrap().connections += 1;
            // It ends when the client goes.
            let _ = match this.asks {
                Asks::Postgres => this.postgres(Box::new(client)),
                _ => this.mysql(Box::new(client)),
            };
        });
    }

    /// Records each byte as it arrives, also those of an incomplete message.
    fn read(&self, client: &mut dyn Channel, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match client.read(&mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => {
                    self.received.lock().unwrap().all.extend(&bytes[filled..filled + more]);
                    filled += more;
                }
            }
        }
        Ok(bytes)
    }

    /// Asks for the password.
    fn demand(&self, client: &mut dyn Channel, demand: &[u8]) -> io::Result<()> {
        let mut received = self.received.lock().unwrap();
        received.before = received.all.len();
        drop(received);
        client.write_all(demand)?;
        client.flush()
    }

    fn encrypted(&self, client: Box<dyn Channel>) -> Box<dyn Channel> {
        let connection = ServerConnection::new(self.tls.clone().unwrap()).unwrap();
        Box::new(StreamOwned::new(connection, client))
    }

    fn postgres(&self, mut client: Box<dyn Channel>) -> io::Result<()> {
        const SSL_REQUEST: u32 = 80_877_103;
        loop {
            let length = u32::from_be_bytes(self.read(&mut *client, 4)?.try_into().unwrap());
            let body = self.read(&mut *client, length as usize - 4)?;
            if body[..4] != SSL_REQUEST.to_be_bytes() {
                break;
            }
            client.write_all(if self.tls.is_some() { b"S" } else { b"N" })?;
            if self.tls.is_some() {
                client = self.encrypted(client);
            }
        }
        self.demand(&mut *client, &message(b'R', &3_u32.to_be_bytes()))?;
        let head = self.read(&mut *client, 5)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        self.read(&mut *client, length as usize - 4).map(drop)
    }

    fn mysql(&self, mut client: Box<dyn Channel>) -> io::Result<()> {
        const SSL: u32 = 1 << 11;
        let first = match self.asks {
            Asks::MySqlGreeting(plugin) => plugin,
            Asks::MySqlDigestUnknown | Asks::MySqlDigestKnown => "caching_sha2_password",
            _ => "mysql_native_password",
        };
        client.write_all(&packet(0, &greeting(first, self.tls.is_some())))?;
        let (mut number, response) = self.packet(&mut *client)?;
        if response.len() == 32 && u32::from_le_bytes(response[..4].try_into().unwrap()) & SSL != 0 {
            client = self.encrypted(client);
            (number, _) = self.packet(&mut *client)?;
        }
        let demand = match self.asks {
            Asks::MySqlDigestUnknown => vec![1, 4],
            Asks::MySqlDigestKnown => vec![1, 3],
            Asks::MySqlSwitch(plugin) | Asks::MySqlGreeting(plugin) => {
                [b"\xfe", plugin.as_bytes(), b"\0", &[b'n'; 20], b"\0"].concat()
            }
            Asks::Postgres => unreachable!(),
        };
        self.demand(&mut *client, &packet(number + 1, &demand))?;
        if self.asks != Asks::MySqlDigestKnown {
            self.packet(&mut *client)?;
            number += 1;
        }
        client.write_all(&packet(number + 2, b"\0\0\0\x02\0\0\0"))?;
        client.flush()?;
        self.packet(&mut *client).map(drop)
    }

    fn packet(&self, client: &mut dyn Channel) -> io::Result<(u8, Vec<u8>)> {
        let head = self.read(client, 4)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        Ok((head[3], self.read(client, length)?))
    }
}

/// A packet of MySQL.
pub(crate) fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

/// Protocol::HandshakeV10.
pub(crate) fn greeting(plugin: &str, has_tls: bool) -> Vec<u8> {
    // All capabilities of a current server, except TLS, compression and MariaDB's own.
    let capabilities = 0x018f_f7df_u32 & !(1 << 11) & !(1 << 5) | u32::from(has_tls) << 11;
    let (low, high) = (capabilities.to_le_bytes(), capabilities.to_le_bytes());
    [
        b"\x0a8.0.36\0\x01\0\0\0",
        &[b'n'; 8][..],
        b"\0",
        &low[..2],
        b"\x2d\x02\0",
        &high[2..],
        &[21],
        &[0; 10],
        &[b'n'; 12],
        b"\0",
        plugin.as_bytes(),
        b"\0",
    ]
    .concat()
}
