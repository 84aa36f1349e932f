//! Answers requests on a socket without an event stream, the master's.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::{UCred, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ACCEPT_PAUSE, REQUEST_TIMEOUT, WORK_TIMEOUT};
use crate::wire::{BadRequest, ErrorCode, LineReader, MAX_REQUEST, Op, Request, ServerLine, encode};

/// How often to check, during the work for a client, whether it hung up.
const HANG_UP_INTERVAL: Duration = Duration::from_millis(100);

/// The most connections for requests at once.
const MAX_CLIENTS: usize = 64;

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
/// `is_busy` while it works on a request. The work is abandoned when the client hangs up.
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
                Ok(Request { op, id }) => {
                    let done = tokio::select! {
                        done = timeout(WORK_TIMEOUT, ask(op, peer)) => done,
                        () = hung_up(&write) => return Ok(()),
                    };
                    match done {
                        Ok(Ok(result)) => Ok(ServerLine::Response { id, result }),
                        Ok(Err((code, message))) => Err(BadRequest { id, code, message }),
                        Err(_) => {
                            let message = format!(
                                "not done within {WORK_TIMEOUT:?}: what was begun is finished, and no more; \
                                 `rulesyncd status` shows what is left"
                            );
                            Err(BadRequest { id, code: ErrorCode::Failed, message })
                        }
                    }
                }
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

/// Returns once the peer has closed the connection. One that merely sends no more, as `socat` does, waits for the answer.
async fn hung_up(write: &WriteHalf<'_>) {
    while write.ready(Interest::WRITABLE).await.is_ok_and(|ready| !ready.is_write_closed()) {
        tokio::time::sleep(HANG_UP_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;
    use crate::socket::listen;

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

    #[tokio::test]
    async fn work_for_a_client_that_hung_up_is_abandoned_and_for_one_that_sends_no_more_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, _listening) = listen(&path, 0o600, None).unwrap();
        let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let release = CancellationToken::new();
        let released = release.clone();
        let ask = move |_, _| {
            let (abandoned, released) = (CancellationToken::new(), released.clone());
            began.send(abandoned.clone()).unwrap();
            Box::pin(async move {
                let _guard = abandoned.drop_guard();
                released.cancelled().await;
                Ok(Value::from("done"))
            }) as Answer
        };
        tokio::spawn(serve_requests(listener, ask, CancellationToken::new()));
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = BufReader::new(UnixStream::connect(&path).await.unwrap());
            client.write_all(b"{\"op\":\"reconcile\"}\n").await.unwrap();
            clients.push((client, begun.recv().await.unwrap()));
        }
        let (gone, abandoned) = clients.remove(0);
        let (mut quiet, kept) = clients.remove(0);
        quiet.shutdown().await.unwrap();
        drop(gone);
        timeout(Duration::from_mins(1), abandoned.cancelled()).await.unwrap();
        assert!(!kept.is_cancelled());
        release.cancel();
        assert!(read(&mut quiet).await.contains("done"));
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
