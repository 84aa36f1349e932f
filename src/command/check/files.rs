//! From the paths of the command line to the files to check.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::rulefile;

/// A path to check, or why there is nothing to check there.
#[derive(Debug)]
pub(super) enum Target {
    /// A file; `named` tells that its name is a rule's.
    File { path: PathBuf, named: bool },
    /// A path that is no file and cannot be listed.
    Unreadable { path: PathBuf, reason: String },
}

/// The files at `paths`, each once: a file as it is, of a directory what its master would read,
/// in the order of names.
pub(super) fn collect(paths: &[PathBuf]) -> Vec<Target> {
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for path in paths {
        if !path.is_dir() {
            let named = path.file_name().is_some_and(rulefile::is_rule_file_name);
            if seen.insert(path.clone()) {
                targets.push(Target::File { path: path.clone(), named });
            }
            continue;
        }
        match list(path) {
            Ok(files) if files.is_empty() => {
                let reason = "no rule in it: a rule's file is named [A-Za-z0-9_]+.yaml or .yml".to_owned();
                targets.push(Target::Unreadable { path: path.clone(), reason });
            }
            Ok(files) => {
                let new = files.into_iter().filter(|path| seen.insert(path.clone()));
                targets.extend(new.map(|path| Target::File { path, named: true }));
            }
            Err(error) => {
                let reason = format!("the directory cannot be read: {error}");
                targets.push(Target::Unreadable { path: path.clone(), reason });
            }
        }
    }
    targets
}

/// The rule files directly in a directory; folders are passed over whatever their names.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if rulefile::is_rule_file_name(&entry.file_name()) && !entry.file_type()?.is_dir() {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}
