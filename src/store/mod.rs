//! Where rules and states are stored: one trait, a store over a directory, and a store over a database with one small
//! file for each dialect.

mod budget;
mod database;
mod error;
mod filesystem;
mod lease;
mod leasing;
mod poll;
mod rows;
mod subscription;
#[cfg(test)]
mod tests;
mod transaction;
mod watermark;

use std::future::Future;
use std::sync::Arc;

#[cfg(any(test, fuzzing))]
pub use database::laws;
pub use database::{
    Applied, Database, DatabaseFollower, ManifestWrite, MasterSession, RowsAsRead, RuleWrite, Scope,
    quiet_driver_panics,
};
pub(crate) use database::{FleetReader, FleetTables, driver_failures};
pub use error::StoreError;
pub use filesystem::{FilesystemConfig, FilesystemFollower, FilesystemStore};
pub use poll::FollowConfig;
pub(crate) use rows::RowReader;
pub use subscription::Subscription;
pub(crate) use subscription::load;

use crate::fleet::WorkerReport;
pub use crate::rule::RowIndex;
pub(crate) use crate::rule::TextSink;
use crate::rule::{ChangeKind, CompiledRule, ContentDigest, RuleId, RuleState, TableDelta};
use crate::telemetry::trace::Traceparent;

/// The operation of a poll, in errors.
const READING: &str = "reading the tables";

/// A store of rules and operators' states.
///
/// Every implementation passes the same behavioural contract (`tests/it/store/contract.rs`).
pub trait RuleStore: Send + Sync {
    /// How a worker follows this store.
    type Follower: Follow;

    /// Every valid rule with its effective state, by id. [`Follow::poll`] reports the rows that are not valid.
    ///
    /// # Errors
    /// The current rules and states cannot be read.
    fn load_compiled(&self) -> impl Future<Output = Result<Vec<CompiledRule>, StoreError>> + Send {
        async { Ok(load(self).await?.0.compiled()) }
    }

    /// The effective state; the default for a rule that has no state, or an expired one, or does not exist.
    fn get_state(&self, rule_id: &RuleId) -> impl Future<Output = Result<RuleState, StoreError>> + Send;

    /// Sets a state, replaces an existing one, and returns the state as it is stored. The store sets `set_at` greater
    /// than every stamp that it gave before, within the resolution of the column, which may be a second.
    ///
    /// # Errors
    /// [`StoreError::InvalidState`] if the state is not valid, and [`StoreError::Refused`] if a database has a state
    /// only of a case variant of this id; nothing is written then.
    fn set_state(
        &self,
        rule_id: &RuleId,
        state: RuleState,
    ) -> impl Future<Output = Result<RuleState, StoreError>> + Send;

    /// Removes a state, so that the default is effective. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if a database has a state only of a case variant of this id.
    fn clear_state(&self, rule_id: &RuleId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// A follower whose first poll reads everything.
    fn follow(&self) -> Self::Follower;

    /// Every change from now on, one at a time and each once.
    ///
    /// # Errors
    /// The current rules and states cannot be read.
    fn subscribe_changes(
        &self,
    ) -> impl Future<Output = Result<Subscription<Self::Follower>, StoreError>> + Send {
        Subscription::begin(self.follow())
    }
}

/// The trace context in which a change was written.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContextRow {
    /// The changed rule.
    pub(crate) rule_id: String,
    /// Whether its definition or its state was written.
    pub(crate) change_kind: ChangeKind,
    /// The digest of a rule's text, or [`RuleState::fingerprint`].
    pub(crate) content: ContentDigest,
    /// The writer's span.
    pub(crate) traceparent: Traceparent,
}

/// Polls a store for one reader.
pub trait Follow: Send {
    /// Waits for a sign that the next poll finds a change. Not every store gives one, and a sign can be missed, so a
    /// reader also polls at an interval. Cancel safe.
    fn woken(&mut self) -> impl Future<Output = ()> + Send;

    /// Says when the next poll is due at the latest: until then the store may use its connection to wait for a wake-up.
    fn idle_until(&mut self, _poll: tokio::time::Instant) {}

    /// Polls once, in one snapshot. After an error, the next poll starts where this one did.
    ///
    /// # Errors
    /// The store does not answer; poll again later.
    fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> impl Future<Output = Result<TableDelta, StoreError>> + Send;

    /// The list of the signed release whose manifest the last poll found, of `bytes` bytes as its manifest says; `None`
    /// if it is not there. Nothing of it is verified.
    ///
    /// # Errors
    /// The store does not answer.
    fn release_list(
        &mut self,
        _bytes: usize,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// The trace contexts in which the changes of the last poll were written; empty if the store keeps none, or
    /// while no spans are recorded.
    fn trace_contexts(&mut self) -> Vec<TraceContextRow> {
        Vec::new()
    }

    /// The version of the tables that the last poll showed; `None` if it showed none.
    fn tables_version(&self) -> Option<u64> {
        None
    }

    /// Whether the store has a place for workers' reports.
    fn takes_reports(&self) -> bool {
        false
    }

    /// Whether a report needs a connection of its own, because the server of the last poll takes no writes.
    fn reports_elsewhere(&self) -> bool {
        false
    }

    /// Replaces the report of this run of the worker. A failure is no outage: everything else works without.
    ///
    /// # Errors
    /// Why it is not written, and what to do.
    fn report(&mut self, _report: WorkerReport) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// Why the last poll did not read the tables' version (`rulesyncd_version`), and what to do; `None` if it did, or
    /// the store has none. Polls work without it.
    fn version_problem(&self) -> Option<&str> {
        None
    }
}
