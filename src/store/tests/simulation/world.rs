//! The model: a log of commits, servers that show prefixes of it, their clocks, and the masters.

use std::sync::Arc;
use std::time::Duration;

use super::Without;
use super::history::Verdict;
use super::locks::{Lock, Unleased};
use super::masters::Master;
use super::tables::{Cell, Commit, Key, Lease, Tables, time};
use super::texts::IDS;
use super::transactions::{Transaction, is_of};
use crate::clock::Timestamp;
use crate::store::lease::{LEASE, LeaseRow};

/// The second at which the simulation begins.
const BEGIN: i64 = 1_777_620_000_000_000;

/// How many servers there are.
pub(super) const SERVERS: usize = 3;

/// The lease, in microseconds.
pub(super) const LEASE_MICROS: i64 = 15_000_000;

/// What a history has from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// How late a commit may be after its stamp.
    pub(super) overlap: Duration,
    /// Whether stamps have only whole seconds.
    pub(super) whole_seconds: bool,
    /// Whether the tables ignore case in ids.
    pub(super) folds: bool,
    /// Whether every server takes writes.
    pub(super) is_cluster: bool,
    /// Whether the servers have a lock for the session of a master.
    pub(super) has_locks: bool,
    pub(super) masters: usize,
    /// How long a call of a master takes, in microseconds: an edit, or many rows.
    pub(super) call: i64,
    /// How many rules the tables have, at most.
    pub(super) rules: u8,
    /// Whether the table of the lease has its row from the beginning.
    pub(super) has_row: bool,
    pub(super) without: Without,
}

#[derive(Debug)]
struct Server {
    tables: Arc<Tables>,
    /// How far its clock is ahead of the true time, in microseconds.
    ahead: i64,
    /// Whether it applies each commit at once.
    streams: bool,
    /// A number that rises when the sessions at the server end.
    incarnation: u64,
    /// What a master calls it.
    name: String,
    lock: Option<Lock>,
}

#[derive(Debug)]
pub(super) struct World {
    /// The true time in microseconds.
    pub(super) now: i64,
    pub(super) options: Options,
    pub(super) log: Vec<Commit>,
    /// What the whole log makes.
    pub(super) head: Arc<Tables>,
    servers: Vec<Server>,
    primary: usize,
    pub(super) open: Vec<Transaction>,
    /// The least and the greatest that a clock was ever ahead.
    ahead: (i64, i64),
    /// The greatest time that the clock of a server which takes writes ever showed.
    pub(super) latest: i64,
    /// `None` while it acts.
    masters: Vec<Option<Box<Master>>>,
    pub(super) unleased: Unleased,
    /// The last number that was given to a session or a transaction.
    numbers: u64,
    /// How many faults there were that may move the lease, and how often it moved from one master to another.
    pub(super) faults: usize,
    pub(super) takeovers: usize,
    /// How a promise was first broken by a commit.
    broken: Option<String>,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let row = LeaseRow { lease: LEASE, ..LeaseRow::default() };
        let lease = Lease { row: Arc::new(row), at: time(BEGIN), session: 0 };
        let tables = Arc::new(Tables { lease: options.has_row.then_some(lease), ..Tables::default() });
        let server = |server| Server {
            tables: Arc::clone(&tables),
            ahead: 0,
            streams: true,
            incarnation: 0,
            name: format!("server {server}"),
            lock: None,
        };
        // Nobody inserts the row before a replica has lagged behind.
        let begins_at = if options.has_row { 0 } else { 20_000_000 };
        let masters = (0..options.masters).map(|place| Some(Box::new(Master::new(place, begins_at))));
        let mut world = Self {
            now: 0,
            options,
            log: Vec::new(),
            head: Arc::clone(&tables),
            servers: (0..SERVERS).map(server).collect(),
            primary: 0,
            open: Vec::new(),
            ahead: (0, 0),
            latest: i64::MIN,
            masters: masters.collect(),
            unleased: Unleased::default(),
            numbers: 0,
            faults: 0,
            takeovers: 0,
            broken: None,
        };
        if options.rules > IDS {
            let cell = Cell { content: 0, stamp: BEGIN, is_ours: false, is_late: false };
            let changes = (IDS..options.rules).map(|id| (Key::Rule(id), Some(cell))).collect();
            world.push(0, Commit { changes, ..Commit::default() });
        }
        world.advance(0);
        world
    }

    pub(super) const fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now.unsigned_abs())
    }

    /// The server that a writer is led to which asks for `server`.
    pub(super) const fn writable(&self, server: usize) -> usize {
        if self.options.is_cluster { server } else { self.primary }
    }

    /// Whether this server alone takes the writes.
    pub(super) const fn takes_all_writes(&self, server: usize) -> bool {
        !self.options.is_cluster && server == self.primary
    }

    pub(super) fn tables(&self, server: usize) -> &Arc<Tables> {
        &self.servers[server].tables
    }

    pub(super) fn incarnation(&self, server: usize) -> u64 {
        self.servers[server].incarnation
    }

    pub(super) fn name(&self, server: usize) -> &str {
        &self.servers[server].name
    }

    /// How much the clocks of the servers have ever differed.
    pub(super) const fn clocks_differ(&self) -> Duration {
        let (least, greatest) = self.ahead;
        Duration::from_micros((greatest - least).unsigned_abs())
    }

    /// How old the oldest commit is that the server does not show.
    pub(super) fn lag(&self, server: usize) -> Duration {
        let lacked = self.log.get(self.tables(server).commits);
        lacked.map_or(Duration::ZERO, |commit| Duration::from_micros((self.now - commit.at).unsigned_abs()))
    }

    pub(super) const fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The server's clock.
    pub(super) fn clock(&self, server: usize) -> Timestamp {
        Timestamp::from_micros(BEGIN + self.now + self.servers[server].ahead)
    }

    /// The stamp of a row that is written at the server.
    pub(super) fn stamp(&self, server: usize) -> i64 {
        let stamp = self.clock(server).as_micros();
        if self.options.whole_seconds { stamp.div_euclid(1_000_000) * 1_000_000 } else { stamp }
    }

    /// Lets time pass. The masters act when they are due.
    pub(super) fn advance(&mut self, micros: i64) {
        // No two events are at the same time.
        let end = self.now + micros + 1;
        loop {
            let unleased = self.unleased.due.map(|due| (due, None));
            let due = self.masters().map(|master| (master.due(), Some(master.place))).chain(unleased).min();
            let Some((due, place)) = due.filter(|(due, _)| *due <= end) else { break };
            self.now = self.now.max(due);
            self.end_idle_transactions();
            match place {
                Some(place) => self.with_master(place, Master::act),
                None => self.look_unleased(),
            }
        }
        self.now = end;
        self.end_idle_transactions();
        self.look_at_the_clock();
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = &Master> {
        self.masters.iter().flatten().map(|master| &**master)
    }

    /// Lets something happen to a master, if there is one with the number.
    pub(super) fn with_master(&mut self, place: usize, happen: impl FnOnce(&mut Master, &mut Self)) {
        if let Some(mut master) = self.masters.get_mut(place).and_then(Option::take) {
            happen(&mut master, self);
            self.masters[place] = Some(master);
        }
    }

    pub(super) fn look_at_the_clock(&mut self) {
        for server in 0..SERVERS {
            if server == self.writable(server) {
                self.latest = self.latest.max(self.clock(server).as_micros());
            }
        }
    }

    /// Appends a commit to the log, which the server that took it shows.
    pub(super) fn push(&mut self, server: usize, commit: Commit) {
        self.judge_fence(&commit);
        Arc::make_mut(&mut self.head).apply(&commit, self.options.folds);
        self.log.push(commit);
        for other in 0..SERVERS {
            if other == server || self.servers[other].streams {
                self.replicate(other, usize::MAX);
            }
        }
    }

    /// The first law: a master's commit carries owner and term of the lease before it, terms never fall, and nobody has
    /// taken a row that is inserted. Also counts the takeovers.
    fn judge_fence(&mut self, commit: &Commit) {
        let before = self.head.lease.as_ref();
        let is_fenced = commit.by.as_ref().is_none_or(|by| {
            before
                .is_some_and(|before| is_of(&before.row, &by.owner, by.term) && by.session == before.session)
        });
        let has_risen = match (before, &commit.lease) {
            (_, None) => true,
            (None, Some(Lease { row, .. })) => row.owner.is_empty() && row.term == 0,
            (Some(before), Some(Lease { row, .. })) => {
                let moves = !row.owner.is_empty() && row.owner != before.row.owner;
                self.takeovers += usize::from(moves && !before.row.owner.is_empty());
                row.term > before.row.term || (row.term == before.row.term && !moves)
            }
        };
        if !is_fenced || !has_risen {
            let broken = format!("fence: after {before:?} commits {commit:?}");
            self.note_broken(|| broken);
        }
    }

    /// A commit or a transaction broke a promise.
    pub(super) fn note_broken(&mut self, how: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(how);
    }

    /// The promises that every commit keeps.
    pub(super) fn judged(&self) -> Result<(), Verdict> {
        self.broken.as_ref().map_or(Ok(()), |broken| Err(Verdict::new(broken)))
    }

    /// A server applies more of the log. A transaction there that holds a lock on a row which changes is rolled back.
    pub(super) fn replicate(&mut self, server: usize, commits: usize) {
        let Self { servers, log, open, options: Options { folds, .. }, .. } = self;
        let tables = &mut servers[server].tables;
        if tables.commits == log.len() {
            return;
        }
        let tables = Arc::make_mut(tables);
        for commit in log.iter().skip(tables.commits).take(commits) {
            tables.apply(commit, *folds);
            open.retain(|open| !open.is_in_the_way(server, commit, *folds));
        }
    }

    /// From now on a server applies each commit at once, or none.
    pub(super) fn stream(&mut self, server: usize, streams: bool) {
        self.servers[server].streams = streams;
        if streams {
            self.replicate(server, usize::MAX);
        }
    }

    /// A replica becomes the primary; what it does not have is lost. The open transactions fail. A node of a cluster is
    /// started anew.
    pub(super) fn fail_over(&mut self, server: usize) {
        self.faults += 1;
        if self.options.is_cluster || server == self.primary {
            return self.restart(server);
        }
        self.restart(self.primary);
        self.primary = server;
        self.head = Arc::clone(self.tables(server));
        self.log.truncate(self.head.commits);
        for other in 0..SERVERS {
            if self.tables(other).commits > self.log.len() {
                // It is made anew from the new primary.
                self.restart(other);
                self.servers[other].tables = Arc::clone(&self.head);
            }
        }
        self.look_at_the_clock();
    }

    /// All sessions of a server end.
    fn restart(&mut self, server: usize) {
        let Server { incarnation, lock, name, .. } = &mut self.servers[server];
        (*incarnation, *lock) = (*incarnation + 1, None);
        *name = format!("server {server}, {incarnation}");
        self.open.retain(|open| open.server != server);
    }

    /// A clock is set.
    pub(super) fn set_clock(&mut self, server: usize, ahead: i64) {
        self.servers[server].ahead = ahead;
        self.ahead = (self.ahead.0.min(ahead), self.ahead.1.max(ahead));
        self.look_at_the_clock();
    }

    pub(super) fn lock_of(&mut self, server: usize) -> &mut Option<Lock> {
        &mut self.servers[server].lock
    }

    /// All faults end: every server shows everything, at once, and no transaction is open.
    pub(super) fn heal(&mut self) {
        self.open.clear();
        self.stop_unleased();
        for server in 0..SERVERS {
            self.stream(server, true);
        }
        for place in 0..self.options.masters {
            self.with_master(place, |master, world| master.wake(world));
        }
    }
}
