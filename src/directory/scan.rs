//! Reads the rules directory: names, then stamps, then texts.
//!
//! A scan after an event reads the files that the event names, whatever their stamps say; a scan of
//! the whole directory reads those whose stamp is another than when they were read, or was too young
//! then to be trusted; a rescan and `rulesyncd sync` read every file. A file that is still being written,
//! according to events or because it is empty, keeps its last rule, so that no half of it is published. A process
//! without events, such as `rulesyncd sync` alone, cannot tell.

mod again;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use look::{Scan, Seen};

use super::files::Files;
use super::parallel::{off_thread, parallel_map};
use super::read::{FileReader, Found, ScanProgress};
use super::scanned::{InvalidFile, ScannedFile};
use super::scope::ScanScope;
use super::stamp::Stamp;
use super::watch::UnfinishedFiles;
use crate::clock::Timestamp;
use crate::rule::plan::FileRule;
use crate::rule::{Limits, RuleId};
use crate::rulefile::{self, Listing, OpenDirectory};

/// The most threads that read files.
const THREADS: usize = 2;

/// The directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct DirectoryUnavailable {
    path: PathBuf,
    source: io::Error,
}

/// The files that a scan found changed, each with what it was before; `None` is a new file.
pub(crate) type ChangedFiles = BTreeMap<String, Option<ScannedFile>>;

/// The files of a directory as they were last read.
#[derive(Debug)]
pub struct Scanner {
    reader: FileReader,
    files: Files,
    /// See [`Scanner::passed_over`].
    passed_over: BTreeSet<String>,
    /// Files whose stamp was too young when they were read, or that are empty and young.
    unsettled: BTreeMap<String, Unsettled>,
}

/// The stamp with which a file was read; `None` if it could not be read.
type Unsettled = Option<Stamp>;

impl Scanner {
    /// A scanner that has read nothing yet. Links may point out of the directory to places in `allowed`; `owner` is
    /// `updated_by` of the rules.
    pub(crate) fn new(directory: PathBuf, allowed: &[PathBuf], limits: Limits, owner: &str) -> Self {
        Self::with(FileReader::new(directory, allowed, limits, owner))
    }

    fn with(reader: FileReader) -> Self {
        Self { reader, files: Files::default(), passed_over: BTreeSet::new(), unsettled: BTreeMap::new() }
    }

    /// What its scans did with files so far.
    pub(crate) const fn progress(&self) -> &ScanProgress {
        self.reader.progress()
    }

    /// Counts with `progress` from now on.
    pub(crate) fn set_progress(&mut self, progress: ScanProgress) {
        self.reader.set_progress(progress);
    }

    /// The directory that is scanned.
    pub(crate) fn directory(&self) -> &Path {
        self.reader.directory()
    }

    /// Every file, by name.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &ScannedFile)> {
        self.files.iter()
    }

    /// One file.
    pub(crate) fn file(&self, name: &str) -> Option<&ScannedFile> {
        self.files.get(name)
    }

    /// The names of the files that hold an id, or name it though they are invalid, compared without case.
    pub(crate) fn names_of(&self, id: &RuleId) -> impl Iterator<Item = &str> {
        self.files.holding(id)
    }

    /// How many files hold a rule.
    pub(crate) fn valid_count(&self) -> usize {
        self.files.len() - self.files.invalid().count()
    }

    /// Every file with the rule in it, as input to a plan; `Err` is the id that an invalid file names.
    pub fn rules(&self) -> impl Iterator<Item = (&str, FileRule<'_>)> {
        self.files().map(|(name, scanned)| (name, scanned.planned()))
    }

    /// Invalid files, by name.
    pub fn invalid(&self) -> impl Iterator<Item = (&str, &InvalidFile)> {
        self.files.invalid().filter_map(|(name, scanned)| Some((name, scanned.invalid()?)))
    }

    /// YAML files that are not read because of their name or place, as of the last scan of the whole directory.
    pub(crate) const fn passed_over(&self) -> &BTreeSet<String> {
        &self.passed_over
    }

    /// Whether any of the files is a link; an unreadable one may be a link that leads nowhere.
    pub(crate) fn has_links(&self) -> bool {
        self.files.links().next().is_some()
    }

    /// As [`Scanner::update`], without those files that are being written, on another thread: a file system may take its
    /// time. A scanner whose scan was abandoned has read nothing.
    ///
    /// # Errors
    /// As [`Scanner::update`].
    pub(crate) async fn scan(
        &mut self,
        scope: &ScanScope,
        unfinished: &UnfinishedFiles,
        now: Timestamp,
    ) -> Result<ChangedFiles, DirectoryUnavailable> {
        let empty = Self::with(self.reader.clone());
        let mut scanner = std::mem::replace(self, empty);
        let (scope, unfinished) = (scope.clone(), unfinished.clone());
        let (scanner, found) = off_thread(move || {
            let _reread = (scope == ScanScope::Reread).then(|| unfinished.reread());
            let found = scanner.update(&scope, &unfinished.names(), now);
            (scanner, found)
        })
        .await;
        *self = scanner;
        found
    }

    /// Scans the files of `scope` on this thread. Those in `unfinished` keep what is known of them.
    ///
    /// # Errors
    /// [`DirectoryUnavailable`] when the directory cannot be read; nothing changes then.
    fn update(
        &mut self,
        scope: &ScanScope,
        unfinished: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<ChangedFiles, DirectoryUnavailable> {
        let opened = match scope {
            ScanScope::Reread => {
                Some(OpenDirectory::at(self.directory()).map_err(|source| self.unavailable(source))?)
            }
            ScanScope::All | ScanScope::Names(_) => None,
        };
        let names = match scope {
            ScanScope::All | ScanScope::Reread => {
                let listing = Listing::of(self.directory()).map_err(|source| self.unavailable(source))?;
                let Listing { rules, passed_over } = listing;
                self.passed_over = passed_over;
                rules
            }
            ScanScope::Names(names) => {
                // A missing file and a missing directory look alike by the file's name.
                std::fs::read_dir(self.directory()).map_err(|source| self.unavailable(source))?;
                names.iter().filter(|name| rulefile::is_rule_file_name(name.as_ref())).cloned().collect()
            }
        };
        let names = self.with_other_names(names);
        let mut gone: Vec<String> = match scope {
            ScanScope::All | ScanScope::Reread => {
                let mut listed = names.iter().map(String::as_str).peekable();
                let mut is_listed = |name| {
                    while listed.next_if(|&other| other < name).is_some() {}
                    listed.peek() == Some(&name)
                };
                self.files.names().filter(|&name| !is_listed(name)).map(str::to_owned).collect()
            }
            ScanScope::Names(_) => Vec::new(),
        };
        let scan = Scan { scope, unfinished, now, opened, kept: AtomicUsize::new(0) };
        let seen = parallel_map(names.into_iter().collect(), THREADS, |name: String| {
            let seen = self.look(&name, &scan);
            (name, seen)
        });
        let mut to_take = Vec::new();
        for (name, seen) in seen {
            match seen {
                Seen::AsRead => {}
                Seen::Gone => gone.push(name),
                Seen::There(stamp, found) => to_take.push((name, stamp, found)),
            }
        }
        let mut changed = ChangedFiles::new();
        for name in gone {
            self.unsettled.remove(&name);
            if let Some(before) = self.files.remove(&name) {
                changed.insert(name, Some(before));
            }
        }
        for (name, stamp, found) in to_take {
            if let Some(before) = self.take(&name, stamp, found, unfinished.contains(&name)) {
                changed.insert(name, before);
            }
        }
        Ok(changed)
    }

    /// Takes in what was found under a name, with the stamp that it had; `None` if it is still being written.
    /// Returns what the file was before, if that changed.
    fn take(
        &mut self,
        name: &str,
        stamp: Unsettled,
        found: Option<Found>,
        has_events: bool,
    ) -> Option<Option<ScannedFile>> {
        let mut scanned = match found {
            Some(Found::Known { stamp, is_settled }) => {
                self.files.restamp(name, stamp, is_settled);
                self.note_whether_settled(name, Some(stamp), is_settled);
                return None;
            }
            Some(Found::File(scanned)) if scanned.outcome != Err(InvalidFile::Unfinished) => *scanned,
            _ => {
                if self.files.get(name).is_none() {
                    self.files.insert(name, ScannedFile::new(Err(InvalidFile::Unfinished)));
                }
                // Without an event it is read again like a file with a young stamp.
                if !has_events {
                    self.note_whether_settled(name, stamp, false);
                }
                return None;
            }
        };
        self.note_whether_settled(name, stamp, scanned.is_settled);
        if scanned.outcome.is_err() && scanned.named.is_none() {
            scanned.had = self.files.get(name).and_then(ScannedFile::rule_id).cloned();
        }
        let (outcome, named) = (scanned.outcome.clone(), scanned.named.clone());
        let before = self.files.insert(name, scanned);
        let is_same =
            before.as_ref().is_some_and(|before| before.outcome == outcome && before.named == named);
        (!is_same).then_some(before)
    }

    fn note_whether_settled(&mut self, name: &str, stamp: Unsettled, is_settled: bool) {
        match is_settled {
            true => drop(self.unsettled.remove(name)),
            false => drop(self.unsettled.insert(name.to_owned(), stamp)),
        }
    }

    /// The names, and the other names of the same files: hard links.
    fn with_other_names(&self, mut names: BTreeSet<String>) -> BTreeSet<String> {
        let known = |name: &String| self.files.get(name)?.stamp.filter(|stamp| stamp.has_other_names);
        let found = |name: &String| match self.reader.stamp(name) {
            Some(Ok(stamp)) if stamp.has_other_names => Some(stamp),
            _ => known(name),
        };
        if names.len() < self.files.len() {
            let linked: Vec<Stamp> = names.iter().filter_map(found).collect();
            if !linked.is_empty() {
                let same = |file: &ScannedFile| {
                    file.stamp.is_some_and(|stamp| linked.iter().any(|other| stamp.is_same_file(other)))
                };
                let others = self.files.iter().filter(|(_, file)| same(file));
                names.extend(others.map(|(name, _)| name.to_owned()));
            }
        }
        names
    }

    /// Frees the texts that are kept for writing.
    pub(crate) fn forget_texts(&mut self) {
        self.files.forget_texts();
    }

    /// Notes that the rows of these files are equal to them.
    pub(crate) fn mark_written<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            self.files.mark_written(name);
        }
    }

    /// Notes that the rows of all valid files are equal to them, except for `others`.
    pub(crate) fn mark_all_written_except(&mut self, others: &BTreeSet<&str>) {
        self.files
            .set_written(|name, file| file.is_written || file.outcome.is_ok() && !others.contains(name));
    }

    /// Forgets which rows are equal to their files: what follows may be another database.
    pub(crate) fn forget_written(&mut self) {
        self.files.set_written(|_, _| false);
    }

    fn unavailable(&self, source: io::Error) -> DirectoryUnavailable {
        DirectoryUnavailable { path: self.directory().to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
