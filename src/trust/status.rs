//! What is said of the signed release that is served.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::rule::RuleId;

/// Whether what is served is the owner's newest release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrustState {
    /// A verified release is served, and nothing speaks against it.
    Ok,
    /// A release is served, and the reasons say what is wrong.
    Degraded,
    /// Nothing is verified yet, and nothing is served.
    None,
}

/// Something that is wrong with the release, the tables or the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrustReason {
    /// There is no manifest, or it may not be read.
    Missing,
    /// The manifest is malformed.
    Malformed,
    /// The manifest is for another swarm.
    WrongRealm,
    /// Too few signatures of the manifest count.
    BadSignature,
    /// The manifest is older than one that was accepted before.
    RolledBack,
    /// The manifest has the version of one that was accepted before, and other bytes.
    Conflict,
    /// Texts of the newest release are missing.
    Incomplete,
    /// Rows are not what the release lists.
    Altered,
    /// The keys that signed the release were removed.
    Unverified,
    /// The release has expired, by this host's clock.
    Expired,
    /// This host's clock is over a day behind the release: expiry cannot be judged.
    Clock,
}

impl TrustReason {
    /// The reason of a refusal.
    pub(crate) const fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Missing(_) => Self::Missing,
            Refusal::Malformed(_) => Self::Malformed,
            Refusal::WrongRealm { .. } => Self::WrongRealm,
            Refusal::BadSignature { .. } => Self::BadSignature,
            Refusal::RolledBack { .. } => Self::RolledBack,
            Refusal::Conflict(_) => Self::Conflict,
        }
    }

    /// The word in the stream and the status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::WrongRealm => "wrong_realm",
            Self::BadSignature => "bad_signature",
            Self::RolledBack => "rolled_back",
            Self::Conflict => "conflict",
            Self::Incomplete => "incomplete",
            Self::Altered => "altered",
            Self::Unverified => "unverified",
            Self::Expired => "expired",
            Self::Clock => "clock",
        }
    }
}

impl fmt::Display for TrustReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a worker says of the release that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustStatus {
    /// Whether it is the owner's newest.
    pub state: TrustState,
    /// Every reason against it.
    pub reasons: Vec<TrustReason>,
    /// Its version; `None` before the first.
    pub version: Option<String>,
    /// When it expires.
    pub expires: Option<String>,
    /// Who signed it.
    pub signers: Vec<String>,
    /// Why the manifest that was read last is refused, in a sentence.
    pub refusal: Option<String>,
    /// Rules whose texts are missing, at most ten.
    pub missing: Vec<String>,
    /// Rules whose rows are not what is listed, at most ten.
    pub altered: Vec<String>,
    /// Rows that are not listed, at most ten.
    pub unlisted: Vec<String>,
    /// Operators' states without an effect, each with the reason; at most `MAX_WITHOUT_EFFECT`.
    pub without_effect: BTreeMap<RuleId, String>,
    /// How many states have no effect; see `TrustStatus::states_without_effect`.
    #[serde(default)]
    pub without_effect_count: usize,
}

/// The most states that a status names as without an effect: each connection holds an answer until it is read.
pub(crate) const MAX_WITHOUT_EFFECT: usize = 1_000;

impl TrustStatus {
    /// How many states have no effect, also of an earlier version's worker, which names all of them and no number.
    pub(crate) fn states_without_effect(&self) -> usize {
        self.without_effect_count.max(self.without_effect.len())
    }

    /// One sentence for people.
    pub(crate) fn sentence(&self) -> String {
        let reasons: Vec<&str> = self.reasons.iter().map(|reason| reason.as_str()).collect();
        let reasons = reasons.join(", ");
        let version = self.version.as_deref().unwrap_or("no version");
        let mut sentence = match self.state {
            TrustState::Ok => format!("release of {version} signed by {}", self.signers.join(", ")),
            TrustState::Degraded => format!("release of {version} degraded: {reasons}"),
            TrustState::None if reasons.is_empty() => "no signed release yet".to_owned(),
            TrustState::None => format!("no signed release is verified: {reasons}"),
        };
        for (what, names) in [("missing", &self.missing), ("altered", &self.altered)] {
            if !names.is_empty() {
                sentence += &format!("; {what}: {}", names.join(", "));
            }
        }
        if let Some(refusal) = &self.refusal {
            sentence += &format!("; {refusal}");
        }
        sentence
    }
}
