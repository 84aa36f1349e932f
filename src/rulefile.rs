//! Which files of a directory are rules, and how one is read without harm: whatever stands under
//! the name, the read ends, and takes no more memory than the limit. Whoever reads a rules directory
//! lists it here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Whether a name in the rules directory is a rule's: `[A-Za-z0-9_]+\.ya?ml`.
///
/// Whatever is named otherwise (an editor's swap or backup file, a dotfile) is passed over before
/// anything else is done with it.
pub fn is_rule_file_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let stem = name.strip_suffix(b".yaml").or_else(|| name.strip_suffix(b".yml"));
    stem.is_some_and(|stem| {
        !stem.is_empty() && stem.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// What stands directly in a rules directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The names of the rule files, and of whatever else has such a name and is no directory.
    pub rules: BTreeSet<String>,
    /// Paths of YAML files that are not read, as their authors may think: their names are no rule
    /// file's, or they stand in a folder. At most [`Listing::MOST_PASSED_OVER`].
    pub passed_over: BTreeSet<String>,
}

impl Listing {
    /// How many files that are passed over are named at most.
    pub const MOST_PASSED_OVER: usize = 20;

    /// How many entries of one folder are looked at for such files at most.
    const MOST_IN_A_FOLDER: usize = 1_000;

    /// Lists a directory. Hidden files and folders, editors' backups (`a.yaml~`) and tests of rules
    /// (`a.test.yaml`) are passed over without a word.
    ///
    /// # Errors
    /// When the directory cannot be read. A folder in it that cannot be read is passed over.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = entry.file_type()?;
            let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
            if is_folder {
                // A linked folder may lead to anywhere.
                if kind.is_dir() && !name.as_bytes().starts_with(b".") {
                    folders.push(name);
                }
            } else if is_rule_file_name(&name) {
                listing.rules.extend(name.into_string());
            } else if seems_a_rule(&name) {
                listing.pass_over(name.to_string_lossy().into_owned());
            }
        }
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

/// Whether a name looks like that of a YAML file, and its author may take it for a rule's.
pub(crate) fn seems_a_rule(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"));
    stem.is_some_and(|stem| !stem.starts_with('.') && !stem.is_empty() && !stem.ends_with(".test"))
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none: it went away, or a symbolic link leads nowhere.
    #[error("there is no such file (or a symbolic link that leads nowhere)")]
    Absent,
    /// What stands there is not a file; the word says what it is.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// A symbolic link leads to a place that is not the rules' own.
    #[error(
        "it is a symbolic link out of the rules directory, to {}; put the file into the directory, or list its \
         directory in master.follow_links_to",
        .0.display()
    )]
    LeadsOut(PathBuf),
    /// The file has more bytes than a rule may have.
    #[error("it has {size} bytes; a rule may have {max}")]
    TooLarge {
        /// Bytes that the file has, as far as was seen.
        size: u64,
        /// Bytes that it may have.
        max: usize,
    },
    /// The system refused.
    #[error("it cannot be read: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            _ => Self::Io(error),
        }
    }
}

impl ReadError {
    /// The system's error that is nearest.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Absent => io::ErrorKind::NotFound.into(),
            Self::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

/// Reads a file of at most `max` bytes, following symbolic links.
///
/// It never waits for a writer (FIFO), never opens what is not a file when it can be told before,
/// and looks again at what it has opened, so that a swap in between does no harm.
///
/// # Errors
/// [`ReadError`]: nothing there, not a file, too large, or refused by the system.
pub fn read(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    read_open(&begin(path)?, max)
}

/// Where the files of a rules directory may stand: in the directory, in a sibling of it whose name begins
/// with `..` on the same file system (Kubernetes swaps such directories under a mounted ConfigMap), and in
/// the directories that an operator lists.
#[derive(Debug, Clone)]
pub struct LinkPolicy {
    directory: PathBuf,
    allowed: Vec<PathBuf>,
}

impl LinkPolicy {
    /// For the rules directory, which may itself be a link, and the directories that are `allowed` beside it.
    pub fn new(directory: &Path, allowed: &[PathBuf]) -> Self {
        Self { directory: directory.to_owned(), allowed: allowed.to_owned() }
    }

    /// Whether an opened file may be read that stands at `target`, a path without links.
    fn allows(&self, target: &Path, device: u64) -> bool {
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

/// As [`read`], of a file in a rules directory: where a symbolic link leads, once it is opened, `policy` must
/// allow.
///
/// # Errors
/// As [`read`], and [`ReadError::LeadsOut`].
pub fn read_within(path: &Path, max: usize, policy: &LinkPolicy) -> Result<Vec<u8>, ReadError> {
    let here = std::fs::symlink_metadata(path)?;
    if !here.is_symlink() {
        regular(&here)?;
        // A link that was put there since is not followed.
        let file = OpenOptions::new().read(true).custom_flags(HARMLESS | libc::O_NOFOLLOW).open(path)?;
        return read_open(&file, max);
    }
    let file = begin(path)?;
    // What was opened counts, not what the name led to a moment ago.
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !policy.allows(&target, file.metadata()?.dev()) {
        return Err(ReadError::LeadsOut(target));
    }
    read_open(&file, max)
}

/// Opens a file for reading, without waiting and only if it is one; the caller judges its size.
///
/// # Errors
/// [`ReadError`], but not [`ReadError::TooLarge`].
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    let file = begin(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens what was a file a moment ago.
fn begin(path: &Path) -> Result<File, ReadError> {
    regular(&std::fs::metadata(path)?)?;
    Ok(OpenOptions::new().read(true).custom_flags(HARMLESS).open(path)?)
}

/// Flags of opening that wait for nobody, whatever is opened.
pub(crate) const HARMLESS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

fn read_open(file: &File, max: usize) -> Result<Vec<u8>, ReadError> {
    let metadata = file.metadata()?;
    regular(&metadata)?;
    if usize::try_from(metadata.len()).map_or(true, |size| size > max) {
        return Err(ReadError::TooLarge { size: metadata.len(), max });
    }
    // One byte more than it said shows the end; one more than is allowed shows that it has grown.
    let mut text = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(max) + 1);
    file.take(max as u64 + 1).read_to_end(&mut text)?;
    if text.len() > max {
        return Err(ReadError::TooLarge { size: text.len() as u64, max });
    }
    Ok(text)
}

/// Whether this is a file.
///
/// # Errors
/// [`ReadError::NotAFile`].
pub(crate) fn regular(metadata: &std::fs::Metadata) -> Result<(), ReadError> {
    let kind = metadata.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "something else",
    };
    Err(ReadError::NotAFile(what))
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
    fn whatever_stands_under_the_name_the_read_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("full"), vec![b'x'; 100]).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::os::unix::fs::symlink("full", at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());

        assert_eq!(read(&at("full"), 100).unwrap().len(), 100);
        assert_eq!(read(&at("link"), 100).unwrap().len(), 100);
        let error = |name: &str, max| read(&at(name), max).unwrap_err().to_string();
        assert_eq!(error("full", 99), "it has 100 bytes; a rule may have 99");
        assert_eq!(error("folder", 99), "it is a directory, not a file");
        assert_eq!(error("fifo", 99), "it is a FIFO, not a file");
        assert_eq!(error("socket", 99), "it is a socket, not a file");
        assert!(matches!(read(&at("dangling"), 99), Err(ReadError::Absent)));
        assert!(matches!(read(&at("none"), 99), Err(ReadError::Absent)));
        assert!(matches!(read(Path::new("/dev/zero"), 99), Err(ReadError::NotAFile("a device"))));
        // procfs says 0 bytes of every file: the size that was told is not trusted.
        assert!(matches!(read(Path::new("/proc/self/status"), 20), Err(ReadError::TooLarge { .. })));
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

    #[test]
    fn what_was_swapped_after_the_first_look_is_seen_by_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert!(matches!(read_open(&folder, 99), Err(ReadError::NotAFile("a directory"))));
    }
}
