//! One connection: one task, a feed from the broker, and a bounded output.
//!
//! The session fills the output only while it is empty, from a snapshot or from the journal. So a peer that
//! does not read takes the memory of one batch; the broker can take back the snapshot that it was reading.
//!
//! ```text
//! Idle ─────── the peer subscribes ────────────▶ Starting
//! Starting ─── its cursor is in the journal ───▶ Live
//! Starting ─── any other cursor, or none ──────▶ Snapshot
//! Snapshot ─── its last line is in the output ─▶ Live, or Done with `"follow": false`
//! Snapshot, Live ─── its lag is too large ─────▶ Lagged
//! Lagged ───── the peer has read its output ───▶ Snapshot
//! any ──────── an error, or the shutdown ──────▶ Done
//! ```
//!
//! [`Position`](super::broker::Position) has the lag rule. A snapshot also counts as lagging if the broker keeps newer
//! ones in its place, or if the journal no longer has the changes after it.

mod feed;
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use self::feed::Feed;
use super::broker::{Broker, Head};
use super::output::Output;
use super::snapshot::Filter;
use super::status::WorkerStatus;
use crate::clock::Timestamp;
use crate::wire::{
    BadRequest, Cursor, ErrorCode, FrameError, LineReader, MAX_REQUEST, PROTOCOL, Request, ServerLine,
};

/// How many bytes of replies may wait before the session stops reading requests.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// How long a peer may stay connected without a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a peer may take to read its last lines.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// One connection, as `status` shows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) number: u64,
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
    pub(super) connected_at: Timestamp,
    pub(super) subscribed: AtomicBool,
    /// The last change whose line is written or waits to be.
    pub(super) cursor: AtomicU64,
    /// One more than the last change that the subscriber acknowledged; 0 before its first acknowledgement.
    pub(super) acked: AtomicU64,
}

/// Requests that the daemon answers, and not the broker.
pub(super) trait Service: Send + Sync + 'static {
    /// The answer to `status`.
    fn status(&self) -> WorkerStatus;

    /// Follows the deletions that are held back, on the word of this user and process, and returns how many
    /// there were.
    ///
    /// # Errors
    /// Why the user may not do that.
    fn allow_mass_delete(&self, uid: u32, pid: Option<i32>) -> Result<usize, String>;
}

struct Session<'a> {
    broker: &'a Broker,
    peer: &'a Peer,
    service: &'a dyn Service,
    out: Output,
    feed: Feed,
    filter: Filter,
    cursor: Option<Cursor>,
    follow: bool,
    /// The newest change when the peer last read something.
    progress: u64,
    heartbeat_due: bool,
    stopping: bool,
}

/// Serves one connection until one of its sides ends it.
pub(super) async fn serve(
    broker: Arc<Broker>,
    mut stream: UnixStream,
    peer: Arc<Peer>,
    service: Arc<dyn Service>,
    heartbeat: Duration,
    shutdown: CancellationToken,
) {
    let mut session = Session {
        broker: &broker,
        peer: &peer,
        service: &*service,
        out: Output::default(),
        feed: Feed::Idle,
        filter: Filter::default(),
        cursor: None,
        follow: true,
        progress: 0,
        heartbeat_due: false,
        stopping: false,
    };
    if let Err(error) = session.run(&mut stream, heartbeat, &shutdown).await {
        tracing::debug!(subscriber = peer.number, error = %error, "the connection broke");
    }
}

impl Session<'_> {
    async fn run(
        &mut self,
        stream: &mut UnixStream,
        heartbeat: Duration,
        shutdown: &CancellationToken,
    ) -> std::io::Result<()> {
        let (read, write) = stream.split();
        let mut requests = LineReader::new(read, MAX_REQUEST);
        let mut reading = true;
        let mut check_closed = false;
        let mut head = self.broker.watch_head();
        let mut health = health(&head.borrow());
        let mut beat = every(heartbeat);
        let mut deadline = None;
        let subscribe_by = Instant::now() + SUBSCRIBE_TIMEOUT;
        self.out.reply(&ServerLine::Hello {
            protocol: PROTOCOL,
            server: concat!("rulesyncd/", env!("CARGO_PKG_VERSION")).to_owned(),
            epoch: self.broker.epoch.clone(),
            seq: head.borrow_and_update().seq,
        });
        loop {
            if self.out.is_empty() {
                self.fill();
            }
            // A heartbeat or an answer that the peer does not read keeps it busy, as a change does.
            if let Feed::Live(position) = &mut self.feed
                && !self.out.is_empty()
            {
                position.keep_busy();
            }
            let finished = matches!(self.feed, Feed::Done);
            if finished && self.out.is_empty() {
                return Ok(());
            }
            if (finished || self.stopping) && deadline.is_none() {
                deadline = Some(Instant::now() + SHUTDOWN_GRACE);
            }
            let until = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
            let is_idle = matches!(self.feed, Feed::Idle);
            let step = async {
                tokio::select! {
                    written = self.out.write(&write), if !self.out.is_empty() => {
                        Step::Written(written)
                    }
                    line = requests.next(), if reading && !finished && self.out.replies() < MAX_REPLY_BYTES => {
                        Step::Request(line.map(|line| line.map(Request::parse)))
                    }
                    // Once only, and never alone: the socket of a peer that does not read may never be ready.
                    ready = write.ready(Interest::WRITABLE), if check_closed => Step::Writable(ready),
                    // Also while output is left: its reader may lag too far behind meanwhile.
                    _ = head.changed() => Step::HeadChanged,
                    _ = beat.tick() => Step::Beat,
                    () = shutdown.cancelled(), if !self.stopping => Step::Stop,
                    () = sleep_until(subscribe_by), if is_idle => Step::NotSubscribed,
                }
            };
            match timeout_at(until, step).await.unwrap_or(Step::Expired) {
                Step::Written(result) => {
                    result?;
                    self.progress = head.borrow().seq;
                }
                Step::Request(Ok(Some(Ok(request)))) => {
                    self.answer(request, &mut beat, heartbeat);
                    // The next one may be here already, and without this nobody else's turn would come.
                    tokio::task::yield_now().await;
                }
                Step::Request(Ok(Some(Err(bad)))) => self.close(bad.id, bad.code, bad.message),
                Step::Request(Err(FrameError::TooLong(limit))) => {
                    self.close(None, ErrorCode::LineTooLong, format!("a line has more than {limit} bytes"));
                }
                Step::Request(Err(FrameError::Io(error))) => return Err(error),
                Step::Request(Ok(None)) => {
                    // A subscriber may close only its direction and go on reading.
                    (reading, check_closed) = (false, true);
                    if matches!(self.feed, Feed::Idle) {
                        self.feed = Feed::Done;
                    }
                }
                Step::Writable(ready) => {
                    check_closed = false;
                    if ready?.is_write_closed() {
                        return Ok(());
                    }
                }
                Step::HeadChanged => {
                    self.check_lag();
                    // A heartbeat says at once that the database became unavailable or the rules stale.
                    let turned = std::mem::replace(&mut health, self::health(&head.borrow())) != health;
                    self.heartbeat_due |= turned && self.peer.subscribed.load(Ordering::Relaxed);
                }
                Step::Beat => self.heartbeat_due = self.peer.subscribed.load(Ordering::Relaxed),
                Step::Stop => self.stopping = true,
                Step::NotSubscribed => {
                    let limit = humantime::format_duration(SUBSCRIBE_TIMEOUT);
                    let message =
                        format!("no subscribe within {limit}; connect again to ask or to subscribe");
                    self.close(None, ErrorCode::NotSubscribed, message);
                }
                Step::Expired => return Ok(()),
            }
        }
    }
}

/// What makes a heartbeat due when it changes.
const fn health(head: &Head) -> (bool, bool, u64) {
    (head.up, head.stale, head.trust)
}

/// What happened next in a session.
enum Step {
    Written(std::io::Result<()>),
    Request(Result<Option<Result<Request, BadRequest>>, FrameError>),
    Writable(std::io::Result<Ready>),
    HeadChanged,
    Beat,
    Stop,
    NotSubscribed,
    Expired,
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests;
