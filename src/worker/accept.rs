//! Accepts connections: who may connect, how many at once, and how they end at a shutdown.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::rejections::RejectionLog;
use super::status::SubscriberStatus;
use super::subscriber::{Peer, SHUTDOWN_GRACE, Service, serve};
use crate::plural::{count, is_or_are};
use crate::socket::ACCEPT_PAUSE;
use crate::wire::{ErrorCode, ServerLine, encode};

/// How long no `accept` may fail before the log says that connections are accepted again.
const RECOVERED: Duration = Duration::from_secs(1);

/// Who may connect.
#[derive(Debug, Clone)]
pub(super) struct AccessPolicy {
    /// If empty, whoever may open the socket.
    pub(super) allow_uids: Vec<u32>,
    pub(super) max_subscribers: usize,
    /// Connections that one user may have at once.
    pub(super) max_per_user: usize,
    pub(super) heartbeat: Duration,
}

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    last: AtomicU64,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self, newest: u64) -> Vec<SubscriberStatus> {
        let status = |peer: &Arc<Peer>| {
            let subscribed = peer.subscribed.load(Ordering::Relaxed);
            let seq = peer.cursor.load(Ordering::Relaxed);
            let acked = peer.acked.load(Ordering::Relaxed);
            SubscriberStatus {
                id: peer.number,
                pid: peer.pid,
                uid: peer.uid,
                connected_at: peer.connected_at,
                subscribed,
                seq,
                lag: if subscribed { newest.saturating_sub(seq) } else { 0 },
                acked: acked.checked_sub(1),
            }
        };
        self.lock().values().map(status).collect()
    }
}

/// Accepts connections until the shutdown, then waits a bounded time until their last lines are written.
pub(super) async fn accept(
    listener: UnixListener,
    broker: Arc<Broker>,
    peers: Arc<Peers>,
    service: Arc<dyn Service>,
    policy: AccessPolicy,
    shutdown: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    let mut failed_at = None;
    let mut rejections = RejectionLog::default();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = sessions.join_next() => continue,
            () = rejections.log_when_due() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if failed_at.is_none() {
                        tracing::error!(error = %error, "no connection can be accepted now; retrying");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    failed_at = Some(Instant::now());
                    continue;
                }
            },
        };
        // A single success between two failures is no recovery.
        if failed_at.take_if(|time| time.elapsed() > RECOVERED).is_some() {
            tracing::info!("connections can be accepted again");
        }
        let peer = match admit(&stream, &broker, &peers, &policy, &mut rejections) {
            Ok(peer) => Arc::new(peer),
            Err(refusal) => {
                reject(&stream, refusal);
                continue;
            }
        };
        peers.lock().insert(peer.number, Arc::clone(&peer));
        let session =
            serve(broker.clone(), stream, peer.clone(), service.clone(), policy.heartbeat, shutdown.clone());
        let peers = Arc::clone(&peers);
        sessions.spawn(async move {
            session.await;
            peers.lock().remove(&peer.number);
            tracing::debug!(subscriber = peer.number, "the connection is closed");
        });
    }
    drop(listener);
    rejections.log_rest();
    let last_lines = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE + Duration::from_secs(1), last_lines).await.is_err() {
        tracing::warn!(subscribers = sessions.len(), "subscribers did not read to the end");
    }
}

/// The error that a rejected peer gets.
struct Rejection {
    code: ErrorCode,
    message: String,
}

fn admit(
    stream: &UnixStream,
    broker: &Broker,
    peers: &Peers,
    policy: &AccessPolicy,
    rejections: &mut RejectionLog,
) -> Result<Peer, Rejection> {
    let rejection = |code, message| Rejection { code, message };
    let credentials = stream
        .peer_cred()
        .map_err(|error| rejection(ErrorCode::NotAllowed, format!("the peer has no credentials: {error}")))?;
    let (uid, pid) = (credentials.uid(), credentials.pid());
    if !policy.allow_uids.is_empty() && !policy.allow_uids.contains(&uid) {
        rejections.user_not_allowed(uid, pid);
        return Err(rejection(ErrorCode::NotAllowed, format!("user {uid} is not in worker.allow_uids")));
    }
    let connected = peers.lock().len();
    if connected >= policy.max_subscribers {
        rejections.limit_reached(uid, pid, connected);
        let message = format!(
            "{} {} connected, which is all that worker.max_subscribers, or the files that \
             the worker may open, allow",
            count(connected, "subscriber"),
            is_or_are(&connected)
        );
        return Err(rejection(ErrorCode::TooManySubscribers, message));
    }
    let of_user = peers.lock().values().filter(|peer| peer.uid == uid).count();
    if of_user >= policy.max_per_user {
        rejections.limit_reached(uid, pid, connected);
        let message = format!(
            "user {uid} has {}, which is all that worker.max_subscribers_per_uid allows one user",
            count(of_user, "connection")
        );
        return Err(rejection(ErrorCode::TooManySubscribers, message));
    }
    let number = peers.last.fetch_add(1, Ordering::Relaxed) + 1;
    tracing::debug!(subscriber = number, uid, pid, "connected");
    Ok(Peer {
        number,
        uid,
        pid,
        connected_at: broker.clock.now(),
        subscribed: AtomicBool::new(false),
        cursor: AtomicU64::new(0),
        acked: AtomicU64::new(0),
    })
}

/// Writes the error without waiting: the socket is new, so the line fits into its buffer.
fn reject(stream: &UnixStream, Rejection { code, message }: Rejection) {
    let mut line = Vec::new();
    encode::line(&mut line, &ServerLine::Error { id: None, code, message });
    let written: io::Result<usize> = stream.try_write(&line);
    if let Err(error) = written {
        tracing::debug!(error = %error, "a rejected peer did not get the reason");
    }
}
