//! The lease that makes a master the only writer: its decisions, without a database.
//!
//! The lease is a row. Its owner writes it every [`BEAT_INTERVAL`], and at the end of each of its transactions, so that
//! a transaction of a master that was robbed fails at its last statement. A standby takes the lease over when it was
//! released, or was not written for the row's own time by the standby's own clock: no two clocks are compared.
//!
//! On one server there is a shortcut. The owner also holds a lock of the server, and the row names that server. Who gets
//! the lock there knows that the owner's session has ended.

use std::time::Duration;

/// How often an owner writes the row.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a lease lasts without a beat, unless `master.lease` says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseRow {
    /// The process that holds the lease; empty if it was released.
    pub(super) owner: String,
    /// Its host, for people.
    pub(super) host: String,
    /// The server on which it holds the server's lock; empty without one.
    pub(super) session: String,
    /// How long it lasts without a beat.
    pub(super) lease: Duration,
    /// Rises whenever the lease is taken.
    pub(super) term: u64,
    /// Rises whenever the row is written.
    pub(super) beat: u64,
    /// When it was taken, by the server's clock, for people.
    pub(super) since: String,
}

impl LeaseRow {
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
}

impl Standby {
    /// The term with which `me` may take the lease over, if the row is still `row`; `None` to go on waiting. `server` is
    /// the one that was asked, and `lock` who holds its lock.
    pub(super) fn look(
        &mut self,
        row: &LeaseRow,
        me: &str,
        (server, lock): (&str, ServerLock),
        now: Duration,
    ) -> Option<u64> {
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
        let may_take = match lock {
            ServerLock::Ours => is_free || is_here,
            // If the row does not name this server, the lock is that of a master which knows no lease.
            ServerLock::Others => is_here && is_free && !row.owner.is_empty(),
            ServerLock::Missing => is_free,
        };
        may_take.then_some(self.highest_term + 1)
    }
}

/// The lease in the hands of its owner.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    pub(super) owner: String,
    pub(super) term: u64,
    lease: Duration,
    /// When the last statement that confirmed it was sent.
    confirmed: Duration,
}

impl Lead {
    /// The lease that was taken by a statement sent at `sent`.
    pub(super) const fn new(owner: String, term: u64, lease: Duration, sent: Duration) -> Self {
        Self { owner, term, lease, confirmed: sent }
    }

    /// A statement that was sent at `sent` found the row to be ours.
    pub(super) fn confirm(&mut self, sent: Duration) {
        self.confirmed = self.confirmed.max(sent);
    }

    /// How long ago the lease was confirmed.
    pub(super) const fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.confirmed)
    }

    /// Whether nobody can have taken the lease over by `now`. If not, the row must be read before anything is written.
    pub(super) fn is_confirmed(&self, now: Duration) -> bool {
        self.age(now) < self.lease
    }

    /// Whether the row is still this lease.
    pub(super) fn is(&self, row: &LeaseRow) -> bool {
        row.owner == self.owner && row.term == self.term
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
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_taken_over_once_it_was_silent_by_the_standbys_own_clock() {
        for lock in [ServerLock::Ours, ServerLock::Missing] {
            let mut standby = Standby::default();
            for (beat, at) in [(1, 100), (1, 114), (2, 115), (2, 129)] {
                assert_eq!(standby.look(&row("other", "a", beat), "me", ("b", lock), seconds(at)), None);
            }
            assert_eq!(standby.look(&row("other", "a", 2), "me", ("b", lock), seconds(130)), Some(4));
        }
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
            let term = standby.look(&row(owner, session, 1), "me", ("here", lock), seconds(0));
            assert_eq!(term.is_some(), taken, "{owner} {lock:?}");
        }
    }

    #[test]
    fn who_gets_the_lock_of_the_server_that_the_row_names_takes_over_at_once() {
        let look = |session, lock| {
            Standby::default().look(&row("other", session, 1), "me", ("here", lock), seconds(0))
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
            standby.look(&silent, "me", ("here", ServerLock::Others), seconds(0));
            let term = standby.look(&silent, "me", ("here", ServerLock::Others), seconds(15));
            assert_eq!(term, expected, "{session}");
        }
    }

    #[test]
    fn a_term_is_above_every_term_that_was_seen_even_if_a_failover_lost_it() {
        let mut standby = Standby::default();
        standby.look(
            &LeaseRow { term: 9, ..row("other", "", 1) },
            "me",
            ("", ServerLock::Missing),
            seconds(0),
        );
        let lost = LeaseRow { term: 2, ..row("", "", 1) };
        assert_eq!(standby.look(&lost, "me", ("", ServerLock::Missing), seconds(1)), Some(10));
    }

    #[test]
    fn a_lease_is_confirmed_from_when_its_statement_was_sent() {
        let mut lead = Lead::new("me".to_owned(), 4, LEASE, seconds(100));
        assert!(lead.is_confirmed(seconds(114)));
        assert!(!lead.is_confirmed(seconds(115)));
        lead.confirm(seconds(110));
        lead.confirm(seconds(105));
        assert_eq!(lead.age(seconds(112)), seconds(2));
        assert!(lead.is_confirmed(seconds(124)));
        assert!(!lead.is_confirmed(seconds(125)));
    }
}
