//! Writes the daemons' own files. What is no regular file at their paths is not replaced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{HARMLESS, regular};

/// Opens a file as `options` say, if it is a regular one or does not exist. Never waits for a reader (FIFO).
///
/// # Errors
/// It is not a regular file, or the system refuses.
pub(crate) fn open_to_write(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    ensure_replaceable(path)?;
    let file = options.custom_flags(HARMLESS).open(path)?;
    regular(&file.metadata()?).map_err(io::Error::other)?;
    Ok(file)
}

/// An empty file, to write and to read, that only this user can open.
///
/// # Errors
/// As [`open_to_write`].
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open_to_write(path, OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600))
}

/// Replaces a file atomically, and returns once it is on the disk: after a crash, it is the old one or the new one.
///
/// # Errors
/// Those of `fill`, and as [`open_to_write`].
pub(crate) fn replace<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    ensure_replaceable(path)?;
    let new = with_suffix(path, "new");
    let file = create(&new)?;
    fill(&file)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?)
}

/// A path with `.` and `suffix` appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// No daemon puts anything but a regular file at its paths, so anything else is not replaced.
fn ensure_replaceable(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) => regular(&found).map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}
