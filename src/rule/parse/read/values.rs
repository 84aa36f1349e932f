//! Values of the tree as texts, numbers, lists, mappings, each as both YAMLs read it.

mod path;

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use crate::rule::Code;
use crate::rule::parse::findings::{Findings, Quoted};
use crate::rule::parse::scalar::{self, Reading};
use crate::rule::parse::tree::{Kind, Node, NodeId, Tree};
use path::{Path, Step};

/// What a field wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Text,
    TextOrNull,
    Integer,
    Number,
    List,
    Mapping,
    /// Whatever it is: it is passed on.
    Any,
    /// Nobody reads it.
    Nothing,
}

impl Expected {
    const fn describe(self) -> &'static str {
        match self {
            Self::Text | Self::TextOrNull => "a text",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::List => "a list",
            Self::Mapping => "a mapping",
            Self::Any | Self::Nothing => "a value",
        }
    }
}

/// The fields of a mapping: key, value.
pub(super) type Fields<'t> = Vec<(&'t str, NodeId)>;

/// Looks at each key and value of a mapping that is passed on.
pub(super) type Lint = dyn Fn(&mut Values<'_, '_>, &str, NodeId);

/// Reads values, noting what is wrong with them.
pub(super) struct Values<'t, 'f> {
    tree: &'t Tree<'t>,
    findings: &'f mut Findings,
    path: Path<'t>,
}

impl<'t, 'f> Values<'t, 'f> {
    pub(super) fn new(tree: &'t Tree<'t>, findings: &'f mut Findings) -> Self {
        Self { tree, findings, path: Path::default() }
    }

    pub(super) fn node(&self, id: NodeId) -> &'t Node<'t> {
        self.tree.node(id)
    }

    /// Notes something about a value at the current field.
    pub(super) fn add(&mut self, code: Code, node: NodeId, message: impl Into<String>) {
        let (span, field) = (self.node(node).span.clone(), self.path.to_string());
        self.findings.add(code, span, field, message);
    }

    fn advise(&mut self, code: Code, node: NodeId, message: impl Into<String>, help: impl Into<String>) {
        let (span, field) = (self.node(node).span.clone(), self.path.to_string());
        self.findings.advise(code, span, field, message, help);
    }

    /// Reads a field that must be there; the mapping is `of`.
    pub(super) fn required<T>(
        &mut self,
        of: NodeId,
        fields: &Fields<'t>,
        name: &'static str,
        read: impl FnOnce(&mut Self, NodeId) -> Option<T>,
    ) -> Option<T> {
        if !fields.iter().any(|&(key, _)| key == name) {
            self.add(Code::MissingField, of, format!("the field `{name}` is missing"));
        }
        self.optional(fields, name, read)
    }

    /// Reads a field where it is there.
    pub(super) fn optional<T>(
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

    /// The fields of a mapping, each once. Keys that are not among `known` are warned of, and what
    /// stands under them is only looked at as far as it could stop another reader.
    pub(super) fn fields(&mut self, node: NodeId, known: &[&'static str]) -> Fields<'t> {
        let (good, bad): (Vec<_>, Vec<_>) =
            self.keys(node).into_iter().partition(|(key, ..)| known.contains(key));
        for (key, at, value) in bad {
            let nearest =
                known.iter().filter(|name| near(name, key)).min_by_key(|name| strsim::levenshtein(name, key));
            let help = nearest.map_or_else(
                || "it is kept in the stored text and otherwise ignored".to_owned(),
                |name| format!("`{name}` is a field"),
            );
            self.within(Step::Key(key), |values| {
                values.advise(Code::UnknownKey, at, format!("the key {} is not known", Quoted(key)), help);
                values.loadable(value);
            });
        }
        good.into_iter().map(|(key, _, value)| (key, value)).collect()
    }

    /// The pairs of a mapping whose keys are strings, each once: key, its node, value.
    fn keys(&mut self, node: NodeId) -> Vec<(&'t str, NodeId, NodeId)> {
        let Kind::Mapping(pairs) = &self.node(node).kind else { return Vec::new() };
        let mut first = HashMap::with_capacity(pairs.len());
        let mut keys = Vec::with_capacity(pairs.len());
        for &(at, value) in pairs {
            let Some(key) = self.key(at) else {
                self.loadable(value);
                continue;
            };
            if let Some(&known) = first.get(key) {
                let (line, message) =
                    (self.tree.line(known), format!("the key {} stands twice", Quoted(key)));
                self.within(Step::Key(key), |values| {
                    values.advise(Code::DuplicateKey, at, message, format!("it is in line {line} already"));
                    values.loadable(value);
                });
                continue;
            }
            first.insert(key, at);
            keys.push((key, at, value));
        }
        keys
    }

    fn key(&mut self, at: NodeId) -> Option<&'t str> {
        match &self.node(at).kind {
            Kind::Text(text) => Some(text),
            Kind::Plain(text) => {
                let (old, new) = readings(text);
                if old == Reading::Merge {
                    let message = "a merge key, which YAML 1.2 does not have";
                    self.advise(
                        Code::MergeKey,
                        at,
                        message,
                        "write the keys out, or quote it if it is a name",
                    );
                } else if !scalar::same(old, new) {
                    self.ambiguous(at, text, old, new, Expected::Text);
                } else if old != Reading::Text {
                    let message = format!("a key that is {}; expected a text", old.describe(text));
                    self.advise(Code::KeyNotString, at, message, quote(text));
                } else {
                    return Some(text);
                }
                None
            }
            Kind::List(_) | Kind::Mapping(_) => {
                self.add(
                    Code::KeyNotString,
                    at,
                    format!("a key that is {}; expected a text", self.describe(at)),
                );
                None
            }
        }
    }

    /// What a scalar without quotes says to both readers; `None` where they differ.
    fn reading(&mut self, node: NodeId, text: &str, expected: Expected) -> Option<Reading> {
        let (old, new) = readings(text);
        if scalar::same(old, new) {
            return Some(old);
        }
        self.ambiguous(node, text, old, new, expected);
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
                format!("{} if it is a text, else write {plain}", quote(text))
            }
            _ => quote(text),
        };
        self.advise(Code::AmbiguousValue, node, message, help);
    }

    /// The value in words.
    pub(super) fn describe(&self, node: NodeId) -> String {
        match &self.node(node).kind {
            Kind::Plain(text) => scalar::yaml_1_1(text).describe(text),
            Kind::Text(text) => Reading::Text.describe(text),
            Kind::List(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// Notes that a value is of another kind.
    pub(super) fn wrong_type(&mut self, node: NodeId, expected: Expected) {
        let message = format!("expected {}, found {}", expected.describe(), self.describe(node));
        match (&self.node(node).kind, expected) {
            (Kind::Plain(text), Expected::Text | Expected::TextOrNull) if !text.is_empty() => {
                self.advise(Code::WrongType, node, message, quote(text));
            }
            (Kind::Text(text), Expected::Integer | Expected::Number) if text.parse::<f64>().is_ok() => {
                self.advise(Code::WrongType, node, message, "remove the quotes");
            }
            (Kind::Plain(_) | Kind::Text(_), Expected::List) => {
                self.advise(Code::WrongType, node, message, "put it into brackets: [ ]");
            }
            _ => self.add(Code::WrongType, node, message),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, node: NodeId) -> Option<String> {
        self.text_as(node, Expected::Text).flatten()
    }

    /// A text, or null for none.
    #[expect(clippy::option_option, reason = "the outer none is: refused, and told; the inner one: null")]
    pub(super) fn text_or_null(&mut self, node: NodeId) -> Option<Option<String>> {
        self.text_as(node, Expected::TextOrNull)
    }

    #[expect(clippy::option_option, reason = "as text_or_null")]
    fn text_as(&mut self, node: NodeId, expected: Expected) -> Option<Option<String>> {
        match &self.node(node).kind {
            Kind::Text(text) => Some(Some(text.to_string())),
            Kind::Plain(text) => match self.reading(node, text, expected)? {
                Reading::Text => Some(Some(text.to_string())),
                Reading::Null if expected == Expected::TextOrNull => Some(None),
                _ => {
                    self.wrong_type(node, expected);
                    None
                }
            },
            _ => {
                self.wrong_type(node, expected);
                None
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, node: NodeId, needed: bool) -> Option<Vec<String>> {
        let texts: Vec<Option<String>> = self.list(node, needed, Self::text)?;
        texts.into_iter().collect()
    }

    /// A list, each element read by `read`; `needed` says that there must be one.
    pub(super) fn list<T>(
        &mut self,
        node: NodeId,
        needed: bool,
        mut read: impl FnMut(&mut Self, NodeId) -> T,
    ) -> Option<Vec<T>> {
        let Kind::List(list) = &self.node(node).kind else {
            // A scalar on which the two differ is told of as such.
            if let Kind::Plain(text) = &self.node(node).kind {
                self.reading(node, text, Expected::List)?;
            }
            self.wrong_type(node, Expected::List);
            return None;
        };
        if needed && list.is_empty() {
            self.add(Code::EmptyList, node, "expected at least one element");
            return None;
        }
        Some(
            list.iter()
                .enumerate()
                .map(|(index, &node)| self.within(Step::Index(index), |values| read(values, node)))
                .collect(),
        )
    }

    /// An integer.
    pub(super) fn integer(&mut self, node: NodeId) -> Option<i128> {
        match self.numeric(node, Expected::Integer)? {
            Reading::Int(value) => Some(value),
            _ => {
                self.wrong_type(node, Expected::Integer);
                None
            }
        }
    }

    /// A finite number.
    pub(super) fn number(&mut self, node: NodeId) -> Option<f64> {
        match self.numeric(node, Expected::Number)? {
            #[expect(clippy::cast_precision_loss, reason = "as Python's float() of an integer")]
            Reading::Int(value) => Some(value as f64),
            Reading::Float(value) => Some(value),
            _ => {
                self.wrong_type(node, Expected::Number);
                None
            }
        }
    }

    fn numeric(&mut self, node: NodeId, expected: Expected) -> Option<Reading> {
        let Kind::Plain(text) = &self.node(node).kind else {
            self.wrong_type(node, expected);
            return None;
        };
        let reading = self.reading(node, text, expected)?;
        self.representable(node, reading).then_some(reading)
    }

    /// Whether a number can be passed on; if not it is told.
    fn representable(&mut self, node: NodeId, reading: Reading) -> bool {
        let message = match reading {
            Reading::Float(value) if !value.is_finite() => "a number that is not finite",
            Reading::HugeInt => "an integer of more than 64 bits",
            Reading::Int(value) if i64::try_from(value).is_err() && u64::try_from(value).is_err() => {
                "an integer of more than 64 bits"
            }
            _ => return true,
        };
        self.advise(Code::Number, node, message, "quote it if it is a text");
        false
    }

    /// A mapping as JSON, its keys in the text's order; each pair, at any depth, is shown to `lint`.
    pub(super) fn mapping(&mut self, node: NodeId, lint: &Lint) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        let keys = self.keys(node);
        let mut good = matches!(&self.node(node).kind, Kind::Mapping(pairs) if pairs.len() == keys.len());
        for (key, _, value) in keys {
            self.within(Step::Key(key), |values| {
                lint(values, key, value);
                match values.json(value, lint) {
                    Some(value) => drop(map.insert(key.to_owned(), value)),
                    None => good = false,
                }
            });
        }
        good.then_some(map)
    }

    fn json(&mut self, node: NodeId, lint: &Lint) -> Option<Value> {
        match &self.node(node).kind {
            Kind::Text(text) => Some(Value::String(text.to_string())),
            Kind::Plain(text) => {
                let reading = self.reading(node, text, Expected::Any)?;
                if !self.representable(node, reading) {
                    return None;
                }
                match reading {
                    Reading::Null => Some(Value::Null),
                    Reading::Bool(value) => Some(Value::Bool(value)),
                    Reading::Int(value) => Number::from_i128(value).map(Value::Number),
                    Reading::Float(value) => Number::from_f64(value).map(Value::Number),
                    _ => Some(Value::String(text.to_string())),
                }
            }
            Kind::List(_) => {
                let list = self.list(node, false, |values, node| values.json(node, lint))?;
                list.into_iter().collect::<Option<_>>().map(Value::Array)
            }
            Kind::Mapping(_) => self.mapping(node, lint).map(Value::Object),
        }
    }

    /// Looks at a value that nobody reads, for what stops another reader all the same.
    fn loadable(&mut self, node: NodeId) {
        match &self.node(node).kind {
            Kind::Text(_) => {}
            Kind::Plain(text) => match scalar::yaml_1_1(text) {
                old @ (Reading::Fails | Reading::Merge) => {
                    self.ambiguous(node, text, old, scalar::yaml_1_2(text), Expected::Nothing);
                }
                Reading::HugeInt => {
                    self.representable(node, Reading::HugeInt);
                }
                _ => {}
            },
            Kind::List(_) => {
                self.list(node, false, Self::loadable);
            }
            Kind::Mapping(_) => {
                for (key, _, value) in self.keys(node) {
                    self.within(Step::Key(key), |values| values.loadable(value));
                }
            }
        }
    }
}

fn readings(text: &str) -> (Reading, Reading) {
    if scalar::may_be_other(text) {
        (scalar::yaml_1_1(text), scalar::yaml_1_2(text))
    } else {
        (Reading::Text, Reading::Text)
    }
}

fn quote(text: &str) -> String {
    format!("quote it: '{text}'")
}

/// A spelling that both readers read as this.
fn plain(reading: Reading) -> Option<String> {
    match reading {
        Reading::Bool(value) => Some(value.to_string()),
        Reading::Int(value) => Some(value.to_string()),
        // Never with an exponent: that is where the two differ.
        Reading::Float(value) if (1e-6..1e15).contains(&value.abs()) => {
            Some(if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() })
        }
        _ => None,
    }
}

/// Whether a key may be a slip of the pen for a field's name.
fn near(name: &str, key: &str) -> bool {
    key.len() < 40 && strsim::levenshtein(name, key) <= name.len().div_ceil(3)
}
