//! The server's lock beside the lease: what a master of version 0.1 has, which knows no lease, and what a session keeps
//! whose process is frozen.

use std::time::Duration;

use rulesyncd::store::{Database, RuleWrite, Scope};

use super::super::assert_lock_lost;
use super::super::faults::end_the_lock_holder;
use super::{cell, lease_of, master};
use crate::support::databases::{ExternalClient, TestDatabase, config, system_clock};
use crate::support::rules::{rule_row, rule_text};
use crate::support::servers::{Kind, Server};
use crate::support::swarm::{DEADLINE, Swarm, wait_for};

pub(super) async fn all(server: &Server) {
    a_master_without_a_lease_keeps_others_away(server).await;
    nothing_is_written_beside_a_master_without_a_lease(server).await;
    a_session_that_stays_keeps_nobody_away(server).await;
    without_a_lease_there_is_the_lock(server).await;
}

/// What a session may hold: the lock that version 0.1 knows, and the mark of a master with a lease.
#[derive(Debug, Clone, Copy)]
enum Held {
    Lock,
    Mark,
}

impl Held {
    fn name(self, kind: Kind) -> String {
        match (kind, self) {
            (Kind::Postgres, Self::Lock) => "8247617475583766115".to_owned(),
            (Kind::Postgres, Self::Mark) => "8247617475583766116".to_owned(),
            (Kind::MariaDb, Self::Lock) => "CONCAT('rulesyncd:', LEFT(SHA2(DATABASE(), 256), 32))".to_owned(),
            (Kind::MariaDb, Self::Mark) => {
                "CONCAT('rulesyncd:lease:', LEFT(SHA2(DATABASE(), 256), 32))".to_owned()
            }
        }
    }

    /// Takes it for the session, and returns whether it could.
    async fn take(self, kind: Kind, session: &mut ExternalClient) -> bool {
        let name = self.name(kind);
        let take = match kind {
            Kind::Postgres => format!("SELECT CAST(pg_try_advisory_lock({name}) AS text)"),
            Kind::MariaDb => format!("SELECT CAST(GET_LOCK({name}, 0) AS CHAR)"),
        };
        matches!(session.text(&take).await.as_deref(), Some("true" | "1"))
    }

    /// As [`Held::take`], as soon as it is free.
    async fn wait_for(self, kind: Kind, session: &mut ExternalClient) {
        for _ in 0..6_000 {
            if self.take(kind, session).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{self:?} did not come free");
    }
}

async fn wait_for_session(database: &Database) {
    for _ in 0..200 {
        if let Some(session) = database.try_lock().await.unwrap() {
            return session.close().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the lock did not come free");
}

/// While a master of version 0.1 holds the server's lock, nobody takes the lease: neither one that was released, nor that
/// of an owner which died. `fleet` says who leads.
async fn a_master_without_a_lease_keeps_others_away(server: &Server) {
    let address = server.create("upgrade").await;
    let field = TestDatabase::server(&address).await;
    let (mut external, mut old) = (field.external().await, field.external().await);
    let session = field.session().await;
    let here = cell(&mut external, "session").await;
    assert!(!here.is_empty());
    session.close().await;
    Held::Lock.wait_for(server.kind(), &mut old).await;
    let other = Database::open(&config(&address), system_clock()).await.unwrap();
    for _ in 0..3 {
        assert!(other.try_lock().await.unwrap().is_none());
    }
    let fleet = Swarm::on(&address).run(&["fleet"]);
    let fleet = String::from_utf8(fleet.stdout).unwrap();
    assert!(fleet.contains(" by a master without a lease (session "), "{fleet}");
    assert!(!fleet.contains("no master"), "{fleet}");
    // A worker does not see the server's lock.
    let swarm = Swarm::on(&address);
    let _worker = swarm.worker();
    wait_for("the worker to say who has not the lease", || {
        let status = swarm.run(&["status", "--socket", swarm.socket().to_str().unwrap()]);
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(!status.contains("no master since"), "{status}");
        status.contains("no master has held the lease since ").then_some(())
    });

    // The owner held the lock at this server, and was silent for as long as its lease lasts.
    external
        .run(&format!("UPDATE rulesyncd_lease SET owner = 'dead', session = '{here}', lease_ms = 50"))
        .await;
    for _ in 0..3 {
        assert!(other.try_lock().await.unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(old);
    wait_for_session(&other).await;
}

/// A master whose session ended that had the lock does not know it yet: one of version 0.1 was faster.
async fn nothing_is_written_beside_a_master_without_a_lease(server: &Server) {
    let field = TestDatabase::server(&server.create("beside").await).await;
    let (mut external, mut old) = (field.external().await, field.external().await);
    let mut master = field.session().await;
    master.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await.unwrap();
    end_the_lock_holder(server.kind(), &mut external).await;
    Held::Lock.wait_for(server.kind(), &mut old).await;
    let write = [RuleWrite::Upsert(rule_row("R1", 2)), RuleWrite::Upsert(rule_row("R2", 1))];
    assert_lock_lost(master.apply(write).await, "another master has taken the lease, or the server's lock");
    let rows = field.database.rows(Scope::All).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.rule_id.as_str(), row.rule_version)).collect();
    assert_eq!(rows, [("R1", 1)]);
    drop((master, old));
    wait_for_session(&field.database).await;
}

/// The session of a master that was robbed while it was frozen keeps the lock. Another one leads without, although the row
/// is missing, releases the lease, and a third one leads. Once the session ends, a master has the lock again, also one that was robbed before.
async fn a_session_that_stays_keeps_nobody_away(server: &Server) {
    let address = server.create("stays").await;
    let field = TestDatabase::server(&address).await;
    let (mut external, mut frozen) = (field.external().await, field.external().await);
    let mut master = field.session().await;
    external.run("UPDATE rulesyncd_lease SET owner = 'another', term = term + 1").await;
    let robbed = master.apply([RuleWrite::Upsert(rule_row("R1", 1))]).await;
    assert_lock_lost(robbed, "another master has taken the lease");
    drop(master);
    for held in [Held::Mark, Held::Lock] {
        held.wait_for(server.kind(), &mut frozen).await;
    }
    external.run("DELETE FROM rulesyncd_lease").await;
    let other = Database::open(&config(&address), system_clock()).await.unwrap();
    for database in [&other, &field.database] {
        let mut session = database.try_lock().await.unwrap().expect("a lease that is free");
        session.apply([RuleWrite::Upsert(rule_row("R1", 2))]).await.unwrap();
        session.close().await;
    }
    let mut session = field.database.try_lock().await.unwrap().expect("a released lease");
    let (release, held) = match server.kind() {
        Kind::Postgres => (
            "SELECT pg_advisory_unlock_all()",
            "SELECT CAST(COUNT(*) AS text) FROM pg_locks WHERE locktype = 'advisory' AND granted".to_owned(),
        ),
        Kind::MariaDb => {
            let holders = [Held::Lock, Held::Mark].map(|held| held.name(Kind::MariaDb));
            let both = format!("IS_USED_LOCK({}) = IS_USED_LOCK({})", holders[0], holders[1]);
            ("DO RELEASE_ALL_LOCKS()", format!("SELECT CASE WHEN {both} THEN '2' ELSE '0' END"))
        }
    };
    frozen.run(release).await;
    let begin = std::time::Instant::now();
    while external.text(&held).await.as_deref() != Some("2") {
        assert!(begin.elapsed() < DEADLINE, "the lock is free");
        session.ping().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nothing is said of it: who gets the lock of a master that was robbed with it does not know that it has ended.
    assert_eq!(cell(&mut external, "session").await, "");
    session.close().await;
}

/// Without the table of the lease, the server's lock alone makes one writer, and the log says what to do.
async fn without_a_lease_there_is_the_lock(server: &Server) {
    let address = server.create("lockless").await;
    let field = TestDatabase::server(&address).await;
    let mut external = field.external().await;
    external.run("DROP TABLE rulesyncd_lease").await;
    external.run("CREATE TABLE rulesyncd_lease (other INT)").await;
    let swarm = Swarm::on(&address);
    swarm.save("A.yaml", rule_text("A", 1));
    let first = master(&swarm);
    first.wait_for_log("A added from A.yaml");
    first.wait_for_log("compare the tables with those that the README shows");
    assert_eq!(first.count_in_log("there is no lease"), 1, "{}", first.log());
    assert_eq!(first.count_in_log("GRANT"), 0, "{}", first.log());
    assert!(lease_of(&swarm)["lease_problem"].as_str().unwrap().contains("README"));
    // Its lock has no mark.
    assert!(Held::Mark.take(server.kind(), &mut external).await);
    drop(external);
    let other = Database::open(&config(&address), system_clock()).await.unwrap();
    assert!(other.try_lock().await.unwrap().is_none());
    first.kill();
    wait_for_session(&other).await;
}
