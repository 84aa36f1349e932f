//! A master: a process with a directory and a clock of its own, which stands by or leads.
//!
//! Each [`Master::act`] is one call to its server, so that everything can happen between any two. What it decides is the
//! code of the product: how it takes the lease and keeps it, the order of a transaction ([`Task`]), and the plan about the
//! rows ([`Directory`]).

use std::mem::replace;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Without;
use super::directory::Directory;
use super::session::{Answer, Call, Task, locked};
use super::tables::Holder;
use super::transactions::{Failed, is_of};
use super::world::World;
use crate::store::StoreError;
use crate::store::lease::{Lead, LeaseRow, Standby};

/// How often a standby looks.
const LOOK: i64 = 1_000_000;

/// How long a call takes on the connection that beats, in microseconds.
const BEAT_CALL: i64 = 2_000;

/// How long a statement waits for a lock before it is tried again, and before it fails.
const LOCKED: i64 = 100_000;
const LOCK_LIMIT: i64 = 5_000_000;

/// How often a master compares the directory with the tables although no file has changed.
const RESCAN: i64 = 20_000_000;

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
    pub(super) standby: Arc<Mutex<Standby>>,
    /// The connection that asks for the lease, has the server's lock, and beats.
    pub(super) leads: Option<Task>,
    /// The connection that writes.
    pub(super) serves: Option<Task>,
    /// The lease that it has, or had.
    lead: Option<Arc<Mutex<Lead>>>,
    /// The last that the process took.
    pub(super) taken: Option<Lead>,
    /// The transaction that is open.
    pub(super) transaction: Option<u64>,
    /// The number of the session that asks for the server's lock.
    pub(super) asks: u64,
    /// That of the session which took the lease.
    session: u64,
    /// When it looks at the lease next.
    pub(super) look_at: i64,
    /// It ends for so long once it has released the lease.
    pub(super) stops: Option<i64>,
    /// How often in a row it lost a session.
    losses: u32,
}

impl Master {
    /// Begins to look at the lease at a time.
    pub(super) fn new(place: usize, begins_at: i64) -> Self {
        let place_micros = i64::try_from(place).unwrap();
        Self {
            place,
            me: format!("master {place}").into(),
            ahead: place_micros * 1_000_000_000,
            directory: Directory::new(),
            rescan_at: 0,
            server: place,
            standby: Arc::default(),
            leads: None,
            serves: None,
            lead: None,
            taken: None,
            transaction: None,
            asks: 0,
            session: 0,
            look_at: begins_at + place_micros * 10_000,
            stops: None,
            losses: 0,
        }
    }

    /// When it acts next.
    pub(super) fn due(&self) -> i64 {
        let due = |task: &Option<Task>| task.as_ref().map_or(i64::MAX, |task| task.due);
        let look_at = if self.leads.is_none() && self.lead.is_none() { self.look_at } else { i64::MAX };
        look_at.min(due(&self.leads)).min(due(&self.serves))
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
        let lives = self.lives(self.leads.as_ref()?, world);
        let age = locked(self.lead.as_ref()?).age(self.now(world));
        Some((self.holder()?, world.now - micros(age))).filter(|_| lives)
    }

    /// Whether the task's session has not ended.
    pub(super) fn lives(&self, task: &Task, world: &World) -> bool {
        task.session == Some(world.incarnation(self.server))
    }

    fn holder(&self) -> Option<Holder> {
        let term = locked(self.lead.as_ref()?).term;
        Some(Holder { owner: Arc::clone(&self.me), term, session: self.session })
    }

    /// So many microseconds from now. No two masters keep step.
    fn later(&self, micros: i64, world: &World) -> i64 {
        let jitter = (world.now / 7 + self.ahead / 1_000_003) % (micros / 10).max(1);
        world.now + micros + jitter
    }

    pub(super) fn act(&mut self, world: &mut World) {
        let due = self.due();
        if let Some(task) = self.leads.take_if(|task| task.due == due) {
            return self.lead(task, world);
        }
        match self.serves.take() {
            Some(mut task) => match self.go_on(&mut task, world.options.call, world) {
                true => self.serves = Some(task),
                false => self.stand_by(world),
            },
            None => {
                self.server = world.writable(self.server);
                self.asks = world.number();
                let me = (Arc::clone(&self.me), Arc::clone(&self.standby));
                let without = world.options.without;
                self.lead(Task::lead(world.incarnation(self.server), me, without), world);
            }
        }
    }

    /// Goes on with what the connection does that asks for the lease, and beats.
    pub(super) fn lead(&mut self, mut task: Task, world: &mut World) {
        let call = if self.lead.is_some() { BEAT_CALL } else { world.options.call };
        let lives = self.lives(&task, world);
        if self.go_on(&mut task, call, world) {
            if self.lead.is_none()
                && let Some(lead) = task.held()
            {
                let mut serves = Task::serve(world.incarnation(self.server), Arc::clone(&lead));
                serves.due = self.later(call, world);
                self.taken = Some(locked(&lead).clone());
                (self.lead, self.serves, self.losses) = (Some(lead), Some(serves), 0);
                self.directory.has_edit = true;
            }
            self.leads = Some(task);
            return;
        }
        if lives {
            world.unlock(self.server, self.asks, 0);
        }
        match self.stops.take() {
            Some(down) => self.restart(down, world),
            // Its lease is lost with its beats.
            None if self.lead.is_some() => {}
            None if lives => self.look_at = self.later(LOOK, world),
            None => self.stand_by(world),
        }
    }

    /// The session is over: its transaction is rolled back, and the lease taken anew.
    pub(super) fn stand_by(&mut self, world: &mut World) {
        if let Some(id) = self.transaction.take() {
            world.roll_back(id);
        }
        if self.leads.take().is_some_and(|task| task.session.is_some()) {
            world.unlock(self.server, self.asks, 0);
        }
        (self.serves, self.lead) = (None, None);
        self.losses += 1;
        self.look_at = self.later(75_000 << self.losses.min(7), world);
    }

    /// Carries out the call that is due, and learns of the next. Returns whether there is one.
    fn go_on(&mut self, task: &mut Task, call: i64, world: &mut World) -> bool {
        let is_lost = !self.lives(task, world);
        loop {
            let answer = match task.call() {
                None | Some(Call::Wait(_)) => Ok(Answer::default()),
                Some(_) if is_lost => Err(unavailable("the session is lost")),
                Some(call) => match self.carry_out(&call, world) {
                    Ok(answer) => Ok(answer),
                    Err(Failed::Conflict) => {
                        Err(StoreError::Conflict { what: "writing", detail: String::new() })
                    }
                    Err(Failed::Locked) => {
                        let since = *task.waits_since.get_or_insert(world.now);
                        if world.now - since < LOCK_LIMIT {
                            task.due = self.later(LOCKED, world);
                            return true;
                        }
                        Err(StoreError::RowLocked { what: "writing", detail: String::new() })
                    }
                },
            };
            task.waits_since = None;
            if !task.go_on(answer, self.now(world), is_lost) {
                return false;
            }
            if !is_lost {
                task.due = match task.call() {
                    Some(Call::Wait(wait)) => world.now + micros(wait).max(call),
                    _ => self.later(call, world),
                };
                return true;
            }
        }
    }

    pub(super) fn carry_out(&mut self, call: &Call, world: &mut World) -> Result<Answer, Failed> {
        let (mut answer, open) = (Answer::default(), self.transaction.ok_or(Failed::Conflict));
        let (server, me, without) = (self.server, Arc::clone(&self.me), world.options.without);
        match call {
            Call::ServerLock => {
                let lock = world.lock(server, self.asks);
                answer.lock = Some((world.name(server).to_owned(), lock));
            }
            Call::LeaseRow => {
                let lease = world.tables(server).lease.as_ref();
                answer.lease = lease.map(|lease| (*lease.row).clone());
            }
            Call::InsertLease => world.insert_lease(server)?,
            Call::TakeLease { seen, row } => {
                let is_expected = |found: &LeaseRow| {
                    without == Without::CompareOnTake
                        || (is_of(found, &seen.owner, seen.term) && found.beat == seen.beat)
                };
                let keeps_term = without == Without::TermOnReconnect && seen.owner == row.owner;
                let take = |found: &mut LeaseRow| {
                    let term = if keeps_term { seen.term } else { row.term };
                    *found = LeaseRow { term, beat: found.beat + 1, ..(**row).clone() };
                };
                let session = world.number();
                answer.matched = world.change_lease(server, is_expected, take, (None, Some(session)))?;
                if answer.matched > 0 {
                    self.session = session;
                }
            }
            Call::Beat { term } => {
                let is_alone = world.is_alone(server);
                let is_ours = |row: &LeaseRow| is_alone && is_of(row, &me, *term);
                let beat = |row: &mut LeaseRow| row.beat += 1;
                answer.matched = world.change_lease(server, is_ours, beat, (self.holder(), None))?;
            }
            Call::ClaimLock { term, server: name } => {
                let is_ours = |row: &LeaseRow| is_of(row, &me, *term);
                let claim = |row: &mut LeaseRow| {
                    row.session.clone_from(name);
                    row.beat += 1;
                };
                world.change_lease(server, is_ours, claim, (self.holder(), None))?;
            }
            Call::ReleaseLease { term } => {
                let release = |row: &mut LeaseRow| {
                    row.owner.clear();
                    row.session.clear();
                    row.beat += 1;
                };
                let is_ours = |row: &LeaseRow| is_of(row, &me, *term);
                if world.change_lease(server, is_ours, release, (None, None))? > 0 {
                    // Who takes a lease that was released takes nothing over.
                    world.faults -= 1;
                }
            }
            Call::Plan { again } => {
                let has_edit = replace(&mut self.directory.has_edit, false);
                if has_edit || *again || self.rescan_at <= world.now {
                    self.rescan_at = world.now + RESCAN;
                    answer.writes = self.directory.planned(world.tables(server)).into();
                }
            }
            Call::Begin => self.transaction = self.holder().map(|holder| world.begin(server, holder)),
            Call::Write(writes) => {
                for &(key, content) in &**writes {
                    let rows = world.write(open?, key, content, true)?;
                    answer.rows.changed += rows;
                    answer.rows.deleted += if content.is_none() { rows } else { 0 };
                }
            }
            Call::Finish(last) => answer.matched = world.carry_out(open?, last)?,
            Call::Commit => {
                self.transaction = None;
                world.commit(open?)?;
            }
            Call::RollBack => {
                if let Some(id) = self.transaction.take() {
                    world.roll_back(id);
                }
            }
            Call::Wait(_) => {}
        }
        Ok(answer)
    }
}

fn unavailable(detail: &str) -> StoreError {
    StoreError::Unavailable { what: "writing", detail: detail.to_owned() }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}
