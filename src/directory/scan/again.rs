//! What is read of files between two scans, on another thread: a file system may take its time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::super::parallel::{off_thread, parallel_map};
use super::super::scanned::ScannedFile;
use super::look::EMPTY_FOR;
use super::{DirectoryUnavailable, Scanner, THREADS};
use crate::clock::Timestamp;
use crate::rule::ContentDigest;
use crate::rulefile::{self, Listing};

/// Files whose stamp is too young are read again no sooner than this.
const RECHECK_AFTER: Duration = Duration::from_millis(20);

impl Scanner {
    /// How long after `now` to call [`Scanner::recheck`]; `None` where no file has a stamp that is too young to be
    /// trusted, or all such stamps are ahead of the clock.
    pub(crate) fn recheck_in(&self, now: Timestamp) -> Option<Duration> {
        let waits = self.unsettled.values().filter_map(|stamp| {
            let wait = match stamp {
                None => Duration::ZERO,
                Some(stamp) if stamp.is_empty => EMPTY_FOR.saturating_sub(stamp.age(now)),
                Some(stamp) => stamp.settles_in(now).unwrap_or_default(),
            };
            Some(wait).filter(|&wait| wait <= EMPTY_FOR)
        });
        waits.max().map(|wait| wait.max(RECHECK_AFTER))
    }

    /// Reads the files again whose stamps were too young to be trusted, and returns the names of those that have
    /// changed. Cancel safe.
    pub(crate) async fn recheck(&mut self, now: Timestamp) -> BTreeSet<String> {
        let (names, reader) = (self.unsettled.keys().cloned().collect(), self.reader.clone());
        let read = off_thread(move || {
            parallel_map(names, THREADS, |name: String| {
                let stamp = reader.stamp(&name).and_then(Result::ok);
                let digest = |stamp| Some(ContentDigest::of(&reader.bytes(&name, stamp).ok()?));
                let read = stamp.and_then(|stamp| Some((stamp, digest(stamp)?)));
                (name, read)
            })
        });
        let mut changed = BTreeSet::new();
        for (name, read) in read.await {
            self.unsettled.remove(&name);
            let known = self.files.get(&name).and_then(ScannedFile::digest);
            let Some((stamp, _)) = read.filter(|&(_, digest)| known == Some(digest)) else {
                changed.insert(name);
                continue;
            };
            let is_settled = stamp.settles_in(now).is_none();
            self.files.restamp(&name, stamp, is_settled);
            if !is_settled {
                self.unsettled.insert(name, Some(stamp));
            }
        }
        changed
    }

    /// Which of these names are those of rule files that exist now.
    pub(crate) async fn existing(&self, names: Vec<String>) -> BTreeSet<String> {
        if names.is_empty() {
            return BTreeSet::new();
        }
        let reader = self.reader.clone();
        let is_there =
            move |name: &String| rulefile::is_rule_file_name(name.as_ref()) && reader.stamp(name).is_some();
        off_thread(move || names.into_iter().filter(is_there).collect()).await
    }

    /// Whether a known file is missing now.
    ///
    /// # Errors
    /// [`DirectoryUnavailable`] when the directory cannot be read.
    pub(crate) async fn has_missing_files(&self) -> Result<bool, DirectoryUnavailable> {
        let directory = self.directory().to_owned();
        let listed = off_thread(move || Listing::of(&directory)).await;
        let names = listed.map_err(|source| self.unavailable(source))?.rules;
        Ok(self.files.iter().any(|(known, _)| !names.contains(known)))
    }

    /// The directories that links among the files point to.
    pub(crate) async fn link_targets(&self) -> BTreeSet<PathBuf> {
        let links = self.files.links().filter(|(_, file)| file.stamp.is_some());
        let links: Vec<PathBuf> = links.map(|(name, _)| self.directory().join(name)).collect();
        if links.is_empty() {
            return BTreeSet::new();
        }
        let target = |link: &PathBuf| Some(link.canonicalize().ok()?.parent()?.to_owned());
        off_thread(move || links.iter().filter_map(target).collect()).await
    }

    /// The texts of files as they were scanned, read again where they are not kept; `None` where the file has changed since:
    /// scan it again.
    pub(crate) async fn texts(&self, names: &[&str]) -> Vec<Option<Box<str>>> {
        let kept = |&name: &&str| self.files.get(name).and_then(|file| file.text.clone());
        let mut texts: Vec<_> = names.iter().map(kept).collect();
        let mut to_read = Vec::new();
        for (at, &name) in names.iter().enumerate().filter(|&(at, _)| texts[at].is_none()) {
            if let Some(rule) = self.files.get(name).and_then(ScannedFile::rule) {
                to_read.push((at, name.to_owned(), rule.content_sha256));
            }
        }
        if to_read.is_empty() {
            return texts;
        }
        let reader = self.reader.clone();
        let read = off_thread(move || {
            let read = |(at, name, digest): (usize, String, _)| (at, reader.text(&name, digest));
            to_read.into_iter().map(read).collect::<Vec<_>>()
        });
        for (at, text) in read.await {
            texts[at] = text;
        }
        texts
    }
}
