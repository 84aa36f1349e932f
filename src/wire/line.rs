use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Epoch;
use crate::clock::Timestamp;
use crate::rule::{CatalogueDigest, ChangeKind, CompiledRule, ContentDigest, RuleHeader, RuleId, RuleState};
use crate::trust::{TrustReason, TrustState, TrustStatus};

/// One line from the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerLine {
    /// The first line of a connection, sent without a request.
    Hello {
        /// The protocol's version.
        protocol: u32,
        /// The server's name and version.
        server: String,
        /// This run of the worker.
        epoch: Epoch,
        /// The number of the newest change.
        seq: u64,
    },
    /// A snapshot begins, and replaces everything before it.
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
    /// A state in a snapshot whose rule has no `rule` line in it.
    State {
        /// The rule of the state.
        rule_id: RuleId,
        /// The effective state.
        new_value: RuleState,
    },
    /// The snapshot is complete; changes follow.
    SnapshotEnd {
        /// This run of the worker.
        epoch: Epoch,
        /// As in `snapshot_begin`.
        seq: u64,
        /// The digest of all rules and states after that change, including those that filters leave out.
        digest: CatalogueDigest,
        /// What is trusted; absent without trust.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trust: Option<TrustLine>,
    },
    /// One change.
    Change(ChangeLine),
    /// The subscriber has every change up to `seq`; and the state of the database.
    Heartbeat {
        /// This run of the worker.
        epoch: Epoch,
        /// The subscriber may move its cursor here: every change up to it was sent.
        seq: u64,
        /// Whether the database answers.
        database: Health,
        /// How long ago the rules were last known to be current, in milliseconds; 0 while they are.
        stale_for_ms: u64,
        /// The digest of all rules and states after that change; absent before the first rules
        /// are loaded.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[serde(default)]
        digest: Option<CatalogueDigest>,
        /// What is trusted; absent without trust.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trust: Option<TrustLine>,
    },
    /// The answer to a request.
    Response {
        /// The request's id, `null` if it had none.
        id: Option<RequestId>,
        /// The requested value.
        result: Value,
    },
    /// An error. The server closes the connection after it, except after `not_ready`.
    Error {
        /// The request's id, if one was read.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[serde(default)]
        id: Option<RequestId>,
        /// The kind, for programs.
        code: ErrorCode,
        /// The reason, for people.
        message: String,
    },
}

/// What the worker says of the signed release that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrustLine {
    /// Whether it is the owner's newest release.
    pub state: TrustState,
    /// Every reason against it.
    pub reasons: Vec<TrustReason>,
    /// Its version; `None` before the first.
    pub version: Option<String>,
    /// When it expires.
    pub expires: Option<String>,
}

impl From<TrustStatus> for TrustLine {
    fn from(status: TrustStatus) -> Self {
        let TrustStatus { state, reasons, version, expires, .. } = status;
        Self { state, reasons, version, expires }
    }
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
    /// The path of the file, relative to the rules directory.
    pub source_path: String,
    /// When the row was written, by its writer's clock.
    pub updated_at: Timestamp,
    /// The writer of the row.
    pub updated_by: String,
}

impl From<RuleLine> for RuleHeader<RuleId> {
    fn from(line: RuleLine) -> Self {
        let RuleLine {
            rule_id,
            new_value: _,
            rule_version,
            content_sha256,
            source_path,
            updated_at,
            updated_by,
        } = line;
        let (source_path, updated_by) = (source_path.into(), updated_by.into());
        Self { rule_id, rule_version, source_path, content_sha256, updated_at, updated_by }
    }
}

/// One change. `change_kind` and `new_value` determine which fields it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeLine {
    /// The change's number in this epoch.
    pub seq: u64,
    /// What changed.
    pub change_kind: ChangeKind,
    /// The changed rule.
    pub rule_id: RuleId,
    /// The rule or the state after the change; `None` if the definition was deleted.
    pub new_value: Option<NewValue>,
    /// `true` if the state expired by itself, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_revert: Option<bool>,
    /// As in [`RuleLine`]; only if a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_version: Option<i64>,
    /// As in [`RuleLine`]; only if a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<ContentDigest>,
    /// As in [`RuleLine`]; only if a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
    /// As in [`RuleLine`]; only if a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// As in [`RuleLine`]; only if a definition was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_by: Option<String>,
    /// When the worker numbered the change.
    pub emitted_at: Timestamp,
    /// The W3C trace context of the change; only while spans are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A rule or a state after a change. The two have only the field name `state` in common, which is an object in the
/// one and a text in the other.
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
    /// The cursor belongs to another run of the worker, or to a change that was never numbered.
    EpochChanged,
    /// The cursor is older than the journal.
    Compacted,
    /// The subscriber did not keep up: the snapshot replaces the changes that it has not received.
    Lagged,
}

/// Whether the database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The last poll succeeded.
    Up,
    /// The last poll failed, or there was none yet.
    Down,
}

/// Matches an answer to its request: any number or text that the client chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// The kind of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not one JSON object in UTF-8.
    BadJson,
    /// The line is longer than 64 KiB.
    LineTooLong,
    /// The `op` is missing or unknown to this server.
    UnknownOp,
    /// A field is missing, unknown, or of the wrong type.
    BadRequest,
    /// The connection already has a subscription.
    AlreadySubscribed,
    /// The daemon could not do what the client asked for.
    Failed,
    /// No rules are loaded yet; ask again later.
    NotReady,
    /// This user may not connect, or may not do what it asked for.
    NotAllowed,
    /// The limit of connections is reached.
    TooManySubscribers,
    /// The peer did not subscribe in time.
    NotSubscribed,
    /// The server stops; connect again later and resume.
    ShuttingDown,
}
