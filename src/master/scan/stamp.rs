//! A file without its content.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::clock::Timestamp;

/// A file that was written so short a while before it was read may be written again without its
/// stamp moving: file systems stamp in ticks. It is read again until it is older.
const STAMP_TICK: Duration = Duration::from_millis(100);

/// What tells, without reading it, that a file is the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether a symbolic link led there.
    pub(super) is_link: bool,
}

impl Stamp {
    /// The stamp of what a path leads to; `None` when nothing is there, or a folder, which is passed over.
    /// A symbolic link that leads nowhere is something: a broken file, not a missing one.
    pub(super) fn at(path: &Path) -> Option<io::Result<Self>> {
        let here = match std::fs::symlink_metadata(path) {
            Ok(here) => here,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Err(error)),
        };
        let is_link = here.is_symlink();
        match if is_link { std::fs::metadata(path) } else { Ok(here) } {
            Ok(metadata) if metadata.is_dir() => None,
            Ok(metadata) => Some(Ok(Self::of(&metadata, is_link))),
            Err(error) => Some(Err(error)),
        }
    }

    fn of(metadata: &Metadata, is_link: bool) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_link,
        }
    }

    /// Whether the file changed so long before `now` that a later change must show in the stamp.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        now.since(self.changed()) > STAMP_TICK
    }

    pub(super) fn modified(&self) -> Timestamp {
        Timestamp::from_micros(self.modified.0 * 1_000_000 + self.modified.1 / 1_000)
    }

    pub(super) fn changed(&self) -> Timestamp {
        Timestamp::from_micros(self.changed.0 * 1_000_000 + self.changed.1 / 1_000)
    }
}
