//! Checks scalars that a YAML 1.2 parser accepts and a YAML 1.1 reader refuses or reads differently.

use std::ops::Range;

use granit_parser::ScalarStyle;

use super::mistakes::Mistake;
use crate::rule::Code;

/// Checks a scalar with the bytes `span` of `text`; `value` is its content, `flow` says that it is in brackets.
pub(super) fn check(
    text: &str,
    value: &str,
    style: ScalarStyle,
    span: Range<usize>,
    flow: bool,
) -> Option<Mistake> {
    if value.contains('\0') {
        return Some(Mistake::new(
            Code::Character,
            span,
            "the character U+0000 cannot be in a text",
            "remove it",
        ));
    }
    match style {
        ScalarStyle::Plain => plain(text, span, flow),
        ScalarStyle::DoubleQuoted => surrogate(&text[span.clone()]).map(|at| {
            Mistake::new(
                Code::Dialect,
                span.start + at..span.start + at + 6,
                "an escape of half a character, which YAML 1.1 readers do not join",
                "write the character itself, or `\\U` and eight digits",
            )
        }),
        ScalarStyle::Literal | ScalarStyle::Folded => block(text, value, span),
        _ => None,
    }
}

fn plain(text: &str, span: Range<usize>, flow: bool) -> Option<Mistake> {
    let raw = &text[span.clone()];
    if let Some(tab) = raw.find('\t') {
        let message = "a tab in a text without quotes, which YAML 1.1 readers refuse";
        let at = span.start + tab..span.start + tab + 1;
        return Some(Mistake::new(Code::Tab, at, message, "use spaces, or quote the text"));
    }
    if flow && (raw.contains('?') || raw.starts_with(':') || raw == "-") {
        let message = "a text in brackets whose `?`, `:` or `-` YAML 1.1 readers take for an indicator";
        return Some(Mistake::new(Code::Dialect, span, message, "quote it"));
    }
    let after_colon = text[span.end..].strip_prefix(':').filter(|_| flow)?;
    after_colon.starts_with([',', '?', '[', ']', '{', '}']).then(|| {
        let message = "a colon in brackets that touches what comes after it";
        Mistake::new(Code::Dialect, span.end..span.end + 1, message, "put a space after the colon")
    })
}

fn block(text: &str, value: &str, span: Range<usize>) -> Option<Mistake> {
    let raw = &text[span.clone()];
    if span.end == text.len() && !text.ends_with('\n') && value.ends_with('\n') {
        return Some(Mistake::new(
            Code::Dialect,
            span.end..span.end,
            "the file ends inside of this text: some readers add the end of the line, some do not",
            "end the file with a line break",
        ));
    }
    if raw.starts_with('\t') {
        return Some(Mistake::new(
            Code::Dialect,
            span.start..span.start + 1,
            "a block of text that begins with a tab, which some readers take for indentation",
            "begin it with another line, or write it in double quotes",
        ));
    }
    (begins_with_blanks(&text[..span.start]) || has_only_blanks(raw, value)).then(|| {
        Mistake::new(
            Code::Dialect,
            span,
            "a block of text with blanks on a line before its first",
            "remove the blanks from the empty line",
        )
    })
}

/// Whether an empty line between a block's header and its first line, whose indentation ends `before`, contains
/// blanks: some readers take those for the indentation.
fn begins_with_blanks(before: &str) -> bool {
    let lines = before.rsplit('\n').skip(1).map(|line| line.trim_end_matches('\r'));
    lines.take_while(|line| line.bytes().all(|byte| byte == b' ')).any(|line| !line.is_empty())
}

/// Whether a block has no text, but a line of blanks.
fn has_only_blanks(raw: &str, value: &str) -> bool {
    let mut lines = raw.split_inclusive('\n').skip(1).filter(|line| line.ends_with('\n'));
    value.trim_matches([' ', '\n']).is_empty() && lines.any(|line| line.starts_with(' '))
}

/// Whether the colon of the key at `span` is on another line than the key's beginning.
pub(super) fn parts_from_colon(text: &str, span: &Range<usize>) -> bool {
    let mut rest = text[span.end..].trim_start_matches(' ');
    let mut same_line = !text[span.clone()].contains('\n');
    while rest.starts_with(['\r', '\n', '#']) {
        same_line = false;
        rest = rest.split_once('\n').map_or("", |(_, next)| next.trim_start_matches(' '));
    }
    !same_line && rest.starts_with(':')
}

/// The position of an escape `\uD800` to `\uDFFF`.
fn surrogate(raw: &str) -> Option<usize> {
    let bytes = raw.as_bytes();
    let mut at = 0;
    while let Some(backslash) = raw.get(at..).and_then(|rest| rest.find('\\')) {
        let escape = at + backslash;
        if matches!(
            bytes.get(escape + 1..escape + 4),
            Some([b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F'])
        ) {
            return Some(escape);
        }
        // The escaped character may have several bytes, none of which is a backslash.
        at = escape + 1 + raw[escape + 1..].chars().next().map_or(0, char::len_utf8);
    }
    None
}
