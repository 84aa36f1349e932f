//! The files of a directory as they were last read, with indexes, so that an edit costs the same however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scanned::ScannedFile;
use super::stamp::Stamp;
use crate::rule::RuleId;

/// The files by name. Whatever changes a file goes through here, so that the indexes stay equal to the files.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<Arc<str>, ScannedFile>,
    /// The files by the folded hash of the id that they hold or name; another id may share it.
    by_id: BTreeSet<(u64, Arc<str>)>,
    invalid: BTreeSet<Arc<str>>,
    /// Files that are links, or may be: those that cannot be read.
    links: BTreeSet<Arc<str>>,
    /// Files whose text or steps are kept.
    kept: BTreeSet<Arc<str>>,
}

impl Files {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&ScannedFile> {
        self.files.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &ScannedFile)> {
        self.files.iter().map(|(name, file)| (&**name, file))
    }

    /// In order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|name| &**name)
    }

    /// Replaces what is known of a file, and returns what was.
    pub(super) fn insert(&mut self, name: &str, file: ScannedFile) -> Option<ScannedFile> {
        let before = self.remove(name);
        let name: Arc<str> = name.into();
        if let Some(rule_id) = file.rule_id() {
            self.by_id.insert((folded_hash(rule_id), Arc::clone(&name)));
        }
        if file.outcome.is_err() {
            self.invalid.insert(Arc::clone(&name));
        }
        if file.stamp.is_none_or(|stamp| stamp.is_link) {
            self.links.insert(Arc::clone(&name));
        }
        if file.text.is_some() || file.steps.is_some() {
            self.kept.insert(Arc::clone(&name));
        }
        self.files.insert(name, file);
        before
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<ScannedFile> {
        let (name, file) = self.files.remove_entry(name)?;
        for index in [&mut self.invalid, &mut self.links, &mut self.kept] {
            index.remove(&name);
        }
        if let Some(rule_id) = file.rule_id() {
            self.by_id.remove(&(folded_hash(rule_id), name));
        }
        Some(file)
    }

    /// Notes another stamp of a file whose text is the known one. A rescan does this with every file.
    pub(super) fn restamp(&mut self, name: &str, stamp: Stamp, is_settled: bool) {
        let Some(file) = self.files.get_mut(name) else { return };
        (file.stamp, file.is_settled) = (Some(stamp), is_settled);
        match stamp.is_link {
            true => self.links.insert(name.into()),
            false => self.links.remove(name),
        };
    }

    /// The files that hold or name an id, compared without case.
    pub(super) fn holding(&self, id: &RuleId) -> impl Iterator<Item = &str> {
        let hash = folded_hash(id);
        let found = self.by_id.range((hash, Arc::from(""))..).take_while(move |(other, _)| *other == hash);
        found.map(|(_, name)| &**name).filter(move |name| {
            let named = self.get(name).and_then(ScannedFile::rule_id);
            named.is_some_and(|named| named.as_str().eq_ignore_ascii_case(id.as_str()))
        })
    }

    /// The files that hold no rule, new ones that are still being written included.
    pub(super) fn invalid(&self) -> impl Iterator<Item = (&str, &ScannedFile)> {
        self.invalid.iter().filter_map(|name| Some((&**name, self.get(name)?)))
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (&str, &ScannedFile)> {
        self.links.iter().filter_map(|name| Some((&**name, self.get(name)?)))
    }

    /// Frees the texts that are kept for writing.
    pub(super) fn forget_texts(&mut self) {
        for name in std::mem::take(&mut self.kept) {
            if let Some(file) = self.files.get_mut(&name) {
                (file.text, file.steps) = (None, None);
            }
        }
    }

    /// Notes that the row of a file is equal to it.
    pub(super) fn mark_written(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.is_written = true;
        }
    }

    /// Sets whether the rows of all files are equal to them.
    pub(super) fn set_written(&mut self, is_written: impl Fn(&str, &ScannedFile) -> bool) {
        for (name, file) in &mut self.files {
            file.is_written = is_written(name, file);
        }
    }
}

/// FNV-1a of the id in lower case.
fn folded_hash(id: &RuleId) -> u64 {
    let bytes = id.as_str().bytes().map(|byte| byte.to_ascii_lowercase());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
