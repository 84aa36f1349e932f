//! The transactions that write rules.

use super::manifest::{self, ManifestWrite};
use super::session::Session;
use super::tables;
use super::writes::{Applied, Premise, RuleWrite, WRITING, batches, take_too_large, transactions};
use crate::clock::{RisingStamp, Timestamp};
use crate::rule::Table;
use crate::store::StoreError;
use crate::store::transaction::{Rows, Transaction, transact};
use crate::telemetry::trace;

/// The most locked rows for which the session waits.
const FEW_LOCKED: usize = 8;

/// A transaction that writes rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuleTransaction<'a> {
    pub(super) writes: &'a [RuleWrite],
    pub(super) premise: Option<&'a Premise>,
    /// The manifest to write, if any.
    pub(super) manifest: Option<&'a ManifestWrite>,
}

impl Transaction<Session> for RuleTransaction<'_> {
    /// How many rows were written, and when the last was, as [`super::Applied`] has them.
    type Done = (u64, Option<Timestamp>);

    async fn compare(&self, session: &mut Session) -> Result<(), StoreError> {
        let read = match self.premise {
            None => return Ok(()),
            Some(Premise::AskedFor(gone)) if gone.is_cancelled() => {
                return Err(StoreError::Withdrawn { what: WRITING });
            }
            Some(Premise::AskedFor(_)) => return Ok(()),
            Some(Premise::AsRead(read)) => read,
        };
        let keys: Vec<String> = read.keys.iter().cloned().collect();
        let mut now = tables::locked_summaries(&mut session.connection, &keys).await?;
        let mut then = read.rows.clone();
        for rows in [&mut now, &mut then] {
            rows.sort_unstable_by(|a, b| a.rule_id.cmp(&b.rule_id));
        }
        if now == then { Ok(()) } else { Err(StoreError::RowsChanged { what: WRITING }) }
    }

    async fn write(&self, session: &mut Session) -> Result<(Self::Done, Rows), StoreError> {
        if let Some(manifest) = self.manifest {
            let now = session.database.now_on(&mut session.connection).await?;
            manifest::write(&mut session.connection, manifest, now).await?;
        }
        let rules = session.write_rows(self.writes).await?;
        let changed = rules.changed + u64::from(self.manifest.is_some());
        Ok(((rules.changed, trace::now()), Rows { changed, ..rules }))
    }
}

impl Session {
    pub(super) async fn apply(
        &mut self,
        mut writes: Vec<RuleWrite>,
        premise: Option<&Premise>,
    ) -> Result<Applied, StoreError> {
        let rejected = take_too_large(&mut writes, self.connection.longest_statement());
        let mut applied = Applied { rejected, ..Applied::default() };
        if writes.is_empty() {
            return Ok(applied);
        }
        let (mut locked, transactions) = (0, transactions(&writes));
        for writes in &transactions {
            // A transaction of several sees what those before it wrote.
            let is_part = transactions.len() > 1;
            let premise = premise.map(|premise| if is_part { premise.of(writes) } else { premise.clone() });
            self.apply_together(writes, premise.as_ref(), &mut applied, &mut locked).await?;
        }
        Ok(applied)
    }

    /// Writes in one transaction; if the database rejects a row of it, or another session has one locked, each row in its
    /// own. A conflict is between transactions: this one was repeated as a whole.
    async fn apply_together(
        &mut self,
        writes: &[RuleWrite],
        premise: Option<&Premise>,
        applied: &mut Applied,
        locked: &mut usize,
    ) -> Result<(), StoreError> {
        match transact(self, &RuleTransaction { writes, premise, manifest: None }).await {
            Err(StoreError::RowRejected { .. } | StoreError::RowLocked { .. }) => {}
            done => {
                applied.add(done?);
                return Ok(());
            }
        }
        for write in writes {
            let single = std::slice::from_ref(write);
            let premise = premise.map(|premise| premise.of(single));
            let single = RuleTransaction { writes: single, premise: premise.as_ref(), manifest: None };
            match transact(self, &single).await {
                Ok(done) => applied.add(done),
                Err(error @ StoreError::RowLocked { .. }) if *locked < FEW_LOCKED => {
                    *locked += 1;
                    applied.rejected.push((write.rule_id().to_owned(), error));
                }
                Err(error @ StoreError::RowRejected { .. }) => {
                    applied.rejected.push((write.rule_id().to_owned(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes in the transaction of the caller.
    pub(super) async fn write_rows(&mut self, writes: &[RuleWrite]) -> Result<Rows, StoreError> {
        let now = self.database.now_on(&mut self.connection).await?;
        let mut rows = Rows::default();
        let alike = |a: &RuleWrite, b: &RuleWrite| match (a, b) {
            (RuleWrite::Upsert(_), RuleWrite::Upsert(_)) => true,
            (RuleWrite::Delete { updated_by: a, .. }, RuleWrite::Delete { updated_by: b, .. }) => a == b,
            _ => false,
        };
        let longest = self.connection.longest_statement();
        for batch in writes.chunk_by(alike).flat_map(|alike| batches(alike, longest)) {
            rows.changed += match &batch[0] {
                RuleWrite::Upsert(_) => self.upsert(batch, now).await?,
                RuleWrite::Delete { updated_by, .. } => {
                    let gone = self.delete(batch, updated_by).await?;
                    rows.deleted += gone;
                    gone
                }
            };
        }
        Ok(rows)
    }

    async fn upsert(&mut self, batch: &[RuleWrite], now: Timestamp) -> Result<u64, StoreError> {
        let mut rows = Vec::with_capacity(batch.len());
        for write in batch {
            if let RuleWrite::Upsert(row) = write {
                let stamp = self.stamp(&row.header.updated_by, now).await?;
                rows.push((row, stamp));
            }
        }
        let query = tables::upsert(self.connection.dialect(), Table::Rules, &rows, |query, &(row, stamp)| {
            query
                .text(&*row.header.rule_id)
                .push(", ")
                .int(row.header.rule_version)
                .push(", ")
                .text(&*row.header.source_path)
                .push(", ")
                .text(&*row.yaml_content)
                .push(", ")
                .time(Some(stamp))
                .push(", ")
                .text(&*row.header.updated_by)
        });
        self.connection.execute(WRITING, query).await?;
        Ok(rows.len() as u64)
    }

    async fn delete(&mut self, batch: &[RuleWrite], updated_by: &str) -> Result<u64, StoreError> {
        let keys: Vec<String> = batch.iter().map(|write| write.rule_id().to_owned()).collect();
        let exact = self.connection.dialect().exact;
        // The first comparison uses the index, the second respects case.
        let query = self
            .connection
            .query("DELETE FROM ttp_rule WHERE rule_id IN ")
            .texts(&keys)
            .push(&format!(" AND {} IN ", exact("rule_id")))
            .texts(&keys)
            .push(&format!(" AND {} = ", exact("updated_by")))
            .text(updated_by);
        self.connection.execute(WRITING, query).await
    }

    /// The next stamp for an owner's row: it rises above the owner's stamps that are within [`RisingStamp::REACH`] of
    /// `now`.
    async fn stamp(&mut self, owner: &str, now: Timestamp) -> Result<Timestamp, StoreError> {
        if !self.stamps.contains_key(owner) {
            let (latest, by) =
                (self.text("max(updated_at)"), (self.connection.dialect().exact)("updated_by"));
            // A stamp beyond the reach would hide those within it.
            let query = self
                .connection
                .query(format!("SELECT {latest} FROM ttp_rule WHERE {by} = "))
                .text(owner)
                .push(" AND updated_at <= ")
                .time(Some(now.after(RisingStamp::REACH)));
            let latest = self.connection.cell("reading the latest stamp", query).await?;
            let mut stamp = RisingStamp::default();
            stamp.rise_above(Timestamp::parse(latest.shown()).unwrap_or(Timestamp::MIN), now);
            self.stamps.insert(owner.to_owned(), stamp);
        }
        let stamp = self.stamps.entry(owner.to_owned()).or_default().next(now);
        // Truncated here, because a server may round up to a time in the future.
        Ok(if self.whole_seconds { stamp.whole_second() } else { stamp })
    }
}
