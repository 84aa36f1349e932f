//! Reads one file of a rules directory into its rule, or into the reason why it is invalid.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scanned::{InvalidFile, ScannedFile, Steps};
use super::stamp::Stamp;
use crate::clock::Timestamp;
use crate::rule::{self, Code, ContentDigest, Limits, RuleHeader, Severity};
use crate::rulefile::{self, LinkPolicy, OpenDirectory, ReadError};
use crate::telemetry::trace;

/// Counts what scans did with files: it tells a slow scan from one that hangs.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanProgress(Arc<AtomicU64>);

impl ScanProgress {
    /// How often a file was stamped or read.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What reading a file found.
pub(super) enum Found {
    /// The known text, with this stamp.
    Known { stamp: Stamp, is_settled: bool },
    /// Another text, or none.
    File(Box<ScannedFile>),
}

/// How to read the files of one directory.
#[derive(Debug, Clone)]
pub(super) struct FileReader {
    directory: PathBuf,
    limits: Limits,
    links: LinkPolicy,
    /// `updated_by` of the rules.
    owner: Arc<str>,
    progress: ScanProgress,
}

impl FileReader {
    pub(super) fn new(directory: PathBuf, allowed: &[PathBuf], limits: Limits, owner: &str) -> Self {
        let links = LinkPolicy::new(&directory, allowed);
        Self { directory, limits, links, owner: owner.into(), progress: ScanProgress::default() }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) const fn progress(&self) -> &ScanProgress {
        &self.progress
    }

    /// Counts with `progress` from now on.
    pub(super) fn set_progress(&mut self, progress: ScanProgress) {
        self.progress = progress;
    }

    fn note_progress(&self) {
        self.progress.0.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Stamp::at`].
    pub(super) fn stamp(&self, name: &str) -> Option<io::Result<Stamp>> {
        self.note_progress();
        Stamp::at(&self.directory.join(name))
    }

    /// The bytes of a file that has just been stamped.
    pub(super) fn bytes(&self, name: &str, stamp: Stamp) -> Result<Vec<u8>, ReadError> {
        self.note_progress();
        let (path, max) = (self.directory.join(name), self.limits.size);
        match stamp.is_plain_file {
            true => rulefile::read_regular(&path, max),
            false => rulefile::read_within(&path, max, &self.links),
        }
    }

    /// The text of a file; `None` if it is not the one with this digest.
    pub(super) fn text(&self, name: &str, content_sha256: ContentDigest) -> Option<Box<str>> {
        let bytes = self.bytes(name, self.stamp(name)?.ok()?).ok()?;
        if ContentDigest::of(&bytes) != content_sha256 {
            return None;
        }
        String::from_utf8(bytes).ok().map(String::into_boxed_str)
    }

    /// Reads a file of the `opened` directory again that was a plain one, without a look before it is opened. `None` if it
    /// has another text or is no plain file now, or if anything fails.
    pub(super) fn stamp_if_unchanged(
        &self,
        opened: &OpenDirectory,
        name: &str,
        known: &ScannedFile,
    ) -> Option<Stamp> {
        let digest = known.digest().filter(|_| known.stamp.is_some_and(|stamp| stamp.is_plain_file))?;
        self.note_progress();
        let (metadata, bytes) = opened.read_regular(name, self.limits.size).ok()?;
        let is_known = !bytes.is_empty() && ContentDigest::of(&bytes) == digest;
        is_known.then(|| Stamp::of(&metadata, false))
    }

    /// Reads a file that has this stamp. A text that is `known` is not parsed again.
    pub(super) fn read(
        &self,
        name: &str,
        stamp: io::Result<Stamp>,
        known: Option<&ScannedFile>,
        now: Timestamp,
    ) -> Found {
        let (begun, mut parsed) = (trace::now(), None);
        let was_file = stamp.as_ref().is_ok_and(|stamp| !stamp.is_link);
        let bytes = stamp.map_err(ReadError::from).and_then(|stamp| Ok((stamp, self.bytes(name, stamp)?)));
        let mut scanned = match bytes {
            // Removed since it was stamped: it may be made anew.
            Err(ReadError::Absent) if was_file => ScannedFile::new(Err(InvalidFile::Unfinished)),
            Err(error) => ScannedFile::new(Err(InvalidFile::Unreadable(error.to_string()))),
            // Emptied or replaced since it was stamped: it is about to be written.
            Ok((stamp, bytes)) if bytes.is_empty() && !stamp.is_empty => {
                ScannedFile::new(Err(InvalidFile::Unfinished))
            }
            Ok((stamp, bytes)) => {
                let content_sha256 = ContentDigest::of(&bytes);
                let is_settled = stamp.settles_in(now).is_none();
                if known.is_some_and(|known| known.digest() == Some(content_sha256)) {
                    return Found::Known { stamp, is_settled };
                }
                let scanned = self.parse(name, bytes, content_sha256, stamp, || parsed = trace::now());
                ScannedFile { stamp: Some(stamp), is_settled, ..scanned }
            }
        };
        scanned.steps = begun.zip(trace::now()).map(|(begun, ended)| Steps { begun, parsed, ended });
        Found::File(Box::new(scanned))
    }

    /// Parses a text; `parsed` is called once its YAML was read.
    fn parse(
        &self,
        name: &str,
        bytes: Vec<u8>,
        content_sha256: ContentDigest,
        stamp: Stamp,
        parsed: impl FnOnce(),
    ) -> ScannedFile {
        let rule = match rule::parse_in_steps(&bytes, &self.limits, parsed) {
            Ok(rule) => rule,
            Err(mut findings) => {
                findings.retain(|finding| finding.severity == Severity::Error);
                return ScannedFile {
                    named: rule::rule_id_of(&bytes, &self.limits),
                    invalid_text: Some(Box::new(content_sha256)),
                    ..ScannedFile::new(Err(InvalidFile::Invalid(findings)))
                };
            }
        };
        let bad_pattern = rule.warnings.iter().find(|warning| warning.code == Code::Pattern);
        let place = |found: &rule::Diagnostic| format!("{}:{}: {}", found.line, found.column, found.field);
        let header = RuleHeader {
            rule_id: rule.definition.rule_id,
            rule_version: rule.definition.rule_version.into(),
            source_path: name.into(),
            content_sha256,
            updated_at: stamp.saved_at(),
            updated_by: Arc::clone(&self.owner),
        };
        ScannedFile {
            bad_pattern: bad_pattern.map(|found| place(found).into()),
            // The parser has accepted it, so it is UTF-8 and this replaces nothing.
            text: Some(String::from_utf8_lossy(&bytes).into()),
            ..ScannedFile::new(Ok(header))
        }
    }
}
