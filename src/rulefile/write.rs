//! Writes files: the daemons' own ones, and those of a release. What is no regular file at their paths is not replaced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
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

/// Replaces a file atomically, and returns once it is on the disk: after a crash, it is the old one or the new one. Only
/// this user can open it. What could not be written whole is removed.
///
/// # Errors
/// Those of `fill`, and as [`open_to_write`].
pub(crate) fn replace<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    replace_through(&with_suffix(path, "new"), path, 0o600, fill)
}

/// As [`replace`], for a file in a directory of others, who may read it: until it is whole, its name is hidden.
///
/// # Errors
/// As [`replace`].
pub(crate) fn publish(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!(".{name}.new"));
    replace_through(&new, &directory.join(name), 0o666, |mut file| file.write_all(bytes))
}

/// As [`publish`], at a path that a user named: the file that a link leads to is replaced, and keeps its mode and owner. What
/// is no regular file, such as a pipe, is written to, as is what `/dev` leads to.
///
/// # Errors
/// The system refuses.
pub(crate) fn publish_at(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let found = std::fs::metadata(path).ok();
    if path.starts_with("/dev") || found.as_ref().is_some_and(|found| !found.is_file()) {
        return OpenOptions::new().append(true).open(path)?.write_all(bytes);
    }
    // Where a link leads to, even if nothing is there yet.
    let target = || std::fs::read_link(path).map(|target| path.with_file_name(target));
    let path = path.canonicalize().or_else(|_| target()).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    replace_through(&path.with_file_name(format!(".{name}.new")), &path, 0o666, |mut file| {
        file.write_all(bytes)?;
        let Some(found) = found else { return Ok(()) };
        // Only root can give a file away.
        let _ = fchown(file, Some(found.uid()), Some(found.gid()));
        file.set_permissions(found.permissions())
    })
}

/// Fills the file `new`, and renames it to `path`.
fn replace_through<E: From<io::Error>>(
    new: &Path,
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    ensure_replaceable(path)?;
    // What an interrupted run left; a link that others put there is removed and not followed.
    match std::fs::symlink_metadata(new) {
        Ok(found) if found.is_file() || found.is_symlink() => std::fs::remove_file(new)?,
        Ok(found) => regular(&found).map_err(io::Error::other)?,
        Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    let written = fill(&file).and_then(|()| {
        file.sync_all()?;
        Ok(std::fs::rename(new, path)?)
    });
    if let Err(error) = written {
        // It may be what fills the disk.
        let _ = std::fs::remove_file(new);
        return Err(error);
    }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_in_the_place_of_the_new_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("victim"), "precious").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        for link in [".list.new", "own.new"] {
            symlink(at("victim"), at(link)).unwrap();
        }
        symlink(at("victim"), at("list")).unwrap();
        publish(dir.path(), "list", b"rules").unwrap();
        replace(&at("own"), |mut file| file.write_all(b"state")).unwrap();
        let text = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        assert_eq!([text("victim"), text("list"), text("own")], ["precious", "rules", "state"]);
        assert!(!at("list").is_symlink() && !at(".list.new").exists());

        // What an interrupted run left is written anew; a reader of the directory may read what is published.
        std::fs::write(at(".list.new"), "a longer text than the next").unwrap();
        publish(dir.path(), "list", b"next").unwrap();
        assert_eq!(text("list"), "next");
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("list") & 0o600, mode("own")), (0o600, 0o600));
        assert!(publish(dir.path(), "folder", b"").unwrap_err().to_string().contains("a directory"));
    }

    #[test]
    fn a_file_that_a_user_named_is_replaced_where_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("folder/page"), "old").unwrap();
        std::fs::set_permissions(at("folder/page"), std::fs::Permissions::from_mode(0o604)).unwrap();
        symlink("folder/page", at("link")).unwrap();
        symlink("folder/none", at("dangling")).unwrap();
        // Who reads the old page reads it to its end.
        let mut reader = File::open(at("link")).unwrap();
        for name in ["link", "dangling", "new"] {
            publish_at(&at(name), b"new").unwrap();
            assert_eq!(text(name), "new");
        }
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "old");
        assert!(at("link").is_symlink() && at("dangling").is_symlink());
        assert_eq!(at("folder/page").metadata().unwrap().permissions().mode() & 0o777, 0o604);
        assert_eq!(std::fs::read_dir(at("folder")).unwrap().count(), 2);

        let (pipe, writer) = io::pipe().unwrap();
        publish_at(Path::new(&format!("/dev/fd/{}", writer.as_raw_fd())), b"new").unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(pipe).unwrap(), "new");
        publish_at(&at("folder"), b"").unwrap_err();
        publish_at(&at("none/page"), b"").unwrap_err();
    }

    #[test]
    fn what_could_not_be_written_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let names = || {
            let entries = std::fs::read_dir(directory.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let path = directory.path().join("kept");
        replace(&path, |mut file| file.write_all(b"old")).unwrap();
        let full = |mut file: &File| {
            file.write_all(b"half of it")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        assert_eq!(replace(&path, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(names(), ["kept"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        // A directory appears at the path meanwhile, so that the new file has no place.
        let path = directory.path().join("kept").with_file_name("taken");
        replace(&path, |_| std::fs::create_dir(&path)).unwrap_err();
        let mut left = names();
        left.sort();
        assert_eq!(left, ["kept", "taken"]);
    }
}
