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
        match byte {
            b'#' => {
                at += gap[at..].find('\n').unwrap_or(gap.len() - at);
                continue;
            }
            b'\t' => findings.advise(
                Code::Tab,
                here,
                "",
                "a tab between values, which YAML 1.1 readers refuse",
                "use spaces",
            ),
            b'?' => findings.advise(
                Code::Dialect,
                here,
                "",
                "a key that is marked with `?`",
                "write it as `key: value`, on one line",
            ),
            b'.' if place != GapPosition::Last => {
                findings.advise(
                    Code::Dialect,
                    here,
                    "",
                    "an end of document before there was a document",
                    "remove the dots",
                );
                // One finding for the three dots is enough.
                at += gap[at..].bytes().take_while(|&byte| byte == b'.').count();
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}
