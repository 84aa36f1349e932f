//! Mechanical fixes: what is wrong only in the way that it is written.
//!
//! Where PyYAML and the schema took the text for a rule, they take the fixed text for the same rule.

use std::borrow::Cow;
use std::ops::Range;

use super::{Limits, parse};
use crate::rule::{Code, Diagnostic};

/// A file has fewer slips than this; each round fixes what the one before uncovered.
const MOST_ROUNDS: usize = 100;

/// What each tab of an indentation is worth.
const INDENTATION: &str = "  ";

/// The text without its byte order mark, with LF at the ends of its lines, with ambiguous values quoted, with
/// spaces for tabs, and without blanks around its id. Tabs stay where spaces would not make it YAML.
///
/// `None` where there is nothing to fix.
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

/// Two marks are no mark: the second is a character of the text.
fn without_mark(source: &str) -> &str {
    match source.strip_prefix('\u{feff}') {
        Some(rest) if !rest.starts_with('\u{feff}') => rest,
        _ => source,
    }
}

/// CR LF and CR end a line for PyYAML as LF does.
fn unify_line_ends(source: &str) -> Cow<'_, str> {
    if source.contains('\r') {
        source.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        source.into()
    }
}

/// Fixes until nothing is left to fix, and gives what is found then.
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
            // Two findings of one place are fixed one after the other.
            if span.end <= rest {
                rest = span.start;
                source.replace_range(span, &replacement);
            }
        }
    }
    let findings = parse(source.as_bytes(), limits).err().unwrap_or_default();
    (source, findings)
}

/// Ranges of the text, and what to put there.
type Edits = Vec<(Range<usize>, String)>;

fn edits(source: &str, finding: &Diagnostic, with_tabs: bool) -> Edits {
    match &finding.replacement {
        Some(replacement) => vec![(finding.span.clone(), replacement.clone())],
        None if finding.code == Code::Tab && with_tabs => tabs(source, finding.span.start),
        None => Edits::new(),
    }
}

/// Spaces for the tab at `at` where it stands between an indicator and what comes after it; where it is
/// indentation, for every indentation of tabs: none of them is in a text, whose lines begin with spaces.
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
            // How wide a tab is beside spaces is its author's to know.
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

/// The blanks from `end` to the end of the line, where there is nothing else.
fn blanks_after(source: &str, end: usize) -> Option<Range<usize>> {
    let rest = source[end..].trim_start_matches(' ');
    let blanks = end..source.len() - rest.len();
    (!blanks.is_empty() && (rest.is_empty() || rest.starts_with('\n'))).then_some(blanks)
}
