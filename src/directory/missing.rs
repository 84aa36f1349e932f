//! Files that are missing, until it is certain that they are gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Scanner;
use crate::rule::RuleHeader;

/// How long a file must be missing before its rule is deleted: `git checkout` and many editors remove a file and
/// write it again, on a slow mount over seconds.
pub const DELETE_AFTER: Duration = Duration::from_millis(1_500);

/// Files whose rules a plan deletes, each with since when it has been missing.
#[derive(Debug, Default)]
pub(crate) struct MissingFiles(BTreeMap<String, Instant>);

impl MissingFiles {
    /// Takes out of `deletes` those of files that have been missing for less than [`DELETE_AFTER`], and returns their
    /// names for a rescan. Where the file exists and holds another id, the deletion stays.
    ///
    /// `everything` tells that `deletes` are those of the whole directory; otherwise files that are not among them stay
    /// as missing as they were.
    pub(crate) fn debounce(
        &mut self,
        deletes: &mut Vec<RuleHeader>,
        scanner: &Scanner,
        everything: bool,
    ) -> Vec<String> {
        let now = Instant::now();
        let mut missing = BTreeMap::new();
        let mut rescan = Vec::new();
        deletes.retain(|RuleHeader { source_path, .. }| {
            if scanner.file(source_path).is_some() {
                return true;
            }
            let since = *self.0.get(&**source_path).unwrap_or(&now);
            missing.insert(source_path.to_string(), since);
            let is_confirmed = now.duration_since(since) >= DELETE_AFTER;
            if !is_confirmed {
                rescan.push(source_path.to_string());
            }
            is_confirmed
        });
        if everything {
            self.0 = missing;
        } else {
            self.0.extend(missing);
        }
        rescan
    }

    /// Forgets the files that the last scan found.
    pub(crate) fn forget_found(&mut self, scanner: &Scanner) {
        self.0.retain(|path, _| scanner.file(path).is_none());
    }

    /// Forgets a file whose rule was deleted.
    pub(crate) fn forget(&mut self, path: &str) {
        self.0.remove(path);
    }

    /// Their paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
