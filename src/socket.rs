//! A daemon's Unix socket: how the daemon creates it, and how the master answers requests on it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::wire::{BadRequest, ErrorCode, LineReader, MAX_REQUEST, Op, Request, ServerLine, encode};

/// The longest path that a socket's address holds, in bytes.
const MAX_PATH: usize = 107;

/// How long a daemon may take to answer a request that needs no work, and how long a client may take to send its next
/// request or to read an answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the work of one request may take.
pub(crate) const WORK_TIMEOUT: Duration = Duration::from_mins(5);

/// The most connections for requests at once.
const MAX_CLIENTS: usize = 64;

/// How long to wait after a failed `accept`, as with a full file table.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a socket cannot be served. The daemon does not start until the environment is corrected.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit into a socket's address.
    #[error("the socket path {} has {length} bytes; at most {MAX_PATH} are possible: choose a shorter one", path.display())]
    TooLong {
        /// The path, or the temporary one in its directory.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A running daemon serves it.
    #[error("the socket {} is served by another process: stop that, or choose another socket", .0.display())]
    InUse(PathBuf),
    /// The path is something other than a socket.
    #[error("{} exists and is no socket: choose another path, or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The group does not exist on this host.
    #[error("there is no group `{0}` on this host: create it, or correct socket_group")]
    NoGroup(String),
    /// The system refused to create it.
    #[error("the socket {} cannot be made: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A listening socket at a path. Dropping it removes the path.
#[derive(Debug)]
pub(crate) struct Listening {
    path: PathBuf,
    inode: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Another daemon may have taken over the path meanwhile.
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), error = %error, "the socket's file stays");
        }
    }
}

/// Listens at `path`, which becomes reachable only once it has its mode and its group. Takes over the socket of a
/// daemon that no longer runs. Dropping the second value removes the path.
///
/// # Errors
/// [`ListenError`] says what to do.
pub(crate) fn listen(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(StdListener, Listening), ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    // Created under another name in the same directory, so that it is ready when it appears at `path`.
    let hidden = path.with_file_name(format!(".{}", std::process::id()));
    for path in [path, &hidden] {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH {
            return Err(ListenError::TooLong { path: path.to_owned(), length });
        }
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match StdStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!(path = %path.display(), "taking over the socket of a daemon that is gone");
            }
            // EAGAIN: a daemon listens, and its queue is full.
            Ok(_) => return Err(ListenError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ListenError::InUse(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let gid = group.map(group_id).transpose()?;
    let prepare = || {
        let _ = std::fs::remove_file(&hidden);
        let listener = StdListener::bind(&hidden)?;
        if gid.is_some() {
            std::os::unix::fs::chown(&hidden, None, gid)?;
        }
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode))?;
        let inode = std::fs::metadata(&hidden)?.ino();
        std::fs::rename(&hidden, path)?;
        listener.set_nonblocking(true)?;
        Ok((listener, Listening { path: path.to_owned(), inode }))
    };
    prepare().map_err(|error| {
        let _ = std::fs::remove_file(&hidden);
        failed(error)
    })
}

/// The number of a group: by its name in `/etc/group`, or as it is written.
fn group_id(group: &str) -> Result<u32, ListenError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let entry = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1))?
    });
    entry.and_then(|gid| gid.parse().ok()).ok_or_else(|| ListenError::NoGroup(group.to_owned()))
}

/// The answer to a request, or the error line that is sent instead.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Value, (ErrorCode, String)>> + Send>>;

/// Answers requests on a socket without an event stream, until the shutdown. `ask` gets the peer that sends the
/// request.
///
/// # Errors
/// The listener cannot be used.
pub(crate) async fn serve_requests(
    listener: StdListener,
    ask: impl Fn(Op, UCred) -> Answer + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let ask = Arc::new(ask);
    let mut clients = Clients::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(_) = clients.tasks.join_next() => {}
            accepted = listener.accept(), if clients.has_room() => match accepted {
                Ok((stream, _)) => {
                    let (ask, is_busy) = (Arc::clone(&ask), Arc::new(AtomicBool::new(false)));
                    clients.add(Arc::clone(&is_busy), async move {
                        if let Err(error) = serve_client(stream, &*ask, &is_busy).await {
                            tracing::debug!(error = %error, "the connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(error = %error, "no connection can be accepted now; retrying");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// The open connections, oldest first: at most [`MAX_CLIENTS`].
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    open: VecDeque<(Arc<AtomicBool>, AbortHandle)>,
}

impl Clients {
    /// Whether another connection can be accepted: there is room, or an idle connection to close.
    fn has_room(&self) -> bool {
        self.tasks.len() < MAX_CLIENTS || self.open.iter().any(is_idle)
    }

    /// Serves one more connection, and closes the oldest idle one if there is no room.
    fn add(&mut self, is_busy: Arc<AtomicBool>, serving: impl Future<Output = ()> + Send + 'static) {
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() >= MAX_CLIENTS
            && let Some((_, task)) = self.open.iter().position(is_idle).and_then(|at| self.open.remove(at))
        {
            task.abort();
        }
        self.open.push_back((is_busy, self.tasks.spawn(serving)));
    }
}

fn is_idle((is_busy, _): &(Arc<AtomicBool>, AbortHandle)) -> bool {
    !is_busy.load(Ordering::Relaxed)
}

/// Answers one connection's requests until it sends none for [`REQUEST_TIMEOUT`] or sends an invalid one. Sets
/// `is_busy` while it works on a request.
async fn serve_client(
    mut stream: UnixStream,
    ask: &(dyn Fn(Op, UCred) -> Answer + Send + Sync),
    is_busy: &AtomicBool,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.split();
    let mut requests = LineReader::new(read, MAX_REQUEST);
    loop {
        let request = timeout(REQUEST_TIMEOUT, requests.next()).await?;
        is_busy.store(true, Ordering::Relaxed);
        let answer = match request {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => match Request::parse(line) {
                Ok(Request { op, id }) => match timeout(WORK_TIMEOUT, ask(op, peer)).await {
                    Ok(Ok(result)) => Ok(ServerLine::Response { id, result }),
                    Ok(Err((code, message))) => Err(BadRequest { id, code, message }),
                    Err(_) => {
                        let message = format!("not done within {WORK_TIMEOUT:?}; it goes on");
                        Err(BadRequest { id, code: ErrorCode::Failed, message })
                    }
                },
                Err(bad) => Err(bad),
            },
            Err(error) => {
                Err(BadRequest { id: None, code: ErrorCode::LineTooLong, message: error.to_string() })
            }
        };
        let last = answer.is_err();
        let line =
            answer.unwrap_or_else(|BadRequest { id, code, message }| ServerLine::Error { id, code, message });
        let mut bytes = Vec::new();
        encode::line(&mut bytes, &line);
        timeout(REQUEST_TIMEOUT, write.write_all(&bytes)).await??;
        if last {
            return Ok(());
        }
        is_busy.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    #[test]
    fn a_socket_appears_with_its_mode_and_goes_with_its_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (_listener, listening) = listen(&path, 0o620, None).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o620);
        StdStream::connect(&path).unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_daemons_socket_is_refused_and_a_dead_ones_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let living = StdListener::bind(&path).unwrap();
        let refused = listen(&path, 0o660, None).unwrap_err();
        assert!(matches!(refused, ListenError::InUse(_)), "{refused}");
        StdStream::connect(&path).expect("the living one is not disturbed");
        drop(living);
        let (_listener, first) = listen(&path, 0o660, None).unwrap();
        // A third daemon takes over what the second no longer serves; the second then does not remove it.
        drop(_listener);
        let (_listener, _second) = listen(&path, 0o660, None).unwrap();
        drop(first);
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "notes").unwrap();
        assert!(matches!(listen(&path, 0o660, None), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
        let nowhere = directory.path().join("no").join("s");
        assert!(matches!(listen(&nowhere, 0o660, None), Err(ListenError::Io { .. })));
    }

    #[test]
    fn a_path_may_have_107_bytes() {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let room = MAX_PATH - directory.path().as_os_str().len() - 1;
        let longest = directory.path().join("s".repeat(room));
        drop(listen(&longest, 0o660, None).unwrap());
        let refused = listen(&directory.path().join("s".repeat(room + 1)), 0o660, None).unwrap_err();
        assert!(refused.to_string().contains("108 bytes; at most 107"), "{refused}");
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("1234").unwrap(), 1234);
        let refused = group_id("no such group").unwrap_err();
        assert!(refused.to_string().contains("socket_group"), "{refused}");
    }

    type Reader = BufReader<UnixStream>;

    async fn read(client: &mut Reader) -> String {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        line
    }

    async fn ask_for_status(path: &Path) -> String {
        let mut client = BufReader::new(UnixStream::connect(path).await.unwrap());
        client.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
        read(&mut client).await
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_ask_nothing_keep_nobody_out_and_are_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, _listening) = listen(&path, 0o600, None).unwrap();
        let ask = |_, peer: UCred| Box::pin(async move { Ok(Value::from(peer.uid())) }) as Answer;
        tokio::spawn(serve_requests(listener, ask, CancellationToken::new()));
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(BufReader::new(UnixStream::connect(&path).await.unwrap()));
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        let uid = rustix::process::geteuid().as_raw();
        assert!(ask_for_status(&path).await.contains(&format!("\"result\":{uid}")));
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waited");
        for client in &mut idle {
            assert_eq!(read(client).await, "", "closed without a word");
        }
        assert!(begun.elapsed() <= REQUEST_TIMEOUT, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_work_is_not_closed_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, _listening) = listen(&path, 0o600, None).unwrap();
        let ask = |op, _| {
            Box::pin(async move {
                if matches!(op, Op::Reconcile { .. }) {
                    tokio::time::sleep(WORK_TIMEOUT / 2).await;
                }
                Ok(Value::from("done"))
            }) as Answer
        };
        tokio::spawn(serve_requests(listener, ask, CancellationToken::new()));
        let mut working = BufReader::new(UnixStream::connect(&path).await.unwrap());
        working.write_all(b"{\"op\":\"reconcile\"}\n").await.unwrap();
        for _ in 0..2 * MAX_CLIENTS {
            assert!(ask_for_status(&path).await.contains("done"));
        }
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CLIENTS {
            idle.push(UnixStream::connect(&path).await.unwrap());
            tokio::task::yield_now().await;
        }
        assert!(ask_for_status(&path).await.contains("done"));
        assert!(read(&mut working).await.contains("done"));
    }
}
