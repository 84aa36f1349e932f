//! One number for everything that is known, so that two catalogues compare at a glance.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::{ContentDigest, RuleHeader, RuleId, RuleState};

/// The digest of all effective rules and states, in any order.
///
/// It is the exclusive or of one SHA-256 an item, so nothing known is 64 zeros, and an item is
/// taken out as it was put in. An item is a list of fields, each written as its length in bytes in
/// decimal, `:`, its UTF-8 bytes and `,`; an absent field is `~`.
///
/// | item | fields |
/// |---|---|
/// | a rule | `rule`, rule_id, rule_version in decimal, content_sha256 in lower-case hexadecimal, source_path |
/// | a state that is not the default | `state`, rule_id, the state's word, confidence_max as the 16 hexadecimal digits of its big-endian IEEE 754 double, expires_at, reason, set_by, set_at |
///
/// Times are written as the stream writes them. Stamps and writers of rules are not in it: a row
/// that was touched and says the same is no change. It finds accidents; it is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CatalogueDigest(ContentDigest);

/// The digest of nothing.
impl Default for CatalogueDigest {
    fn default() -> Self {
        Self(ContentDigest::from_bytes([0; 32]))
    }
}

impl CatalogueDigest {
    /// Puts a rule in, or takes it out.
    pub(crate) fn toggle_rule(&mut self, rule: &RuleHeader<RuleId>) {
        self.toggle(&[
            Some("rule"),
            Some(rule.rule_id.as_str()),
            Some(&rule.rule_version.to_string()),
            Some(&rule.content_sha256.to_string()),
            Some(&rule.source_path),
        ]);
    }

    /// Puts a state in, or takes it out; the default is no item.
    pub(crate) fn toggle_state(&mut self, rule_id: &RuleId, state: &RuleState) {
        if *state == RuleState::default() {
            return;
        }
        let ceiling = state.confidence_max.map(|ceiling| format!("{:016x}", ceiling.to_bits()));
        let expires_at = state.expires_at.map(|time| time.to_string());
        let set_at = state.set_at.map(|time| time.to_string());
        self.toggle(&[
            Some("state"),
            Some(rule_id.as_str()),
            Some(state.state.as_str()),
            ceiling.as_deref(),
            expires_at.as_deref(),
            state.reason.as_deref(),
            state.set_by.as_deref(),
            set_at.as_deref(),
        ]);
    }

    fn toggle(&mut self, fields: &[Option<&str>]) {
        let mut hash = Sha256::new();
        for field in fields {
            match field {
                None => hash.update(b"~"),
                Some(text) => {
                    hash.update(format!("{}:", text.len()));
                    hash.update(text);
                    hash.update(b",");
                }
            }
        }
        let mut bytes = *self.0.as_bytes();
        for (mine, other) in bytes.iter_mut().zip(hash.finalize()) {
            *mine ^= other;
        }
        self.0 = ContentDigest::from_bytes(bytes);
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for CatalogueDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
