//! From a file's text to a [`Definition`], or to everything that is wrong with it.
//!
//! The text goes through these rooms, and each sees only what the one before let through:
//! characters → events of a YAML 1.2 parser, held against what YAML 1.1 readers take alike → a
//! tree with places → fields.

mod characters;
mod findings;
mod fix;
mod gap;
mod pattern;
mod read;
mod scalar;
mod tree;

use std::ops::Range;

use super::attack::Attack;
use super::samples::{FieldPattern, Sample};
use super::{Definition, Diagnostic, RuleId};
use findings::Findings;
pub use fix::fix;

/// What a rule's text may take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the text in bytes, and of what its aliases repeat.
    pub size: usize,
    /// How deep mappings and lists may be nested.
    pub depth: usize,
    /// How many values the document may have after its aliases are followed.
    pub nodes: usize,
}

impl Limits {
    /// The largest size that any master may allow. Written as JSON, the rule then fits into a line
    /// of the stream whatever is in it: an escaped character of one byte takes up to six.
    pub const LARGEST: usize = 4 << 20;
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
    /// Where the rule's id stands, in bytes of the text.
    pub id_span: Range<usize>,
    /// Where its version does.
    pub version_span: Range<usize>,
    /// What is legal but suspect, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a rule.
///
/// # Errors
/// All that is wrong with the text at once, warnings among it, in the order of the text; at least
/// one is an error. What is no YAML at all is told up to the first place where it is none.
pub fn parse(text: &[u8], limits: &Limits) -> Result<ParsedRule, Vec<Diagnostic>> {
    parse_in_steps(text, limits, || {})
}

/// As [`parse`]; calls `parsed` once the text is YAML and before its fields are judged, for whoever
/// measures the two apart.
///
/// # Errors
/// As [`parse`].
pub fn parse_in_steps(
    text: &[u8],
    limits: &Limits,
    parsed: impl FnOnce(),
) -> Result<ParsedRule, Vec<Diagnostic>> {
    read_rule(text, limits, None, parsed)
}

/// As [`parse`]; tactics and techniques are held against what ATT&CK says of them, too, which only
/// warns.
///
/// # Errors
/// As [`parse`].
pub fn lint(text: &[u8], limits: &Limits, attack: &Attack) -> Result<ParsedRule, Vec<Diagnostic>> {
    read_rule(text, limits, Some(attack), || {})
}

/// The id that a text names, be it a rule or not; `None` where it names none, or cannot be read as YAML.
pub fn rule_id_of(text: &[u8], limits: &Limits) -> Option<RuleId> {
    let mut findings = Findings::default();
    let tree = tree::build(characters::check(text, limits, &mut findings)?, limits, &mut findings)?;
    read::rule_id_of(&tree)
}

fn read_rule(
    text: &[u8],
    limits: &Limits,
    attack: Option<&Attack>,
    parsed: impl FnOnce(),
) -> Result<ParsedRule, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let definition = characters::check(text, limits, &mut findings)
        .and_then(|source| tree::build(source, limits, &mut findings))
        .inspect(|_| parsed())
        .and_then(|tree| read::definition(&tree, attack, &mut findings));
    let refused = findings.has_errors();
    let diagnostics = findings.finish(text);
    match definition {
        Some((definition, [id_span, version_span])) if !refused => {
            Ok(ParsedRule { definition, id_span, version_span, warnings: diagnostics })
        }
        _ => Err(diagnostics),
    }
}

/// Reads a test file: samples for `patterns`, those of a rule.
///
/// # Errors
/// All that is wrong with the text at once, in the order of the text.
pub fn samples(
    text: &[u8],
    limits: &Limits,
    patterns: &[FieldPattern],
) -> Result<Vec<Sample>, Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let samples = characters::check(text, limits, &mut findings)
        .and_then(|source| tree::build(source, limits, &mut findings))
        .and_then(|tree| read::samples(&tree, patterns, &mut findings));
    let refused = findings.has_errors();
    match samples {
        Some(samples) if !refused => Ok(samples),
        _ => Err(findings.finish(text)),
    }
}

/// Why Python's `re` would not compile a pattern; `None` where it would.
pub fn pattern_fault(pattern: &str) -> Option<String> {
    pattern::judge(pattern).err().map(|fault| fault.to_string())
}

/// A pattern of Python's `re` in the spelling of the crate `fancy-regex`.
///
/// # Errors
/// Why Python would not compile it, or what in it only Python's own `re` matches.
pub fn spell_for_fancy_regex(pattern: &str) -> Result<String, String> {
    pattern::spell(pattern)
}

#[cfg(test)]
mod tests;
