//! Parses a file's text into a [`Definition`], or into all of its errors.
//!
//! The text goes through these stages, and each gets only what the one before accepted: characters → events of a YAML
//! 1.2 parser, compared with what YAML 1.1 readers read → a tree with positions → fields.

mod characters;
mod findings;
mod fix;
mod gap;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod read;
mod scalar;
mod tree;

use std::ops::Range;

use super::attack::Attack;
use super::samples::{FieldPattern, Sample};
use super::{Definition, Diagnostic, RuleId};
use findings::Findings;
pub use fix::fix;

/// The limits of a rule's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of the text in bytes, and of what its aliases repeat.
    pub(crate) size: usize,
    /// The depth of nested mappings and lists.
    pub(crate) depth: usize,
    /// How many values the document may have after its aliases are expanded.
    pub(crate) nodes: usize,
}

impl Limits {
    /// The largest size that a master may allow. The rule's JSON then fits into a line of the stream, although an
    /// escaped byte takes up to six.
    pub(crate) const LARGEST: usize = 4 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 256 * 1024, depth: 64, nodes: 65_536 }
    }
}

/// A valid rule.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedRule {
    /// The definition in the text.
    pub definition: Definition,
    /// The position of the rule's id, in bytes of the text.
    pub id_span: Range<usize>,
    /// The position of its version.
    pub version_span: Range<usize>,
    /// What is valid but suspect, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// Parses a rule.
///
/// # Errors
/// All errors and warnings of the text, in its order; at least one is an error. If the text is not YAML, only up to
/// the first syntax error.
pub fn parse(text: &[u8], limits: &Limits) -> Result<ParsedRule, Vec<Diagnostic>> {
    parse_in_steps(text, limits, || {})
}

/// As [`parse`]; calls `parsed` once the text is parsed as YAML and before its fields are checked, to measure the two
/// separately.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_in_steps(
    text: &[u8],
    limits: &Limits,
    parsed: impl FnOnce(),
) -> Result<ParsedRule, Vec<Diagnostic>> {
    read_rule(text, limits, None, parsed)
}

/// As [`parse`]; also compares tactics and techniques with ATT&CK, which only gives warnings.
///
/// # Errors
/// As [`parse`].
pub(crate) fn lint(text: &[u8], limits: &Limits, attack: &Attack) -> Result<ParsedRule, Vec<Diagnostic>> {
    read_rule(text, limits, Some(attack), || {})
}

/// The id in a text, which may be invalid otherwise; `None` if there is none, or the text is not YAML.
pub(crate) fn rule_id_of(text: &[u8], limits: &Limits) -> Option<RuleId> {
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

/// Parses a test file: samples for `patterns`, which are a rule's.
///
/// # Errors
/// All errors of the text, in its order.
pub(crate) fn samples(
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

#[cfg(test)]
mod tests;
