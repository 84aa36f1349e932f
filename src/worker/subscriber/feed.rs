//! Where the lines of the stream come from: a snapshot, or a position in the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Peer, Session};
use crate::event;
use crate::wire::{ErrorCode, RequestId, ServerLine, SnapshotReason};
use crate::worker::broker::{Next, Position, Start};
use crate::worker::snapshot::{Snapshot, SnapshotReader};

/// The most changes that go into the output at once.
const BATCH_CHANGES: usize = 256;

/// About how many bytes of changes go into the output at once.
const BATCH_BYTES: usize = 256 * 1024;

/// About how many bytes of a snapshot go into the output at once.
const SNAPSHOT_CHUNK: usize = 64 * 1024;

/// More bytes than most lines of a snapshot have: the last of a chunk makes it no longer than its buffer.
const SNAPSHOT_LINE: usize = 4 * 1024;

/// Where the lines of the stream come from.
pub(super) enum Feed {
    /// The peer has not subscribed.
    Idle,
    /// The peer has subscribed, and nothing is loaded yet.
    Starting,
    Snapshot(SnapshotReader),
    Live(Position),
    /// A new snapshot follows when the peer reads on.
    Lagged,
    /// Nothing follows; the connection closes once the output is written.
    Done,
}

impl Session<'_> {
    /// Adds the next lines of the feed to the empty output, if there are any.
    pub(super) fn fill(&mut self) {
        match &self.feed {
            Feed::Starting => match self.broker.start(self.cursor.as_ref(), !self.follow) {
                Some(Start::Resume(position)) => self.feed = Feed::Live(position),
                Some(Start::Snapshot(snapshot, reason)) => self.read(snapshot, reason),
                None => self.beat(0),
            },
            Feed::Lagged => self.read(self.broker.snapshot(), SnapshotReason::Lagged),
            Feed::Idle | Feed::Snapshot(_) | Feed::Live(_) | Feed::Done => {}
        }
        match &mut self.feed {
            Feed::Snapshot(reader) => {
                let mut lines = Vec::with_capacity(SNAPSHOT_CHUNK + SNAPSHOT_LINE);
                let seq = reader.seq();
                if reader.write(
                    &mut lines,
                    SNAPSHOT_CHUNK,
                    (&self.broker.epoch, self.broker.trust_line()),
                    &self.filter,
                ) {
                    self.peer.cursor.store(seq, Ordering::Relaxed);
                    self.feed =
                        if self.follow { Feed::Live(self.broker.position_after(seq)) } else { Feed::Done };
                }
                self.out.push(lines);
            }
            Feed::Live(position) => {
                let next = self.broker.next(position, &self.filter, BATCH_CHANGES, BATCH_BYTES);
                let cursor = position.cursor;
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
            self.close(None, ErrorCode::ShuttingDown, message);
        }
    }

    fn read(&mut self, snapshot: Arc<Snapshot>, reason: SnapshotReason) {
        self.progress = snapshot.seq;
        self.feed = Feed::Snapshot(SnapshotReader::new(snapshot, reason));
    }

    /// Gives up a snapshot or a position that lags too far behind; the peer gets a new snapshot when it reads
    /// on.
    pub(super) fn check_lag(&mut self) {
        let is_overtaken = match &self.feed {
            Feed::Snapshot(reader) => !self.broker.snapshot_holds(reader.seq(), self.progress),
            Feed::Live(position) => !self.out.is_empty() && self.broker.is_overtaken(position),
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

    /// Adds a heartbeat if one is due.
    fn beat(&mut self, cursor: u64) {
        if !std::mem::take(&mut self.heartbeat_due) {
            return;
        }
        let head_status = self.broker.head_status();
        self.out.reply(&ServerLine::Heartbeat {
            epoch: self.broker.epoch.clone(),
            seq: cursor,
            database: head_status.database,
            stale_for_ms: head_status.stale_for_ms(),
            digest: head_status.digest.filter(|_| head_status.seq == cursor),
            trust: self.broker.trust_line(),
        });
    }

    /// Adds an error, which is the last line, and closes the connection after it.
    pub(super) fn close(&mut self, id: Option<RequestId>, code: ErrorCode, message: String) {
        tracing::debug!(subscriber = self.peer.number, ?code, "{message}");
        self.out.reply(&ServerLine::Error { id, code, message });
        self.feed = Feed::Done;
    }
}
