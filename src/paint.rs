//! What may go to a terminal or a log: texts of foreign origin without control characters, and colour for people,
//! which is taken out again where standard output is no terminal or `NO_COLOR` is set.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

/// The colour or weight of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong, or gone.
    Bad,
    /// Important.
    Bold,
    /// Unimportant.
    Dim,
}

impl Paint {
    /// The text in this colour or weight; what follows it is plain.
    pub(crate) fn on(self, text: impl Display) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Warn => 33,
            Self::Bad => 31,
            Self::Bold => 1,
            Self::Dim => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether a character steers a terminal, ends a line, or shows a text in another order than it has: C0, DEL and
/// C1, the bidirectional controls, the separators of lines and paragraphs.
const fn is_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// A text of foreign origin on one line, with its control characters escaped: `\n`, `\t`, `\u001b`. What is already
/// JSON stays JSON, and says the same.
pub(crate) fn sanitize(text: &str) -> Cow<'_, str> {
    escape(text, |_| None)
}

/// The same for a text of several lines.
pub(crate) fn sanitize_lines(text: &str) -> Cow<'_, str> {
    escape(text, |rest| rest.starts_with('\n').then_some(1))
}

/// The same for one line that has [`Paint`].
pub(crate) fn sanitize_painted(text: &str) -> Cow<'_, str> {
    escape(text, length_of_paint)
}

/// The same for what is printed: lines, tabs and [`Paint`] stay. Sanitize a foreign text before it becomes
/// part of this one: otherwise it can end a line.
pub(crate) fn sanitize_output(text: &str) -> Cow<'_, str> {
    escape(text, |rest| if rest.starts_with(['\n', '\t']) { Some(1) } else { length_of_paint(rest) })
}

/// The length of the change of colour or weight that `text` begins with; no other control sequence has one.
fn length_of_paint(text: &str) -> Option<usize> {
    let (code, _) = text.strip_prefix("\u{1b}[")?.split_once('m')?;
    let is_number = code.len() <= 2 && code.bytes().all(|digit| digit.is_ascii_digit());
    let is_paint = is_number && matches!(code.parse(), Ok(0..=2 | 30..=37 | 90..=97));
    is_paint.then_some("\u{1b}[m".len() + code.len())
}

/// Escapes each control character but those whose length `kept` gives for the text that begins with it.
fn escape(text: &str, kept: impl Fn(&str) -> Option<usize>) -> Cow<'_, str> {
    let Some(first) = text.find(is_control) else { return text.into() };
    let (before, mut rest) = text.split_at(first);
    let mut escaped = before.to_owned();
    while let Some(character) = rest.chars().next() {
        let length = match (is_control(character), kept(rest)) {
            (true, None) => {
                let _ = match character {
                    '\n' => write!(escaped, "\\n"),
                    '\t' => write!(escaped, "\\t"),
                    '\r' => write!(escaped, "\\r"),
                    other => write!(escaped, "\\u{:04x}", u32::from(other)),
                };
                character.len_utf8()
            }
            (_, length) => {
                let length = length.unwrap_or(character.len_utf8());
                escaped += &rest[..length];
                length
            }
        };
        rest = &rest[length..];
    }
    escaped.into()
}

/// The beginning of a text, and how much was cut, where it has more than `most` bytes.
pub(crate) fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let end = text.floor_char_boundary(most);
    format!("{}… ({} bytes more)", &text[..end], text.len() - end).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_escaped_as_in_json() {
        assert_eq!(sanitize("a\n\t\r\u{1b}[31m\u{9b}\u{202e}é"), "a\\n\\t\\r\\u001b[31m\\u009b\\u202eé");
        assert_eq!(sanitize_lines("a\n\u{1b}[31m"), "a\n\\u001b[31m");
        let painted = format!("{}\tb\n", Paint::Bad.on("a"));
        assert_eq!(sanitize_output(&painted), painted);
        for other in
            ["\u{1b}[2J", "\u{1b}[8m", "\u{1b}]0;t\u{7}", "\u{1b}[31", "\u{1b}[é", "\u{1b}[+1m", "\u{1b}"]
        {
            assert!(!sanitize_output(other).contains('\u{1b}'), "{other:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shorten("éé", 4), "éé");
        assert_eq!(shorten("ééé", 3), "é… (4 bytes more)");
    }

    proptest! {
        #[test]
        fn no_control_character_is_left_and_json_says_the_same(text: String) {
            prop_assert!(!sanitize(&text).contains(is_control));
            let json = serde_json::to_string(&text).unwrap();
            let escaped = sanitize_output(&json);
            prop_assert!(!escaped.contains(is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
