//! What makes a master the only one.

use std::fs::{File, Permissions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection::Connection;
use super::sql::{Cell, Query};
use super::sqlite::{Readers, create_beside_its_owner};
use crate::store::StoreError;

/// The master's lock while it is held.
#[derive(Debug)]
pub(super) enum Lock {
    /// The server's, bound to the session's connection.
    Session,
    /// A locked file beside a SQLite database.
    File { file: File, path: PathBuf },
    /// For a database in this process's memory.
    Memory { _held: Held },
}

/// A flag that is up while this lives.
#[derive(Debug)]
pub(super) struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Lock {
    pub(super) fn memory(flag: &Arc<AtomicBool>) -> Option<Self> {
        let free = !flag.swap(true, Ordering::SeqCst);
        free.then(|| Self::Memory { _held: Held(Arc::clone(flag)) })
    }

    /// Locks the file beside `database`, by whatever links that is reached. It stays when the lock is given
    /// back: removing it would let two masters lock two files of one name.
    pub(super) fn file(database: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::path_beside(database);
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
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path),
            created => created,
        };
        let file = file.map_err(refused)?;
        // An older version let a group open it, and who can open it can hold the lock. Another user's stays.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let lock = Self::File { file, path };
        if !lock.stands_in_its_place() {
            return Ok(None);
        }
        lock.sign();
        Ok(Some(lock))
    }

    /// Leaves word of this process for standbys, which no reader depends on.
    fn sign(&self) {
        let Self::File { file, .. } = self else { return };
        let signed = file.set_len(0).and_then(|()| writeln!(&*file, "{}", std::process::id()));
        if let Err(error) = signed {
            tracing::debug!(%error, "the lock's file does not say who holds it");
        }
    }

    /// The process that locked the file beside `database`; `None` where it does not say.
    pub(super) fn holder_of_file(database: &Path) -> Option<String> {
        let process: u32 = std::fs::read_to_string(Self::path_beside(database)).ok()?.trim().parse().ok()?;
        Some(format!("process {process} of this host"))
    }

    fn path_beside(database: &Path) -> PathBuf {
        let mut path = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
        path.push(".lock");
        path.into()
    }

    /// Whether the locked file is still the one of that name; another master could lock another.
    fn stands_in_its_place(&self) -> bool {
        let Self::File { file, path } = self else { return true };
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        match (file.metadata(), path.metadata()) {
            (Ok(held), Ok(found)) => identity(held) == identity(found),
            _ => false,
        }
    }

    /// Makes sure that the lock still makes its holder the only writer.
    ///
    /// # Errors
    /// [`StoreError::LockLost`] when it does not; another when the database does not say.
    pub(super) async fn ensure_held(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let lost = |detail: &str| Err(StoreError::LockLost { detail: detail.to_owned() });
        if connection.is_broken() {
            return lost("its connection has ended");
        }
        if connection.is_elsewhere() {
            return lost("the database's file was removed, or another stands in its place");
        }
        if !self.stands_in_its_place() {
            return lost("the lock's file was removed, or another stands in its place");
        }
        match connection.dialect().holds_lock {
            Some(sql) if !ask(connection, sql).await? => lost("the server does not know of it any more"),
            _ => Ok(()),
        }
    }
}

/// Asks the server for the lock, for as long as the connection lives.
pub(super) async fn lock_session(connection: &mut Connection, sql: &str) -> Result<Option<Lock>, StoreError> {
    Ok(ask(connection, sql).await?.then_some(Lock::Session))
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<bool, StoreError> {
    let query: Query = connection.query(sql);
    let answer = connection.cell("asking for the master's lock", query).await?;
    Ok(matches!(answer, Cell::Text(text) if text == "1" || text == "true"))
}
