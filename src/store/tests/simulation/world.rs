//! The model: a log of commits, and servers that show prefixes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::poll::{Beat, TablesVersion};

/// The second at which the simulation begins.
const BEGIN: i64 = 1_777_620_000_000_000;

/// How often a master beats, in microseconds.
const BEAT_INTERVAL: i64 = 2_000_000;

/// How many servers there are.
pub(super) const SERVERS: usize = 3;

/// A row: its content, and its stamp in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    /// Which text a rule has, or whether a state disables its rule.
    pub(super) content: u8,
    pub(super) stamp: i64,
    /// Whether it was committed so long after its stamp that a poll may miss it.
    pub(super) is_late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Rule(u8),
    State(u8),
}

/// A change of one row; `None` deletes it.
pub(super) type Change = (Key, Option<Cell>);

#[derive(Debug, Clone)]
struct Commit {
    change: Option<Change>,
    /// Whether it is a commit of this program, which raises the version.
    is_ours: bool,
    beat: Option<Beat>,
}

/// What a server shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) rows: BTreeMap<Key, Cell>,
    pub(super) version: u64,
    pub(super) deleted: u64,
    pub(super) beat: Option<Beat>,
    /// How many commits of the log it shows.
    pub(super) commits: usize,
}

impl Tables {
    fn apply(&mut self, commit: &Commit) {
        self.commits += 1;
        self.beat = commit.beat.or(self.beat);
        self.version += u64::from(commit.is_ours);
        match commit.change {
            Some((key, Some(cell))) => drop(self.rows.insert(key, cell)),
            Some((key, None)) => {
                self.rows.remove(&key);
                if commit.is_ours {
                    self.deleted = self.version;
                }
            }
            None => {}
        }
    }

    pub(super) fn tables_version(&self) -> TablesVersion {
        TablesVersion { version: self.version, deleted: self.deleted }
    }
}

#[derive(Debug, Clone, Default)]
struct Server {
    tables: Tables,
    /// How far its clock is ahead of the true time, in microseconds.
    ahead: i64,
}

/// A transaction that is stamped and not committed.
#[derive(Debug, Clone, Copy)]
struct Open {
    change: Change,
    is_ours: bool,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    /// The true time in microseconds.
    now: i64,
    overlap: i64,
    has_whole_seconds: bool,
    log: Vec<Commit>,
    servers: Vec<Server>,
    primary: usize,
    open: Vec<Open>,
    /// The greatest time that the primary's clock ever showed.
    latest: i64,
    beats_at: Option<i64>,
    /// How often the server that answers changed its past, for each server.
    cuts: [u64; SERVERS],
}

impl World {
    pub(super) fn new(overlap: Duration, has_whole_seconds: bool) -> Self {
        let mut world = Self {
            now: 0,
            overlap: i64::try_from(overlap.as_micros()).unwrap(),
            has_whole_seconds,
            log: Vec::new(),
            servers: vec![Server::default(); SERVERS],
            primary: 0,
            open: Vec::new(),
            latest: i64::MIN,
            beats_at: Some(0),
            cuts: [0; SERVERS],
        };
        world.advance(0);
        world
    }

    pub(super) const fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now.unsigned_abs())
    }

    pub(super) const fn primary(&self) -> usize {
        self.primary
    }

    pub(super) fn tables(&self, server: usize) -> &Tables {
        &self.servers[server].tables
    }

    /// A number that rises when connections to the server end.
    pub(super) const fn incarnation(&self, server: usize) -> u64 {
        self.cuts[server]
    }

    /// The server's clock.
    pub(super) fn clock(&self, server: usize) -> Timestamp {
        Timestamp::from_micros(BEGIN + self.now + self.servers[server].ahead)
    }

    fn stamp(&self) -> i64 {
        let stamp = self.clock(self.primary).as_micros();
        if self.has_whole_seconds { stamp.div_euclid(1_000_000) * 1_000_000 } else { stamp }
    }

    /// Lets time pass. The master beats when it is due.
    pub(super) fn advance(&mut self, micros: i64) {
        // No two events are at the same time.
        let end = self.now + micros + 1;
        while let Some(due) = self.beats_at.filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.beat(false);
            self.beats_at = Some(self.now + BEAT_INTERVAL);
        }
        self.now = end;
        self.look_at_the_clock();
    }

    fn look_at_the_clock(&mut self) {
        self.latest = self.latest.max(self.clock(self.primary).as_micros());
    }

    fn beat(&mut self, is_new: bool) {
        let before = self.tables(self.primary).beat;
        let (term, count) = before.map_or((0, 0), |beat| (beat.term, beat.count));
        let at = self.clock(self.primary);
        let beat = Beat { term: term + u64::from(is_new), count: count + 1, at };
        self.commit(Commit { change: None, is_ours: false, beat: Some(beat) });
    }

    fn commit(&mut self, commit: Commit) {
        self.look_at_the_clock();
        self.servers[self.primary].tables.apply(&commit);
        self.log.push(commit);
    }

    /// A master is frozen, or goes on.
    pub(super) fn freeze(&mut self, is_frozen: bool) {
        self.beats_at = (!is_frozen).then_some(self.now);
    }

    /// Begins a transaction, unless another one has changed the same row.
    pub(super) fn begin(&mut self, key: Key, content: Option<u8>, is_ours: bool) {
        if self.open.iter().all(|open| open.change.0 != key) {
            let stamp = self.stamp();
            let cell = content.map(|content| Cell { content, stamp, is_late: false });
            self.open.push(Open { change: (key, cell), is_ours });
        }
    }

    /// Commits one of the open transactions.
    pub(super) fn finish(&mut self, which: usize) {
        if self.open.is_empty() {
            return;
        }
        let Open { change: (key, cell), is_ours } = self.open.remove(which % self.open.len());
        self.look_at_the_clock();
        let is_known = self.tables(self.primary).rows.contains_key(&key);
        let cell = cell.map(|cell| {
            let second = if self.has_whole_seconds { 1_000_000 } else { 0 };
            Cell { is_late: cell.stamp + second + self.overlap < self.latest, ..cell }
        });
        if cell.is_some() || is_known {
            self.commit(Commit { change: Some((key, cell)), is_ours, beat: None });
        }
    }

    /// A replica applies more of the log.
    pub(super) fn replicate(&mut self, server: usize, commits: usize) {
        let Self { servers, log, .. } = self;
        let tables = &mut servers[server].tables;
        for commit in log.iter().skip(tables.commits).take(commits) {
            tables.apply(commit);
        }
    }

    /// A replica becomes the primary; what it does not have is lost. The open transactions fail.
    pub(super) fn fail_over(&mut self, server: usize) {
        if server == self.primary {
            return;
        }
        self.open.clear();
        self.cuts[self.primary] += 1;
        self.primary = server;
        self.log.truncate(self.tables(server).commits);
        for other in 0..SERVERS {
            if self.tables(other).commits > self.log.len() {
                // It is made anew from the new primary.
                self.cuts[other] += 1;
                self.servers[other].tables = self.servers[server].tables.clone();
            }
        }
        self.look_at_the_clock();
        self.beat(true);
    }

    /// A clock is set.
    pub(super) fn set_clock(&mut self, server: usize, ahead: i64) {
        self.servers[server].ahead = ahead;
        self.look_at_the_clock();
    }

    /// All faults end: every server shows everything, and nothing is open.
    pub(super) fn heal(&mut self) {
        self.open.clear();
        self.freeze(false);
        self.advance(BEAT_INTERVAL);
        for server in 0..SERVERS {
            self.replicate(server, usize::MAX);
        }
    }
}

pub(super) fn time(stamp: i64) -> Timestamp {
    Timestamp::from_micros(stamp)
}
