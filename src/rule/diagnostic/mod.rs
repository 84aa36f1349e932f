//! What is found wrong with a rule, or suspect.

mod code;

use std::fmt;
use std::ops::Range;

pub use code::Code;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, but suspect: the rule is taken.
    Warning,
    /// The rule is refused.
    Error,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One finding in a rule's text: where, what was found, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The kind of finding, for machines and for looking it up.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in characters, from 1.
    pub column: usize,
    /// The place as a range of bytes of the text.
    pub span: Range<usize>,
    /// The field, `emits[0].confidence`; empty for the document as a whole.
    pub field: String,
    /// What was found and what was expected, in one sentence without the place.
    pub message: String,
    /// What to do about it; `None` where the message says it all.
    pub help: Option<String>,
}

/// In one line, for a log: place, severity and code, message, advice. The file's name goes before.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, severity, line, column, message, help, .. } = self;
        write!(f, "{line}:{column}: {severity}[{code}]: {message}")?;
        match help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
