//! The lock that makes a master the only writer.

use std::fs::{File, Permissions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection::Connection;
use super::lease::held::HeldLease;
use super::row::Cell;
use super::sql::Query;
use super::sqlite::{Readers, create_beside_its_owner};
use crate::store::StoreError;

/// The master's lock while it is held.
#[derive(Debug)]
pub(super) enum Lock {
    /// The row of `rulesyncd_lease`.
    Lease(HeldLease),
    /// The server's, bound to the session's connection.
    Session,
    /// A locked file next to a SQLite database.
    File { file: File, path: PathBuf },
    /// For a database in this process's memory.
    Memory { _lock: MemoryLock },
}

/// A flag that is set while this value exists.
#[derive(Debug)]
pub(super) struct MemoryLock(Arc<AtomicBool>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Lock {
    pub(super) fn memory(flag: &Arc<AtomicBool>) -> Option<Self> {
        let free = !flag.swap(true, Ordering::SeqCst);
        free.then(|| Self::Memory { _lock: MemoryLock(Arc::clone(flag)) })
    }

    /// Locks the file next to `database`, with links resolved. The file stays when the lock is released: if it were
    /// removed, two masters could lock two files of the same name.
    pub(super) fn file(database: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::lock_path(database);
        let refused = |error: std::io::Error| StoreError::Refused {
            what: "taking the master's lock",
            detail: format!("{}: {error}", path.display()),
            remedy: "give the service's user the right to write the database's directory".into(),
        };
        let file = match create_beside_its_owner(&path, Readers::Owner) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => File::options()
                .create(true)
                .append(true)
                .mode(0o600)
                // Root's command reads what the service's user put there: a named pipe must not hold it up.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path),
            created => created,
        };
        let file = file.map_err(refused)?;
        // An older version let a group open the file, and who can open it can hold the lock. This fails for another
        // user's file.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let lock = Self::File { file, path };
        if !lock.has_its_name() {
            return Ok(None);
        }
        lock.write_process_id();
        Ok(Some(lock))
    }

    /// Writes this process's id into the file, for the log of standbys only.
    fn write_process_id(&self) {
        let Self::File { file, .. } = self else { return };
        let signed = file.set_len(0).and_then(|()| writeln!(&*file, "{}", std::process::id()));
        if let Err(error) = signed {
            tracing::debug!(%error, "the lock's file does not say who holds it");
        }
    }

    /// The process that locked the file next to `database`; `None` if the file does not say.
    pub(super) fn holder_of_file(database: &Path) -> Option<String> {
        let process: u32 = std::fs::read_to_string(Self::lock_path(database)).ok()?.trim().parse().ok()?;
        Some(format!("process {process} of this host"))
    }

    fn lock_path(database: &Path) -> PathBuf {
        let mut path = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
        path.push(".lock");
        path.into()
    }

    /// Whether the locked file still has its name; if not, another master could lock a new file.
    fn has_its_name(&self) -> bool {
        let Self::File { file, path } = self else { return true };
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        match (file.metadata(), path.metadata()) {
            (Ok(held), Ok(found)) => identity(held) == identity(found),
            _ => false,
        }
    }

    /// The lease, if that is what it is.
    pub(super) const fn lease(&self) -> Option<&HeldLease> {
        match self {
            Self::Lease(lease) => Some(lease),
            _ => None,
        }
    }

    /// Checks that the connection lasts, and the lock that is not a lease.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] if they do not; another error if the database does not say.
    pub(super) async fn ensure_held(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let lost = |detail: &str| Err(StoreError::LockLost { detail: detail.to_owned() });
        if connection.is_broken() {
            return lost("its connection has ended");
        }
        if connection.is_elsewhere() {
            return lost("the database's file was removed, or another file replaced it");
        }
        if !self.has_its_name() {
            return lost("the lock's file was removed, or another file replaced it");
        }
        match connection.dialect().lock.as_ref().filter(|_| self.lease().is_none()) {
            Some(lock) if !ask(connection, lock.is_ours).await? => {
                lost("the server does not know of it any more")
            }
            _ => Ok(()),
        }
    }
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<bool, StoreError> {
    let query: Query = connection.query(sql);
    let answer = connection.cell("asking for the master's lock", query).await?;
    Ok(matches!(answer, Cell::Text(text) if text == "1" || text == "true"))
}
