//! What stands in the rules directory: names, then stamps, then texts, each only where the one
//! before says that something changed.

mod stamp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use self::stamp::Stamp;
use super::plan::{File, FileRule};
use crate::clock::Timestamp;
use crate::rule::{self, ContentDigest, Diagnostic, Limits, Severity};
use crate::rulefile::{self, ReadError};
use crate::telemetry::trace;

/// So many bytes of texts are kept from when they were read until they are written; what is more is
/// read again then.
const KEPT: usize = 16 << 20;

/// From so many files on, looking at them is shared by two threads.
const PARALLEL: usize = 64;

/// Which files are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// The whole directory.
    All,
    /// The files of these names. One that is no rule file's name, as a row may have it, is nobody's, whatever
    /// stands there.
    Names(BTreeSet<String>),
}

/// The directory could not be read; nothing is known of what stands in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct DirectoryAway {
    path: PathBuf,
    source: io::Error,
}

/// Why a file holds no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// It could not be read.
    Unreadable(String),
    /// It was read, and these are its errors.
    Invalid(Vec<Diagnostic>),
}

impl Broken {
    /// One of a few words that tells the reason's kind.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Invalid(findings) => findings.first().map_or("invalid", |finding| finding.code.as_str()),
        }
    }
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    stamp: Option<Stamp>,
    /// The rule in it, or why there is none.
    pub outcome: Result<FileRule, Broken>,
    /// When it was read; only while spans are recorded, until [`Scanner::forget_texts`].
    pub(super) steps: Option<Steps>,
    /// The text, from when it was read until [`Scanner::forget_texts`].
    text: Option<Box<str>>,
}

/// When the steps of reading a file were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) begun: Timestamp,
    /// The text was YAML; `None` where it was none.
    pub(super) parsed: Option<Timestamp>,
    pub(super) ended: Timestamp,
}

impl Scanned {
    /// The rule in the file; `None` where it holds none.
    pub const fn rule(&self) -> Option<&FileRule> {
        match &self.outcome {
            Ok(rule) => Some(rule),
            Err(_) => None,
        }
    }

    /// When the file came to be as it is: it was written, or put there. `None` where that is not
    /// known.
    pub fn saved_at(&self) -> Option<Timestamp> {
        self.stamp.map(|stamp| stamp.modified().max(stamp.changed()))
    }
}

/// What an update of the scanner found to be another than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files that are new, gone, or have another content, each as it was before; `None` is new.
    pub changed: BTreeMap<String, Option<Scanned>>,
}

/// The files of one directory, as they were when they were last looked at.
#[derive(Debug)]
pub struct Scanner {
    directory: PathBuf,
    limits: Limits,
    files: BTreeMap<String, Scanned>,
}

impl Scanner {
    /// A scanner that has looked at nothing yet.
    pub fn new(directory: PathBuf, limits: Limits) -> Self {
        Self { directory, limits, files: BTreeMap::new() }
    }

    /// The directory that is scanned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every file that is known, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Scanned)> {
        self.files.iter().map(|(name, scanned)| (name.as_str(), scanned))
    }

    /// One file.
    pub fn file(&self, name: &str) -> Option<&Scanned> {
        self.files.get(name)
    }

    /// Whether a link leads to any of the files; one that cannot be read may be a link that leads nowhere.
    pub fn has_links(&self) -> bool {
        self.files.values().any(|scanned| scanned.stamp.is_none_or(|stamp| stamp.is_link))
    }

    /// Every file in the form that plans are made of.
    pub fn facts(&self) -> impl Iterator<Item = File> {
        self.files().map(|(name, scanned)| File { path: name.to_owned(), rule: scanned.rule().cloned() })
    }

    /// Looks again at the files of `extent`.
    ///
    /// # Errors
    /// [`DirectoryAway`] when the directory cannot be read; everything known stays as it was.
    pub fn update(&mut self, extent: &Extent, now: Timestamp) -> Result<Found, DirectoryAway> {
        let names = match extent {
            Extent::All => self.list()?,
            Extent::Names(names) => {
                // A name alone does not tell a missing file from a missing directory.
                std::fs::read_dir(&self.directory).map_err(|source| self.away(source))?;
                names.iter().filter(|name| rulefile::is_rule_file_name(name.as_ref())).cloned().collect()
            }
        };
        let mut gone: Vec<String> = match extent {
            Extent::All => self.files.keys().filter(|&known| !names.contains(known)).cloned().collect(),
            Extent::Names(_) => Vec::new(),
        };
        let stamped = shared(names.into_iter().collect(), |name: String| {
            let stamp = Stamp::at(&self.directory.join(&name));
            let is_as_read = matches!(stamp, Some(Ok(stamp)) if self.is_as_read(&name, stamp, now));
            (!is_as_read).then_some((name, stamp))
        });
        let mut to_read = Vec::new();
        for (name, stamp) in stamped.into_iter().flatten() {
            match stamp {
                None => gone.push(name),
                Some(stamp) => to_read.push((name, stamp)),
            }
        }
        let mut found = Found::default();
        for name in gone {
            if let Some(before) = self.files.remove(&name) {
                found.changed.insert(name, Some(before));
            }
        }
        let kept = AtomicUsize::new(0);
        for (name, scanned) in shared(to_read, |(name, stamp)| self.read(name, stamp, &kept)) {
            let outcome = scanned.outcome.clone();
            let before = self.files.insert(name.clone(), scanned);
            if before.as_ref().is_none_or(|before| before.outcome != outcome) {
                found.changed.insert(name, before);
            }
        }
        Ok(found)
    }

    /// Whether something has the name now, whatever was found before; nothing has one that is no rule file's.
    pub fn is_there(&self, name: &str) -> bool {
        rulefile::is_rule_file_name(name.as_ref()) && Stamp::at(&self.directory.join(name)).is_some()
    }

    /// Whether a file that is known has gone and was not looked at since.
    ///
    /// # Errors
    /// [`DirectoryAway`] when the directory cannot be read.
    pub fn others_are_gone(&self) -> Result<bool, DirectoryAway> {
        let names = self.list()?;
        Ok(self.files.keys().any(|known| !names.contains(known)))
    }

    /// The text of a file as it was read; read again where it was forgotten. `None` when the file
    /// does not hold what was scanned any more: it is to be looked at again.
    pub fn text(&self, name: &str) -> Option<Box<str>> {
        let scanned = self.files.get(name)?;
        if let Some(text) = &scanned.text {
            return Some(text.clone());
        }
        let rule = scanned.outcome.as_ref().ok()?;
        let bytes = rulefile::read(&self.directory.join(name), self.limits.size).ok()?;
        if ContentDigest::of(&bytes) != rule.content {
            return None;
        }
        String::from_utf8(bytes).ok().map(String::into_boxed_str)
    }

    /// Gives back the memory of texts that stand in the table.
    pub fn forget_texts(&mut self) {
        for scanned in self.files.values_mut() {
            scanned.text = None;
            scanned.steps = None;
        }
    }

    fn away(&self, source: io::Error) -> DirectoryAway {
        DirectoryAway { path: self.directory.clone(), source }
    }

    fn list(&self) -> Result<BTreeSet<String>, DirectoryAway> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.directory).map_err(|source| self.away(source))? {
            let name = entry.map_err(|source| self.away(source))?.file_name();
            if rulefile::is_rule_file_name(&name) {
                names.extend(name.into_string());
            }
        }
        Ok(names)
    }

    fn is_as_read(&self, name: &str, stamp: Stamp, now: Timestamp) -> bool {
        let read = |known: &Scanned| known.stamp == Some(stamp);
        stamp.is_settled(now) && self.files.get(name).is_some_and(read)
    }

    fn read(&self, name: String, stamp: io::Result<Stamp>, kept: &AtomicUsize) -> (String, Scanned) {
        let broken = |why: Broken, stamp| Scanned { stamp, outcome: Err(why), steps: None, text: None };
        let unreadable = |why: String| broken(Broken::Unreadable(why), None);
        let (begun, mut parsed) = (trace::now(), None);
        let mut scanned = match stamp {
            Err(error) => unreadable(ReadError::from(error).to_string()),
            Ok(stamp) => match rulefile::read(&self.directory.join(&name), self.limits.size) {
                Err(error) => unreadable(error.to_string()),
                Ok(bytes) => match understand(bytes, &self.limits, || parsed = trace::now()) {
                    Ok((rule, text)) => {
                        let fits = kept.fetch_add(text.len(), Ordering::Relaxed) < KEPT;
                        let text = fits.then_some(text);
                        Scanned { stamp: Some(stamp), outcome: Ok(rule), steps: None, text }
                    }
                    Err(errors) => broken(Broken::Invalid(errors), Some(stamp)),
                },
            },
        };
        scanned.steps = begun.zip(trace::now()).map(|(begun, ended)| Steps { begun, parsed, ended });
        (name, scanned)
    }
}

/// Does the same for each item, on two threads where there are many.
fn shared<I: Send, T: Send>(mut items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    if items.len() < PARALLEL {
        return items.into_iter().map(work).collect();
    }
    let others = items.split_off(items.len() / 2);
    std::thread::scope(|scope| {
        let there = scope.spawn(|| others.into_iter().map(&work).collect::<Vec<T>>());
        let mut done: Vec<T> = items.into_iter().map(&work).collect();
        done.extend(there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done
    })
}

fn understand(
    bytes: Vec<u8>,
    limits: &Limits,
    parsed: impl FnOnce(),
) -> Result<(FileRule, Box<str>), Vec<Diagnostic>> {
    let definition = rule::parse_in_steps(&bytes, limits, parsed).map_err(errors_alone)?.definition;
    let content = ContentDigest::of(&bytes);
    // `parse` has accepted it, so it is UTF-8 and nothing is replaced.
    let text = String::from_utf8_lossy(&bytes).into_owned().into_boxed_str();
    Ok((FileRule { rule_id: definition.rule_id, rule_version: definition.rule_version, content }, text))
}

fn errors_alone(mut findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    findings.retain(|finding| finding.severity == Severity::Error);
    findings
}

#[cfg(test)]
mod tests;
