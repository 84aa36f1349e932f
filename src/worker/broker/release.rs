//! What the broker serves under trust: a poll's result goes through the gate before it is applied.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::{Broker, Inner};
use crate::clock::Timestamp;
use crate::rule::{ManifestWish, RuleChange, TableDelta};
use crate::trust::{Gate, Policy, TrustStatus};
use crate::wire::TrustLine;
use crate::worker::cached::{CachedManifest, Rows};

/// A manifest that was refused is not read again for this long, however often it changes.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// The gate, and when the manifest is read again.
#[derive(Debug)]
pub(super) struct Gatekeeper {
    pub(super) gate: Gate,
    /// When a manifest was last refused.
    refused_at: Option<Instant>,
    /// Whether the next poll reads the manifest in any case.
    reread: bool,
    /// What was trusted before a poll was judged, until its result is served: what is said of trust is of what is
    /// served.
    before: Option<TrustStatus>,
}

impl Gatekeeper {
    /// Whether the poll that begins now reads the manifest.
    pub(super) fn wish(&mut self) -> ManifestWish {
        match self.refused_at {
            _ if self.reread => ManifestWish::Now,
            Some(at) if at.elapsed() < REFUSED_FOR => ManifestWish::NotYet,
            // The one that was refused may be the same, and another key valid by now.
            Some(_) => ManifestWish::Now,
            None => ManifestWish::IfChanged,
        }
    }

    /// What is trusted of what is served.
    fn status(&self, now: Timestamp) -> TrustStatus {
        self.before.clone().unwrap_or_else(|| self.gate.status(now))
    }

    /// The judged poll is served.
    pub(super) fn is_served(&mut self) {
        self.before = None;
    }

    /// A hash of what a heartbeat says of trust.
    pub(super) fn mark(&self, now: Timestamp) -> u64 {
        let mut hash = DefaultHasher::new();
        let TrustStatus { state, reasons, version, .. } = self.status(now);
        (state, reasons, version).hash(&mut hash);
        hash.finish()
    }
}

impl Broker {
    /// Serves only what passes this gate.
    pub(in crate::worker) fn behind(self, gate: Gate) -> Self {
        self.lock().gate = Some(Gatekeeper { gate, refused_at: None, reread: false, before: None });
        self
    }

    /// Takes a poll's result through the gate; gives it back without trust. Then ask [`Broker::wants_list`] and
    /// [`Broker::unsaved_floor`], and apply [`Broker::take_served`].
    pub(in crate::worker) fn judge(&self, mut delta: TableDelta) -> Option<TableDelta> {
        let host = self.clock.now();
        let mut inner = self.lock();
        if inner.gate.is_none() {
            return Some(delta);
        }
        inner.complete(&mut delta);
        let Inner { gate, catalogue, .. } = &mut *inner;
        let keeper = gate.as_mut()?;
        let was_read = delta.manifest.is_some();
        keeper.before = Some(keeper.status(host));
        keeper.gate.poll(delta, catalogue, host);
        if was_read {
            keeper.reread = false;
            keeper.refused_at = keeper.gate.is_refused().then(Instant::now);
        }
        None
    }

    /// The length in bytes of the signed list that the next read must fetch; `None` if it needs none.
    pub(in crate::worker) fn wants_list(&self) -> Option<usize> {
        self.lock().gate.as_ref()?.gate.wants_list()
    }

    /// Takes the list; `None` if it is not there.
    pub(in crate::worker) fn take_list(&self, list: Option<&[u8]>) {
        let mut inner = self.lock();
        let Inner { gate: Some(keeper), catalogue, .. } = &mut *inner else { return };
        keeper.gate.take_list(list, catalogue);
    }

    /// The text of the floor, a manifest and its signatures, to save before [`Broker::take_served`]; `None` if it is on the
    /// disk. If it cannot be saved, the release is served all the same.
    pub(in crate::worker) fn unsaved_floor(&self) -> Option<String> {
        let inner = self.lock();
        let signed = inner.gate.as_ref()?.gate.unsaved_floor()?;
        Some(format!("{}{}", signed.manifest, signed.signatures))
    }

    /// The floor is on the disk.
    pub(in crate::worker) fn floor_saved(&self) {
        if let Some(keeper) = &mut self.lock().gate {
            keeper.gate.floor_saved();
        }
    }

    /// What the poll changes for subscribers.
    pub(in crate::worker) fn take_served(&self, now: Timestamp) -> TableDelta {
        let mut inner = self.lock();
        let Inner { gate: Some(keeper), catalogue, .. } = &mut *inner else { return TableDelta::default() };
        keeper.gate.take_served(catalogue, now)
    }

    /// Requires this of releases from now on.
    pub(in crate::worker) fn trust(&self, policy: Policy) {
        let mut inner = self.lock();
        if let Some(keeper) = &mut inner.gate {
            keeper.gate.trust(policy);
            (keeper.reread, keeper.refused_at) = (true, None);
        }
        drop(inner);
        self.announce();
    }

    /// What is trusted; `None` without trust.
    pub(in crate::worker) fn trust_status(&self) -> Option<TrustStatus> {
        let inner = self.lock();
        Some(inner.gate.as_ref()?.status(self.clock.now()))
    }

    /// The same as a line of the stream has it.
    pub(in crate::worker) fn trust_line(&self) -> Option<TrustLine> {
        self.trust_status().map(TrustLine::from)
    }

    /// When the next state expires, by the database's clock; `None` if none will.
    pub(in crate::worker) fn next_expiry(&self) -> Option<Timestamp> {
        self.lock().table().next_expiry()
    }

    /// What a cache holds; `None` if what is served may not be restored.
    pub(in crate::worker) fn cached_rows(&self) -> Option<Rows> {
        let inner = self.lock();
        let manifest = match &inner.gate {
            None => None,
            Some(keeper) => {
                let (body, signatures, unparsed) = keeper.gate.cacheable(&inner.catalogue)?;
                Some(CachedManifest { body, signatures, unparsed })
            }
        };
        let states = inner.table().state_rows().map(|(id, state)| (id.clone(), state.clone()));
        Some(Rows {
            rules: inner.catalogue.rule_rows().cloned().collect(),
            states: states.collect(),
            manifest,
        })
    }
}

impl Inner {
    /// What may be served of a cache.
    ///
    /// # Errors
    /// A sentence: under trust, it is not exactly a release that verifies.
    pub(super) fn verify_cached(
        &mut self,
        delta: TableDelta,
        manifest: Option<&CachedManifest>,
    ) -> Result<TableDelta, String> {
        let Self { gate: Some(keeper), catalogue, .. } = self else { return Ok(delta) };
        let CachedManifest { body, signatures, unparsed } =
            manifest.ok_or_else(|| "it holds no signed release".to_owned())?;
        keeper.gate.restore(body.as_bytes(), signatures, unparsed, &delta)?;
        Ok(keeper.gate.take_served(catalogue, delta.now))
    }

    /// Ends the states that expire at or before `now`.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<RuleChange> {
        let Self { gate, catalogue, .. } = self;
        match gate {
            None => catalogue.expire(now),
            Some(keeper) => {
                keeper.gate.expire(now);
                if keeper.before.is_some() {
                    // What the judged poll changes is not served yet.
                    return catalogue.expire(now);
                }
                let delta = keeper.gate.take_served(catalogue, now);
                catalogue.apply(delta)
            }
        }
    }
}
