//! What a worker gives its cache to keep.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::rule::{KnownRule, RuleId, RuleState};

/// A signed release in the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::worker) struct CachedManifest {
    /// The bytes of `MANIFEST`.
    pub(in crate::worker) body: String,
    /// Its signatures, one after the other.
    pub(in crate::worker) signatures: String,
    /// The lines of listed rules that the program could not parse.
    pub(in crate::worker) unparsed: Vec<String>,
}

/// All valid rows of both tables.
#[derive(Debug, Default)]
pub(in crate::worker) struct Rows {
    pub(in crate::worker) rules: Vec<Arc<KnownRule>>,
    pub(in crate::worker) states: Vec<(RuleId, RuleState)>,
    /// The signed release that the rules are; `None` without trust.
    pub(in crate::worker) manifest: Option<CachedManifest>,
}
