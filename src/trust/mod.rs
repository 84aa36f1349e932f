//! Signed releases of rules: what the owner of the rules signed, and whether a release may be served. No I/O.
//!
//! A release is a set of rule files with a [`Manifest`], a [`RuleList`] and signatures. The manifest is small: a
//! verifier checks its signatures before it reads anything larger, and reads the list no further than its signed
//! length (The Update Framework, section 5.5.1). The signatures are OpenSSH's (PROTOCOL.sshsig), and the keys are in a
//! file of OpenSSH's ALLOWED SIGNERS format, of which [`AllowedSigners`] takes a strict subset.
//!
//! [`Policy::verify`] decides whether a manifest counts. A [`Bound`] decides which operators' states have an
//! effect under it. `Gate` turns what the tables hold into what a worker serves.

mod armor;
mod gate;
mod keys;
mod list;
mod manifest;
mod patterns;
mod policy;
mod signature;
mod signers;
mod states;
mod status;
#[cfg(test)]
mod tests;
mod time;
mod wire;

pub(crate) use armor::{MAX_SIGNATURE, MAX_SIGNATURES, split_signatures};
pub(crate) use gate::Gate;
pub(crate) use keys::PublicKey;
pub(crate) use list::MAX_LIST;
pub use list::{ListedRule, RuleList};
pub(crate) use manifest::MAX_MANIFEST;
pub use manifest::{ListDigest, Manifest, Realm};
pub(crate) use policy::join_signatures;
pub use policy::{KeyDates, Policy, Refusal, SignedManifest};
pub(crate) use signature::{NAMESPACE, Signature};
pub(crate) use signers::MAX_ALLOWED_SIGNERS;
pub use signers::{AllowedSigners, InvalidSigners};
pub use states::Bound;
pub(crate) use states::{JudgedStates, NoEffect};
pub use status::{TrustReason, TrustState, TrustStatus};
pub use time::ReleaseTime;

/// Why a file of a release is malformed: the line or field, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) String);

impl Malformed {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A text of foreign origin in an error: its beginning, escaped.
fn shown(text: &str) -> String {
    let beginning: String = text.chars().take(60).collect();
    let more = if beginning.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", beginning.escape_debug())
}

/// Parses a number in decimal as this program writes it: no sign, no leading zero.
fn decimal<N: std::str::FromStr + std::fmt::Display>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
