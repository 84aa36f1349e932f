//! The lease that makes a master the only writer: its decisions, without a database.
//!
//! The lease is a row. Its owner writes it every [`BEAT_INTERVAL`], and at the end of each of its transactions, so that
//! a transaction of a master that was robbed fails at its last statement. A standby takes the lease over when it was
//! released, or was not written for the row's own time by the standby's own clock: no two clocks are compared.
//!
//! On one server there is a shortcut. The owner also holds a lock of the server, and the row names that server. Who gets
//! the lock there knows that the owner's session has ended.
//!
//! A master of version 0.1, or one that may not write the row, has that lock alone. Two masters must not write at one
//! server, so a master with a lease also holds a second lock, the mark, in the same session: a lock without the mark is
//! that of a master without a lease. While there is one at a server, no lease is taken, and nothing is written under one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StoreError;
use crate::clock::Timestamp;

/// How often an owner writes the row.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a lease lasts without a beat, unless `master.lease` says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// The longest that `master.lease` may be. A row that says more was not written by a master, and counts as this long.
const LONGEST_LEASE: Duration = Duration::from_hours(1);

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Default))]
pub(super) struct LeaseRow {
    /// The process that holds the lease; empty if it was released.
    pub(super) owner: String,
    /// Its host, for people.
    pub(super) host: String,
    /// The server on which it holds the server's lock; empty without one, or where that proves nothing.
    pub(super) session: String,
    /// How long it lasts without a beat.
    pub(super) lease: Duration,
    /// Rises whenever the lease is taken.
    pub(super) term: u64,
    /// Rises whenever the row is written.
    pub(super) beat: u64,
    /// When it was taken, by the server's clock, for people.
    pub(super) since: String,
    /// When it was last written, by the server's clock, for people.
    pub(super) beat_at: String,
}

impl LeaseRow {
    /// Who leads, in a few words; `None` if the lease was released.
    pub(super) fn leader_in_short(&self) -> Option<String> {
        let Self { owner, host, term, .. } = self;
        (!owner.is_empty()).then(|| format!("master {host} (term {term})"))
    }

    /// When it was released; `None` if it is held, or never was.
    pub(super) fn released_at(&self) -> Option<Timestamp> {
        is_released(self.owner.is_empty(), self.term).then(|| Timestamp::parse(&self.beat_at)).flatten()
    }

    /// Who leads, in words; `None` if the lease was released.
    pub(super) fn leader(&self) -> Option<String> {
        let Self { owner, host, term, since, .. } = self;
        (!owner.is_empty()).then(|| format!("{host}, since {since} UTC, term {term}"))
    }
}

/// Whether a lease was released that has no owner: one that nobody has taken yet was not.
pub(super) const fn is_released(is_free: bool, term: u64) -> bool {
    is_free && term > 0
}

/// Who holds the server's lock, as the session that asked for it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerLock {
    /// This session.
    Ours,
    /// Another session of a master with a lease, of which the owner need not know: it may be frozen, and robbed.
    Leased,
    /// The session of a master without a lease: it is at work.
    Unleased,
    /// The server has no such lock.
    Missing,
}

/// What a process that does not lead knows of the lease. Times are those of one clock that never goes back.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// The row as it was last read, and since when it is unchanged.
    seen: Option<(LeaseRow, Duration)>,
    /// The highest term that this process has ever seen or taken: a failover can lose terms.
    highest_term: u64,
    /// Whether the lease was taken from this process while it held the server's lock: then that lock proves nothing.
    was_robbed: Arc<AtomicBool>,
}

impl Standby {
    /// The lease, for `lasts`, with which `me` may replace the row if it is still `row`; `None` to go on waiting. `server`
    /// is the one that was asked, and `lock` who holds its lock.
    pub(super) fn look(
        &mut self,
        row: &LeaseRow,
        (me, lasts): (&str, Duration),
        (server, lock): (&str, ServerLock),
        now: Duration,
    ) -> Option<Lead> {
        self.highest_term = self.highest_term.max(row.term);
        let since = match &self.seen {
            Some((seen, since)) if seen == row => *since,
            _ => {
                self.seen = Some((row.clone(), now));
                now
            }
        };
        let is_silent = now.saturating_sub(since) >= row.lease.min(LONGEST_LEASE);
        let is_free = row.owner.is_empty() || row.owner == me || is_silent;
        let is_here = row.session == server;
        let may_take = match lock {
            ServerLock::Ours => is_free || is_here,
            ServerLock::Leased | ServerLock::Missing => is_free,
            ServerLock::Unleased => false,
        };
        may_take.then(|| Lead {
            owner: me.to_owned(),
            term: self.highest_term + 1,
            lease: lasts,
            confirmed: now,
            fenced: None,
            lost: None,
            lock,
            was_robbed: Arc::clone(&self.was_robbed),
        })
    }

    /// This lease was taken. Its term is not given again, for a statement of it may be under way when a failover has lost
    /// it, or another program has spoilt the row.
    pub(super) fn took(&mut self, lead: &Lead) {
        self.highest_term = self.highest_term.max(lead.term);
    }
}

/// The lease in the hands of its owner. Once it is lost, it is taken anew, with another term.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    pub(super) owner: String,
    pub(super) term: u64,
    pub(super) lease: Duration,
    /// When the last statement that confirmed it was sent.
    confirmed: Duration,
    /// When the fence was sent of the transaction that is not committed yet.
    fenced: Option<Duration>,
    /// How its loss was noticed.
    lost: Option<String>,
    /// Who held the server's lock when the owner last asked for it.
    lock: ServerLock,
    was_robbed: Arc<AtomicBool>,
}

impl Lead {
    /// Whether nobody can have taken the lease over by `now`. If not, the row must be read before anything is written.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if it is lost.
    pub(super) fn is_confirmed(&self, now: Duration) -> Result<bool, StoreError> {
        match &self.lost {
            Some(detail) => Err(StoreError::LockLost { detail: detail.clone() }),
            None => Ok(self.age(now) < self.lease),
        }
    }

    /// Checks the row that was read. It does not confirm the lease: a node of a cluster may show it late.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if the row is not this lease any more.
    pub(super) fn found(&mut self, row: Option<&LeaseRow>) -> Result<(), StoreError> {
        match row {
            Some(row) if row.owner == self.owner && row.term == self.term => Ok(()),
            _ => Err(self.robbed()),
        }
    }

    /// Records how many rows a beat matched that was sent at `sent`.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if it matched none.
    pub(super) fn beaten(&mut self, rows: u64, sent: Duration) -> Result<(), StoreError> {
        self.fenced(rows, sent)?;
        self.committed();
        Ok(())
    }

    /// Records how many rows the fence of a transaction matched that was sent at `sent`. It does not confirm the lease: a
    /// cluster finds out at the COMMIT that another node has changed the row.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if it matched none.
    pub(super) fn fenced(&mut self, rows: u64, sent: Duration) -> Result<(), StoreError> {
        self.fenced = Some(sent).filter(|_| rows > 0);
        if rows > 0 { Ok(()) } else { Err(self.robbed()) }
    }

    /// The transaction with the last fence was committed.
    pub(super) fn committed(&mut self) {
        self.confirmed = self.fenced.take().unwrap_or_default().max(self.confirmed);
    }

    fn robbed(&mut self) -> StoreError {
        if self.lock == ServerLock::Ours {
            self.was_robbed.store(true, Ordering::Relaxed);
        }
        let detail = "another master has taken the lease, or the server's lock".to_owned();
        self.lose(&detail);
        StoreError::LockLost { detail }
    }

    /// A connection was lost, so the last transaction may be committed later: nothing more is written under this lease.
    pub(super) fn lose(&mut self, detail: &str) {
        self.lost.get_or_insert_with(|| detail.to_owned());
    }

    pub(super) const fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// How long ago the lease was confirmed.
    pub(super) const fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.confirmed)
    }

    /// What the row says of the server's lock: the `server` where it is held. Once this process was robbed while it held
    /// it, it proves nothing, and keeps only masters without a lease away.
    pub(super) fn session(&self, server: &str) -> String {
        let is_proof = self.lock == ServerLock::Ours && !self.was_robbed.load(Ordering::Relaxed);
        if is_proof { server.to_owned() } else { String::new() }
    }

    /// Whether a beat and a fence match only while no master without a lease has the server's lock.
    pub(super) fn minds_lock(&self) -> bool {
        self.lock != ServerLock::Missing
    }

    /// Whether the owner tries to get the server's lock.
    pub(super) fn wants_lock(&self) -> bool {
        self.lock != ServerLock::Ours && !self.is_lost()
    }

    /// The owner has asked for the server's lock again.
    pub(super) const fn asked_for_lock(&mut self, lock: ServerLock) {
        self.lock = lock;
    }
}

#[cfg(test)]
mod tests;
