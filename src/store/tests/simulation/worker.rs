//! A worker: it polls the server that it is connected to, and passes the changes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::Without;
use super::history::Step;
use super::judge::Stream;
use super::reader::Reader;
use super::tables::Tables;
use super::texts::Texts;
use super::world::{Options, World};
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
    /// How often a poll compares every row.
    full_scan_interval: Duration,
    /// The sessions of the server when this one began; `None` without a session.
    session: Option<u64>,
    pub(super) known: Known,
    watermarks: Option<Watermarks>,
    /// What the last poll showed, and when a poll first showed it; `None` before the first poll.
    last_beat: Option<(Option<Beat>, Instant)>,
    pub(super) stream: Stream,
}

/// What happens during a poll.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    pub(super) woken: bool,
    /// Whether what woke it says that something was written.
    pub(super) hurried: bool,
    /// What happens between its calls.
    pub(super) meanwhile: Vec<Step>,
    /// Which of its calls fails.
    pub(super) fails_at: Option<usize>,
}

/// What a poll did.
pub(super) struct Polled {
    /// What its last snapshot showed.
    pub(super) read: Arc<Tables>,
    /// Whether it compared every row.
    pub(super) full: bool,
    /// Whether it leaves nothing to another poll a moment later.
    pub(super) is_whole: bool,
    /// How many calls it made.
    pub(super) calls: usize,
    /// The version that it reports.
    pub(super) applied: Option<u64>,
    /// How old it says that its rules are.
    pub(super) says: Duration,
    /// How old the oldest commit is that its server does not show; for how long there was no beat, if there is none.
    pub(super) lag: Duration,
}

impl Worker {
    pub(super) fn new(server: usize, full_scan_interval: Duration) -> Self {
        Self {
            server,
            full_scan_interval,
            session: None,
            known: Known::default(),
            watermarks: None,
            last_beat: None,
            stream: Stream::default(),
        }
    }

    /// Connects to a server, or loses the session and connects again.
    pub(super) fn connect(&mut self, server: usize) {
        (self.server, self.session) = (server, None);
    }

    /// A proxy leads the session to another server, and does not tell. Two servers with the same beat cannot be told
    /// apart, and neither can their rows of the seconds after it.
    pub(super) fn is_led_to(&mut self, server: usize, world: &World) {
        let is_noticed = self.last_beat.is_some_and(|(beat, _)| world.tables(server).beat() != beat);
        if is_noticed && self.session == Some(world.incarnation(self.server)) {
            (self.server, self.session) = (server, Some(world.incarnation(server)));
        }
    }

    /// Polls once; `None` if the poll fails.
    pub(super) fn poll(&mut self, world: &mut World, course: Course, begin: Instant) -> Option<Polled> {
        let Options { overlap, without, .. } = world.options;
        let session = Some(world.incarnation(self.server));
        if self.session != session {
            self.session = session;
            if without != Without::FullScan {
                self.watermarks = self.watermarks.take().map(Watermarks::reconnected);
            }
        }
        let config = FollowConfig {
            overlap: if without == Without::Overlap { Duration::ZERO } else { overlap },
            full_scan_interval: match without {
                Without::FullScan => Duration::MAX,
                _ => self.full_scan_interval,
            },
            ..FollowConfig::default()
        };
        let at = begin + world.elapsed();
        let watermarks = self.watermarks.clone();
        let is_full =
            watermarks.as_ref().is_none_or(|known| known.is_full_due(at, config.full_scan_interval));
        let mut reader = Reader::new(world, self.server, is_full);
        (reader.meanwhile, reader.fails_at) = (course.meanwhile, course.fails_at);
        let mut poll = Poll::new(&mut reader, &config, &self.known, watermarks, at);
        (poll.woken, poll.hurried) = (course.woken || course.hurried, course.hurried);
        let Ok((delta, watermarks)) = ready(poll.run()) else {
            self.session = None;
            return None;
        };
        let (full, lag, beat) = (delta.full, reader.lag, reader.read.beat());
        // A lag that grows no more has beats that move.
        let (_, since) = *self.last_beat.insert(match self.last_beat {
            Some((last, since)) if last == beat => (last, since),
            _ => (beat, at),
        });
        let still = at.duration_since(since);
        let lag = match without {
            // That it says no age either is not what is left out.
            Without::WindowOfEveryRow => Duration::ZERO,
            // Without a beat it cannot know.
            _ if beat.is_none() && !reader.takes_writes() => still,
            _ => lag,
        };
        let says = if without == Without::AgeOfTheBeat { still } else { delta.behind };
        let is_whole = watermarks.window_due().is_none();
        let applied = watermarks.version.map(|version| version.version);
        self.watermarks = Some(watermarks);
        self.stream.pass(self.known.0.apply(delta));
        let (calls, read) = (reader.calls, reader.read);
        Some(Polled { read, full, is_whole, calls, applied, says, lag })
    }
}

/// The result of a future that waits for nothing but the parsing of many rows.
fn ready<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
