use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Epoch;
use crate::clock::Timestamp;
use crate::rule::{CatalogueDigest, ChangeKind, CompiledRule, ContentDigest, RuleId, RuleState};

/// One line from the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerLine {
    /// The first line, unasked.
    Hello {
        /// The protocol's version.
        protocol: u32,
        /// The server's name and version.
        server: String,
        /// This run of the worker.
        epoch: Epoch,
        /// The newest change.
        seq: u64,
    },
    /// A snapshot begins: everything heard before is void.
    SnapshotBegin {
        /// This run of the worker.
        epoch: Epoch,
        /// The change after which the snapshot was taken.
        seq: u64,
        /// How many `rule` lines follow.
        rules: u64,
        /// How many `state` lines follow.
        states: u64,
        /// Why there is a snapshot.
        reason: SnapshotReason,
    },
    /// A rule of a snapshot.
    Rule(RuleLine),
    /// In a snapshot: a state whose rule has no `rule` line in it.
    State {
        /// Whose state.
        rule_id: RuleId,
        /// The effective state.
        new_value: RuleState,
    },
    /// The snapshot is whole; changes follow.
    SnapshotEnd {
        /// This run of the worker.
        epoch: Epoch,
        /// As in `snapshot_begin`.
        seq: u64,
        /// The digest of all rules and states after that change, those left out by filters too.
        digest: CatalogueDigest,
    },
    /// One change.
    Change(ChangeLine),
    /// Nothing happened, and how things stand.
    Heartbeat {
        /// This run of the worker.
        epoch: Epoch,
        /// The cursor that the subscriber may move to: nothing up to it is still to come.
        seq: u64,
        /// Whether the database answers.
        database: Health,
        /// How long ago the catalogue was last known to be the database's; 0 when it is.
        stale_for_ms: u64,
        /// The digest of all rules and states after that change; absent before the first rules
        /// are loaded.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[serde(default)]
        digest: Option<CatalogueDigest>,
    },
    /// The answer to a request.
    Response {
        /// The request's id, `null` when it had none.
        id: Option<RequestId>,
        /// What was asked for.
        result: Value,
    },
    /// What went wrong. The connection is closed after it, but for `not_ready`.
    Error {
        /// The request's id, where one was read.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[serde(default)]
        id: Option<RequestId>,
        /// The kind, for programs.
        code: ErrorCode,
        /// The reason, for people.
        message: String,
    },
}

/// A rule of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleLine {
    /// The rule's id.
    pub rule_id: RuleId,
    /// The rule with its effective state.
    pub new_value: CompiledRule,
    /// The row's version.
    pub rule_version: i64,
    /// The digest of the rule's text.
    pub content_sha256: ContentDigest,
    /// Path of the file, relative to the rules directory.
    pub source_path: String,
    /// When the row was written, by its writer's clock.
    pub updated_at: Timestamp,
    /// Who wrote it.
    pub updated_by: String,
}

/// One change. Which fields it has is told by `change_kind` and `new_value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeLine {
    /// The change's number in this epoch.
    pub seq: u64,
    /// What changed.
    pub change_kind: ChangeKind,
    /// Whose.
    pub rule_id: RuleId,
    /// The rule or the state as it is now; `None` is a deleted definition.
    pub new_value: Option<NewValue>,
    /// `true` on a state that ended by its expiry, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_revert: Option<bool>,
    /// As in [`RuleLine`]; only where a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_version: Option<i64>,
    /// As in [`RuleLine`]; only where a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<ContentDigest>,
    /// As in [`RuleLine`]; only where a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
    /// As in [`RuleLine`]; only where a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// As in [`RuleLine`]; only where a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_by: Option<String>,
    /// When the worker numbered the change.
    pub emitted_at: Timestamp,
    /// The change's place in a trace, as W3C's header of that name; only while traces are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// What a change made of a rule or of a state. The two have no field name but `state` in common,
/// and that is a mapping in the one and a word in the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum NewValue {
    /// Of a `definition` change.
    Rule(Box<CompiledRule>),
    /// Of a `state` change.
    State(RuleState),
}

/// Why a subscriber gets a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    /// No cursor was given.
    Initial,
    /// The cursor is of another run of the worker, or of no change that was ever numbered.
    EpochChanged,
    /// The cursor is older than the journal.
    Compacted,
    /// The subscriber did not keep up: this takes the place of what it has not received.
    Lagged,
}

/// Whether the database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The last look succeeded.
    Up,
    /// The last look failed, or none was made yet.
    Down,
}

/// What tells one answer from another: whatever number or text the request had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not one JSON object in UTF-8.
    BadJson,
    /// The line is longer than 64 KiB.
    LineTooLong,
    /// The `op` is missing or not one of this server's.
    UnknownOp,
    /// A field is missing, unknown, or of the wrong type.
    BadRequest,
    /// A connection has one subscription.
    AlreadySubscribed,
    /// The daemon could not do what was asked.
    Failed,
    /// Nothing was loaded from the database yet; ask again later.
    NotReady,
    /// This user may not connect.
    NotAllowed,
    /// As many subscribers are connected as are allowed.
    TooManySubscribers,
    /// The peer took too long to subscribe.
    NotSubscribed,
    /// The server stops; connect again later and resume.
    ShuttingDown,
}
