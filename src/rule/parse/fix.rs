//! Mechanical fixes, of errors that are only in the spelling.
//!
//! If PyYAML and the schema read a rule from the text, they read the same rule from the fixed text.

use std::borrow::Cow;
use std::ops::Range;

use super::{Limits, parse};
use crate::rule::{Code, Diagnostic};

/// The most rounds: each round fixes what the one before uncovered.
const MOST_ROUNDS: usize = 100;

/// The width of a tab in an indentation.
const INDENTATION: &str = "  ";

/// The text without its byte order mark, with LF at the ends of its lines, with ambiguous values quoted, with tabs
/// replaced by spaces, and without blanks around its id. Tabs stay if spaces would not make it YAML.
///
/// `None` if there is nothing to fix.
pub fn fix(text: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    if text.len() > limits.size {
        return None;
    }
    let source = std::str::from_utf8(text).ok()?;
    let lines = unify_line_ends(without_mark(source));
    let (fixed, findings) = rounds(lines.to_string(), true, limits);
    let is_yaml = !findings.iter().any(|finding| matches!(finding.code, Code::Tab | Code::Syntax));
    let fixed = if is_yaml { fixed } else { rounds(lines.into_owned(), false, limits).0 };
    (fixed != source).then(|| fixed.into_bytes())
}

/// Of two marks, the second is a character of the text.
fn without_mark(source: &str) -> &str {
    match source.strip_prefix('\u{feff}') {
        Some(rest) if !rest.starts_with('\u{feff}') => rest,
        _ => source,
    }
}

/// CR LF and CR end a line for PyYAML, as LF does.
fn unify_line_ends(source: &str) -> Cow<'_, str> {
    if source.contains('\r') {
        source.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        source.into()
    }
}

/// Fixes until nothing is left to fix, and returns the remaining findings.
fn rounds(mut source: String, with_tabs: bool, limits: &Limits) -> (String, Vec<Diagnostic>) {
    for _ in 0..MOST_ROUNDS {
        let (id, findings) = match parse(source.as_bytes(), limits) {
            Ok(rule) => (Some(rule.id_span), rule.warnings),
            Err(findings) => (None, findings),
        };
        let mut edits: Edits =
            findings.iter().flat_map(|finding| edits(&source, finding, with_tabs)).collect();
        edits.extend(id.and_then(|id| blanks_after(&source, id.end)).map(|blanks| (blanks, String::new())));
        if edits.is_empty() {
            return (source, findings);
        }
        edits.sort_by_key(|(span, _)| span.start);
        let mut rest = source.len();
        for (span, replacement) in edits.into_iter().rev().filter(|(span, _)| !span.is_empty()) {
            // Two findings at one position are fixed one after the other.
            if span.end <= rest {
                rest = span.start;
                source.replace_range(span, &replacement);
            }
        }
    }
    let findings = parse(source.as_bytes(), limits).err().unwrap_or_default();
    (source, findings)
}

/// Ranges of the text, and their replacements.
type Edits = Vec<(Range<usize>, String)>;

fn edits(source: &str, finding: &Diagnostic, with_tabs: bool) -> Edits {
    match &finding.replacement {
        Some(replacement) => vec![(finding.span.clone(), replacement.clone())],
        None if finding.code == Code::Tab && with_tabs => tabs(source, finding.span.start),
        None => Edits::new(),
    }
}

/// Replaces the tab at `at` by spaces if it is between an indicator and its value; if it is indentation, all tabs of
/// indentations: no tab is inside a text, whose lines begin with spaces.
fn tabs(source: &str, at: usize) -> Edits {
    if source.as_bytes().get(at) != Some(&b'\t') {
        return Edits::new();
    }
    let is_blank = |character: char| character == ' ' || character == '\t';
    let begin = source[..at].rfind('\n').map_or(0, |end| end + 1);
    let before = source[begin..at].trim_end_matches(is_blank);
    if before.is_empty() {
        let mut edits = Edits::new();
        let mut begin = 0;
        for line in source.split_inclusive('\n') {
            let indentation = line.len() - line.trim_start_matches(is_blank).len();
            // Only the author knows how wide a tab next to spaces is.
            if indentation > 0 && line[..indentation].bytes().all(|byte| byte == b'\t') {
                edits.push((begin..begin + indentation, INDENTATION.repeat(indentation)));
            }
            begin += line.len();
        }
        return edits;
    }
    let after = source[at..].trim_start_matches(is_blank);
    let is_between =
        before.ends_with([':', '-', ',', '[', '{']) || after.is_empty() || after.starts_with(['#', '\n']);
    let blanks = begin + before.len()..source.len() - after.len();
    if is_between { vec![(blanks, " ".to_owned())] } else { Edits::new() }
}

/// The blanks from `end` to the end of the line, if nothing else follows.
fn blanks_after(source: &str, end: usize) -> Option<Range<usize>> {
    let rest = source[end..].trim_start_matches(' ');
    let blanks = end..source.len() - rest.len();
    (!blanks.is_empty() && (rest.is_empty() || rest.starts_with('\n'))).then_some(blanks)
}
