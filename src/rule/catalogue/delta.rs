//! The catalogue's input: what one poll of the tables found.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use super::super::{ContentDigest, KnownRule, RuleHeader, RuleId, RuleState, StateRow};
use crate::clock::Timestamp;

/// The two tables that a worker follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `ttp_rule`.
    Rules,
    /// `ttp_rule_state`.
    States,
}

/// Identifies the content of a row, so that a poll can tell that it need not read the row again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowFingerprint {
    /// The row's stamp.
    pub(crate) updated_at: Timestamp,
    /// The digest of a rule's text, or of all fields of a state.
    content: ContentDigest,
    /// A hash of the rule's version and path; 0 for anything but a rule.
    metadata_hash: u64,
}

impl RowFingerprint {
    /// The fingerprint of a row of `ttp_rule`: its text, version and path are what subscribers get.
    pub(crate) fn rule<I>(header: &RuleHeader<I>) -> Self {
        Self {
            updated_at: header.updated_at,
            content: header.content_sha256,
            metadata_hash: metadata_hash(header.rule_version, &header.source_path),
        }
    }

    /// The fingerprint of a row of `ttp_rule_state`, with all of its fields. A row without a stamp has
    /// [`Timestamp::MIN`].
    pub(crate) fn state(row: &StateRow) -> Self {
        let StateRow { rule_id: _, state, confidence_max, expires_at, reason, set_by, set_at } = row;
        let fields = format!("{state:?} {confidence_max:?} {expires_at:?} {reason:?} {set_by:?}");
        Self::other(set_at.unwrap_or(Timestamp::MIN), ContentDigest::of(fields))
    }

    /// The fingerprint of a row that cannot be read as a rule or a state.
    pub const fn other(updated_at: Timestamp, content: ContentDigest) -> Self {
        Self { updated_at, content, metadata_hash: 0 }
    }

    /// Whether the text has this digest.
    pub(crate) fn has_content(&self, content: &ContentDigest) -> bool {
        self.content == *content
    }

    /// Whether a rule's row with this stamp, version and path is the same row, without a comparison of the text: a
    /// writer that changes the text also sets a new stamp.
    pub(crate) fn is_stamped(&self, updated_at: Timestamp, rule_version: i64, source_path: &str) -> bool {
        self.updated_at == updated_at && self.metadata_hash == metadata_hash(rule_version, source_path)
    }
}

fn metadata_hash(rule_version: i64, source_path: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    (rule_version, source_path).hash(&mut hash);
    hash.finish()
}

/// How long no master has given a sign of life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MasterSilence {
    /// Zero while one does, and where none is known.
    pub lasts: Duration,
    /// When the last master released its lease, by the server's clock; `None` if it did not, and may hang.
    pub released_at: Option<Timestamp>,
}

/// What one poll of the tables found, in one snapshot of the database.
///
/// It may contain rows that are already known: the catalogue compares them by content.
#[derive(Debug, Clone, Default)]
pub struct TableDelta {
    /// The database's clock at the poll.
    pub now: Timestamp,
    /// Rules that may be new or changed, and rows that are quarantined.
    pub rules: Vec<Result<Arc<KnownRule>, Box<QuarantinedRow>>>,
    /// States that may be new or changed, and rows that are quarantined.
    pub states: Vec<Result<(RuleId, RuleState), Box<QuarantinedRow>>>,
    /// Every key of `ttp_rule`: known rows that are missing here were deleted. `None` means that none was deleted.
    pub rule_keys: Option<Vec<String>>,
    /// The signed release's manifest, if it was read; only for a reader that verifies it.
    pub manifest: Option<FoundManifest>,
    /// Like `rule_keys`, of `ttp_rule_state`.
    pub state_keys: Option<Vec<String>>,
    /// How many rows the poll read, most of them unchanged.
    pub rows: u64,
    /// Whether the poll compared every row, and not only those above the watermark.
    pub full: bool,
    /// How old the tables may be that the server shows; zero where it takes the writes, and while it shows the master's
    /// signs of life.
    pub behind: Duration,
    /// For how long the tables count as current from the poll on, although no other poll ends; zero where the server takes
    /// the writes. Elsewhere they are as old as the master's last sign of life, which may be some seconds old.
    pub current_for: Duration,
    /// How long no master has given a sign of life.
    pub master_silent: MasterSilence,
    /// Whether the tables went back since the last poll, as after a failover that lost commits.
    pub rolled_back: bool,
    /// How many changed rows only the full scan found, because their stamps are below the watermark.
    pub missed_by_watermark: u64,
}

impl TableDelta {
    /// Whether the poll found every row as it was known, so that none begins or ceases to be quarantined.
    pub(crate) const fn is_quiet(&self) -> bool {
        let Self { rules, states, rule_keys, state_keys, .. } = self;
        rules.is_empty() && states.is_empty() && rule_keys.is_none() && state_keys.is_none()
    }
}

/// What `rulesyncd_manifest`, or a directory, holds of a signed release. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundManifest {
    /// There is none, or it may not be read; why.
    Missing(String),
    /// It is not even a manifest; why.
    Malformed(String),
    /// A manifest and its signatures.
    Read {
        /// The bytes of `MANIFEST`.
        body: Vec<u8>,
        /// The signatures, one after the other.
        signatures: String,
    },
}

/// The key of the configuration that every reason names for which a row does not fit into memory.
pub(crate) const MAX_MEMORY_KEY: &str = "`worker.max_memory`";

/// A row that is not a valid rule or state. It is quarantined alone; every other row is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The row's `rule_id`.
    pub key: String,
    /// Identifies the row's content, so that it is logged once and not at every poll.
    pub fingerprint: RowFingerprint,
    /// Why it is quarantined, for the log and for `status`.
    pub reason: String,
    /// Whether its text is no valid rule of its id. If not, other columns, another row or the memory are the reason.
    pub is_text_invalid: bool,
}

impl QuarantinedRow {
    /// About how many bytes of memory it takes in the catalogue.
    pub(crate) fn memory(&self) -> usize {
        const OVERHEAD: usize = 256;
        2 * self.key.len() + self.reason.len() + OVERHEAD
    }
}
