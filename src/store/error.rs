use std::borrow::Cow;

use crate::rule::InvalidState;

/// What a store could not do, by consequence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer now, and may later: try again.
    #[error("{what}: {detail}")]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// What came back, without a secret.
        detail: String,
    },
    /// The tables are not there yet: a master makes them. Try again.
    #[error("{what}: waiting for {detail}; a master makes them")]
    NoTables {
        /// What was tried.
        what: &'static str,
        /// Which tables, with where, without a secret.
        detail: String,
    },
    /// The driver panicked on what the store sent, or was kept busy by it without end: as if the store
    /// did not answer.
    #[error("{what}: {detail}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// What the driver did, without what the store sent.
        detail: String,
    },
    /// The store answered that this cannot be, and will answer so until someone mends it. At a
    /// start it ends the daemon; a daemon that runs says it and goes on trying.
    #[error("{what}: {detail}; {remedy}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What came back, without a secret.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// The store does not take this one row as it is; every other row goes on.
    #[error("{what}: the database does not take this row: {detail}")]
    Row {
        /// What was tried.
        what: &'static str,
        /// What came back, without a secret.
        detail: String,
    },
    /// Another session holds this one row locked; every other row goes on, and this one later.
    #[error("{what}: another session holds this row: {detail}")]
    RowLocked {
        /// What was tried.
        what: &'static str,
        /// What came back, without a secret.
        detail: String,
    },
    /// A table was altered after the transaction began, as by a master that makes an index: a transaction
    /// that begins now sees it.
    #[error("{what}: {detail}")]
    TablesAltered {
        /// What was tried.
        what: &'static str,
        /// What came back, without a secret.
        detail: String,
    },
    /// A state that no row may hold.
    #[error(transparent)]
    InvalidState(#[from] InvalidState),
    /// The lock that makes this process the only writer is no longer held; nothing was written.
    #[error("the master's lock was lost: {detail}; nothing was written")]
    LockLost {
        /// What tells that it was.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether trying again later can help without anyone's doing.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::NoTables { .. }
                | Self::Driver { .. }
                | Self::RowLocked { .. }
                | Self::TablesAltered { .. }
                | Self::LockLost { .. }
        )
    }

    /// Why it failed, without what was tried: two tries of different statements may fail for one cause.
    pub fn cause(&self) -> Cow<'_, str> {
        match self {
            Self::Unavailable { detail, .. }
            | Self::NoTables { detail, .. }
            | Self::Driver { detail, .. }
            | Self::Refused { detail, .. }
            | Self::Row { detail, .. }
            | Self::RowLocked { detail, .. }
            | Self::TablesAltered { detail, .. }
            | Self::LockLost { detail } => detail.into(),
            Self::InvalidState(_) | Self::Closed => self.to_string().into(),
        }
    }
}
