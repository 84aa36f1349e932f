//! Checks what is between the scalars: indicators, anchors, aliases, comments, blanks.

use super::findings::Findings;
use crate::rule::Code;

/// The position of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GapPosition {
    /// Before the first value.
    First,
    /// Between two values.
    Middle,
    /// After the last value.
    Last,
}

/// Checks a gap that a YAML 1.2 parser accepted for what YAML 1.1 readers refuse or read differently. `offset` is the
/// gap's position in the text.
pub(super) fn check(gap: &str, offset: usize, place: GapPosition, findings: &mut Findings) {
    let bytes = gap.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let here = offset + at..offset + at + 1;
        // How far to go on, and what is wrong here.
        let (length, fault) = match byte {
            b'#' => (gap[at..].find('\n').unwrap_or(gap.len() - at), None),
            b'\t' => {
                (1, Some((Code::Tab, "a tab between values, which YAML 1.1 readers refuse", "use spaces")))
            }
            b'?' => {
                let help = "write it as `key: value`, on one line";
                (1, Some((Code::Dialect, "a key that is marked with `?`", help)))
            }
            // One finding for the three dots is enough.
            b'.' if place != GapPosition::Last => {
                let message = "an end of document before there was a document";
                let dots = gap[at..].bytes().take_while(|&byte| byte == b'.').count();
                (dots, Some((Code::Dialect, message, "remove the dots")))
            }
            _ => (1, None),
        };
        if let Some((code, message, help)) = fault {
            findings.advise(code, here, "", message, help);
        }
        at += length;
    }
}
