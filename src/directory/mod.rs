//! Follows a directory of rule files: what wakes its follower, and what a scan finds.

mod files;
mod missing;
mod parallel;
mod pending;
mod read;
mod release;
mod scan;
mod scanned;
mod scope;
mod stamp;
mod watch;

/// The most files that [`Scanner::passed_over`] names.
pub(crate) const MOST_PASSED_OVER: usize = crate::rulefile::Listing::MOST_PASSED_OVER;

pub use missing::DELETE_AFTER;
pub(crate) use missing::MissingFiles;
pub(crate) use parallel::parallel_map;
pub(crate) use read::ScanProgress;
pub(crate) use release::{
    MANIFEST, MANIFEST_RULES, MANIFEST_SIG, Release, ReleaseFiles, holds, signature_names,
};
pub(crate) use scan::ChangedFiles;
pub use scan::{DirectoryUnavailable, Scanner};
pub use scanned::InvalidFile;
pub(crate) use scanned::{ScannedFile, Steps};
pub use scope::ScanScope;
pub(crate) use watch::{UnfinishedFiles, Watch};
