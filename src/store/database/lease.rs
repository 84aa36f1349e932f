//! The table `rulesyncd_lease`: its row says which master leads. [`crate::store::lease`] decides. SQLite has none: it is
//! one host, and locks a file.
//!
//! Without the table, or without the right to it, the server's lock alone makes a master the only writer.

pub(super) mod held;
pub(super) mod row;

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use self::held::HeldState;
pub(super) use self::row::is_readable;
use super::connection::Connection;
use crate::clock::Timestamp;
use crate::store::lease::{LEASE, Lead, Standby};

/// What the clones of a database know of the lease.
#[derive(Debug)]
pub(super) struct SharedLease {
    /// This process.
    pub(super) owner: String,
    /// How long the lease lasts without a beat.
    pub(super) lasts: Mutex<Duration>,
    pub(super) standby: Mutex<Standby>,
    /// Whether the server refused to create the table.
    pub(super) has_refused: AtomicBool,
    /// The last lease that this process took.
    pub(super) taken: Mutex<Option<Lead>>,
    /// The lease in the hands of this process.
    pub(super) held: Mutex<Weak<HeldState>>,
}

impl SharedLease {
    pub(super) fn new() -> Self {
        Self {
            owner: uuid::Uuid::new_v4().to_string(),
            lasts: Mutex::new(LEASE),
            standby: Mutex::default(),
            has_refused: AtomicBool::default(),
            taken: Mutex::default(),
            held: Mutex::default(),
        }
    }
}

/// Which master leads, for the fleet, or since when none does; neither if it may not be read, or there is no lease.
pub(super) async fn leader(connection: &mut Connection) -> (Option<String>, Option<Timestamp>) {
    if let (_, Some(unleased)) = row::lock_holder(connection).await {
        return (Some(unleased), None);
    }
    let row = match connection.dialect().create_lease {
        Some(_) => row::read(connection).await.ok().flatten(),
        None => None,
    };
    row.map_or((None, None), |row| (row.leader_in_short(), row.released_at()))
}

/// Who leads, in words; `None` if nobody does, or it is not known.
pub(super) async fn holder(connection: &mut Connection) -> Option<String> {
    match row::lock_holder(connection).await {
        (_, Some(unleased)) => Some(unleased),
        (session, None) => {
            row::read(connection).await.ok().flatten().and_then(|row| row.leader()).or(session)
        }
    }
}
