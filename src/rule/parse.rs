//! From a file's text to a [`Definition`], or to everything that is wrong with it.

use super::Definition;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, but suspect: the rule is taken.
    Warning,
    /// The rule is refused.
    Error,
}

/// One finding in a rule's text: where, what was found, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable name of the kind of finding, for machines and for looking it up.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in characters, from 1.
    pub column: usize,
    /// The place as a range of bytes of the text.
    pub span: std::ops::Range<usize>,
    /// The field, `emits[0].confidence`; empty for the document as a whole.
    pub field: String,
    /// What was found and what was expected, in one sentence without the place.
    pub message: String,
    /// What to do about it; `None` where the message says it all.
    pub help: Option<String>,
}

/// What a rule's text may take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the text in bytes.
    pub size: usize,
    /// How deep mappings and lists may be nested.
    pub depth: usize,
    /// How many values the document may have after its aliases are followed.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 256 * 1024, depth: 64, nodes: 65_536 }
    }
}

/// A rule that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedRule {
    /// What the text defines.
    pub definition: Definition,
    /// What is legal but suspect, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a rule.
///
/// # Errors
/// All that is wrong with the text at once, warnings among it, in the order of the text; at least
/// one is an error.
pub fn parse(text: &[u8], limits: &Limits) -> Result<ParsedRule, Vec<Diagnostic>> {
    let _ = (text, limits);
    Err(Vec::new())
}
