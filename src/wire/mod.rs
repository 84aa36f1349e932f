//! The lines of the event stream, protocol 1, as both ends speak them.
//!
//! One JSON object a line, UTF-8, ended by LF. What the server says is a [`ServerLine`], what a
//! client says is a [`Request`]. Rules are written by [`encode`], which copies a rule's JSON as
//! bytes; a test holds it to what serde writes of the same lines.
//!
//! A stream begins with `hello`. A subscription without a cursor, or with one that cannot be
//! resumed, begins with a snapshot; another `snapshot_begin` may come at any time, inside of an
//! unfinished snapshot too, and then everything heard before it is void. What a snapshot does not
//! list does not exist.

pub mod encode;
mod epoch;
mod frame;
mod line;
mod request;
mod schema;
#[cfg(test)]
mod tests;

pub use epoch::{Cursor, Epoch, InvalidCursor};
pub use frame::{FrameError, LineReader};
pub use line::{ChangeLine, ErrorCode, Health, NewValue, RequestId, RuleLine, ServerLine, SnapshotReason};
pub use request::{BadRequest, Op, Request, Subscribe};
pub use schema::event_schema;

/// The version of the protocol that `hello` names.
pub const PROTOCOL: u32 = 1;

/// The longest line that a client may send, in bytes without its LF.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest line that a client of this crate takes from a server: far above the longest rule.
pub const MAX_LINE: usize = 64 * 1024 * 1024;
