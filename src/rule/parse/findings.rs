use std::fmt;
use std::ops::Range;

use crate::rule::{Code, Diagnostic, Severity};

/// The most findings for one text, so that a hostile one does not cause megabytes of output.
const MOST: usize = 20;

/// The findings so far. Lines and columns are computed at the end.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Diagnostic>,
    errors: usize,
    left_out: usize,
}

impl Findings {
    /// Adds a finding at `span`, a range of bytes of the text.
    pub(super) fn add(
        &mut self,
        code: Code,
        span: Range<usize>,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.push(Diagnostic { span, field: field.into(), ..Diagnostic::of_file(code, message.into()) });
    }

    /// Adds a finding with advice.
    pub(super) fn advise(
        &mut self,
        code: Code,
        span: Range<usize>,
        field: impl Into<String>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.replace(code, span, field, message, help, None);
    }

    /// Adds a finding with advice, and with its replacement if the fix is mechanical.
    pub(super) fn replace(
        &mut self,
        code: Code,
        span: Range<usize>,
        field: impl Into<String>,
        message: impl Into<String>,
        help: impl Into<String>,
        replacement: Option<String>,
    ) {
        let (field, help) = (field.into(), Some(help.into()));
        self.push(Diagnostic { span, field, help, replacement, ..Diagnostic::of_file(code, message.into()) });
    }

    fn push(&mut self, found: Diagnostic) {
        let severity = found.severity;
        self.errors += usize::from(severity == Severity::Error);
        // What an alias repeats is reported once.
        let same = |known: &Diagnostic| {
            known.code == found.code && known.span == found.span && known.message == found.message
        };
        if self.list.iter().any(same) {
            return;
        }
        // Warnings never displace an error.
        if self.list.len() >= MOST {
            self.left_out += 1;
            let warning = self.list.iter().rposition(|known| known.severity == Severity::Warning);
            match warning {
                Some(at) if severity == Severity::Error => drop(self.list.remove(at)),
                _ => return,
            }
        }
        self.list.push(found);
    }

    /// Whether any finding is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The findings in the order of the text, with their lines and columns.
    pub(super) fn finish(mut self, text: &[u8]) -> Vec<Diagnostic> {
        self.list.sort_by_key(|finding| finding.span.start);
        for finding in &mut self.list {
            finding.locate(text);
        }
        if let Some(last) = self.list.last_mut().filter(|_| self.left_out > 0) {
            let more = format!("{} more findings are not listed", self.left_out);
            last.help = Some(last.help.take().map_or_else(|| more.clone(), |help| format!("{help}; {more}")));
        }
        self.list
    }
}

/// The advice to write a value as a text. It shows the text only where that is as short as in a message: a scalar may have
/// all bytes that a file may.
pub(super) fn advise_quotes(text: &str) -> String {
    match text.chars().nth(LONGEST) {
        None => format!("quote it: '{text}'"),
        Some(_) => "quote it: put it into single quotes".to_owned(),
    }
}

/// The most characters of a text that a message shows.
const LONGEST: usize = 60;

/// A part of the text for a message: quoted, on one line, shortened.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        f.write_str("`")?;
        for character in characters.by_ref().take(LONGEST) {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        f.write_str(if characters.next().is_some() { "…`" } else { "`" })
    }
}
