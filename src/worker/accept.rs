//! Connections: who may, how many, and their end.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::refusals::Refusals;
use super::status::SubscriberStatus;
use super::subscriber::{Peer, SHUTDOWN_GRACE, Service, serve};
use crate::plural::{count, is_or_are};
use crate::socket::ACCEPT_PAUSE;
use crate::wire::{ErrorCode, ServerLine, encode};

/// How long no connection may have failed before that is told as a recovery.
const RECOVERED: Duration = Duration::from_secs(1);

/// Who may connect.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// Empty is whoever may open the socket.
    pub(super) allow_uids: Vec<u32>,
    pub(super) max_subscribers: usize,
    /// Connections of one user at once.
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
        let tell = |peer: &Arc<Peer>| {
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
                acked: (acked > 0).then_some(acked),
            }
        };
        self.lock().values().map(tell).collect()
    }
}

/// Takes connections until the shutdown, then waits a bounded time for them to hear of it.
pub(super) async fn accept(
    listener: UnixListener,
    hub: Arc<Hub>,
    peers: Arc<Peers>,
    service: Arc<dyn Service>,
    admission: Admission,
    shutdown: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    let mut failed_at = None;
    let mut refusals = Refusals::default();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = sessions.join_next() => continue,
            () = refusals.tell_in_time() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if failed_at.is_none() {
                        tracing::error!(error = %error, "no connection can be taken now; trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    failed_at = Some(Instant::now());
                    continue;
                }
            },
        };
        // One that comes through between two failures is no recovery yet.
        if failed_at.take_if(|time| time.elapsed() > RECOVERED).is_some() {
            tracing::info!("connections can be taken again");
        }
        let peer = match admit(&stream, &hub, &peers, &admission, &mut refusals) {
            Ok(peer) => Arc::new(peer),
            Err(refusal) => {
                turn_away(&stream, refusal);
                continue;
            }
        };
        peers.lock().insert(peer.number, Arc::clone(&peer));
        let session =
            serve(hub.clone(), stream, peer.clone(), service.clone(), admission.heartbeat, shutdown.clone());
        let peers = Arc::clone(&peers);
        sessions.spawn(async move {
            session.await;
            peers.lock().remove(&peer.number);
            tracing::debug!(subscriber = peer.number, "the connection is closed");
        });
    }
    drop(listener);
    refusals.tell_at_the_end();
    let farewell = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE + Duration::from_secs(1), farewell).await.is_err() {
        tracing::warn!(subscribers = sessions.len(), "subscribers did not read to the end");
    }
}

/// Why a peer is not served.
struct Refusal {
    code: ErrorCode,
    message: String,
}

fn admit(
    stream: &UnixStream,
    hub: &Hub,
    peers: &Peers,
    admission: &Admission,
    refusals: &mut Refusals,
) -> Result<Peer, Refusal> {
    let refuse = |code, message| Refusal { code, message };
    let credentials = stream
        .peer_cred()
        .map_err(|error| refuse(ErrorCode::NotAllowed, format!("the peer has no credentials: {error}")))?;
    let (uid, pid) = (credentials.uid(), credentials.pid());
    if !admission.allow_uids.is_empty() && !admission.allow_uids.contains(&uid) {
        refusals.user(uid, pid);
        return Err(refuse(ErrorCode::NotAllowed, format!("user {uid} is not in worker.allow_uids")));
    }
    let connected = peers.lock().len();
    if connected >= admission.max_subscribers {
        refusals.number(uid, pid, connected);
        let message = format!(
            "{} {} connected, which is all that worker.max_subscribers, or the files that \
             the worker may open, allow",
            count(connected, "subscriber"),
            is_or_are(&connected)
        );
        return Err(refuse(ErrorCode::TooManySubscribers, message));
    }
    let of_user = peers.lock().values().filter(|peer| peer.uid == uid).count();
    if of_user >= admission.max_per_user {
        refusals.number(uid, pid, connected);
        let message = format!(
            "user {uid} has {}, which is all that worker.max_subscribers_per_uid allows one user",
            count(of_user, "connection")
        );
        return Err(refuse(ErrorCode::TooManySubscribers, message));
    }
    let number = peers.last.fetch_add(1, Ordering::Relaxed) + 1;
    tracing::debug!(subscriber = number, uid, pid, "connected");
    Ok(Peer {
        number,
        uid,
        pid,
        connected_at: hub.clock.now(),
        subscribed: AtomicBool::new(false),
        cursor: AtomicU64::new(0),
        acked: AtomicU64::new(0),
    })
}

/// Says why without waiting: the socket is new, so the line fits.
fn turn_away(stream: &UnixStream, refusal: Refusal) {
    let mut line = Vec::new();
    let Refusal { code, message } = refusal;
    encode::line(&mut line, &ServerLine::Error { id: None, code, message });
    let told: io::Result<usize> = stream.try_write(&line);
    if let Err(error) = told {
        tracing::debug!(error = %error, "a peer that was turned away did not hear why");
    }
}
