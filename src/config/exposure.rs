//! Whether other users than the daemon's can read the database's password.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Config, ValueOrigin, environment};

/// A file with the database's password that every user of the host can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExposedPassword {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its permissions.
    pub(crate) mode: u32,
    /// Its owner.
    pub(crate) owner: u32,
}

impl Config {
    /// The file with a password of the database, `database.url_file` or the configuration file itself, if every user of
    /// the host can read it. `None` for systemd's credentials, which only the unit sees.
    pub(crate) fn exposed_password(&self) -> Option<ExposedPassword> {
        let of_database = match (&self.database.url_file, self.database_origin()) {
            _ if !self.database.address.has_password() => None,
            (Some(file), _) if is_credential(file) => None,
            (Some(file), _) => Some(file.clone()),
            (None, ValueOrigin::File(file, _)) => Some(file),
            (None, _) => None,
        };
        let of_reports = match self.origin("worker.report_url") {
            ValueOrigin::File(file, _) => {
                self.worker.report_url.as_ref().filter(|address| address.has_password()).map(|_| file)
            }
            _ => None,
        };
        of_database.into_iter().chain(of_reports).find_map(|path| {
            let (mode, owner) = readable_by_all(&path)?;
            Some(ExposedPassword { path, mode, owner })
        })
    }
}

/// Whether systemd made this file for the unit, from its `LoadCredential=`.
pub(crate) fn is_credential(file: &Path) -> bool {
    environment("CREDENTIALS_DIRECTORY").is_some_and(|directory| file.starts_with(directory))
}

/// The permissions and the owner of a file that every user can open; `None` if a directory in its path prevents that,
/// or it is not known.
fn readable_by_all(path: &Path) -> Option<(u32, u32)> {
    const READ: u32 = 0o004;
    const SEARCH: u32 = 0o001;
    let path = path.canonicalize().ok()?;
    let file = path.metadata().ok()?;
    let may_search =
        |directory: &Path| directory.metadata().is_ok_and(|directory| directory.mode() & SEARCH != 0);
    let is_readable = file.mode() & READ != 0 && path.ancestors().skip(1).all(may_search);
    is_readable.then_some((file.mode() & 0o7777, file.uid()))
}
