//! A master: a process with a directory and a clock of its own, which stands by or leads.
//!
//! Each [`Master::act`] is one call to its server, so that everything can happen between any two. What it decides is the
//! code of the product: [`Standby`] and [`Lead`] about the lease, and the plan about the rows ([`Directory`]).

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use super::Without;
use super::directory::{Directory, Writes};
use super::tables::Holder;
use super::transactions::{Failed, is_of};
use super::world::World;
use crate::store::lease::{BEAT_INTERVAL, LEASE, Lead, LeaseRow, ServerLock, Standby};

/// How often a standby looks, and a master without work makes sure that it leads.
const LOOK: i64 = 1_000_000;

/// How long a statement waits for a lock before it is tried again, and before it fails.
const LOCKED: i64 = 100_000;
const LOCK_LIMIT: i64 = 5_000_000;

/// How often a master compares the directory with the tables although no file has changed.
const RESCAN: i64 = 20_000_000;

/// How often a transaction is repeated.
const REPEATS: u32 = 5;

/// What a master does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Reads the lease, as a standby.
    Look,
    /// Takes the lease over if it is still as it was seen.
    Take(Arc<LeaseRow>, Lead),
    /// Makes sure that it still leads, and compares the tables with the directory if that is due.
    Check,
    /// Begins a transaction.
    Begin(Writes, u32),
    Write(u64, Writes, u32),
    /// Raises the version, and makes sure at last that it still leads.
    Fence(u64, Writes, u32),
    Commit(u64, Writes, u32),
}

#[derive(Debug)]
pub(super) struct Master {
    pub(super) place: usize,
    /// The process: another one after each start.
    pub(super) me: Arc<str>,
    /// How far its clock is ahead of the true time, in microseconds.
    pub(super) ahead: i64,
    pub(super) directory: Directory,
    rescan_at: i64,
    pub(super) server: usize,
    /// The sessions of the server when these began; `None` if the connection is lost.
    pub(super) writes: Option<u64>,
    pub(super) beats: Option<u64>,
    pub(super) standby: Standby,
    pub(super) lead: Option<Lead>,
    session: u64,
    pub(super) next: Next,
    pub(super) next_at: i64,
    /// Since when the next call waits for a lock.
    waits_since: Option<i64>,
    pub(super) beat_at: i64,
    /// When the beat was sent that waits for a lock.
    beat_sent: Option<Duration>,
    /// How often in a row it lost a session.
    losses: u32,
}

impl Master {
    pub(super) fn new(place: usize) -> Self {
        let place_micros = i64::try_from(place).unwrap();
        Self {
            place,
            me: format!("master {place}").into(),
            ahead: place_micros * 1_000_000_000,
            directory: Directory::new(),
            rescan_at: 0,
            server: place,
            writes: None,
            beats: None,
            standby: Standby::default(),
            lead: None,
            session: 0,
            next: Next::Look,
            next_at: place_micros * 10_000,
            waits_since: None,
            beat_at: i64::MAX,
            beat_sent: None,
            losses: 0,
        }
    }

    /// When it acts next.
    pub(super) fn due(&self) -> i64 {
        self.next_at.min(self.beat_at)
    }

    fn now(&self, world: &World) -> Duration {
        Duration::from_micros((world.now + self.ahead).unsigned_abs())
    }

    /// The lease that it believes to have.
    pub(super) fn leads(&self) -> Option<(&str, u64)> {
        let lead = self.lead.as_ref().filter(|lead| !lead.is_lost())?;
        Some((&self.me, lead.term))
    }

    /// Which lease it says that it has, and when that was confirmed, by the true time; `None` without a session.
    pub(super) fn claim(&self, world: &World) -> Option<(Holder, i64)> {
        self.leads()?;
        let lives = self.beats == Some(world.incarnation(self.server));
        let age = self.lead.as_ref()?.age(self.now(world));
        Some((self.holder()?, world.now - micros(age))).filter(|_| lives)
    }

    fn holder(&self) -> Option<Holder> {
        let term = self.lead.as_ref()?.term;
        Some(Holder { owner: Arc::clone(&self.me), term, session: self.session })
    }

    fn later(&mut self, next: Next, micros: i64, world: &World) {
        // No two masters keep step.
        let jitter = (world.now / 7 + self.ahead / 1_000_003) % (micros / 10).max(1);
        (self.next, self.next_at, self.waits_since) = (next, world.now + micros + jitter, None);
    }

    pub(super) fn act(&mut self, world: &mut World) {
        if self.beat_at <= self.next_at {
            return self.beat(world);
        }
        match replace(&mut self.next, Next::Look) {
            Next::Look => self.look(world),
            Next::Take(seen, lead) => self.take(&seen, lead, world),
            next => {
                if self.writes != Some(world.incarnation(self.server)) {
                    return self.lose(world);
                }
                self.write(next, world);
            }
        }
    }

    fn look(&mut self, world: &mut World) {
        self.server = world.writable(self.server);
        let session = Some(world.incarnation(self.server));
        (self.writes, self.beats) = (session, session);
        let Some(seen) = world.tables(self.server).lease.as_ref().map(|lease| Arc::clone(&lease.row)) else {
            return self.later(Next::Look, LOOK, world);
        };
        let (lock, now) = (world.lock(self.server, self.place), self.now(world));
        let lead = self.standby.look(&seen, (&self.me, LEASE), (world.name(self.server), lock), now);
        match lead {
            Some(mut lead) => {
                if *seen.owner == *self.me && world.options.without == Without::TermOnReconnect {
                    lead.term = seen.term;
                }
                self.later(Next::Take(seen, lead), world.options.call, world);
            }
            None => {
                world.unlock(self.server, self.place, 0);
                self.later(Next::Look, LOOK, world);
            }
        }
    }

    pub(super) fn take(&mut self, seen: &LeaseRow, lead: Lead, world: &mut World) {
        if self.beats != Some(world.incarnation(self.server)) {
            return self.lose(world);
        }
        let compares = world.options.without != Without::CompareOnTake;
        let is_expected =
            |row: &LeaseRow| !compares || (is_of(row, &seen.owner, seen.term) && row.beat == seen.beat);
        let server = world.name(self.server).to_owned();
        let change = |row: &mut LeaseRow| {
            (row.owner, row.term) = (lead.owner.clone(), lead.term);
            (row.session, row.beat) = (lead.session(&server).to_owned(), row.beat + 1);
        };
        let session = world.number();
        match world.change_lease(self.server, is_expected, change, (None, Some(session))) {
            Ok(1..) => {
                (self.session, self.lead, self.losses) = (session, Some(lead), 0);
                self.beat_at = world.now + micros(BEAT_INTERVAL);
                self.directory.has_edit = true;
                self.later(Next::Check, world.options.call, world);
            }
            Ok(0) => {
                world.unlock(self.server, self.place, 0);
                self.later(Next::Look, LOOK, world);
            }
            Err(_) => self.lose(world),
        }
    }

    /// The session is over: its transaction is rolled back, and the lease taken anew.
    pub(super) fn lose(&mut self, world: &mut World) {
        if let Next::Fence(id, ..) | Next::Commit(id, ..) | Next::Write(id, ..) = self.next {
            world.roll_back(id);
        }
        (self.lead, self.beat_at, self.beat_sent) = (None, i64::MAX, None);
        if self.beats.is_some() {
            world.unlock(self.server, self.place, 0);
        }
        self.losses += 1;
        let wait = 75_000 << self.losses.min(7);
        self.later(Next::Look, wait, world);
    }

    /// Makes sure that it still leads before it writes.
    fn ensure_held(&mut self, world: &World) -> bool {
        let (now, row) = (self.now(world), world.tables(self.server).lease.as_ref());
        let Some(lead) = &mut self.lead else { return false };
        match lead.is_confirmed(now) {
            Ok(true) => true,
            Ok(false) => lead.found(row.map(|lease| &*lease.row)).is_ok(),
            Err(_) => false,
        }
    }

    fn write(&mut self, next: Next, world: &mut World) {
        match next {
            Next::Check | Next::Begin(..) if !self.ensure_held(world) => self.lose(world),
            Next::Check => {
                let is_due = replace(&mut self.directory.has_edit, false) || self.rescan_at <= world.now;
                if is_due {
                    self.rescan_at = world.now + RESCAN;
                }
                let writes =
                    if is_due { self.directory.planned(world.tables(self.server)) } else { Vec::new() };
                match writes.is_empty() {
                    true => self.later(Next::Check, LOOK, world),
                    false => self.later(Next::Begin(writes, 0), world.options.call, world),
                }
            }
            Next::Begin(writes, repeats) => {
                let Some(holder) = self.holder() else { return self.lose(world) };
                let id = world.begin(self.server, holder);
                self.later(Next::Write(id, writes, repeats), world.options.call, world);
            }
            Next::Write(id, writes, repeats) => {
                let mut rows = writes.iter();
                match rows.try_for_each(|&(key, content)| world.write(id, key, content, true)) {
                    Ok(()) => self.later(Next::Fence(id, writes, repeats), world.options.call, world),
                    Err(failed) => self.failed(failed, Next::Write(id, writes, repeats), world),
                }
            }
            Next::Fence(id, writes, repeats) => {
                let waited = self.waits_since.map_or(0, |since| world.now - since);
                let sent = self.now(world) - Duration::from_micros(waited.unsigned_abs());
                let without = world.options.without;
                let fence = match world.raise(id) {
                    Ok(()) if without == Without::Fence => Ok(1),
                    Ok(()) => world.fence(id, without != Without::FenceThatChanges),
                    Err(failed) => Err(failed),
                };
                match fence {
                    Ok(matched) => {
                        self.later(Next::Commit(id, writes, repeats), world.options.call, world);
                        let lead = self.lead.as_mut();
                        if lead.is_none_or(|lead| lead.fenced(matched, sent).is_err()) {
                            self.lose(world);
                        }
                    }
                    Err(failed) => self.failed(failed, Next::Fence(id, writes, repeats), world),
                }
            }
            Next::Commit(id, writes, repeats) => match world.commit(id) {
                Ok(()) => {
                    if let Some(lead) = &mut self.lead {
                        lead.committed();
                    }
                    self.later(Next::Check, LOOK, world);
                }
                Err(failed) => self.failed(failed, Next::Commit(id, writes, repeats), world),
            },
            Next::Look | Next::Take(..) => {}
        }
    }

    /// A statement of a transaction failed: it waits for a lock, or the whole transaction is repeated.
    fn failed(&mut self, failed: Failed, next: Next, world: &mut World) {
        let since = self.waits_since.unwrap_or(world.now);
        if failed == Failed::Locked && world.now - since < LOCK_LIMIT {
            self.later(next, LOCKED, world);
            self.waits_since = Some(since);
            return;
        }
        let (Next::Write(id, writes, repeats)
        | Next::Fence(id, writes, repeats)
        | Next::Commit(id, writes, repeats)) = next
        else {
            return;
        };
        world.roll_back(id);
        self.directory.has_edit = true;
        match repeats < REPEATS {
            true => self.later(Next::Begin(writes, repeats + 1), world.options.call, world),
            false => self.later(Next::Check, LOOK, world),
        }
    }

    fn beat(&mut self, world: &mut World) {
        let (now, holder) = (self.now(world), self.holder());
        let sent = self.beat_sent.take().unwrap_or(now);
        self.beat_at = i64::MAX;
        let Some((lead, holder)) = self.lead.as_mut().zip(holder) else { return };
        if self.beats != Some(world.incarnation(self.server)) {
            lead.lose("the connection is lost");
            return;
        }
        let is_ours = |row: &LeaseRow| is_of(row, &holder.owner, holder.term);
        let beat = |row: &mut LeaseRow| row.beat += 1;
        let wait = match world.change_lease(self.server, is_ours, beat, (Some(holder.clone()), None)) {
            Err(Failed::Locked) if micros(now - sent) < LOCK_LIMIT => {
                self.beat_sent = Some(sent);
                LOCKED
            }
            Err(_) => micros(BEAT_INTERVAL),
            Ok(matched) => {
                if lead.beaten(matched, sent).is_err() || lead.is_lost() {
                    return;
                }
                if lead.wants_lock() && world.lock(self.server, self.place) == ServerLock::Ours {
                    let server = world.name(self.server).to_owned();
                    let change = |row: &mut LeaseRow| row.session = server;
                    let by = (Some(holder.clone()), None);
                    if matches!(world.change_lease(self.server, is_ours, change, by), Ok(1..)) {
                        lead.got_lock();
                    }
                }
                micros(BEAT_INTERVAL)
            }
        };
        self.beat_at = world.now + wait;
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}
