//! Reports the results of the samples, for people.

use std::fmt::Write as _;
use std::path::Path;

use super::engine::Engine;
use crate::command::check::render_findings;
use crate::paint::{Paint, sanitize};
use crate::plural::count;
use crate::rule::{Diagnostic, Expectation, FieldPattern, Sample};

/// The result of one sample.
#[derive(Debug)]
pub(super) enum SampleResult<'p> {
    /// A pattern matches this part of it.
    Found { pattern: &'p FieldPattern, found: String },
    /// No pattern matches it.
    NotFound,
    /// A pattern does not work.
    Wrong { pattern: &'p FieldPattern, reason: String },
    /// This engine cannot run a pattern.
    NotRun { pattern: &'p FieldPattern, reason: String },
}

/// The counts, and the text to print.
#[derive(Debug, Default)]
pub(super) struct Report {
    out: String,
    /// Samples.
    samples: usize,
    /// Test files whose samples were run.
    pub(super) tested: usize,
    /// Samples with an unexpected result.
    pub(super) failed: usize,
    /// Samples that this engine cannot run.
    pub(super) not_run: usize,
    /// Invalid rule files and test files.
    pub(super) invalid: usize,
    /// Files that could not be read.
    pub(super) unreadable: usize,
}

impl Report {
    /// Adds an invalid rule file or test file.
    pub(super) fn reject(&mut self, path: &Path, reason: &str) {
        self.invalid += 1;
        let (error, path) = (Paint::Bad.on("error"), path.to_string_lossy());
        let _ = writeln!(self.out, "{error}: {}: {}\n", sanitize(&path), sanitize(reason));
    }

    /// Adds an error in the text of a test file.
    pub(super) fn reject_with(&mut self, path: &Path, text: &[u8], findings: &[Diagnostic]) {
        self.invalid += 1;
        self.out += &render_findings(path, text, findings);
    }

    /// Adds the result of a sample; an expected one is only counted.
    pub(super) fn add(&mut self, path: &Path, sample: &Sample, result: SampleResult<'_>) {
        self.samples += 1;
        let not_run = matches!(result, SampleResult::NotRun { .. });
        let (expected, found) = match (result, sample.expected) {
            (SampleResult::Found { .. }, Expectation::Match)
            | (SampleResult::NotFound, Expectation::NoMatch) => return,
            (SampleResult::NotFound, expected) => (expected, Expectation::NoMatch.to_string()),
            (SampleResult::Found { pattern, found }, expected) => {
                let found = quote(&found);
                (expected, format!("{} of {found}, by {}", Expectation::Match, pattern.path))
            }
            (SampleResult::Wrong { pattern, reason }, expected) => {
                (expected, format!("{} does not work: {}", pattern.path, sanitize(&reason)))
            }
            (SampleResult::NotRun { pattern, reason }, expected) => {
                (expected, format!("not run: {}: {}", pattern.path, sanitize(&reason)))
            }
        };
        *(if not_run { &mut self.not_run } else { &mut self.failed }) += 1;
        let place = format!("{}:{}", sanitize(&path.to_string_lossy()), sample.line);
        let field = sample.field.as_ref().map(|field| format!(" ({})", sanitize(field))).unwrap_or_default();
        let title = format!("{place}: {}[{}]{field}", sample.expected.key(), sample.index);
        let _ = writeln!(
            self.out,
            "{}\n    {}\n  {}\n  {}\n",
            Paint::Bold.on(title),
            quote(&sample.text),
            Paint::Bad.on(format!("- {expected}")),
            Paint::Good.on(format!("+ {found}"))
        );
    }

    /// The unexpected results.
    pub(super) fn differences(&self) -> String {
        self.out.clone()
    }

    /// The whole report with the summary at its end, for so many rules.
    pub(super) fn finish(&self, rules: usize, engine: &Engine) -> String {
        let mut out = self.differences();
        let _ = write!(out, "{}, {} tested: ", count(rules, "rule"), self.tested);
        let passed = self.samples - self.failed - self.not_run;
        let _ = if passed == self.samples {
            write!(out, "{} passed", count(self.samples, "sample"))
        } else {
            write!(out, "{passed} of {} passed", count(self.samples, "sample"))
        };
        if self.invalid > 0 {
            let _ = write!(out, ", {} invalid", count(self.invalid, "file"));
        }
        if self.unreadable > 0 {
            let _ = write!(out, ", {} not read", count(self.unreadable, "file"));
        }
        let _ = writeln!(out, "; run by {engine}");
        out
    }
}

/// A text on one line, at most 200 characters, without control characters.
fn quote(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(LONGEST).collect();
    let end = if characters.next().is_some() { "…`" } else { "`" };
    format!("`{}{end}", sanitize(&shown))
}
