//! One connection: one task, a place in the hub, and a little output.
//!
//! The output is filled only when it is empty, from a snapshot or from the journal. So a peer that
//! does not read costs a batch, and whatever else it costs the hub can take back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::hub::{Hub, News, Next, Place, Start};
use super::output::Output;
use super::snapshot::{Filter, Snapshot, SnapshotReader};
use super::status::WorkerStatus;
use crate::clock::Timestamp;
use crate::event;
use crate::telemetry::tally;
use crate::wire::{
    BadRequest, Cursor, ErrorCode, FrameError, LineReader, MAX_REQUEST, Op, PROTOCOL, Request, RequestId,
    ServerLine, SnapshotReason,
};

/// How many changes, and about how many bytes, are taken at once.
const BATCH: (usize, usize) = (256, 256 * 1024);

/// How much of a snapshot is written at once.
const SNAPSHOT_CHUNK: usize = 64 * 1024;

/// How many bytes of answers may wait before no further request is read.
const ANSWERS: usize = 64 * 1024;

/// How long a peer may take to subscribe; whoever only asks connects anew.
const TIME_TO_SUBSCRIBE: Duration = Duration::from_secs(30);

/// How long a peer may take for its last lines.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// What `status` tells of one connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) number: u64,
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
    pub(super) connected_at: Timestamp,
    pub(super) subscribed: AtomicBool,
    /// The last change that was handed to the socket.
    pub(super) cursor: AtomicU64,
    /// The last change that the subscriber says it has taken in; 0 is none.
    pub(super) acked: AtomicU64,
}

/// What a connection needs of the daemon.
pub(super) trait Service: Send + Sync + 'static {
    /// What `status` answers.
    fn status(&self) -> WorkerStatus;

    /// Follows the deletions that are held back, for this user and process, and tells how many they are.
    ///
    /// # Errors
    /// Why the user may not.
    fn allow_mass_delete(&self, uid: u32, pid: Option<i32>) -> Result<usize, String>;
}

enum Feed {
    /// No subscription yet.
    Idle,
    /// Nothing is loaded yet, or the place is not yet found.
    Starting,
    Snapshot(SnapshotReader),
    Live(Place),
    /// What it has not received is to be replaced by a snapshot.
    Lagged,
    /// All was said that was asked for.
    Done,
}

struct Session<'a> {
    hub: &'a Hub,
    peer: &'a Peer,
    service: &'a dyn Service,
    out: Output,
    feed: Feed,
    filter: Filter,
    cursor: Option<Cursor>,
    follow: bool,
    /// The newest change when the peer last took something.
    progress: u64,
    heartbeat_due: bool,
    stopping: bool,
}

/// Serves one connection until either side ends it.
pub(super) async fn serve(
    hub: Arc<Hub>,
    mut stream: UnixStream,
    peer: Arc<Peer>,
    service: Arc<dyn Service>,
    heartbeat: Duration,
    shutdown: CancellationToken,
) {
    let mut session = Session {
        hub: &hub,
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
        let mut asking = false;
        let mut news = self.hub.news();
        let mut health = health(&news.borrow());
        let mut beat = every(heartbeat);
        let mut deadline = None;
        let subscribe_by = Instant::now() + TIME_TO_SUBSCRIBE;
        self.out.say(&ServerLine::Hello {
            protocol: PROTOCOL,
            server: concat!("rulesyncd/", env!("CARGO_PKG_VERSION")).to_owned(),
            epoch: self.hub.epoch.clone(),
            seq: news.borrow_and_update().seq,
        });
        loop {
            if self.out.is_empty() {
                self.fill();
            }
            // A heartbeat or an answer that the peer does not take holds it up like a change.
            if let Feed::Live(place) = &mut self.feed
                && !self.out.is_empty()
            {
                place.keep_busy();
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
                    line = requests.next(), if reading && !finished && self.out.said() < ANSWERS => {
                        Step::Request(line.map(|line| line.map(Request::parse)))
                    }
                    // Once only, and never alone: a peer that does not read may never be ready.
                    ready = write.ready(Interest::WRITABLE), if asking => Step::Asked(ready),
                    // With output left, too: a peer that does not take it may have been overtaken.
                    _ = news.changed() => Step::News,
                    _ = beat.tick() => Step::Beat,
                    () = shutdown.cancelled(), if !self.stopping => Step::Stop,
                    () = sleep_until(subscribe_by), if is_idle => Step::NotSubscribed,
                }
            };
            match timeout_at(until, step).await.unwrap_or(Step::Expired) {
                Step::Written(result) => {
                    result?;
                    self.progress = news.borrow().seq;
                }
                Step::Request(Ok(Some(Ok(request)))) => self.answer(request, &mut beat, heartbeat),
                Step::Request(Ok(Some(Err(bad)))) => self.refuse(bad.id, bad.code, bad.message),
                Step::Request(Err(FrameError::TooLong(limit))) => {
                    self.refuse(None, ErrorCode::LineTooLong, format!("a line has more than {limit} bytes"));
                }
                Step::Request(Err(FrameError::Io(error))) => return Err(error),
                Step::Request(Ok(None)) => {
                    // Who subscribed and closed one direction alone goes on listening.
                    (reading, asking) = (false, true);
                    if matches!(self.feed, Feed::Idle) {
                        self.feed = Feed::Done;
                    }
                }
                Step::Asked(ready) => {
                    asking = false;
                    if ready?.is_write_closed() {
                        return Ok(());
                    }
                }
                Step::News => {
                    self.overtaken();
                    // That the database went away, or what is served became stale, waits for no interval.
                    let turned = std::mem::replace(&mut health, self::health(&news.borrow())) != health;
                    self.heartbeat_due |= turned && self.peer.subscribed.load(Ordering::Relaxed);
                }
                Step::Beat => self.heartbeat_due = self.peer.subscribed.load(Ordering::Relaxed),
                Step::Stop => self.stopping = true,
                Step::NotSubscribed => {
                    let limit = humantime::format_duration(TIME_TO_SUBSCRIBE);
                    let message =
                        format!("no subscribe within {limit}; connect again to ask or to subscribe");
                    self.refuse(None, ErrorCode::NotSubscribed, message);
                }
                Step::Expired => return Ok(()),
            }
        }
    }

    /// Puts the next lines into the empty output, if there are any.
    fn fill(&mut self) {
        match &self.feed {
            Feed::Starting => match self.hub.start(self.cursor.as_ref(), !self.follow) {
                Some(Start::Resume(place)) => self.feed = Feed::Live(place),
                Some(Start::Snapshot(snapshot, reason)) => self.read(snapshot, reason),
                None => self.beat(0),
            },
            Feed::Lagged => self.read(self.hub.snapshot(), SnapshotReason::Lagged),
            Feed::Idle | Feed::Snapshot(_) | Feed::Live(_) | Feed::Done => {}
        }
        match &mut self.feed {
            Feed::Snapshot(reader) => {
                let mut lines = Vec::with_capacity(SNAPSHOT_CHUNK);
                let seq = reader.seq();
                if reader.write(&mut lines, SNAPSHOT_CHUNK, &self.hub.epoch, &self.filter) {
                    self.peer.cursor.store(seq, Ordering::Relaxed);
                    self.feed = if self.follow { Feed::Live(self.hub.place_after(seq)) } else { Feed::Done };
                }
                self.out.push(lines);
            }
            Feed::Live(place) => {
                let next = self.hub.next(place, &self.filter, BATCH.0, BATCH.1);
                let cursor = place.cursor;
                self.peer.cursor.store(cursor, Ordering::Relaxed);
                match next {
                    Next::Changes(changes) => self.out.extend(&changes),
                    Next::CaughtUp => self.beat(cursor),
                    Next::Lagged => {
                        self.lag();
                        self.fill();
                    }
                }
            }
            Feed::Idle | Feed::Starting | Feed::Lagged | Feed::Done => {}
        }
        if self.stopping && self.out.is_empty() && !matches!(self.feed, Feed::Done) {
            let message = "the daemon stops; connect again and resume".to_owned();
            self.refuse(None, ErrorCode::ShuttingDown, message);
        }
    }

    fn read(&mut self, snapshot: Arc<Snapshot>, reason: SnapshotReason) {
        self.progress = snapshot.seq;
        self.feed = Feed::Snapshot(SnapshotReader::new(snapshot, reason));
    }

    /// Lets go of a snapshot or a place that too many changes have overtaken; the peer gets a snapshot when
    /// it reads on.
    fn overtaken(&mut self) {
        let is_overtaken = match &self.feed {
            Feed::Snapshot(reader) => !self.hub.snapshot_holds(reader.seq(), self.progress),
            Feed::Live(place) => !self.out.is_empty() && self.hub.is_overtaken(place),
            Feed::Idle | Feed::Starting | Feed::Lagged | Feed::Done => false,
        };
        if is_overtaken {
            self.lag();
        }
    }

    fn lag(&mut self) {
        let Peer { number: subscriber, uid, pid, .. } = self.peer;
        let seq = self.peer.cursor.load(Ordering::Relaxed);
        let process = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        tracing::info!(
            message_id = event::SUBSCRIBER_LAGGED,
            subscriber,
            uid,
            pid,
            seq,
            "subscriber {subscriber} (process {process} of user {uid}) does not keep up: it gets a snapshot in place of \
             the changes after {seq} when it reads on"
        );
        self.feed = Feed::Lagged;
    }

    /// Writes a heartbeat if it is time for one.
    fn beat(&mut self, cursor: u64) {
        if !std::mem::take(&mut self.heartbeat_due) {
            return;
        }
        let standing = self.hub.standing();
        self.out.say(&ServerLine::Heartbeat {
            epoch: self.hub.epoch.clone(),
            seq: cursor,
            database: standing.database,
            stale_for_ms: u64::try_from(standing.stale_for.as_millis()).unwrap_or(u64::MAX),
            digest: standing.digest.filter(|_| standing.seq == cursor),
        });
    }

    fn answer(&mut self, request: Request, beat: &mut Interval, heartbeat: Duration) {
        match request.op {
            Op::Subscribe(subscribe) if matches!(self.feed, Feed::Idle) => {
                self.filter = Filter::new(&subscribe);
                self.follow = subscribe.follow;
                self.cursor = subscribe.cursor;
                self.feed = Feed::Starting;
                self.peer.subscribed.store(true, Ordering::Relaxed);
                *beat = every(heartbeat);
            }
            Op::Subscribe(_) => {
                let message = "this connection has its subscription; open another".to_owned();
                self.refuse(request.id, ErrorCode::AlreadySubscribed, message);
            }
            Op::GetState { rule_id } => match self.hub.get_state(&rule_id) {
                Some(state) => self.respond(request.id, &state),
                None => self.out.say(&ServerLine::Error {
                    id: request.id,
                    code: ErrorCode::NotReady,
                    message: "nothing was loaded from the database yet".to_owned(),
                }),
            },
            Op::Status {} => {
                let mut answer = serde_json::json!(self.service.status());
                answer["metrics"] = serde_json::json!(tally::metrics());
                self.respond(request.id, &answer);
            }
            Op::AllowMassDelete {} => match self.service.allow_mass_delete(self.peer.uid, self.peer.pid) {
                Ok(deleted) => self.respond(request.id, &serde_json::json!({ "deleted": deleted })),
                Err(message) => self.refuse(request.id, ErrorCode::NotAllowed, message),
            },
            Op::Reconcile { .. } => {
                let message = "a worker only reads; ask the master on its socket".to_owned();
                self.refuse(request.id, ErrorCode::UnknownOp, message);
            }
            Op::Ack { seq } => {
                let acked = seq.min(self.peer.cursor.load(Ordering::Relaxed));
                let before = self.peer.acked.fetch_max(acked, Ordering::Relaxed);
                if request.id.is_some() {
                    self.respond(request.id, &serde_json::json!({ "acked": acked.max(before) }));
                }
            }
        }
    }

    fn respond(&mut self, id: Option<RequestId>, result: &impl serde::Serialize) {
        match serde_json::to_value(result) {
            Ok(result) => self.out.say(&ServerLine::Response { id, result }),
            Err(error) => tracing::error!(error = %error, "an answer could not be written"),
        }
    }

    /// Says why, and that this is the last line.
    fn refuse(&mut self, id: Option<RequestId>, code: ErrorCode, message: String) {
        tracing::debug!(subscriber = self.peer.number, ?code, "{message}");
        self.out.say(&ServerLine::Error { id, code, message });
        self.feed = Feed::Done;
    }
}

/// What a heartbeat tells of at once when it turns.
const fn health(news: &News) -> (bool, bool) {
    (news.up, news.stale)
}

/// What woke a session.
enum Step {
    Written(std::io::Result<()>),
    Request(Result<Option<Result<Request, BadRequest>>, FrameError>),
    Asked(std::io::Result<Ready>),
    News,
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
