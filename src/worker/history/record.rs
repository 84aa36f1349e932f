use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::rule::{ChangeKind, ContentDigest, RuleId, RuleState};
use crate::wire::Epoch;
use crate::worker::journal::EncodedChange;

/// One line of the history: a change that this worker emitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryRecord {
    /// When the worker numbered the change, by this host's clock.
    pub(crate) emitted_at: Timestamp,
    /// The run of the worker.
    pub(crate) epoch: Epoch,
    /// What happened.
    #[serde(flatten)]
    pub(crate) event: HistoryEvent,
}

/// What a [`HistoryRecord`] says. The fields are those of the stream's lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum HistoryEvent {
    /// A definition is new or changed.
    Written {
        /// The change's number.
        seq: u64,
        rule_id: RuleId,
        rule_version: i64,
        content_sha256: ContentDigest,
        source_path: String,
        updated_at: Timestamp,
        updated_by: String,
    },
    /// A definition was deleted.
    Deleted {
        /// The change's number.
        seq: u64,
        rule_id: RuleId,
    },
    /// The effective state changed.
    State {
        /// The change's number.
        seq: u64,
        rule_id: RuleId,
        /// The state after the change.
        new_value: RuleState,
        /// Whether the state before it expired.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        auto_revert: bool,
    },
    /// Changes that were not recorded.
    Missed {
        /// How many.
        changes: u64,
    },
}

/// The fields of a change's line that the history has.
#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow)]
    new_value: &'l RawValue,
    #[serde(default)]
    auto_revert: bool,
    rule_version: Option<i64>,
    content_sha256: Option<ContentDigest>,
    source_path: Option<String>,
    updated_at: Option<Timestamp>,
    updated_by: Option<String>,
    emitted_at: Timestamp,
}

impl HistoryRecord {
    /// The record of a change; `None` only for a line that this worker did not encode.
    pub(super) fn of(epoch: &Epoch, change: &EncodedChange) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(change.line.bytes()).ok()?;
        let (seq, rule_id) = (change.seq, change.rule_id.clone());
        let event = match (change.kind, line.rule_version) {
            (ChangeKind::State, _) => {
                let new_value = serde_json::from_str(line.new_value.get()).ok()?;
                HistoryEvent::State { seq, rule_id, new_value, auto_revert: line.auto_revert }
            }
            (ChangeKind::Definition, None) => HistoryEvent::Deleted { seq, rule_id },
            (ChangeKind::Definition, Some(rule_version)) => HistoryEvent::Written {
                seq,
                rule_id,
                rule_version,
                content_sha256: line.content_sha256?,
                source_path: line.source_path?,
                updated_at: line.updated_at?,
                updated_by: line.updated_by?,
            },
        };
        Some(Self { emitted_at: line.emitted_at, epoch: epoch.clone(), event })
    }
}

impl HistoryEvent {
    /// The rule; `None` for changes that were not recorded.
    pub(crate) const fn rule_id(&self) -> Option<&RuleId> {
        match self {
            Self::Written { rule_id, .. } | Self::Deleted { rule_id, .. } | Self::State { rule_id, .. } => {
                Some(rule_id)
            }
            Self::Missed { .. } => None,
        }
    }

    /// The same without the number.
    pub(super) fn without_seq(&self) -> Self {
        let mut event = self.clone();
        match &mut event {
            Self::Written { seq, .. } | Self::Deleted { seq, .. } | Self::State { seq, .. } => *seq = 0,
            Self::Missed { .. } => {}
        }
        event
    }
}
