//! A file as it was read: its rule, or why it is invalid.

use super::stamp::Stamp;
use crate::clock::Timestamp;
use crate::rule::plan::FileRule;
use crate::rule::{self, Code, ContentDigest, Diagnostic, Limits, RuleId, Severity};

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
    /// The reason, with up to three findings.
    pub fn sentence(&self) -> String {
        match self {
            Self::Unfinished => "it is still being written".to_owned(),
            Self::Unreadable(why) => why.clone(),
            Self::Invalid(findings) => {
                let findings = findings.iter().take(3);
                let places =
                    findings.map(|found| format!("{}:{}: {}", found.line, found.column, found.message));
                places.collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// The kind of the reason in one word: a finding's code, `unreadable` or `unfinished`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Unfinished => "unfinished",
            Self::Invalid(findings) => findings.first().map_or("invalid", |finding| finding.code.as_str()),
        }
    }
}

/// A file as it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedFile {
    pub(super) stamp: Option<Stamp>,
    /// Whether the stamp, when the file was read, was old enough to show every later change.
    pub(super) is_settled: bool,
    /// The digest of an invalid text, so that it is parsed once.
    pub(super) invalid: Option<Box<ContentDigest>>,
    /// The id that an invalid file names, or that it had while it was valid.
    pub(super) named: Option<RuleId>,
    /// See [`ScannedFile::is_written`].
    pub(super) is_written: bool,
    /// Where the first pattern is that Python does not compile, `6:12: match.pattern`.
    pub(crate) bad_pattern: Option<Box<str>>,
    /// The rule, or why there is none.
    pub outcome: Result<FileRule, InvalidFile>,
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
    /// An invalid file; `invalid` is the digest of its text, where that was read.
    pub(super) const fn broken(why: InvalidFile, invalid: Option<Box<ContentDigest>>) -> Self {
        Self {
            stamp: None,
            is_settled: true,
            invalid,
            named: None,
            is_written: false,
            bad_pattern: None,
            outcome: Err(why),
            steps: None,
            text: None,
        }
    }

    /// The rule; `None` where the file is invalid.
    pub const fn rule(&self) -> Option<&FileRule> {
        match &self.outcome {
            Ok(rule) => Some(rule),
            Err(_) => None,
        }
    }

    /// The id that the file names, or named when it last held a rule; `None` where that is not known.
    pub fn rule_id(&self) -> Option<&RuleId> {
        self.rule().map(|rule| &rule.rule_id).or(self.named.as_ref())
    }

    /// Whether the row was once equal to this file: if it differs now, another program changed it.
    pub const fn is_written(&self) -> bool {
        self.is_written
    }

    /// The digest of the text; `None` where it was not read.
    pub(super) fn digest(&self) -> Option<ContentDigest> {
        match &self.outcome {
            Ok(rule) => Some(rule.content_sha256),
            Err(_) => self.invalid.as_deref().copied(),
        }
    }

    /// When the file was written or moved here, whichever was later; `None` where that is unknown.
    pub fn saved_at(&self) -> Option<Timestamp> {
        self.stamp.map(|stamp| stamp.modified().max(stamp.changed()))
    }
}

/// What is known of a valid text.
pub(super) struct ParsedFile {
    pub(super) rule: FileRule,
    pub(super) bad_pattern: Option<Box<str>>,
    pub(super) text: Box<str>,
}

/// What is known of an invalid text.
pub(super) struct NoRule {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) named: Option<RuleId>,
}

/// Reads the rule of a text; `parsed` is called once its YAML was read.
pub(super) fn parse_file(
    bytes: Vec<u8>,
    content: ContentDigest,
    limits: &Limits,
    parsed: impl FnOnce(),
) -> Result<ParsedFile, NoRule> {
    let rule = rule::parse_in_steps(&bytes, limits, parsed).map_err(|findings| NoRule {
        errors: errors_alone(findings),
        named: rule::rule_id_of(&bytes, limits),
    })?;
    let bad_pattern =
        rule.warnings.iter().find(|warning| warning.code == Code::Pattern).map(|warning| {
            format!("{}:{}: {}", warning.line, warning.column, warning.field).into_boxed_str()
        });
    let definition = rule.definition;
    // `parse` has accepted it, so it is UTF-8 and this replaces nothing.
    let text = String::from_utf8_lossy(&bytes).into_owned().into_boxed_str();
    let rule = FileRule {
        rule_id: definition.rule_id,
        rule_version: definition.rule_version,
        content_sha256: content,
    };
    Ok(ParsedFile { rule, bad_pattern, text })
}

fn errors_alone(mut findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    findings.retain(|finding| finding.severity == Severity::Error);
    findings
}
