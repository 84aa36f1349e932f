//! The keys of mappings: texts, each once, known or not.

use std::collections::HashMap;

use super::{Expected, Fields, NodeId, NodeKind, Reading, Step, Values, advise_quotes, readings, scalar};
use crate::rule::Code;
use crate::rule::parse::tree::{Mistake, is_odd_space, odd_space};

impl<'t> Values<'t, '_> {
    /// The fields of a mapping, each once. Missing `needed` keys are errors. Keys that are neither `needed` nor
    /// `optional` cause warnings, and their values are only checked for what would stop another reader.
    pub(in crate::rule::parse::read) fn fields(
        &mut self,
        node: NodeId,
        needed: &[&'static str],
        optional: &[&'static str],
    ) -> Fields<'t> {
        let known = [needed, optional].concat();
        let (good, bad): (Vec<_>, Vec<_>) =
            self.keys(node).into_iter().partition(|(key, ..)| known.contains(key));
        for (key, at, value) in bad {
            let nearest =
                known.iter().filter(|name| near(name, key)).min_by_key(|name| strsim::levenshtein(name, key));
            let help = match nearest {
                Some(name) => format!("`{name}` is a field"),
                None if key.starts_with('-') => "put a space after the `-` of a list's element".to_owned(),
                None => "it is kept in the stored text and otherwise ignored".to_owned(),
            };
            self.within(Step::Key(key), |values| {
                values.advise(Code::UnknownKey, at, "not a known key", help);
                values.loadable(value);
            });
        }
        let good: Fields<'t> = good.into_iter().map(|(key, _, value)| (key, value)).collect();
        let there = |name: &str| good.iter().any(|&(key, _)| key == name);
        let missing: Vec<_> =
            needed.iter().filter(|name| !there(name)).map(|name| format!("`{name}`")).collect();
        match missing.as_slice() {
            [] => {}
            [name] => self.add(Code::MissingField, node, format!("the field {name} is missing")),
            names => {
                self.add(Code::MissingField, node, format!("the fields {} are missing", names.join(", ")))
            }
        }
        good
    }

    /// The pairs of a mapping whose keys are strings, each once: key, its node, value.
    pub(in crate::rule::parse::read) fn keys(&mut self, node: NodeId) -> Vec<(&'t str, NodeId, NodeId)> {
        let NodeKind::Mapping(pairs) = &self.node(node).kind else { return Vec::new() };
        let mut first = HashMap::with_capacity(pairs.len());
        let mut keys = Vec::with_capacity(pairs.len());
        for &(at, value) in pairs {
            let Some(key) = self.key(at) else {
                self.loadable(value);
                continue;
            };
            if let Some(&known) = first.get(key) {
                let help = format!("it is in line {} already", self.node(known).line);
                self.within(Step::Key(key), |values| {
                    values.advise(Code::DuplicateKey, at, "this key occurs twice", help);
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
            NodeKind::Text(text) => Some(text),
            NodeKind::Plain(text) => {
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
                    self.ambiguous(at, text, old, new, Expected::Key);
                } else if old != Reading::Text {
                    let message = format!("a key that is {}; expected a text", old.describe(text));
                    self.advise(Code::KeyNotString, at, message, advise_quotes(text));
                } else if let Some(space) = text.chars().next().filter(|&first| is_odd_space(first)) {
                    let start = self.node(at).span.start;
                    let Mistake { code, at, message, help } =
                        odd_space(start..start + space.len_utf8(), space);
                    self.findings.advise(code, at, "", message, help);
                } else {
                    return Some(text);
                }
                None
            }
            NodeKind::List(_) | NodeKind::Mapping(_) => {
                self.add(
                    Code::KeyNotString,
                    at,
                    format!("a key that is {}; expected a text", self.describe(at)),
                );
                None
            }
        }
    }
}

/// Whether a key may be a misspelt field name.
fn near(name: &str, key: &str) -> bool {
    key.len() < 40 && strsim::levenshtein(name, key) <= name.len().div_ceil(3)
}
