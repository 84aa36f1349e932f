//! What the daemon is told: defaults, then the file, then the environment, then flags.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Address;

/// How the database is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// Where it is; shown without its password.
    pub address: Address,
    /// Connections of one daemon at most.
    pub max_connections: u32,
    /// How long connecting, or any one query, may take.
    pub connect_timeout: Duration,
    /// Whether an unencrypted connection to another host is allowed.
    pub allow_plaintext: bool,
}

/// What the worker is told.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerConfig {
    /// Where the stream is served when systemd passes no socket.
    pub socket: PathBuf,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// The socket's group; `None` is the daemon's own.
    pub socket_group: Option<String>,
    /// Who may connect; empty is whoever may open the socket.
    pub allow_uids: Vec<u32>,
    /// The longest that a change can wait for a poll; jittered by a tenth.
    pub poll_interval: Duration,
    /// How far below the watermark a row may still appear.
    pub overlap: Duration,
    /// How often everything is compared.
    pub full_scan_interval: Duration,
    /// Changes kept for resuming.
    pub journal_length: usize,
    /// How often a quiet subscriber hears a heartbeat.
    pub heartbeat_interval: Duration,
    /// Connections served at once.
    pub max_subscribers: usize,
    /// How many changes a subscriber may be behind before a snapshot takes their place.
    pub subscriber_queue: usize,
    /// Where the last known rules are kept.
    pub cache: PathBuf,
    /// The host's message bus; `None` is none.
    pub bus_socket: Option<PathBuf>,
}
