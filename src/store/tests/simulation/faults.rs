//! What happens to a master from outside.

use std::sync::Arc;

use super::masters::Master;
use super::session::{Call, Task};
use super::world::{LEASE_MICROS, World};

const SECOND: i64 = 1_000_000;

/// What happens to a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is frozen for so many microseconds, and with it the server if both are on one host: that one then
    /// applies nothing more until a later step.
    Freeze { micros: i64, host: bool },
    /// The connection that writes is lost. The end of its transaction may come later.
    CutWrites { may_commit: bool },
    /// The connection that beats is lost, without the answer to what it asked. The server may never notice, as behind a proxy
    /// that has stopped.
    CutBeats { answers_late: bool, is_noticed: bool },
    /// The process dies, and another one is started after so many microseconds.
    Kill { may_commit: bool, down: i64 },
    /// The process ends, and releases the lease; another one is started.
    Stop { down: i64 },
}

impl Master {
    pub(super) fn suffer(&mut self, fault: Fault, world: &mut World) {
        world.faults += 1;
        match fault {
            Fault::Freeze { micros, host } => {
                if host {
                    world.stream(self.server, false);
                }
                let until = world.now + micros;
                self.look_at = self.look_at.max(until);
                if let Some(serves) = &mut self.serves {
                    serves.due = serves.due.max(until);
                }
                // Which of its threads goes on first is not certain.
                if let Some(leads) = &mut self.leads {
                    leads.due = leads.due.max(until + micros % 1_000_003);
                }
            }
            Fault::CutWrites { may_commit } => self.cut_writes(may_commit, world),
            Fault::CutBeats { answers_late, is_noticed } => {
                self.cut_beats(answers_late, is_noticed, world);
            }
            Fault::Kill { may_commit, down } => {
                if may_commit {
                    self.cut_writes(true, world);
                }
                self.restart(down, world);
            }
            Fault::Stop { down } => {
                self.stand_by(world);
                let Some(lead) = self.taken.take() else { return self.restart(down, world) };
                self.server = world.writable(self.server);
                let release = Task::release(world.incarnation(self.server), lead);
                self.stops = Some(down);
                self.lead(release, world);
            }
        }
    }

    /// Nothing holds it up any more.
    pub(super) fn wake(&mut self, world: &World) {
        let soon = world.now + SECOND;
        self.look_at = self.look_at.min(soon);
        self.stops = self.stops.map(|down| down.min(SECOND));
        for task in [&mut self.leads, &mut self.serves].into_iter().flatten() {
            task.due = task.due.min(soon);
        }
    }

    fn cut_writes(&mut self, may_commit: bool, world: &mut World) {
        if let Some((id, serves)) = self.transaction.take().zip(self.serves.as_ref()) {
            // What is on its way.
            let last = match serves.call() {
                Some(Call::Finish(last)) => Some(last),
                Some(Call::Commit) => Some(Vec::new()),
                _ => None,
            };
            world.abandon(id, last.filter(|_| may_commit));
        }
        if let Some(serves) = &mut self.serves {
            serves.session = None;
        }
    }

    fn cut_beats(&mut self, answers_late: bool, is_noticed: bool, world: &mut World) {
        let Some(mut leads) = self.leads.take() else { return };
        if let Some(call) = leads.call().filter(|_| answers_late && self.lives(&leads, world)) {
            self.carry_out(&call, world).ok();
        }
        leads.session = None;
        self.leads = Some(leads);
        world.unlock(self.server, self.asks, if is_noticed { LEASE_MICROS } else { i64::MAX });
    }

    pub(super) fn restart(&mut self, down: i64, world: &mut World) {
        self.stand_by(world);
        (self.stops, self.taken) = (None, None);
        self.me = format!("master {}, {}", self.place, world.number()).into();
        self.standby = Arc::default();
        self.look_at = world.now + down;
    }
}
