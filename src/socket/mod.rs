//! A daemon's Unix socket: how the daemon creates it, and how the master answers requests on it.

mod listen;
mod requests;

use std::time::Duration;

pub use listen::ListenError;
pub(crate) use listen::{Listening, listen};
pub(crate) use requests::{Answer, serve_requests};

/// How long a daemon may take to answer a request that needs no work, and how long a client may take to send its next
/// request or to read an answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the work of one request may take.
pub(crate) const WORK_TIMEOUT: Duration = Duration::from_mins(5);

/// How long to wait after a failed `accept`, as with a full file table.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
