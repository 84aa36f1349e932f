//! A master: a process with a directory and a clock of its own, which stands by or leads.
//!
//! Each [`Master::act`] is one call to its server, so that everything can happen between any two. What it decides is the
//! code of the product: [`Standby`] and [`Lead`] about the lease, the order of a transaction ([`Serving`]), and the plan
//! about the rows ([`Directory`]).

use std::mem::replace;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Without;
use super::directory::Directory;
use super::session::{Answer, Call, Serving, locked};
use super::tables::Holder;
use super::transactions::{Failed, is_of};
use super::world::World;
use crate::store::StoreError;
use crate::store::lease::{BEAT_INTERVAL, LEASE, Lead, LeaseRow, Standby};

/// How often a standby looks, and a master without work makes sure that it leads.
const LOOK: i64 = 1_000_000;

/// How long a statement waits for a lock before it is tried again, and before it fails.
const LOCKED: i64 = 100_000;
const LOCK_LIMIT: i64 = 5_000_000;

/// How often a master compares the directory with the tables although no file has changed.
const RESCAN: i64 = 20_000_000;

/// What a master does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Reads the lease, as a standby.
    Look,
    /// Takes the lease over if it is still as it was seen.
    Take(Arc<LeaseRow>, Lead),
    /// Leads.
    Serve(Serving),
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
    pub(super) lead: Option<Arc<Mutex<Lead>>>,
    session: u64,
    /// The session that asks for the server's lock, and beats.
    pub(super) asks: u64,
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
            asks: 0,
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
        let lead = locked(self.lead.as_ref()?);
        (!lead.is_lost()).then_some((&*self.me, lead.term))
    }

    /// Which lease it says that it has, and when that was confirmed, by the true time; `None` without a session.
    pub(super) fn claim(&self, world: &World) -> Option<(Holder, i64)> {
        self.leads()?;
        let lives = self.beats == Some(world.incarnation(self.server));
        let age = locked(self.lead.as_ref()?).age(self.now(world));
        Some((self.holder()?, world.now - micros(age))).filter(|_| lives)
    }

    fn holder(&self) -> Option<Holder> {
        let term = locked(self.lead.as_ref()?).term;
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
            Next::Serve(serving) => self.serve(serving, world),
        }
    }

    fn look(&mut self, world: &mut World) {
        self.server = world.writable(self.server);
        let session = Some(world.incarnation(self.server));
        (self.writes, self.beats, self.asks) = (session, session, world.number());
        let Some(seen) = world.tables(self.server).lease.as_ref().map(|lease| Arc::clone(&lease.row)) else {
            return self.later(Next::Look, LOOK, world);
        };
        let (lock, now) = (world.lock(self.server, self.asks), self.now(world));
        let lead = self.standby.look(&seen, (&self.me, LEASE), (world.name(self.server), lock), now);
        match lead {
            Some(mut lead) => {
                if *seen.owner == *self.me && world.options.without == Without::TermOnReconnect {
                    lead.term = seen.term;
                }
                self.later(Next::Take(seen, lead), world.options.call, world);
            }
            None => {
                world.unlock(self.server, self.asks, 0);
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
            (row.session, row.beat) = (lead.session(&server), row.beat + 1);
        };
        let session = world.number();
        match world.change_lease(self.server, is_expected, change, (None, Some(session))) {
            Ok(1..) => {
                let lead = Arc::new(Mutex::new(lead));
                (self.session, self.lead, self.losses) = (session, Some(Arc::clone(&lead)), 0);
                self.beat_at = world.now + micros(BEAT_INTERVAL);
                self.directory.has_edit = true;
                self.later(Next::Serve(Serving::new(lead)), world.options.call, world);
            }
            Ok(0) => {
                world.unlock(self.server, self.asks, 0);
                self.later(Next::Look, LOOK, world);
            }
            Err(_) => self.lose(world),
        }
    }

    /// The session is over: its transaction is rolled back, and the lease taken anew.
    pub(super) fn lose(&mut self, world: &mut World) {
        if let Next::Serve(Serving { transaction: Some(id), .. }) = self.next {
            world.roll_back(id);
        }
        (self.lead, self.beat_at, self.beat_sent) = (None, i64::MAX, None);
        if self.beats.is_some() {
            world.unlock(self.server, self.asks, 0);
        }
        self.losses += 1;
        let wait = 75_000 << self.losses.min(7);
        self.later(Next::Look, wait, world);
    }

    /// Carries out the call that is due, and learns of the next.
    fn serve(&mut self, mut serving: Serving, world: &mut World) {
        loop {
            let is_lost = self.writes != Some(world.incarnation(self.server));
            let answer = match serving.call() {
                _ if is_lost => Err(unavailable("the session is lost")),
                None => Ok(Answer::default()),
                Some(call) => match self.carry_out(&call, &mut serving, world) {
                    Ok(answer) => Ok(answer),
                    Err(Failed::Conflict) => {
                        Err(StoreError::Conflict { what: "writing", detail: String::new() })
                    }
                    Err(Failed::Locked) => {
                        let since = self.waits_since.unwrap_or(world.now);
                        if world.now - since < LOCK_LIMIT {
                            self.later(Next::Serve(serving), LOCKED, world);
                            self.waits_since = Some(since);
                            return;
                        }
                        Err(StoreError::RowLocked { what: "writing", detail: String::new() })
                    }
                },
            };
            self.waits_since = None;
            if !serving.go_on(answer, self.now(world), is_lost) {
                self.next = Next::Serve(serving);
                return self.lose(world);
            }
            if !is_lost {
                let wait = if matches!(serving.call(), Some(Call::Rest)) { LOOK } else { world.options.call };
                return self.later(Next::Serve(serving), wait, world);
            }
        }
    }

    fn carry_out(&mut self, call: &Call, serving: &mut Serving, world: &mut World) -> Result<Answer, Failed> {
        let (mut answer, open) = (Answer::default(), serving.transaction.ok_or(Failed::Conflict));
        match call {
            Call::Plan { again } => {
                let has_edit = replace(&mut self.directory.has_edit, false);
                if has_edit || *again || self.rescan_at <= world.now {
                    self.rescan_at = world.now + RESCAN;
                    answer.writes = self.directory.planned(world.tables(self.server)).into();
                }
            }
            Call::LeaseRow => {
                let lease = world.tables(self.server).lease.as_ref();
                answer.lease = lease.map(|lease| (*lease.row).clone());
            }
            Call::Begin => {
                serving.transaction = self.holder().map(|holder| world.begin(self.server, holder));
            }
            Call::Write(writes) => {
                for &(key, content) in &**writes {
                    let rows = world.write(open?, key, content, true)?;
                    answer.rows.changed += rows;
                    answer.rows.deleted += if content.is_none() { rows } else { 0 };
                }
            }
            Call::Finish(last) => answer.matched = world.carry_out(open?, last)?,
            Call::Commit => {
                serving.transaction = None;
                world.commit(open?)?;
            }
            Call::RollBack => {
                if let Some(id) = serving.transaction.take() {
                    world.roll_back(id);
                }
            }
            Call::Rest | Call::Sleep => {}
        }
        Ok(answer)
    }

    fn beat(&mut self, world: &mut World) {
        let (now, holder) = (self.now(world), self.holder());
        let sent = self.beat_sent.take().unwrap_or(now);
        self.beat_at = i64::MAX;
        let Some((lead, holder)) = self.lead.clone().zip(holder) else { return };
        let mut lead = locked(&lead);
        if self.beats != Some(world.incarnation(self.server)) {
            lead.lose("the connection is lost");
            return;
        }
        let is_alone = world.is_alone(self.server);
        let is_ours = |row: &LeaseRow| is_alone && is_of(row, &holder.owner, holder.term);
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
                if lead.wants_lock() {
                    lead.asked_for_lock(world.lock(self.server, self.asks));
                    let session = lead.session(world.name(self.server));
                    if !session.is_empty() {
                        let change = |row: &mut LeaseRow| row.session = session;
                        let by = (Some(holder.clone()), None);
                        world.change_lease(self.server, is_ours, change, by).ok();
                    }
                }
                micros(BEAT_INTERVAL)
            }
        };
        self.beat_at = world.now + wait;
    }
}

fn unavailable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: "writing", detail: detail.to_owned() }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}
