//! Values that are passed on unchanged, and those that nobody reads.

use serde_json::{Map, Number, Value};

use super::{Expected, Lint, NodeId, NodeKind, Reading, Step, Values, scalar};

impl Values<'_, '_> {
    /// A mapping as JSON, with its keys in the text's order; `lint` checks each pair, at any depth.
    pub(in crate::rule::parse::read) fn mapping(
        &mut self,
        node: NodeId,
        lint: &Lint,
    ) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        let keys = self.keys(node);
        let mut good = matches!(&self.node(node).kind, NodeKind::Mapping(pairs) if pairs.len() == keys.len());
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
            NodeKind::Text(text) => Some(Value::String(text.to_string())),
            NodeKind::Plain(text) => {
                let reading = self.reading(node, text, Expected::Any)?;
                if !self.representable(node, reading, Expected::Any) {
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
            NodeKind::List(_) => {
                let list = self.list(node, false, |values, node| values.json(node, lint))?;
                list.into_iter().collect::<Option<_>>().map(Value::Array)
            }
            NodeKind::Mapping(_) => self.mapping(node, lint).map(Value::Object),
        }
    }

    /// Checks a value that nobody reads for what would stop another reader.
    pub(super) fn loadable(&mut self, node: NodeId) {
        match &self.node(node).kind {
            NodeKind::Text(_) => {}
            NodeKind::Plain(text) => match scalar::yaml_1_1(text) {
                old @ (Reading::Fails | Reading::Merge) => {
                    self.ambiguous(node, text, old, scalar::yaml_1_2(text), Expected::Nothing);
                }
                Reading::HugeInt => {
                    self.representable(node, Reading::HugeInt, Expected::Any);
                }
                _ => {}
            },
            NodeKind::List(_) => {
                self.list(node, false, Self::loadable);
            }
            NodeKind::Mapping(_) => {
                for (key, _, value) in self.keys(node) {
                    self.within(Step::Key(key), |values| values.loadable(value));
                }
            }
        }
    }
}
