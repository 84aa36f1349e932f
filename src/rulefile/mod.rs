//! Which files of a directory are rules, and how one is read without harm: whatever stands under
//! the name, the read ends, and takes no more memory than the limit. Whoever reads a rules directory
//! lists it here.

mod links;
mod listing;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use links::LinkPolicy;
pub(crate) use listing::seems_a_rule;
pub use listing::{Listing, is_rule_file_name};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none: it went away, or a symbolic link leads nowhere.
    #[error("there is no such file (or a symbolic link that leads nowhere)")]
    Absent,
    /// What stands there is not a file; the word says what it is.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// A symbolic link leads to a place that is not the rules' own.
    #[error(
        "it is a symbolic link out of the rules directory, to {}; put the file into the directory, or list its \
         directory in master.follow_links_to",
        .0.display()
    )]
    LeadsOut(PathBuf),
    /// The file has more bytes than a rule may have.
    #[error("it has {size} bytes; a rule may have {max}")]
    TooLarge {
        /// Bytes that the file has, as far as was seen.
        size: u64,
        /// Bytes that it may have.
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
    /// The system's error that is nearest.
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
/// It never waits for a writer (FIFO), never opens what is not a file when it can be told before,
/// and looks again at what it has opened, so that a swap in between does no harm.
///
/// # Errors
/// [`ReadError`]: nothing there, not a file, too large, or refused by the system.
pub fn read(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    read_open(&begin(path)?, max)
}

/// As [`read`], of a file in a rules directory: where a symbolic link leads, once it is opened, `policy` must
/// allow.
///
/// # Errors
/// As [`read`], and [`ReadError::LeadsOut`].
pub fn read_within(path: &Path, max: usize, policy: &LinkPolicy) -> Result<Vec<u8>, ReadError> {
    let here = std::fs::symlink_metadata(path)?;
    if !here.is_symlink() {
        regular(&here)?;
        // A link that was put there since is not followed.
        let file = OpenOptions::new().read(true).custom_flags(HARMLESS | libc::O_NOFOLLOW).open(path)?;
        return read_open(&file, max);
    }
    let file = begin(path)?;
    // What was opened counts, not what the name led to a moment ago.
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !policy.allows(&target, file.metadata()?.dev()) {
        return Err(ReadError::LeadsOut(target));
    }
    read_open(&file, max)
}

/// Opens a file for reading, without waiting and only if it is one; the caller judges its size.
///
/// # Errors
/// [`ReadError`], but not [`ReadError::TooLarge`].
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    let file = begin(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens what was a file a moment ago.
fn begin(path: &Path) -> Result<File, ReadError> {
    regular(&std::fs::metadata(path)?)?;
    Ok(OpenOptions::new().read(true).custom_flags(HARMLESS).open(path)?)
}

/// Flags of opening that wait for nobody, whatever is opened.
pub(crate) const HARMLESS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

fn read_open(file: &File, max: usize) -> Result<Vec<u8>, ReadError> {
    let metadata = file.metadata()?;
    regular(&metadata)?;
    if usize::try_from(metadata.len()).map_or(true, |size| size > max) {
        return Err(ReadError::TooLarge { size: metadata.len(), max });
    }
    // One byte more than it said shows the end; one more than is allowed shows that it has grown.
    let mut text = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(max) + 1);
    file.take(max as u64 + 1).read_to_end(&mut text)?;
    if text.len() > max {
        return Err(ReadError::TooLarge { size: text.len() as u64, max });
    }
    Ok(text)
}

/// Whether this is a file.
///
/// # Errors
/// [`ReadError::NotAFile`].
pub(crate) fn regular(metadata: &std::fs::Metadata) -> Result<(), ReadError> {
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
        // procfs says 0 bytes of every file: the size that was told is not trusted.
        assert!(matches!(read(Path::new("/proc/self/status"), 20), Err(ReadError::TooLarge { .. })));
    }

    #[test]
    fn what_was_swapped_after_the_first_look_is_seen_by_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert!(matches!(read_open(&folder, 99), Err(ReadError::NotAFile("a directory"))));
    }
}
