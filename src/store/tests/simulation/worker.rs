//! A worker: it polls the server that it is connected to, and passes the changes on.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll as Progress, Waker};
use std::time::{Duration, Instant};

use super::Without;
use super::history::Step;
use super::judge::Stream;
use super::reader::Reader;
use super::texts::Texts;
use super::world::{Tables, World};
use crate::rule::{Catalogue, RowFingerprint, Table, TextSink};
use crate::store::RowIndex;
use crate::store::poll::{Beat, FollowConfig, Poll, Watermarks};

/// The catalogue, with the texts that are parsed once.
#[derive(Default)]
pub(super) struct Known(pub(super) Catalogue);

impl RowIndex for Known {
    fn count(&self, table: Table) -> u64 {
        self.0.count(table)
    }

    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint> {
        self.0.fingerprint(table, key)
    }

    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        Some(Arc::clone(Texts::get()) as _)
    }
}

pub(super) struct Worker {
    server: usize,
    /// The sessions of the server when this one began; `None` without a session.
    session: Option<u64>,
    pub(super) known: Known,
    watermarks: Option<Watermarks>,
    /// What the last poll showed.
    last_beat: Option<Beat>,
    pub(super) stream: Stream,
}

/// What happens during a poll.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    pub(super) woken: bool,
    /// What happens between its calls.
    pub(super) meanwhile: Vec<Step>,
    /// Which of its calls fails.
    pub(super) fails_at: Option<usize>,
}

/// What a poll did.
pub(super) struct Polled {
    /// What its last snapshot showed.
    pub(super) read: Tables,
    /// Whether it compared every row.
    pub(super) full: bool,
    /// The version that it reports.
    pub(super) applied: Option<u64>,
}

impl Worker {
    pub(super) fn new(server: usize) -> Self {
        let (known, stream) = (Known::default(), Stream::default());
        Self { server, session: None, known, watermarks: None, last_beat: None, stream }
    }

    /// Connects to a server, or loses the session and connects again.
    pub(super) fn connect(&mut self, server: usize) {
        (self.server, self.session) = (server, None);
    }

    /// A proxy leads the session to another server, and does not tell. Two servers with the same beat cannot be told
    /// apart, and neither can their rows of the seconds after it.
    pub(super) fn is_led_to(&mut self, server: usize, world: &World) {
        let is_noticed = world.tables(server).beat != self.last_beat;
        if is_noticed && self.session == Some(world.incarnation(self.server)) {
            (self.server, self.session) = (server, Some(world.incarnation(server)));
        }
    }

    /// Polls once; `None` if the poll fails.
    pub(super) fn poll(
        &mut self,
        world: &mut World,
        course: Course,
        begin: Instant,
        (overlap, without): (Duration, Without),
    ) -> Option<Polled> {
        let session = Some(world.incarnation(self.server));
        if self.session != session {
            self.session = session;
            if without != Without::FullScan {
                self.watermarks = self.watermarks.take().map(Watermarks::reconnected);
            }
        }
        let config = FollowConfig {
            overlap: if without == Without::Overlap { Duration::ZERO } else { overlap },
            full_scan_interval: if without == Without::FullScan { Duration::MAX } else { FULL_SCAN_INTERVAL },
            ..FollowConfig::default()
        };
        let at = begin + world.elapsed();
        let watermarks = self.watermarks.clone();
        let is_full =
            watermarks.as_ref().is_none_or(|known| known.is_full_due(at, config.full_scan_interval));
        let mut reader = Reader::new(world, self.server, is_full, without);
        (reader.meanwhile, reader.fails_at) = (course.meanwhile, course.fails_at);
        let mut poll = Poll::new(&mut reader, &config, &self.known, watermarks, at);
        poll.woken = course.woken;
        let Ok((delta, watermarks)) = ready(poll.run()) else {
            self.session = None;
            return None;
        };
        let full = delta.full;
        let applied = watermarks.version.map(|version| version.version);
        self.watermarks = Some(watermarks);
        self.last_beat = reader.read.beat;
        self.stream.pass(self.known.0.apply(delta));
        Some(Polled { read: reader.read, full, applied })
    }
}

/// How often a poll compares every row.
pub(super) const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(60);

/// The result of a future that waits for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Progress::Ready(result) => result,
        Progress::Pending => panic!("the model lets nothing wait"),
    }
}
