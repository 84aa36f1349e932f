use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Follow, RowIndex, RuleStore, StoreError};
use crate::backoff::{Backoff, jittered};
use crate::clock::Timestamp;
use crate::rule::{Catalogue, RowFingerprint, RuleChange, Table};

/// How often a subscription polls without a wake-up, and how late a state may expire.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The changes of a store, one at a time.
#[derive(Debug)]
pub struct Subscription<F> {
    follower: F,
    catalogue: Arc<Mutex<Catalogue>>,
    changes: VecDeque<RuleChange>,
    backoff: Backoff,
    next_look: Instant,
}

impl<F: Follow> Subscription<F> {
    /// Starts with the current rules and states.
    pub(super) async fn begin(mut follower: F) -> Result<Self, StoreError> {
        let catalogue = Arc::<Mutex<Catalogue>>::default();
        let delta = follower.poll(&catalogue).await?;
        lock(&catalogue).apply(delta);
        let (changes, backoff) = Default::default();
        Ok(Self {
            follower,
            catalogue,
            changes,
            backoff,
            next_look: Instant::now() + jittered(POLL_INTERVAL),
        })
    }

    /// The known rules and states.
    pub(crate) fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        lock(&self.catalogue)
    }

    /// The next change. Polls a store that does not answer again and again. Cancel safe.
    pub async fn next(&mut self) -> RuleChange {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return change;
            }
            tokio::select! {
                () = self.follower.woken() => {}
                () = tokio::time::sleep_until(self.next_look) => {}
            }
            let wait = match self.follower.poll(&self.catalogue).await {
                Ok(delta) => {
                    self.changes.extend(lock(&self.catalogue).apply(delta));
                    self.backoff.reset();
                    jittered(POLL_INTERVAL)
                }
                Err(_) => self.backoff.wait(),
            };
            self.next_look = Instant::now() + wait;
        }
    }
}

fn lock(catalogue: &Mutex<Catalogue>) -> MutexGuard<'_, Catalogue> {
    catalogue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a poll on another thread.
impl RowIndex for Mutex<Catalogue> {
    fn count(&self, table: Table) -> u64 {
        lock(self).count(table)
    }

    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint> {
        lock(self).fingerprint(table, key)
    }

    fn memory(&self) -> usize {
        lock(self).memory()
    }

    fn quarantined_memory(&self, table: Table, keys: Option<&[String]>) -> usize {
        lock(self).quarantined_memory(table, keys)
    }

    fn memory_of(&self, table: Table, key: &str) -> usize {
        lock(self).memory_of(table, key)
    }
}

/// The content of a store, as a worker would read it first, and when that was by the store's clock.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn load<S: RuleStore + ?Sized>(store: &S) -> Result<(Catalogue, Timestamp), StoreError> {
    let delta = store.follow().poll(&Arc::<Catalogue>::default()).await?;
    let (mut catalogue, now) = (Catalogue::default(), delta.now);
    catalogue.apply(delta);
    Ok((catalogue, now))
}
