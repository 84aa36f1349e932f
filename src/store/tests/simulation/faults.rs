//! What happens to a master from outside.

use std::sync::Arc;

use super::masters::{Master, Next};
use super::session::Call;
use super::world::{LEASE_MICROS, World};
use crate::store::lease::{LeaseRow, Standby};

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
                self.next_at = self.next_at.max(world.now + micros);
                // Which of its threads goes on first is not certain.
                self.beat_at = self.beat_at.max(world.now + micros + micros % 1_000_003);
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
                let release = |row: &mut LeaseRow| {
                    row.owner.clear();
                    row.session.clear();
                    row.beat += 1;
                };
                let me = Arc::clone(&self.me);
                self.lose(world);
                self.server = world.writable(self.server);
                let is_mine = |row: &LeaseRow| *row.owner == *me;
                world.change_lease(self.server, is_mine, release, (None, None)).ok();
                self.restart(down, world);
            }
        }
    }

    /// Nothing holds it up any more.
    pub(super) fn wake(&mut self, world: &World) {
        self.next_at = self.next_at.min(world.now + SECOND);
        if self.lead.is_some() {
            self.beat_at = self.beat_at.min(world.now + SECOND);
        }
    }

    fn cut_writes(&mut self, may_commit: bool, world: &mut World) {
        if let Next::Serve(serving) = &mut self.next
            && let Some(id) = serving.transaction.take()
        {
            // What is on its way.
            let last = match serving.call() {
                Some(Call::Finish(last)) => Some(last),
                Some(Call::Commit) => Some(Vec::new()),
                _ => None,
            };
            world.abandon(id, last.filter(|_| may_commit));
        }
        self.writes = None;
    }

    fn cut_beats(&mut self, answers_late: bool, is_noticed: bool, world: &mut World) {
        if let Next::Take(seen, lead) = &self.next {
            if answers_late {
                let (seen, lead) = (Arc::clone(seen), lead.clone());
                self.take(&seen, lead, world);
            }
            self.lose(world);
        }
        self.beats = None;
        world.unlock(self.server, self.asks, if is_noticed { LEASE_MICROS } else { i64::MAX });
    }

    fn restart(&mut self, down: i64, world: &mut World) {
        self.lose(world);
        (self.writes, self.beats) = (None, None);
        self.me = format!("master {}, {}", self.place, world.number()).into();
        self.standby = Standby::default();
        self.next_at = world.now + down;
    }
}
