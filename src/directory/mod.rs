//! Follows a directory of rule files: what wakes its follower, and what a scan finds.

mod missing;
mod pending;
mod scan;
mod scanned;
mod stamp;
mod watch;

pub use missing::{DELETE_AFTER, MissingFiles};
pub use scan::{DirectoryAway, ScanResult, ScanScope, Scanner};
pub(crate) use scanned::Steps;
pub use scanned::{InvalidFile, ScannedFile};
pub use watch::{UnfinishedFiles, Watch};
