//! What a gate says of itself.

use std::time::Duration;

use super::super::status::MAX_WITHOUT_EFFECT;
use super::super::{Manifest, NoEffect, TrustReason, TrustState, TrustStatus};
use super::{Gate, InForce};
use crate::clock::Timestamp;

/// The host's clock may be behind the version in force by at most this: a publisher's may be ahead by as much.
const CLOCK_BEHIND: Duration = Duration::from_hours(24);

/// The most names of one kind in the status.
const NAMED: usize = 10;

/// Some names of many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) first: Vec<String>,
    pub(super) count: usize,
}

impl Names {
    pub(super) fn add(&mut self, name: impl ToString) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(name.to_string());
        }
    }
}

impl Gate {
    /// What is trusted at `host`, this host's time.
    pub(crate) fn status(&self, host: Timestamp) -> TrustStatus {
        let manifest = self.in_force.as_ref().map(|in_force| &in_force.signed.manifest);
        let reasons = self.reasons(host);
        let state = match (manifest, reasons.is_empty()) {
            (None, _) => TrustState::None,
            (Some(_), true) => TrustState::Ok,
            (Some(_), false) => TrustState::Degraded,
        };
        let missing = match (&self.candidate, &self.in_force) {
            (Some(candidate), _) if candidate.missing.count > 0 => candidate.missing.clone(),
            (_, Some(in_force)) => {
                let mut names = Names::default();
                in_force.missing.iter().for_each(|rule| names.add(&rule.rule_id));
                names
            }
            _ => Names::default(),
        };
        TrustStatus {
            state,
            reasons,
            version: manifest.map(|manifest| manifest.version.to_string()),
            expires: manifest.map(|manifest| manifest.expires.to_string()),
            signers: self
                .in_force
                .as_ref()
                .map(|in_force| in_force.signed.signers.clone())
                .unwrap_or_default(),
            refusal: self.refusal.as_ref().map(ToString::to_string),
            missing: missing.first,
            altered: self.altered.first.clone(),
            unlisted: self.unlisted.first.clone(),
            without_effect: self
                .without_effect
                .iter()
                .take(MAX_WITHOUT_EFFECT)
                .map(|(id, why)| (id.clone(), why.to_string()))
                .collect(),
            without_effect_count: self.without_effect.len(),
        }
    }

    /// Why the state of this rule has no effect; `None` if it has, or if there is none.
    pub(crate) fn without_effect(&self, rule_id: &str) -> Option<&NoEffect> {
        self.without_effect.get(rule_id)
    }

    /// Every reason that holds.
    pub(crate) fn reasons(&self, host: Timestamp) -> Vec<TrustReason> {
        let mut reasons: Vec<TrustReason> = self.refusal.iter().map(TrustReason::of).collect();
        let is_incomplete = |in_force: &InForce| !in_force.missing.is_empty();
        if self.candidate.is_some() || self.in_force.as_ref().is_some_and(is_incomplete) {
            reasons.push(TrustReason::Incomplete);
        }
        if self.altered.count > 0 {
            reasons.push(TrustReason::Altered);
        }
        if let Some(InForce { signed, is_unverified, .. }) = &self.in_force {
            let Manifest { version, expires, .. } = signed.manifest;
            let conditions = [
                (*is_unverified, TrustReason::Unverified),
                (expires.timestamp() <= host, TrustReason::Expired),
                (host.after(CLOCK_BEHIND) < version.timestamp(), TrustReason::Clock),
            ];
            reasons.extend(conditions.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason));
        }
        reasons
    }
}
