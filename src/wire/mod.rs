//! The lines of the event stream, protocol 1, for the server and its clients.
//!
//! Each line is a JSON object in UTF-8 that ends with LF. The server sends [`ServerLine`]s, a client sends
//! [`Request`]s. `encode` writes rules by copying their JSON as bytes; a test compares its lines with what serde
//! writes.
//!
//! A stream begins with `hello`. A subscription without a cursor, or with one from which it cannot resume, begins
//! with a snapshot. Another `snapshot_begin` may come at any time, even inside an unfinished snapshot, and replaces
//! everything before it. A rule that a snapshot does not list does not exist.

pub(crate) mod encode;
mod epoch;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod line;
mod request;
mod schema;
#[cfg(test)]
mod tests;

pub use epoch::{Cursor, Epoch, InvalidCursor};
pub(crate) use frame::{FrameError, LineReader};
pub use line::{
    ChangeLine, ErrorCode, Health, NewValue, RequestId, RuleLine, ServerLine, SnapshotReason, TrustLine,
};
pub use request::{BadRequest, Op, Request, Subscribe};
pub(crate) use schema::event_schema;

/// The version of the protocol that `hello` names.
pub(crate) const PROTOCOL: u32 = 1;

/// The longest line that a client may send, in bytes without its LF.
pub(crate) const MAX_REQUEST: usize = 64 * 1024;

/// The longest line that a client of this crate accepts from a server, in bytes: far above the longest rule.
pub(crate) const MAX_LINE: usize = 64 * 1024 * 1024;
