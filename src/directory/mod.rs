//! Follows a directory of rule files: what wakes its follower, and what a scan finds.

mod pending;
mod scan;
mod scanned;
mod stamp;
mod watch;

use std::time::Duration;

pub use scan::{DirectoryAway, Found, ScanScope, Scanner};
pub(crate) use scanned::Steps;
pub use scanned::{InvalidFile, ScannedFile};
pub use watch::{UnfinishedFiles, Watch, WatchError};

/// How long a file must be missing before its rule is deleted: `git checkout` and many editors remove a file and
/// write it again, on a slow mount over seconds.
pub const DELETE_AFTER: Duration = Duration::from_millis(1_500);
