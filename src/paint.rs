//! Colour for people, taken out again where standard output is no terminal or `NO_COLOR` is set.

use std::borrow::Cow;
use std::fmt;

/// What a stretch of text is to look like, until [`Paint::Off`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong, or gone.
    Bad,
    /// What to find first.
    Bold,
    /// What to find last.
    Dim,
    /// Plain again.
    Off,
}

impl fmt::Display for Paint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Off => "\x1b[0m",
        })
    }
}

/// Text that others wrote, without what would steer a terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    } else {
        text.into()
    }
}
