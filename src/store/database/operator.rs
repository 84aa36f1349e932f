//! The connection of an operator who writes states, and the transactions on it.

use super::Database;
use super::connection::Connection;
use super::state_rows;
use super::version::{self, VersionWriter};
use crate::clock::Timestamp;
use crate::rule::{RuleId, RuleState};
use crate::store::StoreError;
use crate::store::transaction::{Last, Rows, Transaction, WriteSession};
use crate::telemetry::trace;

/// A write of an operator: all of it in one transaction.
pub(super) enum StateWrite {
    /// Sets the same state for all rules.
    Set(RuleState),
    /// Clears the states; with a name only those that it has set.
    Clear { set_by: Option<String> },
}

impl StateWrite {
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Set(_) => "setting a state",
            Self::Clear { .. } => "clearing a state",
        }
    }

    /// Writes, and returns for each rule the new state as it is stored; `None` if there was none to clear.
    async fn run(
        &self,
        database: &Database,
        connection: &mut Connection,
        rule_ids: &[RuleId],
    ) -> Result<Vec<Option<RuleState>>, StoreError> {
        state_rows::refuse_other_cases(connection, self.what(), rule_ids).await?;
        match self {
            Self::Set(state) => {
                let now = database.now_on(connection).await?;
                let standing = state_rows::read_all(connection, rule_ids).await?;
                let standing = standing.values().flatten().filter_map(|row| row.set_at);
                let rows = database.stamped(rule_ids, now, standing);
                state_rows::write(connection, &rows, state).await?;
                // Read back, because a column of whole seconds truncates the stamp.
                let mut written = state_rows::read_all(connection, rule_ids).await?;
                let stored = |rule_id: &RuleId| {
                    let row = written.remove(rule_id.as_str()).and_then(Result::ok);
                    Ok(Some(row.map(|row| row.state()).transpose()?.unwrap_or_default()))
                };
                rule_ids.iter().map(stored).collect()
            }
            Self::Clear { set_by } => {
                let mut cleared = Vec::with_capacity(rule_ids.len());
                for rule_id in rule_ids {
                    let is_cleared = state_rows::delete(connection, rule_id, set_by.as_deref()).await?;
                    cleared.push(is_cleared.then(RuleState::default));
                }
                Ok(cleared)
            }
        }
    }

    /// How many rows a write that returned `done` changed.
    fn rows(&self, done: &[Option<RuleState>]) -> Rows {
        let changed = done.iter().flatten().count() as u64;
        Rows { changed, deleted: if matches!(self, Self::Set(_)) { 0 } else { changed } }
    }
}

/// A write of an operator to these rules.
pub(super) struct StateTransaction<'t> {
    pub(super) rule_ids: &'t [RuleId],
    pub(super) write: &'t StateWrite,
}

impl Transaction<Operator<'_>> for StateTransaction<'_> {
    /// For each rule what [`StateWrite`] returns, and when it was written.
    type Done = (Vec<Option<RuleState>>, Option<Timestamp>);

    async fn write(&self, operator: &mut Operator<'_>) -> Result<(Self::Done, Rows), StoreError> {
        let done = self.write.run(operator.database, &mut operator.connection, self.rule_ids).await?;
        let rows = self.write.rows(&done);
        Ok(((done, trace::now()), rows))
    }
}

/// A connection that has no lease.
pub(super) struct Operator<'d> {
    pub(super) database: &'d Database,
    pub(super) connection: Connection,
    pub(super) version: VersionWriter,
    pub(super) what: &'static str,
}

impl WriteSession for Operator<'_> {
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.connection.run(self.what, self.connection.dialect().begin_write).await
    }

    async fn finish(&mut self, last: &[Last]) -> Result<u64, StoreError> {
        version::finish(&mut self.connection, last, None).await
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        self.connection.run(self.what, "COMMIT").await
    }

    async fn roll_back(&mut self) {
        self.connection.run(self.what, "ROLLBACK").await.ok();
    }

    fn raises(&self) -> bool {
        self.version.problem().is_none()
    }

    async fn goes_without_version(&mut self, error: &StoreError) -> bool {
        self.version.gives_up(&mut self.connection, error).await
    }
}
