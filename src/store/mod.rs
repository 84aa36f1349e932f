//! Where rules and states live: one trait, a store over a directory, and a store over a database
//! with one small file a dialect.

mod database;
mod error;
mod filesystem;
mod poll;
mod rows;
mod subscription;
mod watermark;

use std::future::Future;
use std::sync::Arc;

pub use database::{
    Applied, Database, DatabaseFollower, MasterSession, RuleWrite, Scope, driver_failures,
    quiet_driver_panics,
};
pub use error::StoreError;
pub use filesystem::{FilesystemConfig, FilesystemFollower, FilesystemStore};
pub use poll::FollowConfig;
pub(crate) use rows::RowReader;
pub use subscription::Subscription;

use crate::rule::{ChangeKind, CompiledRule, ContentDigest, RuleId, RuleState, TableDelta};
pub use crate::rule::{RowIndex, TextSink};
use crate::telemetry::trace::Traceparent;

/// A place where rules and operator states live.
///
/// Every implementation passes the same behavioural contract (`tests/it/store/contract.rs`).
pub trait RuleStore: Send + Sync {
    /// How this store is followed.
    type Follower: Follow;

    /// Every valid rule with its effective state, by id. A rule that is not valid is left
    /// out; [`Follow::poll`] tells why.
    fn load_compiled(&self) -> impl Future<Output = Result<Vec<CompiledRule>, StoreError>> + Send;

    /// The effective state; the default for a rule that has none, or whose state has expired, or
    /// that does not exist.
    fn get_state(&self, rule_id: &RuleId) -> impl Future<Output = Result<RuleState, StoreError>> + Send;

    /// Sets a state in place of the one that stands, and returns it as it now stands: `set_at` is
    /// stamped by the store, greater than every stamp it gave before (as far as the column tells:
    /// some hold whole seconds).
    ///
    /// # Errors
    /// [`StoreError::InvalidState`] where the state is not valid, and [`StoreError::Refused`] where a
    /// database has none of this id but one of an id that differs in case; nothing is written then.
    fn set_state(
        &self,
        rule_id: &RuleId,
        state: RuleState,
    ) -> impl Future<Output = Result<RuleState, StoreError>> + Send;

    /// Removes a state, so that the default is effective. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where a database has none of this id but one of an id that differs in case.
    fn clear_state(&self, rule_id: &RuleId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// A follower that has seen nothing yet: its first poll is everything.
    fn follow(&self) -> Self::Follower;

    /// Every change from now on, one at a time and each once.
    ///
    /// # Errors
    /// When what stands now cannot be read.
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
    pub rule_id: String,
    /// Whether its definition or its state was written.
    pub change_kind: ChangeKind,
    /// The digest of a rule's text, or [`RuleState::fingerprint`].
    pub content: ContentDigest,
    /// The writer's span.
    pub traceparent: Traceparent,
}

/// One follower's place in a store.
pub trait Follow: Send {
    /// Waits until something tells that a poll may find a change. Not every store can tell, and a
    /// hint can be missed: whoever follows looks at an interval too. Cancel safe.
    fn woken(&mut self) -> impl Future<Output = ()> + Send;

    /// Looks once, in one snapshot. After an error the next poll is as if this one had not been.
    ///
    /// # Errors
    /// When the store does not answer; whoever follows polls again later.
    fn poll<K: RowIndex + Send + Sync + 'static>(
        &mut self,
        index: &Arc<K>,
    ) -> impl Future<Output = Result<TableDelta, StoreError>> + Send;

    /// The trace contexts in which the changes of the last poll were written; empty if the store keeps none, or
    /// while no spans are recorded.
    fn trace_contexts(&mut self) -> Vec<TraceContextRow> {
        Vec::new()
    }
}
