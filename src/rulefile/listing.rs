//! Which files of a directory are rules.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Whether a name in the rules directory is a rule's: `[A-Za-z0-9_]+\.ya?ml`.
///
/// All other names (an editor's swap or backup file, a dotfile) are ignored before anything else is done.
pub(crate) fn is_rule_file_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let stem = name.strip_suffix(b".yaml").or_else(|| name.strip_suffix(b".yml"));
    stem.is_some_and(|stem| {
        !stem.is_empty() && stem.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// The content of a rules directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The names of the rule files, and of anything else with such a name that is not a directory.
    pub(crate) rules: BTreeSet<String>,
    /// The paths of YAML files that are not read, although their authors may expect it: their names are not those of
    /// rule files, or they are in a folder. At most [`Listing::MOST_PASSED_OVER`].
    pub(crate) passed_over: BTreeSet<String>,
}

impl Listing {
    /// The most ignored files that are named.
    pub(crate) const MOST_PASSED_OVER: usize = 20;

    /// The most entries of one folder that are searched for such files.
    const MOST_IN_A_FOLDER: usize = 1_000;

    /// Lists a directory. Silently ignores hidden files and folders, editors' backups (`a.yaml~`) and tests of rules
    /// (`a.test.yaml`).
    ///
    /// # Errors
    /// The directory cannot be read. A folder in it that cannot be read is ignored.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        let mut rules = Vec::new();
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = entry.file_type()?;
            let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
            if is_folder {
                // A linked folder may lead anywhere.
                if kind.is_dir() && !name.as_bytes().starts_with(b".") {
                    folders.push(name);
                }
            } else if is_rule_file_name(&name) {
                rules.extend(name.into_string());
            } else if seems_a_rule(&name) {
                listing.pass_over(name.to_string_lossy().into_owned());
            }
        }
        // All at once: it is sorted first, which costs less than a search for the place of each name.
        listing.rules = rules.into_iter().collect();
        folders.sort_unstable();
        for folder in folders.into_iter().take(Self::MOST_IN_A_FOLDER) {
            if listing.passed_over.len() == Self::MOST_PASSED_OVER {
                break;
            }
            let Ok(entries) = std::fs::read_dir(directory.join(&folder)) else { continue };
            let names = entries.take(Self::MOST_IN_A_FOLDER).flatten().map(|entry| entry.file_name());
            for name in names.filter(|name| is_rule_file_name(name) || seems_a_rule(name)) {
                listing.pass_over(format!("{}/{}", folder.to_string_lossy(), name.to_string_lossy()));
            }
        }
        Ok(listing)
    }

    fn pass_over(&mut self, path: String) {
        self.passed_over.insert(path);
        if self.passed_over.len() > Self::MOST_PASSED_OVER {
            self.passed_over.pop_last();
        }
    }
}

/// Whether a name looks like a YAML file's, so that its author may expect it to be a rule.
pub(crate) fn seems_a_rule(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"));
    stem.is_some_and(|stem| !stem.starts_with('.') && !stem.is_empty() && !stem.ends_with(".test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_rules() {
        for good in ["R0001.yaml", "r_1.yml", "_.yaml", "4913.yaml"] {
            assert!(is_rule_file_name(OsStr::new(good)), "{good}");
        }
        for bad in [
            "",
            ".yaml",
            ".R1.yaml.swp",
            "R1.yaml~",
            "R1.yaml.tmp",
            "#R1.yaml#",
            "4913",
            "R-1.yaml",
            "R1.YAML",
            "R1.yaml\n",
            "Ré.yaml",
            "a.b.yaml",
            "a/b.yaml",
        ] {
            assert!(!is_rule_file_name(OsStr::new(bad)), "{bad}");
        }
        assert!(!is_rule_file_name(OsStr::from_bytes(b"R\xff.yaml")));
    }

    #[test]
    fn a_listing_names_what_an_author_may_take_for_a_rule() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["linux", "linux/deep", ".hidden", "empty", "rules.yaml"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in [
            "R1.yaml",
            "r_2.yml",
            "my-rule.yaml",
            "R1.YAML",
            "a.b.yml",
            "R1.test.yaml",
            "R1.yaml~",
            ".R1.yaml.swp",
            ".rulesyncd-check.yaml",
            "4913",
            "notes.txt",
            "linux/R9.yaml",
            "linux/deep/R8.yaml",
            ".hidden/R7.yaml",
        ] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("linux", dir.path().join("linked.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
        let listing = Listing::of(dir.path()).unwrap();
        assert_eq!(Vec::from_iter(listing.rules), ["R1.yaml", "dangling.yaml", "r_2.yml"]);
        assert_eq!(
            Vec::from_iter(listing.passed_over),
            ["R1.YAML", "a.b.yml", "linux/R9.yaml", "my-rule.yaml"]
        );

        for number in 0..100 {
            std::fs::write(dir.path().join(format!("a-{number}.yaml")), "").unwrap();
        }
        assert_eq!(Listing::of(dir.path()).unwrap().passed_over.len(), Listing::MOST_PASSED_OVER);
    }
}
