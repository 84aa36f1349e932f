//! The texts of rules that were read and are not yet in the cache, on disk: what is served has no need of
//! them, and in memory they would take as much again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rule::{ContentDigest, KnownRule, RuleId};
use crate::rulefile;
use crate::store::TextSink;

/// The largest cache: a quarter of the memory that the unit allows. A larger file is not one that a worker wrote.
pub(super) const MAX_SIZE: u64 = 256 << 20;

/// Texts by their digests, in a file that has no name and goes with this process.
#[derive(Debug)]
pub(in crate::worker) struct Texts {
    cache: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` before the first text.
    file: Option<File>,
    end: u64,
    ranges: HashMap<ContentDigest, TextRange>,
    /// How many polls were taken in.
    looks: u64,
    /// What was parsed of the cache, until the first poll is taken in: most of it is there again.
    restored: HashMap<RuleId, Arc<KnownRule>>,
}

#[derive(Debug, Clone, Copy)]
struct TextRange {
    start: u64,
    length: usize,
    /// How many polls had been taken in when it was read.
    delta: u64,
}

impl Texts {
    /// Texts for the cache at this path, in a file beside it.
    pub(in crate::worker) fn new(cache: PathBuf) -> Self {
        Self { cache, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of this digest; `None` where it is not here.
    pub(super) fn get(&self, content: &ContentDigest) -> Option<String> {
        let inner = self.lock();
        inner.read(*inner.ranges.get(content)?).ok()
    }

    /// Remembers what was parsed of the cache, so that nothing is parsed twice.
    pub(in crate::worker) fn remember<'a>(&self, rules: impl Iterator<Item = &'a Arc<KnownRule>>) {
        self.lock().restored = rules.map(|rule| (rule.rule_id.clone(), Arc::clone(rule))).collect();
    }

    /// What was read up to here is taken in by now, or is nobody's.
    pub(in crate::worker) fn taken_in(&self) {
        let mut inner = self.lock();
        inner.looks += 1;
        inner.restored = HashMap::new();
    }

    /// How many polls were taken in.
    pub(super) fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// Forgets the texts that were read before the given number of polls was taken in, but for those that are
    /// `wanted`.
    pub(super) fn forget(&self, looks: u64, wanted: impl Fn(&ContentDigest) -> bool) {
        let mut inner = self.lock();
        inner.ranges.retain(|content, range| range.delta >= looks || wanted(content));
        if let Err(error) = inner.shrink(&self.cache) {
            tracing::debug!(error = %error, "texts that the cache is to get are lost");
            inner.clear();
        }
    }

    /// Forgets every text.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl TextSink for Texts {
    /// A text that cannot be kept is missing when the cache is written, which tells of it.
    fn put(&self, content: ContentDigest, text: &str) {
        let mut inner = self.lock();
        if inner.ranges.contains_key(&content) || inner.end + text.len() as u64 > MAX_SIZE {
            return;
        }
        if let Err(error) = inner.put(&self.cache, content, text) {
            tracing::debug!(error = %error, "a text is not kept for the cache");
        }
    }

    fn parsed(&self, rule_id: &str, content: &ContentDigest) -> Option<Arc<KnownRule>> {
        self.lock().restored.get(rule_id).filter(|rule| rule.content_sha256 == *content).cloned()
    }
}

impl Inner {
    fn empty(&self) -> Self {
        Self { looks: self.looks, restored: self.restored.clone(), ..Self::default() }
    }

    fn put(&mut self, cache: &Path, content: ContentDigest, text: &str) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => unnamed(cache)?,
        };
        let file = self.file.insert(file);
        file.write_all_at(text.as_bytes(), self.end)?;
        self.ranges.insert(content, TextRange { start: self.end, length: text.len(), delta: self.looks });
        self.end += text.len() as u64;
        Ok(())
    }

    fn read(&self, range: TextRange) -> io::Result<String> {
        let mut text = vec![0; range.length];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut text, range.start)?;
        String::from_utf8(text).map_err(io::Error::other)
    }

    /// Gives the disk back what nothing is in, once that is more than half of it.
    fn shrink(&mut self, cache: &Path) -> io::Result<()> {
        let live: u64 = self.ranges.values().map(|range| range.length as u64).sum();
        if live * 2 < self.end {
            let mut fresh = self.empty();
            for (content, range) in &self.ranges {
                fresh.put(cache, *content, &self.read(*range)?)?;
            }
            for (content, range) in &mut fresh.ranges {
                range.delta = self.ranges[content].delta;
            }
            *self = fresh;
        }
        Ok(())
    }

    fn clear(&mut self) {
        *self = self.empty();
    }
}

/// The path of a file in the cache's directory that belongs to it.
pub(super) fn beside(cache: &Path, suffix: &str) -> PathBuf {
    let mut name = cache.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// A file beside the cache that has no name.
fn unnamed(cache: &Path) -> io::Result<File> {
    let path = beside(cache, "texts");
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = open.custom_flags(rulefile::HARMLESS).open(&path)?;
    rulefile::regular(&file.metadata()?).map_err(io::Error::other)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
