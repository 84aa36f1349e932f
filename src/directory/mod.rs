//! Follows a directory of rule files: what wakes its follower, and what a scan finds.

mod missing;
mod pending;
mod read;
mod release;
mod scan;
mod scanned;
mod scope;
mod stamp;
mod watch;

pub use missing::{DELETE_AFTER, MissingFiles};
pub use release::{
    MANIFEST, MANIFEST_RULES, MANIFEST_SIG, Release, ReleaseFiles, holds, is_release_file_name,
    signature_names,
};
pub use scan::{ChangedFiles, DirectoryAway, Scanner};
pub(crate) use scanned::Steps;
pub use scanned::{InvalidFile, ScannedFile};
pub use scope::ScanScope;
pub use watch::{UnfinishedFiles, Watch};
