//! Explains the YAML parser's syntax errors, and what to do.

use granit_parser::{ErrorKind, ScanError};

use crate::rule::Code;
use crate::rule::parse::findings::{Quoted, advise_quotes};

/// Code, message and advice for an error; `at` is its position in `text`, `bracket` the line of a bracket that is
/// open there.
pub(super) fn explain(
    error: &ScanError,
    text: &str,
    at: usize,
    bracket: Option<usize>,
) -> (Code, String, Option<String>) {
    let word = text[at..].split([' ', '\n', '\r', ',']).next().unwrap_or_default();
    let (code, message, help) = match error.kind() {
        ErrorKind::UnknownAnchor => {
            let help = format!("write the value itself; if it is a text {}", advise_quotes(word));
            return (Code::Alias, format!("{} is an alias of nothing", Quoted(word)), Some(help));
        }
        ErrorKind::DirectiveDisallowed => {
            (Code::Dialect, "a directive (`%`)", "remove it: a rule needs none")
        }
        ErrorKind::UndeclaredTagHandle => {
            (Code::Tag, "a tag", "remove it; a text that looks like something else is quoted")
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => (Code::Tab, "a tab where YAML wants spaces", "use spaces"),
        kind => return syntax(kind, &error.info(), &text[..at], bracket),
    };
    (code, message.to_owned(), Some(help.to_owned()))
}

fn syntax(
    kind: &ErrorKind,
    info: &str,
    before: &str,
    bracket: Option<usize>,
) -> (Code, String, Option<String>) {
    let (message, help) = match kind {
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => (
            "a colon where no key can be",
            "quote the text if the colon belongs to it; a key begins a line, indented like its neighbours",
        ),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            ("a key without a colon", "put a colon and a space after the key, on its line")
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar => {
            ("something after a quoted text", "inside of single quotes a quote is written twice: 'it''s'")
        }
        ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            ("something after a quoted text", "inside of double quotes a quote is written `\\\"`")
        }
        ErrorKind::UnexpectedCharacter { .. } => {
            ("a character that no value begins with", "quote the text that begins with it")
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidIndentation
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::InvalidBlockScalarIndent => {
            if before.trim_end_matches(' ').ends_with([']', '}']) {
                ("something after a bracket was closed", "quote the text if the brackets belong to it")
            } else {
                ("a line that does not fit the lines before it", "indent it like the one that it belongs to")
            }
        }
        ErrorKind::CommentNotSeparated => {
            ("a `#` that touches what is before it", "put a space before a comment")
        }
        _ => (info, ""),
    };
    // Inside an unclosed bracket, everything that follows is misread.
    let help = match bracket {
        Some(line) => Some(format!("is the bracket of line {line} closed?")),
        None => Some(help.to_owned()).filter(|help| !help.is_empty()),
    };
    (Code::Syntax, format!("not YAML: {message}"), help)
}
