//! Checks the text's characters: valid UTF-8, and none that a reader refuses or misreads.

use std::ops::Range;

use super::Limits;
use super::findings::Findings;
use crate::rule::Code;

/// The text as a string. A byte order mark stays in it, so that positions are those of the file. `None` if the text
/// cannot be checked any further.
pub(super) fn check<'t>(text: &'t [u8], limits: &Limits, findings: &mut Findings) -> Option<&'t str> {
    if text.len() > limits.size {
        let message = format!("the rule has {} bytes; at most {} are allowed", text.len(), limits.size);
        findings.add(Code::TooLarge, 0..0, "", message);
        return None;
    }
    let source = match std::str::from_utf8(text) {
        Ok(source) => source,
        Err(error) => {
            let at = error.valid_up_to();
            let end = at + error.error_len().unwrap_or(text.len() - at);
            let (message, help) = match text {
                [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
                    ("the file is UTF-32; a rule is UTF-8", "save it as UTF-8".to_owned())
                }
                [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                    ("the file is UTF-16; a rule is UTF-8", "save it as UTF-8".to_owned())
                }
                _ => (
                    "the bytes here are not UTF-8",
                    format!("save the file as UTF-8 (found {:02X?})", &text[at..end]),
                ),
            };
            findings.advise(Code::Encoding, at..end, "", message, help);
            return None;
        }
    };
    // Most texts are ASCII, and bytes are checked faster than characters.
    if text.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b' '..=b'~')) {
        return Some(source);
    }
    // A text has no NUL; in UTF-16 and UTF-32 at least half of the bytes are.
    if let [first, second, ..] = text
        && (*first == 0 || *second == 0)
    {
        let message = "the file is UTF-16 or UTF-32, as far as its first bytes tell; a rule is UTF-8";
        findings.advise(Code::Encoding, 0..2, "", message, "save it as UTF-8");
        return None;
    }
    let mut good = true;
    let mut characters = source.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|&(_, next)| next);
        if let Some((what, help)) = fault(at, character, next) {
            good = false;
            report(findings, at..at + character.len_utf8(), character, what, help);
        }
    }
    good.then_some(source)
}

/// What is wrong with a character at `at`, and what to do.
fn fault(at: usize, character: char, next: Option<char>) -> Option<(&'static str, &'static str)> {
    const ESCAPE: &str = "write it as an escape in double quotes";
    match character {
        '\t' | '\n' | ' '..='~' => None,
        '\r' if next == Some('\n') => None,
        '\r' => Some(("ends a line for some readers only", "end lines with LF or CR LF")),
        '\u{85}' | '\u{2028}' | '\u{2029}' => Some(("ends a line for YAML 1.1 readers only", ESCAPE)),
        '\u{feff}' if at == 0 => None,
        '\u{feff}' => Some(("is a byte order mark inside of the text", "remove it")),
        '\0' => Some(("cannot be in a text", "remove it")),
        '\u{a0}'..='\u{fffd}' | '\u{10000}'.. => None,
        _ => Some(("is a control character, which YAML readers refuse", ESCAPE)),
    }
}

fn report(findings: &mut Findings, span: Range<usize>, character: char, what: &str, help: &str) {
    let message = format!("the character U+{:04X} {what}", u32::from(character));
    findings.advise(Code::Character, span, "", message, help);
}
