use std::borrow::Cow;

use crate::rule::InvalidState;

/// An error of a store, by its consequence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer now, but may later: try again.
    #[error("{what}: {detail}")]
    Unavailable {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
    },
    /// The tables do not exist yet, and another program creates them: try again.
    #[error("{what}: waiting for the tables: {detail}")]
    NoTables {
        /// The operation.
        what: &'static str,
        /// Which one is missing, where, and who creates them, without secrets.
        detail: String,
    },
    /// The driver panicked on a reply, or a reply without end kept it busy. Handle it as [`StoreError::Unavailable`].
    #[error("{what}: {detail}")]
    Driver {
        /// The operation.
        what: &'static str,
        /// What the driver did, without the reply.
        detail: String,
    },
    /// The store refuses the operation, and will until someone corrects the cause. At its start a daemon exits; later
    /// it logs the error and retries.
    #[error("{what}: {detail}; {remedy}")]
    Refused {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// The database rejects this one row; every other row goes on.
    #[error("{what}: the database rejected this row: {detail}")]
    RowRejected {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
    },
    /// Another session has locked this one row; it is written later, every other row now.
    #[error("{what}: another session holds this row: {detail}")]
    RowLocked {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
    },
    /// Another transaction was in the way of this one (a deadlock, a row that changed since the snapshot, another node
    /// of a cluster that was faster), and the server rolled this one back: repeat the whole of it.
    #[error("{what}: another transaction was in the way: {detail}")]
    Conflict {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
    },
    /// A table was altered after the transaction began, for example by a master that created an index: a new
    /// transaction sees the table.
    #[error("{what}: {detail}")]
    TablesAltered {
        /// The operation.
        what: &'static str,
        /// The cause, without secrets.
        detail: String,
    },
    /// Rows that the operation depends on have changed since they were read; nothing was written. Read them again.
    #[error("{what}: another program has changed the rows since they were read; nothing was written")]
    RowsChanged {
        /// The operation.
        what: &'static str,
    },
    /// Who asked for it waits no more; nothing more was written.
    #[error("{what}: nobody waits for it any more; nothing more was written")]
    Withdrawn {
        /// The operation.
        what: &'static str,
    },
    /// The state is not valid.
    #[error(transparent)]
    InvalidState(#[from] InvalidState),
    /// This process no longer holds the master's lock; nothing more was written.
    #[error("the master's lock was lost: {detail}; nothing more was written")]
    LockLost {
        /// How the loss was noticed.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// A statement that the server does not accept. Sent all the same, it would end the connection.
    pub(super) fn too_large(what: &'static str, bytes: usize, longest: usize) -> Self {
        let detail = format!(
            "it takes a statement of {bytes} bytes, and the server accepts {longest}: raise `max_allowed_packet` on the server"
        );
        Self::RowRejected { what, detail }
    }

    /// Whether the server says that a table is missing, is another one, or may not be used. Only this may be remembered:
    /// any other answer to a first try may pass.
    pub(super) const fn is_lasting(&self) -> bool {
        matches!(self, Self::NoTables { .. } | Self::Refused { .. })
    }

    /// Whether a retry can succeed without anyone's help.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::NoTables { .. }
                | Self::Driver { .. }
                | Self::RowLocked { .. }
                | Self::Conflict { .. }
                | Self::TablesAltered { .. }
                | Self::RowsChanged { .. }
                | Self::Withdrawn { .. }
                | Self::LockLost { .. }
        )
    }

    /// The cause without the operation, to compare the errors of two retries.
    pub(crate) fn cause(&self) -> Cow<'_, str> {
        match self {
            Self::Unavailable { detail, .. }
            | Self::NoTables { detail, .. }
            | Self::Driver { detail, .. }
            | Self::Refused { detail, .. }
            | Self::RowRejected { detail, .. }
            | Self::RowLocked { detail, .. }
            | Self::Conflict { detail, .. }
            | Self::TablesAltered { detail, .. }
            | Self::LockLost { detail } => detail.into(),
            Self::RowsChanged { .. } | Self::Withdrawn { .. } | Self::InvalidState(_) | Self::Closed => {
                self.to_string().into()
            }
        }
    }
}
