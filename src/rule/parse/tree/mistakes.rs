//! Mistakes of spelling, and how to recognise common ones by the text around the position where the YAML parser failed.

use std::ops::Range;

use granit_parser::ErrorKind;

use crate::rule::Code;
use crate::rule::parse::findings::Quoted;

/// A mistake: its position, a description, advice.
pub(in crate::rule::parse) struct Mistake {
    pub(in crate::rule::parse) code: Code,
    /// The position, in bytes of the text.
    pub(in crate::rule::parse) at: Range<usize>,
    pub(in crate::rule::parse) message: String,
    pub(in crate::rule::parse) help: String,
}

impl Mistake {
    pub(super) fn new(
        code: Code,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { code, at, message: message.into(), help: help.into() }
    }

    fn syntax(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Code::Syntax, at, message, help)
    }
}

/// The mistake behind a parser's error of this kind at `at`; `seen` is the end of the last scalar before it. `None`
/// if it is not a known mistake.
pub(super) fn recognize(kind: &ErrorKind, text: &str, at: usize, seen: usize) -> Option<Mistake> {
    merge_conflict(text)
        .or_else(|| odd_indentation(text))
        .or_else(|| template_in_line(text, at))
        .or_else(|| quoted(kind, text, at, seen))
        .or_else(|| space_missing(text, at))
}

/// An unresolved conflict of a version control system.
fn merge_conflict(text: &str) -> Option<Mistake> {
    let is = |line: &str, marks: &str| {
        line.strip_prefix(marks).is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with(' '))
    };
    let (from, start, first) = lines(text).find(|(_, _, line)| is(line, "<<<<<<<"))?;
    let to =
        lines(&text[start..]).find(|(_, _, line)| is(line, ">>>>>>>")).map(|(number, ..)| from + number - 1);
    let message = match to {
        Some(to) => format!("an unresolved merge conflict, lines {from} to {to}"),
        None => format!("an unresolved merge conflict from line {from} on"),
    };
    let help = "keep one of the two sides, and remove the lines that mark them";
    Some(Mistake::syntax(start..start + first.trim_end().len(), message, help))
}

/// Blanks that look like spaces, which YAML reads as text.
fn odd_indentation(text: &str) -> Option<Mistake> {
    lines(text).find_map(|(_, start, line)| {
        let blanks = line.len() - line.trim_start_matches(|c: char| c == ' ' || is_odd_space(c)).len();
        let (at, space) = line[..blanks].char_indices().find(|&(_, c)| is_odd_space(c))?;
        let at = start + at..start + at + space.len_utf8();
        Some(odd_space(at, space))
    })
}

/// The finding that an unusual blank indents a line.
pub(in crate::rule::parse) fn odd_space(at: Range<usize>, space: char) -> Mistake {
    let name = if space == '\u{a0}' { " (a no-break space)" } else { "" };
    let message = format!("the character U+{:04X}{name} in the indentation", u32::from(space));
    Mistake::new(Code::Character, at, message, "use spaces")
}

/// Whether this looks like a space, but is not one for YAML.
pub(in crate::rule::parse) fn is_odd_space(character: char) -> bool {
    character.is_whitespace()
        && !character.is_ascii()
        && !matches!(character, '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// A placeholder of a template at the beginning of `rest`, which begins at `at`.
pub(super) fn template(rest: &str, at: usize) -> Option<Mistake> {
    let end = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")].into_iter().find_map(|(open, close)| {
        let body = rest.strip_prefix(open)?;
        let line = body.split(['\n', '\r']).next().unwrap_or_default();
        Some(line.find(close).map_or(open.len() + line.len(), |end| open.len() + end + close.len()))
    })?;
    let message = format!("{} is a template's placeholder", Quoted(&rest[..end]));
    Some(Mistake::syntax(at..at + end, message, "render the template first; quote it if it is meant as text"))
}

/// The first placeholder at the beginning of a value or a key, on the line of `at`.
fn template_in_line(text: &str, at: usize) -> Option<Mistake> {
    let start = line_start(text, at);
    let line = text[start..].split(['\n', '\r']).next().unwrap_or_default();
    let begins =
        |before: &str| before.is_empty() || before.ends_with(['-', '[', ',']) || before.ends_with(':');
    line.match_indices('{').find_map(|(brace, _)| {
        let here = begins(line[..brace].trim_end());
        here.then(|| template(&line[brace..], start + brace)).flatten()
    })
}

/// Quotes that do not end, and invalid escapes in them.
fn quoted(kind: &ErrorKind, text: &str, at: usize, seen: usize) -> Option<Mistake> {
    match kind {
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::DocumentIndicatorInQuotedScalar => {
            let opened = opening_quote(text, seen)?;
            let help = "close the quote; inside of single quotes a quote is written twice";
            Some(Mistake::syntax(opened..opened + 1, "a quoted text that does not end", help))
        }
        ErrorKind::UnknownQuotedScalarEscape
        | ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidUnicodeEscape
        | ErrorKind::InvalidLowSurrogateHexEscape
        | ErrorKind::InvalidLowSurrogate
        | ErrorKind::MissingLowSurrogate => {
            let opened = if text[at..].starts_with('"') { at } else { opening_quote(text, seen)? };
            let half = matches!(
                kind,
                ErrorKind::InvalidLowSurrogateHexEscape
                    | ErrorKind::InvalidLowSurrogate
                    | ErrorKind::MissingLowSurrogate
            );
            let (escape, escaped) = bad_escape(&text[opened..])?;
            let at = opened + escape..opened + escape + 1 + escaped.len_utf8();
            let why = match escaped {
                'u' | 'U' if half => "is half a character",
                'x' => "wants two hexadecimal digits",
                'u' => "wants four hexadecimal digits",
                'U' => "wants eight hexadecimal digits",
                _ => "is none",
            };
            let message = format!("in double quotes `\\` begins an escape, and `\\{escaped}` {why}");
            Some(Mistake::syntax(
                at,
                message,
                "use single quotes: a backslash is an ordinary character there",
            ))
        }
        _ => None,
    }
}

/// The quote that opens the scalar after `seen`; indicators, blanks and comments may be between the two.
fn opening_quote(text: &str, seen: usize) -> Option<usize> {
    let mut comment = false;
    let mut previous = '\n';
    for (at, character) in text.get(seen..)?.char_indices() {
        match character {
            '\n' | '\r' => comment = false,
            '#' if previous.is_whitespace() => comment = true,
            '"' | '\'' if !comment => return Some(seen + at),
            _ => {}
        }
        previous = character;
    }
    None
}

/// The first invalid escape of a text in double quotes: its position and character.
fn bad_escape(quoted: &str) -> Option<(usize, char)> {
    let mut rest = quoted.char_indices().skip(1).peekable();
    while let Some((at, character)) = rest.next() {
        match character {
            '"' => return None,
            '\\' => {
                let (_, escaped) = rest.next()?;
                let digits = match escaped {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    '0' | 'a' | 'b' | 't' | '\t' | 'n' | 'v' | 'f' | 'r' | 'e' | ' ' | '"' | '/' | '\\'
                    | 'N' | '_' | 'L' | 'P' | '\n' | '\r' => continue,
                    _ => return Some((at, escaped)),
                };
                let hexadecimal: String =
                    quoted[at + 2..].chars().take(digits).take_while(char::is_ascii_hexdigit).collect();
                let code = u32::from_str_radix(&hexadecimal, 16).ok().and_then(char::from_u32);
                if hexadecimal.len() < digits || code.is_none() {
                    return Some((at, escaped));
                }
            }
            _ => {}
        }
    }
    None
}

/// A dash or a colon without a blank after it, on the line of `at` or the one before.
fn space_missing(text: &str, at: usize) -> Option<Mistake> {
    let here = line_start(text, at);
    let before = text[..here].trim_end().len();
    [here, line_start(text, before)].into_iter().find_map(|start| {
        let line = text[start..].split(['\n', '\r']).next().unwrap_or_default();
        let content = line.trim_start_matches(' ');
        let at = start + line.len() - content.len();
        if let Some(item) = content.strip_prefix('-').filter(|item| item.starts_with(char::is_alphabetic)) {
            let word = item.split(' ').next().unwrap_or_default();
            let help = format!("write {}", Quoted(&format!("- {word}")));
            return Some(Mistake::syntax(at..at + 1, "a list's element without a space after its `-`", help));
        }
        let (key, value) = content.split_once(':')?;
        let is_key = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        (is_key && value.starts_with(|c: char| !c.is_whitespace())).then(|| {
            let colon = at + key.len();
            let help = format!("write {}", Quoted(&format!("{key}: {value}")));
            Mistake::syntax(colon..colon + 1, "a key without a space after its colon", help)
        })
    })
}

/// The lines with their numbers, from 1, and their positions.
fn lines(text: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').enumerate().map(move |(index, line)| {
        let here = start;
        start += line.len();
        (index + 1, here, line)
    })
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}
