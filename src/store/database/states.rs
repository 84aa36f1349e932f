//! Reads and writes the operators' states.

use std::sync::PoisonError;

use super::connection::Connection;
use super::sql::Purpose;
use super::version::VersionWriter;
use super::{Database, DatabaseFollower, tables, trace_context};
use crate::clock::Timestamp;
use crate::rule::{ChangeKind, CompiledRule, ContentDigest, RuleId, RuleState, StateKind, StateRow};
use crate::store::{RuleStore, StoreError, TraceContextRow, subscription};
use crate::telemetry::metrics;
use crate::telemetry::trace::{self, Span};

impl RuleStore for Database {
    type Follower = DatabaseFollower;

    async fn load_compiled(&self) -> Result<Vec<CompiledRule>, StoreError> {
        subscription::load(self.follow()).await
    }

    async fn get_state(&self, rule_id: &RuleId) -> Result<RuleState, StoreError> {
        let rule_id = rule_id.clone();
        self.ask("reading a state", |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Read).await?;
            let row = tables::state_of(&mut connection, &rule_id).await?;
            let now = database.now_on(&mut connection).await?;
            connection.close().await;
            Ok(row.map(|row| row.state()).transpose()?.unwrap_or_default().effective(now))
        })
        .await
    }

    async fn set_state(&self, rule_id: &RuleId, state: RuleState) -> Result<RuleState, StoreError> {
        state.validate()?;
        let change = state_change(rule_id, state.state, state.set_by.as_deref());
        let context = trace_context_of(rule_id, state.fingerprint(), &change);
        let rule_id = rule_id.clone();
        let write = self.ask("setting a state", |database| async move {
            let write = StateWrite::Set { rule_id, state };
            let write = database.write_state("setting a state", (&change, context), &write);
            let done = write.await;
            finish(change, done)
        });
        metrics::timed("set_state", write).await.map(Option::unwrap_or_default)
    }

    async fn clear_state(&self, rule_id: &RuleId) -> Result<bool, StoreError> {
        let change = state_change(rule_id, StateKind::default(), None);
        let context = trace_context_of(rule_id, RuleState::default().fingerprint(), &change);
        let rule_id = rule_id.clone();
        let write = self.ask("clearing a state", |database| async move {
            let write = StateWrite::Clear { rule_id };
            let write = database.write_state("clearing a state", (&change, context), &write);
            let done = write.await;
            finish(change, done)
        });
        metrics::timed("clear_state", write).await.map(|cleared| cleared.is_some())
    }

    fn follow(&self) -> DatabaseFollower {
        DatabaseFollower::new(self.clone())
    }
}

/// The span of a state that is set or cleared.
fn state_change(rule_id: &RuleId, state: StateKind, set_by: Option<&str>) -> Span {
    let mut change = Span::root("ttp.rule.state.change", trace::now());
    change.set("rule_id", rule_id.to_string());
    change.set("state", state.as_str());
    if let Some(set_by) = set_by {
        change.set("set_by", set_by.to_owned());
    }
    change
}

fn trace_context_of(rule_id: &RuleId, content: ContentDigest, change: &Span) -> Option<TraceContextRow> {
    let (rule_id, change_kind) = (rule_id.to_string(), ChangeKind::State);
    Some(TraceContextRow { rule_id, change_kind, content, traceparent: change.traceparent()? })
}

fn finish<T>(mut change: Span, done: Result<T, StoreError>) -> Result<T, StoreError> {
    if done.is_err() {
        change.fail();
    }
    change.end(trace::now());
    done
}

/// A write of an operator.
enum StateWrite {
    Set { rule_id: RuleId, state: RuleState },
    Clear { rule_id: RuleId },
}

impl StateWrite {
    /// Writes, and returns the new state as it is stored; `None` if there was none to clear.
    async fn run(
        &self,
        database: &Database,
        connection: &mut Connection,
    ) -> Result<Option<RuleState>, StoreError> {
        match self {
            Self::Set { rule_id, state } => {
                let now = database.now_on(connection).await?;
                tables::refuse_another_case(connection, "setting a state", rule_id).await?;
                let standing = tables::state_of(connection, rule_id).await?;
                let set_at = database.set_at(now, standing.and_then(|row| row.set_at));
                tables::write_state(connection, &StateRow::new(rule_id, state), set_at).await?;
                // Read back, because a column of whole seconds truncates the stamp.
                let written = tables::state_of(connection, rule_id).await?;
                Ok(Some(written.map(|row| row.state()).transpose()?.unwrap_or_default()))
            }
            Self::Clear { rule_id } => {
                tables::refuse_another_case(connection, "clearing a state", rule_id).await?;
                let cleared = tables::delete_state(connection, rule_id).await?;
                Ok(cleared.then(RuleState::default))
            }
        }
    }

    /// How many rows a write that returned `done` changed, and how many of them it deleted.
    const fn rows(&self, done: Option<&RuleState>) -> (u64, u64) {
        match (self, done) {
            (_, None) => (0, 0),
            (Self::Set { .. }, Some(_)) => (1, 0),
            (Self::Clear { .. }, Some(_)) => (1, 1),
        }
    }
}

impl Database {
    /// Runs `write` in a transaction of an operator's connection.
    async fn write_state(
        &self,
        what: &'static str,
        (change, context): (&Span, Option<TraceContextRow>),
        write: &StateWrite,
    ) -> Result<Option<RuleState>, StoreError> {
        let writing = change.child("ttp.store.write_state", trace::now());
        let mut connection = Connection::open(&self.connector, Purpose::Write).await?;
        if let Some(context) = context {
            // If this fails, the worker begins a new trace.
            trace_context::write(&mut connection, &[context]).await.ok();
        }
        let mut version = VersionWriter::of_operator(&mut connection).await?;
        let (done, written) = loop {
            connection.run(what, connection.dialect().begin_write).await?;
            // If this fails, the connection closes and the server rolls back.
            let done = write.run(self, &mut connection).await?;
            let written = trace::now();
            match version.publish(&mut connection, write.rows(done.as_ref())).await {
                Ok(()) => break (done, written),
                Err(error) => {
                    connection.run(what, "ROLLBACK").await.ok();
                    version.retry(connection.dialect(), error)?;
                }
            }
        };
        writing.end(written);
        let publishing = change.child("ttp.rule.publish", written);
        connection.run(what, "COMMIT").await?;
        self.wake_followers();
        publishing.end(trace::now());
        connection.close().await;
        Ok(done)
    }

    /// A stamp above every one that this process gave and that the row has, within [`RisingStamp::REACH`] of `now`.
    fn set_at(&self, now: Timestamp, standing: Option<Timestamp>) -> Timestamp {
        let mut stamp = self.shared.set_at.lock().unwrap_or_else(PoisonError::into_inner);
        stamp.rise_above(standing.unwrap_or(Timestamp::MIN), now);
        stamp.next(now)
    }
}
