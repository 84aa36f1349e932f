//! Which rows the statements change. SQLite, which has no lease, carries them out as servers do.

use super::super::super::sql::Purpose;
use super::super::super::tests::database_at;
use super::*;
use crate::store::lease::{LEASE, Standby};

/// Whether a statement of the lease `me`, 7, which is taken over `other`, 6, 3, changes the row while it has this owner,
/// term and beat.
async fn changes(statement: &str, owner: &str, term: u64, beat: u64) -> bool {
    let database = database_at("sqlite::memory:", Duration::from_secs(60)).await;
    let mut connection = Connection::open(&database.connector, Purpose::Write).await.unwrap();
    connection.run("creating", include_str!("../../schema/postgres_lease.sql")).await.unwrap();
    let row = format!("('master', '{owner}', 'h', 'here', 15000, {term}, '-', {beat}, '-')");
    connection.run("writing", &format!("INSERT INTO rulesyncd_lease VALUES {row}")).await.unwrap();

    let seen = LeaseRow { owner: "other".to_owned(), term: 6, beat: 3, ..LeaseRow::default() };
    let asked = ("here", ServerLock::Missing);
    let lead = Standby::default().look(&seen, ("me", LEASE), asked, Duration::ZERO).unwrap();
    match statement {
        "take" => connection.take_lease(&seen, &lead, "here").await.map(drop),
        "beat" => LeaseSession::beat(&mut connection, &lead).await.map(drop),
        "claim" => connection.claim_lock(&lead, "here").await,
        _ => connection.release_lease(&lead).await,
    }
    .unwrap();
    let query = connection.query("SELECT CAST(beat AS TEXT) FROM rulesyncd_lease");
    connection.cell("reading", query).await.unwrap().shown() != beat.to_string()
}

/// A late one of an old term, too: the same process may have the lease again.
#[tokio::test]
async fn a_beat_a_claim_and_a_release_change_only_their_own_lease() {
    for statement in ["beat", "claim", "release"] {
        assert!(changes(statement, "me", 7, 4).await, "{statement}");
        for (owner, term) in [("me", 8), ("me", 6), ("other", 7), ("", 7)] {
            assert!(!changes(statement, owner, term, 4).await, "{statement}: {owner} {term}");
        }
    }
}

#[tokio::test]
async fn a_lease_is_taken_only_as_it_was_seen() {
    assert!(changes("take", "other", 6, 3).await);
    for (owner, term, beat) in [("me", 6, 3), ("", 6, 3), ("other", 7, 3), ("other", 5, 3), ("other", 6, 4)] {
        assert!(!changes("take", owner, term, beat).await, "{owner} {term} {beat}");
    }
}
