//! The lease that makes a master the only writer: its decisions, without a database.
//!
//! The lease is a row. Its owner writes it every [`BEAT_INTERVAL`], and at the end of each of its transactions, so that
//! a transaction of a master that was robbed fails at its last statement. A standby takes the lease over when it was
//! released, or was not written for the row's own time by the standby's own clock: no two clocks are compared.
//!
//! On one server there is a shortcut. The owner also holds a lock of the server, and the row names that server. Who gets
//! the lock there knows that the owner's session has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StoreError;
use crate::clock::Timestamp;

/// How often an owner writes the row.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a lease lasts without a beat, unless `master.lease` says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// Marks the server on which an owner holds the lock although it once was robbed while it held it: who gets that lock
/// does not know that the owner's session has ended.
const UNPROVEN: char = '~';

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Default))]
pub(super) struct LeaseRow {
    /// The process that holds the lease; empty if it was released.
    pub(super) owner: String,
    /// Its host, for people.
    pub(super) host: String,
    /// The server on which it holds the server's lock, with [`UNPROVEN`] where that proves nothing; empty without one.
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
        (self.owner.is_empty() && self.term > 0).then(|| Timestamp::parse(&self.beat_at)).flatten()
    }

    /// Who leads, in words; `None` if the lease was released.
    pub(super) fn leader(&self) -> Option<String> {
        let Self { owner, host, term, since, .. } = self;
        (!owner.is_empty()).then(|| format!("{host}, since {since} UTC, term {term}"))
    }
}

/// Who holds the server's lock, as the session that asked for it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerLock {
    /// This session.
    Ours,
    /// Another session: the owner's, or that of a master of version 0.1, which knows no lease.
    Others,
    /// The server has no such lock.
    Missing,
}

/// What a process that does not lead knows of the lease. Times are those of one clock that never goes back.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// The row as it was last read, and since when it is unchanged.
    seen: Option<(LeaseRow, Duration)>,
    /// The highest term that this process has ever seen: a failover can lose terms.
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
        let is_silent = now.saturating_sub(since) >= row.lease;
        let is_free = row.owner.is_empty() || row.owner == me || is_silent;
        let is_here = row.session == server;
        let is_unproven_here = row.session.strip_prefix(UNPROVEN) == Some(server);
        let may_take = match lock {
            ServerLock::Ours => is_free || is_here,
            // If the row does not name this server, the lock is that of a master which knows no lease.
            ServerLock::Others => (is_here || is_unproven_here) && is_free && !row.owner.is_empty(),
            ServerLock::Missing => is_free,
        };
        may_take.then(|| Lead {
            owner: me.to_owned(),
            term: self.highest_term + 1,
            lease: lasts,
            confirmed: now,
            fenced: None,
            lost: None,
            has_lock: lock == ServerLock::Ours,
            was_robbed: Arc::clone(&self.was_robbed),
        })
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
    /// Whether the owner holds the server's lock, too.
    has_lock: bool,
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
        if self.has_lock {
            self.was_robbed.store(true, Ordering::Relaxed);
        }
        let detail = "another master has taken the lease".to_owned();
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

    /// What the row says of the server's lock: the `server` where it is held, marked where that proves nothing.
    pub(super) fn session(&self, server: &str) -> String {
        match (self.has_lock, self.was_robbed.load(Ordering::Relaxed)) {
            (true, false) => server.to_owned(),
            // A frozen owner keeps it, so a standby must know whose it is.
            (true, true) => format!("{UNPROVEN}{server}"),
            (false, _) => String::new(),
        }
    }

    /// Whether the owner tries to get the server's lock.
    pub(super) fn wants_lock(&self) -> bool {
        !self.has_lock && !self.is_lost() && !self.was_robbed.load(Ordering::Relaxed)
    }

    /// The row says that the owner has got the server's lock.
    pub(super) const fn got_lock(&mut self) {
        self.has_lock = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: &str, session: &str, beat: u64) -> LeaseRow {
        LeaseRow {
            owner: owner.to_owned(),
            host: "hp-git".to_owned(),
            session: session.to_owned(),
            lease: LEASE,
            term: 3,
            beat,
            since: "2026-11-28 07:00:00".to_owned(),
            beat_at: "2026-11-28 07:01:00".to_owned(),
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The term with which `me` takes the lease over.
    fn look(
        standby: &mut Standby,
        row: &LeaseRow,
        server: &str,
        lock: ServerLock,
        now: Duration,
    ) -> Option<u64> {
        standby.look(row, ("me", LEASE), (server, lock), now).map(|lead| lead.term)
    }

    #[test]
    fn a_lease_is_taken_over_once_it_was_silent_by_the_standbys_own_clock() {
        for lock in [ServerLock::Ours, ServerLock::Missing] {
            let mut standby = Standby::default();
            for (beat, at) in [(1, 100), (1, 114), (2, 115), (2, 129)] {
                assert_eq!(look(&mut standby, &row("other", "a", beat), "b", lock, seconds(at)), None);
            }
            assert_eq!(look(&mut standby, &row("other", "a", 2), "b", lock, seconds(130)), Some(4));
        }
    }

    #[test]
    fn a_lease_was_released_if_somebody_had_it() {
        let at = Timestamp::parse("2026-11-28 07:01:00");
        assert_eq!(row("", "", 1).released_at(), at);
        assert_eq!(row("other", "", 1).released_at(), None);
        assert_eq!(LeaseRow { term: 0, ..row("", "", 0) }.released_at(), None);
    }

    #[test]
    fn a_released_lease_and_ones_own_are_taken_at_once() {
        for (owner, lock, taken) in [
            ("", ServerLock::Ours, true),
            ("", ServerLock::Missing, true),
            ("me", ServerLock::Ours, true),
            ("me", ServerLock::Missing, true),
            // Its session has not ended yet.
            ("me", ServerLock::Others, true),
            // A master that knows no lease is at work.
            ("", ServerLock::Others, false),
        ] {
            let mut standby = Standby::default();
            let session = if owner.is_empty() { "" } else { "here" };
            let term = look(&mut standby, &row(owner, session, 1), "here", lock, seconds(0));
            assert_eq!(term.is_some(), taken, "{owner} {lock:?}");
        }
    }

    #[test]
    fn who_gets_the_lock_of_the_server_that_the_row_names_takes_over_at_once() {
        let look = |session, lock| {
            look(&mut Standby::default(), &row("other", session, 1), "here", lock, seconds(0))
        };
        assert_eq!(look("here", ServerLock::Ours), Some(4));
        assert_eq!(look("elsewhere", ServerLock::Ours), None);
        assert_eq!(look("", ServerLock::Ours), None);
        assert_eq!(look("here", ServerLock::Others), None);
    }

    #[test]
    fn a_frozen_owner_keeps_its_lock_and_loses_its_lease() {
        for (session, expected) in [("here", Some(4)), ("elsewhere", None), ("", None)] {
            let mut standby = Standby::default();
            let silent = row("other", session, 1);
            look(&mut standby, &silent, "here", ServerLock::Others, seconds(0));
            let term = look(&mut standby, &silent, "here", ServerLock::Others, seconds(15));
            assert_eq!(term, expected, "{session}");
        }
    }

    #[test]
    fn a_term_is_above_every_term_that_was_seen_even_if_a_failover_lost_it() {
        let mut standby = Standby::default();
        let before = LeaseRow { term: 9, ..row("other", "", 1) };
        look(&mut standby, &before, "", ServerLock::Missing, seconds(0));
        let lost = LeaseRow { term: 2, ..row("", "", 1) };
        assert_eq!(look(&mut standby, &lost, "", ServerLock::Missing, seconds(1)), Some(10));
    }

    /// A lease that was taken at 100 s, with the server's lock.
    fn lead(standby: &mut Standby) -> Lead {
        let free = row("", "", 1);
        standby.look(&free, ("me", LEASE), ("here", ServerLock::Ours), seconds(100)).unwrap()
    }

    #[test]
    fn a_lease_is_confirmed_from_when_its_statement_was_sent() {
        let mut lead = lead(&mut Standby::default());
        assert!(lead.is_confirmed(seconds(114)).unwrap());
        assert!(!lead.is_confirmed(seconds(115)).unwrap());
        lead.beaten(1, seconds(110)).unwrap();
        lead.beaten(1, seconds(105)).unwrap();
        assert_eq!(lead.age(seconds(112)), seconds(2));
        assert!(lead.is_confirmed(seconds(124)).unwrap());
        assert!(!lead.is_confirmed(seconds(125)).unwrap());
    }

    #[test]
    fn a_row_that_is_only_read_confirms_nothing_as_a_node_of_a_cluster_may_show_it_late() {
        let mut lead = lead(&mut Standby::default());
        lead.found(Some(&LeaseRow { term: 4, ..row("me", "here", 9) })).unwrap();
        assert_eq!(lead.age(seconds(126)), seconds(26));
        assert!(!lead.is_confirmed(seconds(126)).unwrap());
    }

    #[test]
    fn a_fence_confirms_the_lease_once_its_transaction_is_committed() {
        let mut lead = lead(&mut Standby::default());
        lead.fenced(1, seconds(110)).unwrap();
        assert_eq!(lead.age(seconds(112)), seconds(12));
        lead.fenced(1, seconds(111)).unwrap();
        lead.committed();
        assert_eq!(lead.age(seconds(112)), seconds(1));
    }

    #[test]
    fn a_lease_is_lost_for_good_once_the_row_is_anothers_or_a_connection_ended() {
        let lose: [fn(&mut Lead); 4] = [
            |lead| assert!(lead.beaten(0, seconds(101)).is_err()),
            |lead| assert!(lead.found(None).is_err()),
            |lead| {
                let same_owner = LeaseRow { term: 5, ..row("me", "here", 9) };
                assert!(lead.found(Some(&same_owner)).is_err());
            },
            |lead| lead.lose("the connection ended"),
        ];
        for lose in lose {
            let mut lead = lead(&mut Standby::default());
            lose(&mut lead);
            lead.beaten(1, seconds(102)).unwrap();
            assert!(lead.is_confirmed(seconds(102)).is_err());
        }
    }

    #[test]
    fn after_a_robbery_the_servers_lock_is_no_proof_any_more() {
        let mut standby = Standby::default();
        let mut robbed = lead(&mut standby);
        assert_eq!(robbed.session("here"), "here");
        robbed.beaten(0, seconds(101)).unwrap_err();
        let again = lead(&mut standby);
        assert!(!again.wants_lock());
        // It holds the lock again, and freezes: who waits for it knows whose it is, and takes over when it is silent.
        let session = again.session("here");
        let other = row("me", &session, 5);
        let mut waiting = Standby::default();
        let mut at =
            |server, lock, then| waiting.look(&other, ("other", LEASE), (server, lock), seconds(then));
        assert!(at("here", ServerLock::Others, 0).is_none());
        assert!(at("here", ServerLock::Ours, 14).is_none(), "the lock alone proves nothing");
        assert!(at("here", ServerLock::Others, 15).is_some());
        assert!(at("there", ServerLock::Others, 16).is_none(), "a master without a lease has the lock there");
    }
}
