//! Where rules and states live: one trait, a store over a directory, and a store over a database
//! with one small file a dialect.

mod database;
mod error;
mod filesystem;
mod rows;
mod subscription;
mod watermark;

use std::future::Future;
use std::sync::Arc;

pub use database::{
    Applied, Database, DatabaseFollower, Departure, FollowConfig, MasterSession, RuleWrite, Scope,
    driver_failures, quiet_driver_panics,
};
pub use error::StoreError;
pub use filesystem::{FilesystemConfig, FilesystemFollower, FilesystemStore};
pub(crate) use rows::RowReader;
pub use subscription::Subscription;

use crate::rule::{CompiledRule, ContentDigest, Look, RuleId, RuleState};
pub use crate::rule::{Known, TextSink};
use crate::telemetry::trace::Traceparent;

/// A place where rules and operator states live.
///
/// Every implementation passes the same behavioural story (`tests/it/store/story.rs`).
pub trait RuleStore: Send + Sync {
    /// How this store is followed.
    type Follower: Follow;

    /// Every valid rule with the state in force for it, by id. A rule that is not valid is left
    /// out; [`Follow::look`] tells why.
    fn load_compiled(&self) -> impl Future<Output = Result<Vec<CompiledRule>, StoreError>> + Send;

    /// The state in force; the default for a rule that has none, or whose state has expired, or
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

    /// Takes a state away, so that the default is in force. `false` when none stood.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where a database has none of this id but one of an id that differs in case.
    fn clear_state(&self, rule_id: &RuleId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// A follower that has seen nothing yet: its first look is everything.
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

/// The trace in which a change was written, as far as its writer left word.
#[derive(Debug, Clone, PartialEq)]
pub struct Carried {
    /// Whose change.
    pub rule_id: String,
    /// What was written: a rule's text, or [`RuleState::fingerprint`].
    pub content: ContentDigest,
    /// Where in which trace.
    pub traceparent: Traceparent,
}

/// One follower's place in a store.
pub trait Follow: Send {
    /// Waits until something tells that a look may find a change. Not every store can tell, and a
    /// hint can be missed: whoever follows looks at an interval too. Cancel safe.
    fn hint(&mut self) -> impl Future<Output = ()> + Send;

    /// Looks once, in one snapshot. After an error the next look is as if this one had not been.
    ///
    /// # Errors
    /// When the store does not answer; whoever follows looks again later.
    fn look<K: Known + Send + Sync + 'static>(
        &mut self,
        known: &Arc<K>,
    ) -> impl Future<Output = Result<Look, StoreError>> + Send;

    /// The traces in which what the last look found was written. Not every store can tell, and
    /// none does while no spans are recorded.
    fn traces(&mut self) -> Vec<Carried> {
        Vec::new()
    }
}
