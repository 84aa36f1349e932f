use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Cursor, ErrorCode, RequestId};
use crate::rule::{ChangeKind, RuleId};

/// One line from a client.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// The request.
    #[serde(flatten)]
    pub op: Op,
    /// The server repeats it in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
}

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Follow the rules; once a connection.
    Subscribe(Subscribe),
    /// The effective state of one rule.
    GetState {
        /// Any text: a text that is no known rule has the default state.
        rule_id: String,
    },
    /// The status that `rulesyncd status` prints.
    Status {},
    /// The subscriber has applied every change up to `seq`.
    Ack {
        /// The last change that it has applied.
        seq: u64,
    },
    /// To a worker, by its own user or root: follow the deletions that are held back.
    AllowMassDelete {},
    /// To a master: compare the directory with the table now.
    Reconcile {
        /// Carry out deletions that are held back.
        #[serde(default)]
        allow_mass_delete: bool,
    },
}

/// The changes that a subscriber wants.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// The last change that the subscriber has; `None` begins with a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// Only these kinds; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<ChangeKind>>,
    /// Only these rules; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_ids: Option<Vec<RuleId>>,
    /// Whether changes follow the snapshot; if not, the server closes the connection after it.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub follow: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(follow: &bool) -> bool {
    *follow
}

/// Why a line is not a valid request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// The line's id, if it has a valid one.
    pub id: Option<RequestId>,
    /// The kind of error.
    pub code: ErrorCode,
    /// What was found and what was expected.
    pub message: String,
}

impl Request {
    /// Reads one line, without its LF.
    ///
    /// # Errors
    /// [`BadRequest`] for anything that is not exactly a request. Unknown fields are errors too: a misspelt filter
    /// must not become a subscription to everything.
    pub fn parse(line: &[u8]) -> Result<Self, BadRequest> {
        let bad = |id, code, message| BadRequest { id, code, message };
        let mut fields: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
            bad(None, ErrorCode::BadJson, format!("the line is not one JSON object: {error}"))
        })?;
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(id) => Some(serde_json::from_value(id).map_err(|_| {
                let message = "`id` must be a whole number from 0 or a text".to_owned();
                bad(None, ErrorCode::BadRequest, message)
            })?),
        };
        let known = ["subscribe", "get_state", "status", "ack", "allow_mass_delete", "reconcile"];
        match fields.get("op") {
            Some(Value::String(op)) if known.contains(&op.as_str()) => {}
            other => {
                let found = other.map_or_else(|| "nothing".to_owned(), shorten);
                let message = format!("`op` is {found}; expected one of {}", known.join(", "));
                return Err(bad(id, ErrorCode::UnknownOp, message));
            }
        }
        match serde_json::from_value(Value::Object(fields)) {
            Ok(op) => Ok(Self { op, id }),
            Err(error) => Err(bad(id, ErrorCode::BadRequest, error.to_string())),
        }
    }
}

/// A value, shortened for a message.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
