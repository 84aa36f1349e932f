//! What triggers of the test record of every committed transaction, gates that hold a transaction at a certain moment, and
//! the judge of the record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::faults::patience;
use crate::support::databases::ExternalClient;
use crate::support::servers::Kind;

/// The rule at which [`Gate::Row`] holds a transaction.
pub(super) const HELD: &str = "R00050";

/// The rule at which [`Gate::LateRow`] does: in the second transaction of a bulk write.
const HELD_LATE: &str = "R10200";

/// Where a transaction waits while the test has the gate closed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gate {
    /// At the rule [`HELD`].
    Row,
    /// After the fence of a transaction that wrote rules, before its COMMIT.
    Fence,
    /// At the rule [`HELD_LATE`].
    LateRow,
}

/// The lease is recorded where its beat rises: when its owner gets the server's lock later, it only names its session.
const POSTGRES: [&str; 5] = [
    "CREATE TABLE audit (n BIGSERIAL PRIMARY KEY, tx TEXT NOT NULL, rule TEXT, version BIGINT, owner TEXT, \
     term BIGINT, beat BIGINT); CREATE INDEX ON audit (tx)",
    "CREATE FUNCTION pass(gate BIGINT) RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
     WHILE NOT pg_try_advisory_xact_lock_shared(gate) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$",
    "CREATE FUNCTION audit_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     INSERT INTO audit (tx, rule, version) VALUES (txid_current()::text, NEW.rule_id, NEW.rule_version); \
     IF NEW.rule_id = 'R00050' THEN PERFORM pass(1); END IF; \
     IF NEW.rule_id = 'R10200' THEN PERFORM pass(3); END IF; RETURN NULL; END $$",
    "CREATE FUNCTION audit_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     IF NEW.beat <> OLD.beat THEN \
     INSERT INTO audit (tx, owner, term, beat) VALUES (txid_current()::text, NEW.owner, NEW.term, NEW.beat); END IF; \
     IF EXISTS (SELECT FROM audit WHERE tx = txid_current()::text AND rule IS NOT NULL) THEN PERFORM pass(2); END IF; \
     RETURN NULL; END $$",
    "CREATE TRIGGER audit AFTER INSERT OR UPDATE ON ttp_rule FOR EACH ROW EXECUTE FUNCTION audit_rule(); \
     CREATE TRIGGER audit AFTER UPDATE ON rulesyncd_lease FOR EACH ROW EXECUTE FUNCTION audit_lease()",
];

/// MariaDB tells a trigger no transaction: it is the session's of this server with its number, which rises after the fence. What was
/// rolled back before its fence left nothing, so the next one may have its number.
fn mariadb() -> Vec<String> {
    let rule = |event: &str| {
        format!(
            "CREATE TRIGGER audit_{event} AFTER {event} ON ttp_rule FOR EACH ROW BEGIN \
             SET @tx = COALESCE(@tx, 1); \
             INSERT INTO audit (tx, rule, version) \
             VALUES (CONCAT(@@server_id, '-', CONNECTION_ID(), '-', @tx), NEW.rule_id, NEW.rule_version); \
             IF NEW.rule_id = '{HELD}' THEN \
             DO GET_LOCK(CONCAT(DATABASE(), '-1'), 60); DO RELEASE_LOCK(CONCAT(DATABASE(), '-1')); END IF; \
             IF NEW.rule_id = '{HELD_LATE}' THEN \
             DO GET_LOCK(CONCAT(DATABASE(), '-3'), 60); DO RELEASE_LOCK(CONCAT(DATABASE(), '-3')); END IF; END"
        )
    };
    vec![
        "CREATE TABLE audit (n BIGINT AUTO_INCREMENT PRIMARY KEY, tx VARCHAR(64) NOT NULL, rule VARCHAR(255), \
         version BIGINT, owner VARCHAR(64), term BIGINT, beat BIGINT, KEY (tx))"
            .to_owned(),
        rule("INSERT"),
        rule("UPDATE"),
        "CREATE TRIGGER audit_lease AFTER UPDATE ON rulesyncd_lease FOR EACH ROW BEGIN \
         SET @tx = COALESCE(@tx, 1); \
         IF NEW.beat <> OLD.beat THEN INSERT INTO audit (tx, owner, term, beat) \
         VALUES (CONCAT(@@server_id, '-', CONNECTION_ID(), '-', @tx), NEW.owner, NEW.term, NEW.beat); END IF; \
         IF EXISTS (SELECT 1 FROM audit WHERE tx = CONCAT(@@server_id, '-', CONNECTION_ID(), '-', @tx) AND rule IS NOT NULL) THEN \
         DO GET_LOCK(CONCAT(DATABASE(), '-2'), 60); DO RELEASE_LOCK(CONCAT(DATABASE(), '-2')); END IF; \
         SET @tx = @tx + 1; END"
            .to_owned(),
    ]
}

/// A connection of the test, whose triggers record what is committed.
pub(super) struct Audit {
    pub(super) external: ExternalClient,
    kind: Kind,
}

impl Audit {
    /// The tables exist already.
    pub(super) async fn begin(mut external: ExternalClient, kind: Kind) -> Self {
        match kind {
            Kind::Postgres => {
                for statement in POSTGRES {
                    external.run(statement).await;
                }
            }
            Kind::MariaDb => {
                for statement in mariadb() {
                    external.run(&statement).await;
                }
            }
        }
        Self { external, kind }
    }

    /// At another server, which has the tables, the triggers and the records of one that ended.
    pub(super) const fn go_on(external: ExternalClient, kind: Kind) -> Self {
        Self { external, kind }
    }

    /// Closes a gate: the next transaction that comes to it waits.
    pub(super) async fn close(&mut self, gate: Gate) {
        let close = match self.kind {
            Kind::Postgres => format!("SELECT CAST(pg_try_advisory_lock({}) AS text)", gate as u8 + 1),
            Kind::MariaDb => {
                format!("SELECT CAST(GET_LOCK(CONCAT(DATABASE(), '-{}'), 5) AS CHAR)", gate as u8 + 1)
            }
        };
        assert!(matches!(self.external.text(&close).await.as_deref(), Some("true" | "1")));
    }

    pub(super) async fn open(&mut self, gate: Gate) {
        let open = match self.kind {
            Kind::Postgres => format!("SELECT CAST(pg_advisory_unlock({}) AS text)", gate as u8 + 1),
            Kind::MariaDb => {
                format!("SELECT CAST(RELEASE_LOCK(CONCAT(DATABASE(), '-{}')) AS CHAR)", gate as u8 + 1)
            }
        };
        assert!(matches!(self.external.text(&open).await.as_deref(), Some("true" | "1")));
    }

    /// Whether a transaction waits at a gate.
    pub(super) async fn is_waited_for(&mut self) -> bool {
        let waiting = match self.kind {
            Kind::Postgres => {
                "SELECT COUNT(*)::text FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event = 'PgSleep'"
            }
            Kind::MariaDb => {
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.processlist WHERE db = DATABASE() \
                 AND state = 'User lock'"
            }
        };
        self.external.text(waiting).await.as_deref() != Some("0")
    }

    pub(super) async fn until_it_is_waited_for(&mut self) {
        let deadline = Instant::now() + patience();
        while !self.is_waited_for().await {
            assert!(Instant::now() < deadline, "no transaction came to the gate");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// How many rules there are of each version.
    pub(super) async fn versions(&mut self) -> BTreeMap<String, usize> {
        let rows = self.external.rows("SELECT CONCAT(rule_version, '') FROM ttp_rule").await;
        let mut versions = BTreeMap::new();
        for version in rows.into_iter().filter_map(|row| row.into_iter().next().flatten()) {
            *versions.entry(version).or_default() += 1;
        }
        versions
    }

    pub(super) async fn until_versions_are(&mut self, version: &str, count: usize) {
        let (deadline, wanted) = (Instant::now() + patience(), BTreeMap::from([(version.to_owned(), count)]));
        loop {
            let found = self.versions().await;
            if found == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} and not {wanted:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Every transaction that wrote rules ends with the lease of its writer, and in the order of the beats no transaction
    /// of an old term follows one of a new term. `writer` is the master that writes a version. Returns the terms.
    pub(super) async fn judge(&mut self, writer: impl Fn(&str) -> &'static str) -> BTreeSet<u64> {
        let query = "SELECT tx, CONCAT(COALESCE(version, 0), ''), COALESCE(owner, ''), \
                     CONCAT(COALESCE(term, 0), ''), CONCAT(COALESCE(beat, 0), '') FROM audit ORDER BY n";
        let mut writes: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
        let mut leases: Vec<(u64, u64, String, String)> = Vec::new();
        for row in self.external.rows(query).await {
            let [tx, version, owner, term, beat] = row.try_into().unwrap();
            let (tx, version, owner) = (tx.unwrap(), version.unwrap(), owner.unwrap());
            let (term, beat): (u64, u64) = (term.unwrap().parse().unwrap(), beat.unwrap().parse().unwrap());
            if version == "0" {
                leases.push((beat, term, owner, tx));
            } else {
                writes.entry(tx).or_default().insert(writer(&version));
            }
        }
        assert!(!writes.is_empty(), "nothing was recorded");
        leases.sort();
        let (mut owners, mut last) = (BTreeMap::new(), (0, 0));
        for (beat, term, owner, tx) in &leases {
            assert!(*beat > last.0 && *term >= last.1, "beat {beat}, term {term} after {last:?}: {leases:?}");
            last = (*beat, *term);
            if let Some(writers) = writes.remove(tx) {
                assert_eq!(writers.len(), 1, "{writers:?} in one transaction");
                let writer = writers.into_iter().next().unwrap();
                assert_eq!(*owners.entry(owner.clone()).or_insert(writer), writer, "under one lease");
            }
        }
        assert!(writes.is_empty(), "transactions without a fence: {writes:?}");
        assert_eq!(owners.len(), owners.values().collect::<BTreeSet<_>>().len(), "two leases of one master");
        leases.iter().map(|(_, term, ..)| *term).filter(|term| *term > 0).collect()
    }
}
