//! Keeps the texts of rules on disk from the poll that read them until the cache holds them. Serving rules does
//! not need the texts, and in memory they would double the worker's size. A poll does not wait for the disk: a
//! thread writes the texts, and a few of them wait for it in memory.

mod queue;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::queue::Queue;
use crate::rule::{ContentDigest, KnownRule, RuleId};
use crate::rulefile;
use crate::store::TextSink;

/// The largest cache file, in bytes: a quarter of the memory that the unit allows. No worker writes a larger one.
pub(super) const MAX_SIZE: u64 = 256 << 20;

/// Texts by their digests, in a file without a name that disappears with this process.
#[derive(Debug)]
pub(in crate::worker) struct Texts {
    files: Arc<Files>,
    queue: Arc<Queue>,
    /// How many polls were applied.
    polls: AtomicU64,
    /// The rules that were parsed from the cache, until the first poll is applied: it mostly finds the same.
    restored: Mutex<HashMap<RuleId, Arc<KnownRule>>>,
}

/// Where the texts are.
#[derive(Debug)]
struct Files {
    cache: PathBuf,
    /// Held while the disk is waited for, so never locked by the thread of the stream or by a poll.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    /// `None` before the first text.
    file: Option<File>,
    end: u64,
    ranges: HashMap<ContentDigest, TextRange>,
}

#[derive(Debug, Clone, Copy)]
struct TextRange {
    start: u64,
    length: usize,
    /// How many polls had been applied when it was read.
    delta: u64,
}

impl Texts {
    /// Texts for the cache at this path, in a file of the same directory.
    pub(in crate::worker) fn new(cache: PathBuf) -> Self {
        let files = Arc::new(Files { cache, inner: Mutex::default() });
        Self { files, queue: Arc::default(), polls: AtomicU64::new(0), restored: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.files.lock()
    }

    fn restored(&self) -> MutexGuard<'_, HashMap<RuleId, Arc<KnownRule>>> {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the disk has all texts that were put before.
    pub(super) fn settle(&self) {
        self.queue.settle();
    }

    /// The text of this digest; `None` if it is not on the disk. Waits for the disk, as `forget` and `clear` do.
    pub(super) fn get(&self, content: &ContentDigest) -> Option<String> {
        let inner = self.lock();
        inner.read(*inner.ranges.get(content)?).ok()
    }

    /// Remembers the rules that were parsed from the cache, so that the first poll does not parse them again.
    pub(in crate::worker) fn remember<'a>(&self, rules: impl Iterator<Item = &'a Arc<KnownRule>>) {
        *self.restored() = rules.map(|rule| (rule.header.rule_id.clone(), Arc::clone(rule))).collect();
    }

    /// Records that a poll was applied.
    pub(in crate::worker) fn poll_applied(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
        *self.restored() = HashMap::new();
    }

    /// How many polls were applied.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Forgets the texts that were read before the given number of polls was applied, except those that are
    /// still `wanted`.
    pub(super) fn forget(&self, polls: u64, wanted: impl Fn(&ContentDigest) -> bool) {
        let mut inner = self.lock();
        inner.ranges.retain(|content, range| range.delta >= polls || wanted(content));
        if let Err(error) = inner.shrink(&self.files.cache) {
            tracing::debug!(error = %error, "texts that the cache needs are lost");
            *inner = Inner::default();
        }
    }

    /// Forgets every text.
    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }
}

impl TextSink for Texts {
    /// Keeps a text if it can. If it cannot, the next writing of the cache reports the missing text. Does not wait for a
    /// disk that hangs.
    fn put(&self, content: ContentDigest, text: &str) {
        let files = Arc::clone(&self.files);
        let kept = self.queue.push(content, text, self.polls(), move |waiting| files.put(waiting));
        if let Err(error) = kept {
            tracing::debug!(error = %error, "a text is not kept for the cache");
        }
    }

    fn parsed(&self, rule_id: &str, content: &ContentDigest) -> Option<Arc<KnownRule>> {
        self.restored().get(rule_id).filter(|rule| rule.header.content_sha256 == *content).cloned()
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, waiting: &queue::Waiting) {
        let mut inner = self.lock();
        let (content, text) = (waiting.content, &waiting.text);
        if inner.ranges.contains_key(&content) || inner.end + text.len() as u64 > MAX_SIZE {
            return;
        }
        if let Err(error) = inner.put(&self.cache, content, text, waiting.polls) {
            tracing::debug!(error = %error, "a text is not kept for the cache");
        }
    }
}

impl Inner {
    /// Appends a text that was read after so many `polls`.
    fn put(&mut self, cache: &Path, content: ContentDigest, text: &str, polls: u64) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => unnamed(cache)?,
        };
        let file = self.file.insert(file);
        file.write_all_at(text.as_bytes(), self.end)?;
        self.ranges.insert(content, TextRange { start: self.end, length: text.len(), delta: polls });
        self.end += text.len() as u64;
        Ok(())
    }

    fn read(&self, range: TextRange) -> io::Result<String> {
        let mut text = vec![0; range.length];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut text, range.start)?;
        String::from_utf8(text).map_err(io::Error::other)
    }

    /// Rewrites the file once more than half of it is unused.
    fn shrink(&mut self, cache: &Path) -> io::Result<()> {
        let live: u64 = self.ranges.values().map(|range| range.length as u64).sum();
        if live * 2 < self.end {
            let mut fresh = Self::default();
            for (content, range) in &self.ranges {
                fresh.put(cache, *content, &self.read(*range)?, range.delta)?;
            }
            *self = fresh;
        }
        Ok(())
    }
}

/// A file without a name, in the cache's directory.
fn unnamed(cache: &Path) -> io::Result<File> {
    let path = rulefile::with_suffix(cache, "texts");
    let file = rulefile::create(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
