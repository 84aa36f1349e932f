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
#[cfg(any(test, fuzzing))]
pub mod laws;
mod list;
mod manifest;
mod patterns;
mod policy;
mod signature;
mod signers;
mod states;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod time;
mod wire;

use crate::rule::ContentDigest;

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
pub use signers::AllowedSigners;
pub(crate) use signers::MAX_ALLOWED_SIGNERS;
pub use states::Bound;
pub(crate) use states::NoEffect;
pub use status::{TrustReason, TrustState, TrustStatus};
pub use time::ReleaseTime;

/// Why a file of a release, or of the keys that may sign one, is malformed: the line or field, what was found and what was
/// expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) String);

impl Malformed {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The bytes as ASCII text, of which there are at most `max`.
fn ascii(bytes: &[u8], max: usize) -> Result<&str, Malformed> {
    if bytes.len() > max {
        return Err(Malformed::new(format!("it has {} bytes; at most {max} are possible", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
    text.ok_or_else(|| Malformed::new("it is not ASCII text"))
}

/// A digest in lower-case hexadecimal digits.
fn digest(hex: &str) -> Option<ContentDigest> {
    ContentDigest::from_hex(hex).filter(|digest| digest.to_string() == hex)
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
