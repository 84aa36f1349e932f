//! Prints the findings, for people and for machines.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::checked::CheckedFile;
use crate::paint::{sanitize, sanitize_lines};
use crate::plural::count;
use crate::rule::{Diagnostic, Severity};

/// How many files were checked, fixed and invalid, and how many findings there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Files that `--fix` has fixed.
    pub(super) fixed: Vec<PathBuf>,
    pub(super) files: usize,
    /// Files with an error.
    pub(super) refused: usize,
    pub(super) errors: usize,
    pub(super) warnings: usize,
    pub(super) unreadable: usize,
}

impl Totals {
    pub(super) fn of(checked: &[CheckedFile], fixed: Vec<PathBuf>) -> Self {
        let count = |severity| {
            checked
                .iter()
                .flat_map(|checked| &checked.findings)
                .filter(|found| found.severity == severity)
                .count()
        };
        let refused =
            |checked: &&CheckedFile| checked.findings.iter().any(|found| found.severity == Severity::Error);
        Self {
            fixed,
            files: checked.iter().filter(|checked| checked.unreadable.is_none()).count(),
            refused: checked.iter().filter(refused).count(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            unreadable: checked.iter().filter(|checked| checked.unreadable.is_some()).count(),
        }
    }
}

/// The source lines with the places underlined, then the summary unless `quiet`; with colours, which are removed if
/// the output is not a terminal.
pub(super) fn human(checked: &[CheckedFile], summary: &Totals, quiet: bool) -> String {
    let mut out = String::new();
    for path in &summary.fixed {
        let _ = writeln!(out, "fixed {}", sanitize(&path.to_string_lossy()));
    }
    out += if summary.fixed.is_empty() { "" } else { "\n" };
    for checked in checked {
        if let Some(reason) = &checked.unreadable {
            let (path, reason) = (checked.path.to_string_lossy(), sanitize(reason));
            let path = sanitize(&path);
            let report = [annotate_snippets::Group::with_title(
                Level::ERROR.primary_title(format!("{path}: {reason}")),
            )];
            out += &Renderer::styled().render(&report);
            out += "\n\n";
        }
        out += &findings(&checked.path, &checked.text, &checked.findings);
    }
    if quiet {
        return out;
    }
    let _ = write!(out, "{}: ", count(summary.files, "file"));
    let _ = match (summary.errors, summary.warnings) {
        (0, 0) => write!(out, "nothing wrong"),
        (0, warnings) => write!(out, "{}", count(warnings, "warning")),
        (errors, warnings) => write!(
            out,
            "{} in {}, {}",
            count(errors, "error"),
            count(summary.refused, "file"),
            count(warnings, "warning")
        ),
    };
    if summary.unreadable > 0 {
        let _ = write!(out, "; {} could not be read", count(summary.unreadable, "path"));
    }
    out.push('\n');
    if let Some(finding) = checked.iter().flat_map(|checked| &checked.findings).next() {
        let _ = writeln!(out, "more on a finding: rulesyncd check --explain {}", finding.code);
    }
    out
}

/// The findings in one text, each with its source line.
pub(in crate::command) fn findings(path: &Path, text: &[u8], findings: &[Diagnostic]) -> String {
    let renderer = Renderer::styled();
    let (path, source) = (sanitize(&path.to_string_lossy()).into_owned(), source(text));
    findings.iter().map(|finding| one(&renderer, &path, &source, finding) + "\n\n").collect()
}

fn one(renderer: &Renderer, path: &str, source: &str, finding: &Diagnostic) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let span = within(source, finding);
    let snippet = Snippet::source(source).path(path).annotation(AnnotationKind::Primary.span(span));
    let title = level.primary_title(sanitize(&finding.title()).into_owned()).id(finding.code.as_str());
    let group = match &finding.help {
        Some(help) => title.element(snippet).element(Level::HELP.message(help.as_str())),
        None => title.element(snippet),
    };
    renderer.render(&[group])
}

/// The text; invalid UTF-8 is replaced.
fn source(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// The position in `source`, which differs from the file after the first invalid UTF-8: there are no findings after
/// it.
fn within(source: &str, finding: &Diagnostic) -> std::ops::Range<usize> {
    let start = source.floor_char_boundary(finding.span.start);
    let end = source.ceil_char_boundary(finding.span.end.min(source.len()));
    start..end.max(start)
}

/// One JSON object.
pub(super) fn json(checked: &[CheckedFile], summary: &Totals) -> String {
    let findings: Vec<Value> = checked
        .iter()
        .flat_map(|checked| checked.findings.iter().map(|finding| (&checked.path, finding)))
        .map(|(path, finding)| {
            json!({
                "path": path.to_string_lossy(),
                "line": finding.line,
                "column": finding.column,
                "span": [finding.span.start, finding.span.end],
                "severity": finding.severity.as_str(),
                "code": finding.code.as_str(),
                "field": finding.field,
                "message": finding.message,
                "help": finding.help,
            })
        })
        .collect();
    let unreadable: Vec<Value> = checked
        .iter()
        .filter_map(|checked| {
            let reason = checked.unreadable.as_ref()?;
            Some(json!({ "path": checked.path.to_string_lossy(), "reason": reason }))
        })
        .collect();
    let mut report = json!({
        "findings": findings,
        "unreadable": unreadable,
        "files": summary.files,
        "refused": summary.refused,
        "errors": summary.errors,
        "warnings": summary.warnings,
    });
    if !summary.fixed.is_empty() {
        let fixed: Vec<_> = summary.fixed.iter().map(|path| path.to_string_lossy()).collect();
        report["fixed"] = json!(fixed);
    }
    format!("{report}\n")
}

/// Workflow commands, one on each line.
pub(super) fn github(checked: &[CheckedFile]) -> String {
    let mut out = String::new();
    for checked in checked {
        let path = checked.path.to_string_lossy();
        if let Some(reason) = &checked.unreadable {
            let _ =
                writeln!(out, "::error file={}::{}", property(&sanitize(&path)), message(&sanitize(reason)));
        }
        for finding in &checked.findings {
            let help = finding.help.as_ref().map(|help| format!("\n{}", sanitize_lines(help)));
            let _ = writeln!(
                out,
                "::{} file={},line={},col={},title={}::{}",
                finding.severity,
                property(&sanitize(&path)),
                finding.line,
                finding.column,
                property(finding.code.as_str()),
                message(&format!("{}{}", sanitize(&finding.title()), help.unwrap_or_default())),
            );
        }
    }
    out
}

fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}
