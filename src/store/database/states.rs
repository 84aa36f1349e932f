//! Reads and writes the operators' states.

use std::sync::PoisonError;

use super::connection::Connection;
use super::operator::{Operator, StateTransaction, StateWrite};
use super::sql::Purpose;
use super::version::VersionWriter;
use super::{Database, DatabaseFollower, state_rows, trace_context};
use crate::clock::Timestamp;
use crate::rule::{ChangeKind, ContentDigest, RuleId, RuleState, StateKind};
use crate::store::transaction::transact;
use crate::store::{RuleStore, StoreError, TraceContextRow};
use crate::telemetry::metrics;
use crate::telemetry::trace::{self, Span};

impl RuleStore for Database {
    type Follower = DatabaseFollower;

    async fn get_state(&self, rule_id: &RuleId) -> Result<RuleState, StoreError> {
        let rule_id = rule_id.clone();
        self.ask("reading a state", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let row = state_rows::read(&mut connection, &rule_id).await?;
            let now = database.now_on(&mut connection).await?;
            connection.close().await;
            Ok(row.map(|row| row.state()).transpose()?.unwrap_or_default().effective(now))
        })
        .await
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        let states = self.set_states(std::slice::from_ref(rule_id), &state).await?;
        Ok(states.into_iter().next().unwrap_or_default())
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let cleared = self.clear_states(std::slice::from_ref(rule_id), None).await?;
        Ok(cleared.contains(&true))
    }

    fn follow(&self) -> DatabaseFollower {
        DatabaseFollower::new(self.clone())
    }
}

/// The spans of states that are set or cleared, one for each rule.
fn state_changes(rule_ids: &[RuleId], state: StateKind, set_by: Option<&str>) -> Vec<Span> {
    let change = |rule_id: &RuleId| {
        let mut change = Span::root("ttp.rule.state.change", trace::now());
        change.set("rule_id", rule_id.to_string());
        change.set("state", state.as_str());
        if let Some(set_by) = set_by {
            change.set("set_by", set_by.to_owned());
        }
        change
    };
    rule_ids.iter().map(change).collect()
}

/// The trace contexts of the spans that are recorded.
fn trace_contexts(rule_ids: &[RuleId], content: ContentDigest, changes: &[Span]) -> Vec<TraceContextRow> {
    let context = |(rule_id, change): (&RuleId, &Span)| {
        let (rule_id, change_kind) = (rule_id.to_string(), ChangeKind::State);
        Some(TraceContextRow { rule_id, change_kind, content, traceparent: change.traceparent()? })
    };
    rule_ids.iter().zip(changes).filter_map(context).collect()
}

impl Database {
    /// Sets the same state for all these rules in one transaction. Returns the states as they are stored, in the same
    /// order. The `set_at` of each is greater than that of the one before, within the resolution of the column.
    ///
    /// # Errors
    /// As [`RuleStore::set_state`], if it fails for one of the rules; nothing is written then.
    pub async fn set_states(
        &self,
        rule_ids: &[RuleId],
        state: &RuleState,
    ) -> Result<Vec<RuleState>, StoreError> {
        state.validate()?;
        let changes = state_changes(rule_ids, state.state, state.set_by.as_deref());
        let contexts = trace_contexts(rule_ids, state.fingerprint(), &changes);
        let write = self.write_states(rule_ids, StateWrite::Set(state.clone()), (changes, contexts));
        let states = metrics::timed("set_state", write).await?;
        Ok(states.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Clears the states of all these rules in one transaction, or only those that `set_by` has set. Returns for each
    /// rule whether there was such a state, in the same order.
    ///
    /// # Errors
    /// As [`RuleStore::clear_state`], if it fails for one of the rules; nothing is written then.
    pub async fn clear_states(
        &self,
        rule_ids: &[RuleId],
        set_by: Option<&str>,
    ) -> Result<Vec<bool>, StoreError> {
        let changes = state_changes(rule_ids, StateKind::default(), None);
        let contexts = trace_contexts(rule_ids, RuleState::default().fingerprint(), &changes);
        let write = StateWrite::Clear { set_by: set_by.map(str::to_owned) };
        let write = self.write_states(rule_ids, write, (changes, contexts));
        let cleared = metrics::timed("clear_state", write).await?;
        Ok(cleared.iter().map(Option::is_some).collect())
    }

    fn write_states(
        &self,
        rule_ids: &[RuleId],
        write: StateWrite,
        (changes, contexts): (Vec<Span>, Vec<TraceContextRow>),
    ) -> impl Future<Output = Result<Vec<Option<RuleState>>, StoreError>> {
        let rule_ids = rule_ids.to_vec();
        self.ask(write.what(), |database| async move {
            let done = database.write_in_transaction(&rule_ids, &write, (&changes, contexts)).await;
            for mut change in changes {
                if done.is_err() {
                    change.fail();
                }
                change.end(trace::now());
            }
            done
        })
    }

    /// Runs `write` in a transaction of an operator's connection.
    async fn write_in_transaction(
        &self,
        rule_ids: &[RuleId],
        write: &StateWrite,
        (changes, contexts): (&[Span], Vec<TraceContextRow>),
    ) -> Result<Vec<Option<RuleState>>, StoreError> {
        let what = write.what();
        let children = |name, start| changes.iter().map(move |change| change.child(name, start));
        let writing: Vec<Span> = children("ttp.store.write_state", trace::now()).collect();
        let mut connection = Connection::open(&self.connector, Purpose::Write).await?;
        if !contexts.is_empty() {
            // If this fails, the worker begins a new trace.
            trace_context::write(&mut connection, &contexts).await.ok();
        }
        let version = VersionWriter::of_operator(&mut connection).await?;
        let mut operator = Operator { database: self, connection, version, what };
        let (done, written) = transact(&mut operator, &StateTransaction { rule_ids, write }).await?;
        let publishing: Vec<Span> = children("ttp.rule.publish", written).collect();
        writing.into_iter().for_each(|span| span.end(written));
        self.wake_followers();
        publishing.into_iter().for_each(|span| span.end(trace::now()));
        operator.connection.close().await;
        Ok(done)
    }

    /// The rules with stamps that rise above each other and above all that this process gave and the rows have, within
    /// [`RisingStamp::REACH`] of `now`.
    pub(super) fn stamped(
        &self,
        rule_ids: &[RuleId],
        now: Timestamp,
        standing: impl Iterator<Item = Timestamp>,
    ) -> Vec<(RuleId, Timestamp)> {
        let mut stamp = self.shared.set_at.lock().unwrap_or_else(PoisonError::into_inner);
        standing.for_each(|seen| stamp.rise_above(seen, now));
        rule_ids.iter().map(|rule_id| (rule_id.clone(), stamp.next(now))).collect()
    }
}
