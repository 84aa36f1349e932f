//! Where a symbolic link among the rules may lead.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where the files of a rules directory may be: in the directory, in a sibling of it whose name begins with `..` on
/// the same file system (Kubernetes replaces such directories under a mounted ConfigMap), and in the directories that
/// an operator lists.
#[derive(Debug, Clone)]
pub(crate) struct LinkPolicy {
    directory: PathBuf,
    allowed: Vec<PathBuf>,
}

impl LinkPolicy {
    /// For the rules directory, which may itself be a link, and the other `allowed` directories.
    pub(crate) fn new(directory: &Path, allowed: &[PathBuf]) -> Self {
        Self { directory: directory.to_owned(), allowed: allowed.to_owned() }
    }

    /// For the directory that `path`, a file that is named alone, is in.
    pub(crate) fn beside(path: &Path, allowed: &[PathBuf]) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::new(directory.unwrap_or_else(|| Path::new(".")), allowed)
    }

    /// Whether an opened file at `target`, a path without links, may be read.
    pub(super) fn allows(&self, target: &Path, device: u64) -> bool {
        let Ok(directory) = self.directory.canonicalize() else { return false };
        if target.starts_with(&directory) {
            return true;
        }
        let is_swapped =
            directory.parent().and_then(|parent| target.strip_prefix(parent).ok()).is_some_and(|rest| {
                let sibling = rest.components().next().map(|part| part.as_os_str().as_bytes());
                sibling.is_some_and(|name| name.starts_with(b".."))
                    && std::fs::metadata(&directory).is_ok_and(|metadata| metadata.dev() == device)
            });
        let is_under =
            |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|allowed| target.starts_with(allowed));
        is_swapped || self.allowed.iter().any(is_under)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ReadError, read_within};
    use super::*;

    #[test]
    fn a_link_is_followed_inside_of_the_directory_and_to_where_it_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["rules", "rules/..1", "..2", "beside", "rules-of-others"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("text"), folder).unwrap();
        }
        std::os::unix::fs::symlink("rules", at("by_link")).unwrap();
        let links = [
            ("own.yaml", "text", true),
            ("data.yaml", "..1/text", true),
            ("swapped.yaml", "../..2/text", true),
            ("beside.yaml", "../beside/text", false),
            ("alike.yaml", "../rules-of-others/text", false),
            ("out.yaml", "/proc/self/status", false),
            ("twice.yaml", "beside.yaml", false),
        ];
        for (name, target, _) in links {
            std::os::unix::fs::symlink(target, at("rules").join(name)).unwrap();
        }
        for directory in ["rules", "by_link"] {
            let read = |name: &str, allowed: &[PathBuf]| {
                read_within(&at(directory).join(name), 99, &LinkPolicy::new(&at(directory), allowed))
            };
            for (name, _, inside) in links {
                match read(name, &[]) {
                    Ok(text) => assert!(inside, "{directory}/{name}: {text:?}"),
                    Err(ReadError::LeadsOut(_)) => assert!(!inside, "{directory}/{name}"),
                    Err(error) => panic!("{directory}/{name}: {error}"),
                }
            }
            assert_eq!(read("beside.yaml", &[at("beside")]).unwrap(), b"beside");
            assert_eq!(read("text", &[]).unwrap(), b"rules");
        }
    }
}
