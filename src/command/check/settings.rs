//! The level of each kind of finding, as the users of a directory configure it: in the file [`FILE_NAME`] in the
//! directory of the rules or above, and with flags.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::Pattern;
use serde::Deserialize;

use crate::command::Failure;
use crate::config::{from_yaml, nearest};
use crate::rule::{Code, Diagnostic, Severity};
use crate::rulefile::{self, LinkPolicy, ReadError};

/// The name of the settings file.
pub(super) const FILE_NAME: &str = ".rulesyncd-check.yaml";

/// The most bytes of the file.
const LARGEST: usize = 64 * 1024;

/// The level of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Off,
    Warning,
    Error,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    codes: BTreeMap<String, Level>,
    allowed_keys: Vec<String>,
    overrides: Vec<WrittenOverride>,
}

/// Other levels for some of the files.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOverride {
    files: Vec<String>,
    codes: BTreeMap<String, Level>,
}

/// The parsed file.
#[derive(Debug, Default)]
struct SettingsFile {
    levels: Levels,
    allowed_keys: Vec<Pattern>,
    overrides: Vec<(Vec<Pattern>, Levels)>,
}

type Levels = HashMap<Code, Level>;

/// The levels of the flags, which override any file.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    levels: Levels,
    strict: bool,
}

/// The settings of each directory, each read once.
#[derive(Debug, Default)]
pub(super) struct Settings {
    flags: Overrides,
    directories: HashMap<PathBuf, Arc<SettingsFile>>,
}

impl Overrides {
    /// Flags that set `levels`, the later of two for one code; then `strict` makes warnings errors.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a code with a fixed level.
    pub(super) fn new(
        levels: impl IntoIterator<Item = (Code, Level)>,
        strict: bool,
    ) -> Result<Self, Failure> {
        let levels = levels.into_iter().map(|(code, level)| settable(code, level));
        let levels = levels.collect::<Result<_, _>>().map_err(Failure::Usage)?;
        Ok(Self { levels, strict })
    }
}

impl Settings {
    /// Settings with these flags; files are read when their directories are first needed.
    pub(super) fn new(flags: Overrides) -> Self {
        Self { flags, directories: HashMap::new() }
    }

    /// Sets the levels of the findings of the file at `path`, and removes those that are off.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the settings of its directory cannot be read.
    pub(super) fn apply(&mut self, path: &Path, findings: &mut Vec<Diagnostic>) -> Result<(), Failure> {
        if findings.is_empty() {
            return Ok(());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = self.of_directory(directory)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        findings.retain_mut(|finding| {
            if finding.code == Code::UnknownKey && file.allows(&finding.field) {
                return false;
            }
            let of_file = || file.level(&name, finding.code);
            match self.flags.levels.get(&finding.code).copied().or_else(of_file) {
                Some(Level::Off) => return false,
                Some(Level::Warning) => finding.severity = Severity::Warning,
                Some(Level::Error) => finding.severity = Severity::Error,
                None => {}
            }
            if self.flags.strict {
                finding.severity = Severity::Error;
            }
            true
        });
        Ok(())
    }

    /// The settings that are nearest to `directory`, upwards, without those of strangers.
    fn of_directory(&mut self, directory: &Path) -> Result<Arc<SettingsFile>, Failure> {
        if let Some(file) = self.directories.get(directory) {
            return Ok(Arc::clone(file));
        }
        let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let mut file = SettingsFile::default();
        for above in absolute.ancestors() {
            let path = above.join(FILE_NAME);
            if above != absolute && is_strangers(&path, &absolute) {
                continue;
            }
            // As the rules, the file comes from whoever may commit: it may be any other file, or endless.
            match rulefile::read_within(&path, LARGEST, &LinkPolicy::beside(&path, &[])) {
                Ok(text) => {
                    file = SettingsFile::read(&text).map_err(|error| unusable(&path, error))?;
                    break;
                }
                Err(ReadError::Absent) => {}
                // This user may not be allowed to read directories above the rules.
                Err(ReadError::Io(error)) if error.kind() == ErrorKind::PermissionDenied => break,
                Err(ReadError::TooLarge { size, max }) => {
                    return Err(unusable(&path, anyhow::anyhow!("it has {size} bytes; it may have {max}")));
                }
                Err(ReadError::LeadsOut(_)) => {
                    let reason = "it is a symbolic link out of its directory; put the file itself there";
                    return Err(unusable(&path, anyhow::anyhow!(reason)));
                }
                Err(error) => return Err(unusable(&path, error)),
            }
        }
        let file = Arc::new(file);
        self.directories.insert(directory.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

/// Whether a file above the rules belongs to a user who has nothing to do with them: `/tmp` and `/` are above many
/// directories. Whoever may write the rules' own directory may write the rules, too.
fn is_strangers(path: &Path, rules: &Path) -> bool {
    let owner = |path: &Path| path.symlink_metadata().map(|found| found.uid());
    let Ok(found) = owner(path) else { return false };
    let own = rustix::process::geteuid().as_raw();
    ![0, own].contains(&found) && rules.metadata().map(|rules| rules.uid()).ok() != Some(found)
}

fn unusable(path: &Path, error: impl Into<anyhow::Error>) -> Failure {
    Failure::Usage(error.into().context(path.display().to_string()))
}

impl SettingsFile {
    fn read(text: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(text)?;
        let written: Option<Written> = from_yaml(text).map_err(anyhow::Error::msg)?;
        let written = written.unwrap_or_default();
        let overrides = written.overrides.into_iter();
        let overrides =
            overrides.map(|special| anyhow::Ok((patterns(&special.files)?, levels(&special.codes)?)));
        Ok(Self {
            levels: levels(&written.codes)?,
            allowed_keys: patterns(&written.allowed_keys)?,
            overrides: overrides.collect::<Result<_, _>>()?,
        })
    }

    /// Whether users have declared this key as their own; for a nested key, its last part counts.
    fn allows(&self, field: &str) -> bool {
        let key = field.rsplit('.').next().unwrap_or(field);
        self.allowed_keys.iter().any(|glob| glob.matches(key) || glob.matches(field))
    }

    /// The level of a code for a file of this name; the last setting wins.
    fn level(&self, name: &str, code: Code) -> Option<Level> {
        let of_file = self.overrides.iter().rev().find_map(|(files, levels)| {
            levels.get(&code).filter(|_| files.iter().any(|glob| glob.matches(name)))
        });
        of_file.or_else(|| self.levels.get(&code)).copied()
    }
}

fn levels(written: &BTreeMap<String, Level>) -> anyhow::Result<Levels> {
    written.iter().map(|(name, &level)| settable(code(name)?, level)).collect()
}

/// The code of this name.
fn code(name: &str) -> anyhow::Result<Code> {
    name.parse().map_err(|()| {
        let names = Code::ALL.iter().map(|code| code.as_str());
        match nearest(name, names) {
            Some(near) => anyhow::anyhow!("there is no code {name:?}; did you mean `{near}`?"),
            None => anyhow::anyhow!("there is no code {name:?}; a finding shows its code in brackets"),
        }
    })
}

/// A code, if it may have this level.
fn settable(code: Code, level: Level) -> anyhow::Result<(Code, Level)> {
    anyhow::ensure!(
        code.severity() == Severity::Warning || level == Level::Error,
        "{code} is an error whatever is set: a master does not take such a file"
    );
    Ok((code, level))
}

fn patterns(texts: &[String]) -> anyhow::Result<Vec<Pattern>> {
    let patterns = texts.iter().map(|text| {
        Pattern::new(text).map_err(|error| anyhow::anyhow!("{text:?} is no pattern of names: {error}"))
    });
    patterns.collect()
}
