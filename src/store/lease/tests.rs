use std::path::Path;

use super::*;
use crate::config::{Config, Flags};

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
fn look(standby: &mut Standby, row: &LeaseRow, server: &str, lock: ServerLock, now: Duration) -> Option<u64> {
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
fn a_lease_that_another_program_made_endless_is_silent_after_the_longest_that_a_master_may_have() {
    let mut standby = Standby::default();
    let endless = LeaseRow { lease: Duration::from_millis(u64::MAX), ..row("other", "", 1) };
    for (at, term) in [(0, None), (3_599, None), (3_600, Some(4))] {
        assert_eq!(look(&mut standby, &endless, "here", ServerLock::Ours, seconds(at)), term);
    }
}

/// Another limit would take the lease from a master that is configured to be silent for longer.
#[test]
fn the_longest_lease_is_the_longest_that_the_configuration_accepts() {
    let problem = |lease: Duration| {
        let environment = |name: &str| match name {
            "RULESYNCD_DATABASE_URL" => Some("sqlite::memory:".into()),
            "RULESYNCD_MASTER_LEASE" => Some(format!("{}ms", lease.as_millis()).into()),
            _ => None,
        };
        Config::load_from(&Flags::default(), environment, Path::new("/nowhere")).err().map(|error| error.0)
    };
    assert_eq!(problem(LONGEST_LEASE), None);
    let refused = problem(LONGEST_LEASE + Duration::from_millis(1)).unwrap();
    assert!(refused.contains("3600001ms is not within"), "{refused}");
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
        // Its session has not ended yet, or another one is frozen that was robbed.
        ("me", ServerLock::Leased, true),
        ("", ServerLock::Leased, true),
        ("me", ServerLock::Unleased, false),
        ("", ServerLock::Unleased, false),
    ] {
        for session in ["", "here"] {
            let row = row(owner, session, 1);
            let term = look(&mut Standby::default(), &row, "here", lock, seconds(0));
            assert_eq!(term.is_some(), taken, "{owner} {lock:?}");
        }
    }
}

#[test]
fn who_gets_the_lock_of_the_server_that_the_row_names_takes_over_at_once() {
    let look =
        |session, lock| look(&mut Standby::default(), &row("other", session, 1), "here", lock, seconds(0));
    assert_eq!(look("here", ServerLock::Ours), Some(4));
    assert_eq!(look("elsewhere", ServerLock::Ours), None);
    assert_eq!(look("", ServerLock::Ours), None);
    assert_eq!(look("here", ServerLock::Leased), None);
    assert_eq!(look("here", ServerLock::Unleased), None);
}

#[test]
fn a_frozen_owner_keeps_its_lock_and_loses_its_lease() {
    // Empty: who took over from the frozen one is silent, too.
    for session in ["here", "elsewhere", ""] {
        let mut standby = Standby::default();
        let silent = row("other", session, 1);
        look(&mut standby, &silent, "here", ServerLock::Leased, seconds(0));
        assert_eq!(look(&mut standby, &silent, "here", ServerLock::Leased, seconds(14)), None);
        let term = look(&mut standby, &silent, "here", ServerLock::Leased, seconds(15));
        assert_eq!(term, Some(4), "{session}");
    }
}

#[test]
fn while_a_master_without_a_lease_has_the_lock_nobody_takes_a_silent_lease() {
    for session in ["here", "elsewhere", ""] {
        let mut standby = Standby::default();
        for at in [0, 15, 1000] {
            let silent = row("other", session, 1);
            let term = look(&mut standby, &silent, "here", ServerLock::Unleased, seconds(at));
            assert_eq!(term, None, "{session}");
        }
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
    // It holds the lock again, which the row does not say: who gets the lock knows nothing.
    let again = lead(&mut standby);
    assert_eq!(again.session("here"), "");
}

#[test]
fn whoever_leads_asks_for_the_servers_lock_until_it_has_it() {
    let mut standby = Standby::default();
    assert!(!lead(&mut standby).wants_lock());
    lead(&mut standby).beaten(0, seconds(101)).unwrap_err();
    for lock in [ServerLock::Leased, ServerLock::Missing] {
        let mut lead = standby.look(&row("", "", 1), ("me", LEASE), ("here", lock), seconds(100)).unwrap();
        assert!(lead.wants_lock(), "even if it was robbed once");
        lead.asked_for_lock(ServerLock::Leased);
        assert!(lead.wants_lock() && lead.minds_lock());
        lead.asked_for_lock(ServerLock::Ours);
        assert!(!lead.wants_lock() && lead.minds_lock());
    }
}
