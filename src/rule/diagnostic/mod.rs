//! Findings: what is wrong or suspect in a rule.

mod code;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::RuleId;
use crate::plural::some_of;
pub use code::Code;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Valid, but suspect.
    Warning,
    /// The file is invalid.
    Error,
}

impl Severity {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
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
    /// The kind of finding, for machines and to look it up.
    pub code: Code,
    /// The severity.
    pub severity: Severity,
    /// The line of the position, from 1.
    pub line: usize,
    /// The column of the position in characters, from 1.
    pub column: usize,
    /// The position as a range of bytes of the text.
    pub span: Range<usize>,
    /// The field, `emits[0].confidence`; empty for the document as a whole.
    pub field: String,
    /// What was found and what was expected, in one sentence without the place.
    pub message: String,
    /// What to do about it; `None` if the message says that.
    pub help: Option<String>,
    /// The replacement, if the fix is mechanical and no reader then reads another rule; `None` if the author must
    /// decide.
    pub replacement: Option<String>,
}

impl Diagnostic {
    /// Computes line and column of the position in `text`.
    pub(super) fn locate(&mut self, text: &[u8]) {
        (self.line, self.column) = position(text, self.span.start);
    }

    /// Line and column of the end of the position in `text`, both from 1, the column in characters.
    pub(crate) fn end(&self, text: &[u8]) -> (usize, usize) {
        position(text, self.span.end)
    }

    /// The finding that the id at `span` in `text` is also in the file `other`.
    pub(crate) fn duplicate_id(text: &[u8], span: Range<usize>, id: &RuleId, other: &str) -> Self {
        let message = format!("`{id}` is in {other} too; only one of the two is taken");
        let help = "give it an id of its own; ids that differ only in case are the same";
        Self::of_field(Code::DuplicateId, text, span, "rule_id", message, help)
    }

    /// The finding that the version at `span` in `text` is not above `known`, which the database has with another
    /// text.
    pub(crate) fn version_not_raised(text: &[u8], span: Range<usize>, known: i64) -> Self {
        let message = format!("the text is another than the database's, which has version {known}");
        let help = format!("raise it to {}", known.saturating_add(1));
        Self::of_field(Code::VersionNotRaised, text, span, "rule_version", message, help)
    }

    fn of_field(
        code: Code,
        text: &[u8],
        span: Range<usize>,
        field: &str,
        message: String,
        help: impl Into<String>,
    ) -> Self {
        let mut finding = Self::of_file(code, message);
        (finding.span, finding.field, finding.help) = (span, field.to_owned(), Some(help.into()));
        finding.locate(text);
        finding
    }

    /// The finding that the master ignores a file because of its name.
    pub(crate) fn file_name(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let message = format!("`{name}` is not read from a rules directory");
        let help =
            "a rule is directly in the directory, in a file named with letters, digits and `_`, ending in \
                    .yaml or .yml"
                .to_owned();
        Self { help: Some(help), ..Self::of_file(Code::FileName, message) }
    }

    /// A finding about a whole file.
    pub(crate) fn of_file(code: Code, message: String) -> Self {
        Self {
            code,
            severity: code.severity(),
            line: 1,
            column: 1,
            span: 0..0,
            field: String::new(),
            message,
            help: None,
            replacement: None,
        }
    }

    /// The message with the field before it, if there is one.
    pub(crate) fn title(&self) -> String {
        match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }
}

/// The first errors among `findings` in one line, each with its place, and how many more there are.
pub(crate) fn first_errors(findings: &[Diagnostic]) -> String {
    const SHOWN: usize = 3;
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let errors =
        errors.iter().map(|error| format!("line {}, column {}: {}", error.line, error.column, error.title()));
    some_of(errors, SHOWN, "; ")
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = before[..line_start].iter().filter(|&&byte| byte == b'\n').count();
    // A byte order mark has no width, and only the first byte of a character counts.
    let line = before[line_start..].strip_prefix(b"\xef\xbb\xbf").unwrap_or(&before[line_start..]);
    let characters = line.iter().filter(|&&byte| !(0x80..0xc0).contains(&byte)).count();
    (lines + 1, characters + 1)
}

/// One line for a log: position, severity and code, field, message, advice. The file's name goes before it.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, severity, line, column, help, .. } = self;
        write!(f, "{line}:{column}: {severity}[{code}]: {}", self.title())?;
        match help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
