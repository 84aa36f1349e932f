//! The lease in the hands of this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::clock::since_boot;
use crate::store::lease::Lead;
use crate::store::leasing::lock;

/// The lease while it is held. Its beats end when it is dropped.
#[derive(Debug)]
pub(in super::super) struct HeldLease {
    state: Arc<HeldState>,
    _beats: AbortOnDropHandle<()>,
}

/// What a session and its beats share.
pub(in super::super) type HeldState = Mutex<Lead>;

impl HeldLease {
    pub(in super::super) const fn new(state: Arc<HeldState>, beats: AbortOnDropHandle<()>) -> Self {
        Self { state, _beats: beats }
    }

    /// Lets the lease decide, with the time now.
    pub(in super::super) fn lead<T>(&self, decide: impl FnOnce(&mut Lead, Duration) -> T) -> T {
        decide(&mut lock(&self.state), since_boot())
    }
}
