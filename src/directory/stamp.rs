//! The metadata of a file that shows whether its content may have changed.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::clock::Timestamp;

/// A file that was written so short a while before it was read may be written again without its
/// stamp moving: file systems stamp in ticks. (Git calls such entries "racily clean".)
const TICK: Duration = Duration::from_millis(100);

/// The same where stamps are whole seconds, or every second second, as on ext4 with small inodes and
/// on FAT. A stamp that only happens to be a whole second is taken for one of these, which costs
/// one more reading.
const WHOLE_SECONDS_TICK: Duration = Duration::from_millis(2_100);

/// Identifies the content of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether a symbolic link led there.
    pub(super) is_link: bool,
    /// Whether the file has other names, which no event of this one names.
    pub(super) has_other_names: bool,
    /// Whether it is a regular file, and no link led there.
    pub(super) is_plain_file: bool,
    /// Whether it is a file without a text.
    pub(super) is_empty: bool,
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

    /// The stamp of a file with this metadata; `is_link` if a symbolic link led there.
    pub(super) fn of(metadata: &Metadata, is_link: bool) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_link,
            has_other_names: metadata.nlink() > 1,
            is_plain_file: metadata.is_file() && !is_link,
            is_empty: metadata.is_file() && metadata.size() == 0,
        }
    }

    /// How long after `now` a later change of the file is sure to show in the stamp; `None` where it
    /// is already. A stamp ahead of the clock settles when the clock has passed it.
    pub(super) fn settles_in(&self, now: Timestamp) -> Option<Duration> {
        let is_whole = self.changed.1 == 0 && self.modified.1 == 0;
        let tick = if is_whole { WHOLE_SECONDS_TICK } else { TICK };
        let settled_at = self.changed().after(tick);
        (settled_at >= now).then(|| settled_at.since(now) + Duration::from_millis(1))
    }

    /// How long the file has been as it is; zero where its stamp is ahead of `now`.
    pub(super) fn age(&self, now: Timestamp) -> Duration {
        now.since(self.changed())
    }

    /// Whether it is of the same file as another, by whatever names.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// When the file was written or moved here, whichever was later.
    pub(super) fn saved_at(self) -> Timestamp {
        self.changed().max(timestamp(self.modified))
    }

    pub(super) fn changed(&self) -> Timestamp {
        timestamp(self.changed)
    }
}

fn timestamp((seconds, nanoseconds): (i64, i64)) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000 + nanoseconds / 1_000)
}
