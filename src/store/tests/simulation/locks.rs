//! The servers' locks, and a master of version 0.1, which has no lease: it writes while it has the lock of a server.

use super::Without;
use super::world::World;
use crate::store::lease::ServerLock;

/// How often a master without a lease asks for the lock.
const LOOK: i64 = 700_001;

/// A server's lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lock {
    /// The session that has it, of a master with a lease; `None` if it is that of the one without.
    session: Option<u64>,
    since: i64,
    /// When the server notices that the session has ended.
    until: i64,
}

/// The master without a lease.
#[derive(Debug, Default)]
pub(super) struct Unleased {
    /// When it asks for a lock, or makes sure that it has it; `None` while it is stopped.
    pub(super) due: Option<i64>,
}

impl World {
    /// Who holds the server's lock once a session of a master with a lease has asked for it.
    pub(super) fn lock(&mut self, server: usize, session: u64) -> ServerLock {
        match self.held_lock(server) {
            _ if !self.options.has_locks => ServerLock::Missing,
            Some(Lock { session: None, .. }) => ServerLock::Unleased,
            Some(held) if held.session != Some(session) => ServerLock::Leased,
            _ => {
                *self.lock_of(server) =
                    Some(Lock { session: Some(session), since: self.now, until: i64::MAX });
                ServerLock::Ours
            }
        }
    }

    /// A session of a master has ended, which the server notices after so many microseconds.
    pub(super) fn unlock(&mut self, server: usize, session: u64, micros: i64) {
        let noticed = self.now.saturating_add(micros);
        if let Some(held) = self.lock_of(server).as_mut().filter(|held| held.session == Some(session)) {
            held.until = held.until.min(noticed);
        }
    }

    fn held_lock(&mut self, server: usize) -> Option<Lock> {
        let now = self.now;
        self.lock_of(server).filter(|held| held.until > now)
    }

    /// Since when the master without a lease has had the server's lock, as a fence finds out.
    pub(super) fn unleased_since(&mut self, server: usize) -> Option<i64> {
        self.held_lock(server).filter(|held| held.session.is_none()).map(|held| held.since)
    }

    /// Whether a beat and a fence match at the server.
    pub(super) fn is_alone(&mut self, server: usize) -> bool {
        self.options.without == Without::FenceThatMindsTheLock || self.unleased_since(server).is_none()
    }

    /// A master without a lease is started, or stopped if it runs.
    pub(super) fn switch_unleased(&mut self) {
        if !self.options.has_locks {
            return;
        }
        // It takes the place of the leader when it gets the lock, and so does another one when it ends.
        self.faults += 1;
        match self.unleased.due {
            Some(_) => self.stop_unleased(),
            None => self.unleased.due = Some(self.now + LOOK),
        }
    }

    pub(super) fn stop_unleased(&mut self) {
        self.unleased.due = None;
        for server in 0..super::world::SERVERS {
            if self.unleased_since(server).is_some() {
                *self.lock_of(server) = None;
            }
        }
    }

    /// The master without a lease asks for the lock of the server that takes the writes.
    pub(super) fn look_unleased(&mut self) {
        let server = self.writable(0);
        if self.held_lock(server).is_none() {
            *self.lock_of(server) = Some(Lock { session: None, since: self.now, until: i64::MAX });
        }
        self.unleased.due = Some(self.now + LOOK);
    }
}
