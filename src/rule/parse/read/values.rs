//! Reads values of the tree as texts, numbers, lists and mappings, if both versions of YAML read them alike.

mod json;
mod keys;
mod path;
mod typed;

use crate::python_re::backtracking::Budget;
use crate::rule::Code;
use crate::rule::parse::findings::{Findings, Quoted, advise_quotes};
use crate::rule::parse::scalar::{self, Reading};
use crate::rule::parse::tree::{Node, NodeId, NodeKind, Tree};
use path::{Path, Step};

/// The type that a field needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Text,
    TextOrNull,
    Integer,
    Number,
    List,
    Mapping,
    /// Any type: the value is passed on.
    Any,
    /// Any type: nobody reads the value.
    Nothing,
    /// The text of a key.
    Key,
}

impl Expected {
    const fn describe(self) -> &'static str {
        match self {
            Self::Text | Self::TextOrNull | Self::Key => "a text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::List => "a list",
            Self::Mapping => "a mapping",
            Self::Any | Self::Nothing => "a value",
        }
    }
}

/// The fields of a mapping: key, value.
pub(super) type Fields<'t> = Vec<(&'t str, NodeId)>;

/// Checks each key and value of a mapping that is passed on.
pub(super) type Lint = dyn Fn(&mut Values<'_, '_>, &str, NodeId);

/// Reads values, and adds findings for invalid ones.
pub(super) struct Values<'t, 'f> {
    tree: &'t Tree<'t>,
    findings: &'f mut Findings,
    path: Path<'t>,
    /// For the patterns of the file.
    budget: Budget,
}

impl<'t, 'f> Values<'t, 'f> {
    pub(super) fn new(tree: &'t Tree<'t>, findings: &'f mut Findings) -> Self {
        Self { tree, findings, path: Path::default(), budget: Budget::default() }
    }

    pub(super) fn node(&self, id: NodeId) -> &'t Node<'t> {
        self.tree.node(id)
    }

    /// What remains for checking the running time of patterns.
    pub(super) const fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Adds a finding for a value at the current field.
    pub(super) fn add(&mut self, code: Code, node: NodeId, message: impl Into<String>) {
        let (span, field) = (self.node(node).span.clone(), self.path.to_string());
        self.findings.add(code, span, field, message);
    }

    /// Adds a finding for an invalid id; `trimmed` is a valid one, without the blanks around it.
    pub(super) fn add_id(&mut self, node: NodeId, message: String, text: &str, trimmed: Option<String>) {
        let span = self.node(node).span.clone();
        // The content of quotes, on one line and without escapes.
        let is_whole = span.len() == text.len() + 2 && !text.contains('\n');
        let Some(id) = trimmed.filter(|_| is_whole && !self.tree.has_aliases()) else {
            return self.add(Code::RuleId, node, message);
        };
        let help = format!("remove the blanks: '{id}'");
        let field = self.path.to_string();
        self.findings.replace(Code::RuleId, span, field, message, help, Some(format!("'{id}'")));
    }

    pub(super) fn advise(
        &mut self,
        code: Code,
        node: NodeId,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (span, field) = (self.node(node).span.clone(), self.path.to_string());
        self.findings.advise(code, span, field, message, help);
    }

    /// Reads a field if it exists.
    pub(super) fn field<T>(
        &mut self,
        fields: &Fields<'t>,
        name: &'static str,
        read: impl FnOnce(&mut Self, NodeId) -> Option<T>,
    ) -> Option<T> {
        let &(_, node) = fields.iter().find(|&&(key, _)| key == name)?;
        self.within(Step::Key(name), |values| read(values, node))
    }

    fn within<T>(&mut self, step: Step<'t>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let value = read(self);
        self.path.pop();
        value
    }

    /// The value of a scalar without quotes; `None` if the two readers differ.
    fn reading(&mut self, node: NodeId, text: &str, expected: Expected) -> Option<Reading> {
        let (old, new) = readings(text);
        if scalar::same(old, new) {
            return Some(old);
        }
        if matches!(expected, Expected::Integer | Expected::Number) && ![old, new].iter().any(is_number) {
            let message = format!("expected {}, found {}", expected.describe(), Quoted(text));
            self.add(Code::WrongType, node, message);
        } else {
            self.ambiguous(node, text, old, new, expected);
        }
        None
    }

    fn ambiguous(&mut self, node: NodeId, text: &str, old: Reading, new: Reading, expected: Expected) {
        let message = format!(
            "{} is {} in YAML 1.1 (PyYAML) and {} in YAML 1.2",
            Quoted(text),
            old.describe(text),
            new.describe(text)
        );
        let plain = [old, new].into_iter().filter_map(plain).collect::<Vec<_>>().join(" or ");
        let help = match expected {
            Expected::Integer | Expected::Number if plain.is_empty() => {
                "write a number in plain digits".to_owned()
            }
            Expected::Integer | Expected::Number => format!("write {plain}"),
            Expected::Any if !plain.is_empty() => {
                format!("{} if it is a text, else write {plain}", advise_quotes(text))
            }
            _ => advise_quotes(text),
        };
        let replacement = self.unambiguous(node, text, old, expected);
        let (span, field) = (self.node(node).span.clone(), self.path.to_string());
        self.findings.replace(Code::AmbiguousValue, span, field, message, help, replacement);
    }

    /// The scalar spelled so that both read what PyYAML now reads, or the text that a field needs: no schema accepts
    /// PyYAML's value there. `None` if only its author knows what is meant.
    fn unambiguous(&self, node: NodeId, text: &str, old: Reading, expected: Expected) -> Option<String> {
        // The position covers only the first line of a long scalar.
        if self.node(node).span.len() != text.len() {
            return None;
        }
        let quoted = || Some(format!("'{}'", text.replace('\'', "\'\'")));
        match (old, expected) {
            (_, Expected::Integer | Expected::Number | Expected::List | Expected::Mapping) => None,
            (Reading::Fails, _) => quoted(),
            (Reading::Text, Expected::Text | Expected::TextOrNull | Expected::Key | Expected::Any) => {
                quoted()
            }
            _ if self.tree.has_aliases() => None,
            (Reading::Bool(value), Expected::Any) => Some(value.to_string()),
            (_, Expected::Text | Expected::TextOrNull) => quoted(),
            _ => None,
        }
    }

    /// A description of the value.
    pub(super) fn describe(&self, node: NodeId) -> String {
        match &self.node(node).kind {
            NodeKind::Plain(text) => scalar::yaml_1_1(text).describe(text),
            NodeKind::Text(text) => Reading::Text.describe(text),
            NodeKind::List(_) => "a list".to_owned(),
            NodeKind::Mapping(_) => "a mapping".to_owned(),
        }
    }

    fn begins_with_a_dash(&self, pairs: &[(NodeId, NodeId)]) -> bool {
        let first = pairs.first().map(|&(key, _)| &self.node(key).kind);
        matches!(first, Some(NodeKind::Plain(key)) if key.starts_with('-'))
    }

    /// Adds a finding for a value of the wrong type, which has no meaning: `None`.
    pub(super) fn wrong_type<T>(&mut self, node: NodeId, expected: Expected) -> Option<T> {
        let message = format!("expected {}, found {}", expected.describe(), self.describe(node));
        match (&self.node(node).kind, expected) {
            (NodeKind::Plain(text), Expected::Text | Expected::TextOrNull) if !text.is_empty() => {
                self.advise(Code::WrongType, node, message, advise_quotes(text));
            }
            (NodeKind::Text(text), Expected::Integer | Expected::Number) if text.parse::<f64>().is_ok() => {
                self.advise(Code::WrongType, node, message, "remove the quotes");
            }
            (NodeKind::Plain(text), Expected::List) if text.starts_with('-') => {
                let help = format!("put a space after the `-`: {}", Quoted(&text.replacen('-', "- ", 1)));
                self.advise(Code::WrongType, node, message, help);
            }
            (NodeKind::Mapping(pairs), Expected::List) if self.begins_with_a_dash(pairs) => {
                self.advise(Code::WrongType, node, message, "put a space after each `-`");
            }
            (NodeKind::Plain(text) | NodeKind::Text(text), Expected::List) if !text.is_empty() => {
                self.advise(Code::WrongType, node, message, "put it into brackets: [ ]");
            }
            _ => self.add(Code::WrongType, node, message),
        }
        None
    }
}

fn is_number(reading: &Reading) -> bool {
    matches!(reading, Reading::Int(_) | Reading::HugeInt | Reading::Float(_))
}

fn readings(text: &str) -> (Reading, Reading) {
    if scalar::may_be_other(text) {
        (scalar::yaml_1_1(text), scalar::yaml_1_2(text))
    } else {
        (Reading::Text, Reading::Text)
    }
}

/// A spelling that both readers read as this number.
fn plain(reading: Reading) -> Option<String> {
    match reading {
        Reading::Bool(value) => Some(value.to_string()),
        Reading::Int(value) => Some(value.to_string()),
        // Never with an exponent, which the two read differently.
        Reading::Float(value) if (1e-6..1e15).contains(&value.abs()) => {
            Some(if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() })
        }
        _ => None,
    }
}
