//! Which files of a directory are rules, and how to read one safely: whatever has its name, reading ends, and takes
//! no more memory than the limit. Everything that reads a rules directory lists it here.

mod links;
mod listing;
mod write;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

pub(crate) use links::LinkPolicy;
pub(crate) use listing::{Listing, is_rule_file_name, seems_a_rule};
pub(crate) use write::{create, open_to_write, publish, publish_at, replace, with_suffix};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It does not exist: it was removed, or a symbolic link leads nowhere.
    #[error("there is no such file (or a symbolic link that leads nowhere)")]
    Absent,
    /// It is not a regular file; the word says what it is.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// A symbolic link leads out of the allowed directories.
    #[error(
        "it is a symbolic link out of the rules directory, to {}; put the file into the directory, or list its \
         directory in master.follow_links_to",
        .0.display()
    )]
    LeadsOut(PathBuf),
    /// The file is larger than the limit.
    #[error("it has {size} bytes; a rule may have {max}")]
    TooLarge {
        /// Its size in bytes, as far as is known.
        size: u64,
        /// The limit in bytes.
        max: usize,
    },
    /// The system refused.
    #[error("it cannot be read: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            _ => Self::Io(error),
        }
    }
}

impl ReadError {
    /// The most similar system error.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Absent => io::ErrorKind::NotFound.into(),
            Self::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

/// Reads a file of at most `max` bytes, following symbolic links.
///
/// It never waits for a writer (FIFO), does not open anything but a regular file if it can avoid that, and checks the
/// opened file again, so that a replacement in between does no harm.
///
/// # Errors
/// [`ReadError`]: missing, not a file, too large, or refused by the system.
pub(crate) fn read(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    read_open(&begin(path)?, max)
}

/// As [`read`], for a file in a rules directory: `policy` must allow the target of a symbolic link, once it is
/// opened.
///
/// # Errors
/// As [`read`], and [`ReadError::LeadsOut`].
pub(crate) fn read_within(path: &Path, max: usize, policy: &LinkPolicy) -> Result<Vec<u8>, ReadError> {
    let here = std::fs::symlink_metadata(path)?;
    if !here.is_symlink() {
        regular(&here)?;
        return read_regular(path, max);
    }
    let file = begin(path)?;
    // The opened file counts, and not what the name led to before.
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !policy.allows(&target, file.metadata()?.dev()) {
        return Err(ReadError::LeadsOut(target));
    }
    read_open(&file, max)
}

/// As [`read`], for what was a regular file when it was last looked at: a link that was made meanwhile is not followed.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_regular(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(HARMLESS | libc::O_NOFOLLOW).open(path)?;
    read_open(&file, max)
}

/// A directory that is open, to read many of its files: the system need not follow its path for each.
#[derive(Debug)]
pub(crate) struct OpenDirectory(File);

impl OpenDirectory {
    /// Opens what is at this path now; what replaces it later is another directory.
    ///
    /// # Errors
    /// It is not there, no directory, or may not be read.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// As [`read_regular`], with the metadata that the opened file had before it was read.
    ///
    /// # Errors
    /// As [`read`].
    pub(crate) fn read_regular(&self, name: &str, max: usize) -> Result<(Metadata, Vec<u8>), ReadError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::empty()).map_err(io::Error::from)?);
        let metadata = file.metadata()?;
        read_as(&file, &metadata, max).map(|bytes| (metadata, bytes))
    }
}

/// Opens a regular file for reading, without waiting; the caller checks its size.
///
/// # Errors
/// [`ReadError`], but not [`ReadError::TooLarge`].
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    let file = begin(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens what was a regular file a moment ago.
fn begin(path: &Path) -> Result<File, ReadError> {
    regular(&std::fs::metadata(path)?)?;
    Ok(OpenOptions::new().read(true).custom_flags(HARMLESS).open(path)?)
}

/// Flags for opening without waiting, whatever is opened.
const HARMLESS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

fn read_open(file: &File, max: usize) -> Result<Vec<u8>, ReadError> {
    read_as(file, &file.metadata()?, max)
}

fn read_as(file: &File, metadata: &Metadata, max: usize) -> Result<Vec<u8>, ReadError> {
    regular(metadata)?;
    if usize::try_from(metadata.len()).map_or(true, |size| size > max) {
        return Err(ReadError::TooLarge { size: metadata.len(), max });
    }
    // One byte more than its size shows the end; one more than the limit shows that it has grown.
    let mut text = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(max) + 1);
    file.take(max as u64 + 1).read_to_end(&mut text)?;
    if text.len() > max {
        return Err(ReadError::TooLarge { size: text.len() as u64, max });
    }
    Ok(text)
}

/// Checks that this is a regular file.
///
/// # Errors
/// [`ReadError::NotAFile`].
fn regular(metadata: &Metadata) -> Result<(), ReadError> {
    let kind = metadata.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "something else",
    };
    Err(ReadError::NotAFile(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_under_the_name_the_read_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("full"), vec![b'x'; 100]).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::os::unix::fs::symlink("full", at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());

        assert_eq!(read(&at("full"), 100).unwrap().len(), 100);
        assert_eq!(read(&at("link"), 100).unwrap().len(), 100);
        let error = |name: &str, max| read(&at(name), max).unwrap_err().to_string();
        assert_eq!(error("full", 99), "it has 100 bytes; a rule may have 99");
        assert_eq!(error("folder", 99), "it is a directory, not a file");
        assert_eq!(error("fifo", 99), "it is a FIFO, not a file");
        assert_eq!(error("socket", 99), "it is a socket, not a file");
        assert!(matches!(read(&at("dangling"), 99), Err(ReadError::Absent)));
        assert!(matches!(read(&at("none"), 99), Err(ReadError::Absent)));
        assert!(matches!(read(Path::new("/dev/zero"), 99), Err(ReadError::NotAFile("a device"))));
        // procfs reports 0 bytes for every file, so the reported size is not trusted.
        assert!(matches!(read(Path::new("/proc/self/status"), 20), Err(ReadError::TooLarge { .. })));
    }

    #[test]
    fn what_was_swapped_after_the_first_look_is_seen_by_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert!(matches!(read_open(&folder, 99), Err(ReadError::NotAFile("a directory"))));
    }
}
