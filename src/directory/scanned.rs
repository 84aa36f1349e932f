//! A file as it was read: its rule, or why it is invalid.

use super::stamp::Stamp;
use crate::clock::Timestamp;
use crate::rule::plan::FileRule;
use crate::rule::{ContentDigest, Diagnostic, RuleHeader, RuleId, first_errors};

/// Why a file is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidFile {
    /// It could not be read.
    Unreadable(String),
    /// It has these errors.
    Invalid(Vec<Diagnostic>),
    /// It is new and still being written; not reported.
    Unfinished,
}

impl InvalidFile {
    /// The reason, with the first errors.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Unfinished => "it is still being written".to_owned(),
            Self::Unreadable(why) => why.clone(),
            Self::Invalid(findings) => first_errors(findings),
        }
    }

    /// The kind of the reason in one word: a finding's code, `unreadable` or `unfinished`.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Unfinished => "unfinished",
            Self::Invalid(findings) => findings.first().map_or("invalid", |finding| finding.code.as_str()),
        }
    }
}

/// A file as it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedFile {
    pub(super) stamp: Option<Stamp>,
    /// Whether the stamp, when the file was read, was old enough to show every later change.
    pub(super) is_settled: bool,
    /// The digest of an invalid text, so that it is parsed once.
    pub(super) invalid_text: Option<Box<ContentDigest>>,
    /// The id that an invalid file names.
    pub(super) named: Option<RuleId>,
    /// The id that an invalid file had before, if it names none. It has no part in a plan: another process does not know it.
    pub(super) had: Option<RuleId>,
    /// See [`ScannedFile::is_written`].
    pub(super) is_written: bool,
    /// Where the first pattern is that Python does not compile, `6:12: match.pattern`.
    pub(crate) bad_pattern: Option<Box<str>>,
    /// The rule, or why there is none.
    pub(crate) outcome: Result<RuleHeader<RuleId>, InvalidFile>,
    /// When it was read; only while spans are recorded, until [`Scanner::forget_texts`].
    pub(crate) steps: Option<Steps>,
    /// The text, from when it was read until [`Scanner::forget_texts`].
    pub(super) text: Option<Box<str>>,
}

/// When the steps of reading a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) begun: Timestamp,
    /// `None` where the text was no YAML.
    pub(crate) parsed: Option<Timestamp>,
    pub(crate) ended: Timestamp,
}

impl ScannedFile {
    /// A file of which nothing else is known.
    pub(super) const fn new(outcome: Result<RuleHeader<RuleId>, InvalidFile>) -> Self {
        Self {
            stamp: None,
            is_settled: true,
            invalid_text: None,
            named: None,
            had: None,
            is_written: false,
            bad_pattern: None,
            outcome,
            steps: None,
            text: None,
        }
    }

    /// The rule, as the row that a master would write; `updated_at` is when the file was saved. `None` if the file is
    /// invalid.
    pub(crate) const fn rule(&self) -> Option<&RuleHeader<RuleId>> {
        match &self.outcome {
            Ok(rule) => Some(rule),
            Err(_) => None,
        }
    }

    /// The rule as input to a plan; `Err` is the id that an invalid file names.
    pub(crate) fn planned(&self) -> FileRule<'_> {
        self.rule().ok_or(self.named.as_ref())
    }

    /// Why the file is invalid; `None` if it is valid, or new and still being written.
    pub(crate) fn invalid(&self) -> Option<&InvalidFile> {
        self.outcome.as_ref().err().filter(|why| **why != InvalidFile::Unfinished)
    }

    /// The id that the file names, or named when it last held a rule; `None` where that is not known.
    pub(crate) fn rule_id(&self) -> Option<&RuleId> {
        self.rule().map(|rule| &rule.rule_id).or(self.named.as_ref()).or(self.had.as_ref())
    }

    /// Whether the row was once equal to this file: if it differs now, another program changed it.
    pub(crate) const fn is_written(&self) -> bool {
        self.is_written
    }

    /// The digest of the text; `None` where it was not read.
    pub(crate) fn digest(&self) -> Option<ContentDigest> {
        match &self.outcome {
            Ok(rule) => Some(rule.content_sha256),
            Err(_) => self.invalid_text.as_deref().copied(),
        }
    }

    /// When the file was written or moved here, whichever was later; `None` where that is unknown.
    pub(crate) fn saved_at(&self) -> Option<Timestamp> {
        self.stamp.map(Stamp::saved_at)
    }
}
