//! The relay between the driver and a server.
//!
//! The driver believes each length and count that a server sends, and allocates that much: one header can end the
//! process, because running out of memory is no panic that can be caught. The driver also sends a server the password
//! whenever the server asks. So the driver connects to a socket of this process, and a task behind it talks to the
//! server: it does the TLS handshake, inspects each frame before the driver sees it, and closes the connection at the
//! first frame that is larger than this daemon's queries need or that is not an answer to them. The inspection is a
//! pure function of the bytes ([`frames`], [`postgres`], [`mysql`]).
//!
//! The socket is an abstract one (unix(7)) with a random name. It accepts one connection, from this process.

mod frames;
#[cfg(any(test, fuzzing))]
pub(super) mod laws;
mod mysql;
mod mysql_login;
mod postgres;
mod route;
#[cfg(test)]
mod tests;
mod tls;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::frames::{FrameRules, Inspection, Violation};
use self::postgres::Told;
pub(super) use self::route::Route;

/// The port in the name of the socket that PostgreSQL's driver connects to; nothing listens on it.
pub(super) const POSTGRES_PORT: u16 = 5432;

/// How many bytes are read at once.
const BUFFER: usize = 32 << 10;

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    MySql,
    Postgres,
}

/// The relay of one connection. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    socket: PathBuf,
    fault: RelayError,
    told: Arc<Told>,
    task: AbortOnDropHandle<()>,
}

/// Why the task closed the connection.
type RelayError = Arc<Mutex<Option<sqlx::Error>>>;

/// A stream to a server.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Relay {
    /// Starts to wait for the driver, on this runtime. Connects to the server when the driver does.
    pub(super) fn start(route: Arc<Route>) -> Result<Self, sqlx::Error> {
        let name = format!("rulesyncd-{}", Uuid::new_v4().simple());
        // The driver appends the name of a file to PostgreSQL's directory.
        let bound = match route.protocol {
            Protocol::MySql => name.clone(),
            Protocol::Postgres => format!("{name}/.s.PGSQL.{POSTGRES_PORT}"),
        };
        let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(bound)?)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let fault = RelayError::default();
        let reported = Arc::clone(&fault);
        let told = Arc::<Told>::default();
        let tells = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let Ok(mut driver) = accept(listener).await else { return };
            if let Err(error) = serve(&mut driver, &route, Arc::clone(&tells)).await {
                *reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            // The driver notices the end of its connection only now, and finds the reason.
            drop(driver);
            tells.notified.send_replace(());
        });
        // A path that begins with a NUL is an abstract name.
        let socket = PathBuf::from(format!("\0{name}"));
        Ok(Self { socket, fault, told, task: AbortOnDropHandle::new(task) })
    }

    /// The socket for the driver.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process that PostgreSQL said to serve the connection, when it began; 0 if it did not.
    pub(super) fn process(&self) -> u32 {
        self.told.process.load(Ordering::Relaxed)
    }

    /// Changes when PostgreSQL notifies the session, and when the connection ends.
    pub(super) fn notified(&self) -> watch::Receiver<()> {
        self.told.notified.subscribe()
    }

    /// Why the relay closed the connection, if it did; if not, `error`, which is the driver's.
    pub(super) fn explain(&self, error: sqlx::Error) -> sqlx::Error {
        match error {
            sqlx::Error::Database(_) => error,
            error => self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error),
        }
    }

    /// Waits until the driver's last bytes were sent to the server.
    pub(super) async fn ended(self) {
        self.task.await.ok();
    }
}

/// The driver's connection: the first from this process.
async fn accept(listener: UnixListener) -> std::io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        let peer = stream.peer_cred()?;
        if peer.pid().and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id()) {
            return Ok(stream);
        }
    }
}

/// Connects to the server and passes on frames until one side closes.
async fn serve(driver: &mut UnixStream, route: &Route, told: Arc<Told>) -> Result<(), sqlx::Error> {
    let server = route.connect().await?;
    match route.protocol {
        Protocol::Postgres => {
            let (server, rules) = postgres::encrypt(server, route).await?;
            pass(driver, server, rules.telling(told)).await
        }
        Protocol::MySql => match mysql_login::log_in(driver, server, route).await? {
            Some((server, rules)) => pass(driver, server, rules).await,
            None => Ok(()),
        },
    }
}

/// Passes on both directions.
async fn pass(
    driver: &mut UnixStream,
    server: Box<dyn Stream>,
    rules: impl FrameRules,
) -> Result<(), sqlx::Error> {
    let inspection = Mutex::new(Inspection::new(rules));
    let inspect = || inspection.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut driver_reads, mut driver_writes) = driver.split();
    let (mut server_reads, mut server_writes) = tokio::io::split(server);
    let down = async {
        let (mut read, mut passed) = (vec![0; BUFFER], Vec::new());
        loop {
            let count = server_reads.read(&mut read).await?;
            if count == 0 {
                return Ok(());
            }
            let inspected = inspect().server_sent(&read[..count], &mut passed);
            // Frames before the violation may contain the server's reason.
            driver_writes.write_all(&passed).await?;
            inspected.map_err(violation)?;
            passed.clear();
        }
    };
    let up = async {
        let mut read = vec![0; BUFFER];
        loop {
            let count = driver_reads.read(&mut read).await?;
            if count == 0 {
                server_writes.shutdown().await.ok();
                return Ok(());
            }
            inspect().driver_sent(&read[..count]).map_err(violation)?;
            server_writes.write_all(&read[..count]).await?;
            server_writes.flush().await?;
        }
    };
    tokio::pin!(down, up);
    let ended = tokio::select! {
        ended = &mut down => return ended,
        ended = &mut up => ended,
    };
    match ended {
        // A server that reads no more may have sent its reason.
        Err(sqlx::Error::Io(_)) => down.await,
        ended => ended,
    }
}

fn violation(Violation(detail): Violation) -> sqlx::Error {
    sqlx::Error::Protocol(format!("the server sent {detail}"))
}

fn password_in_the_clear() -> Violation {
    Violation::sent(
        "a request for the password in the clear, which only a server that is verified gets: use \
         sslmode=verify-full, or a Unix socket whose server runs as the owner of the socket's directory or as \
         `requirepeer` says, or set `database.allow_plaintext`",
    )
}
