//! Values of the type that a field needs.

use super::{Expected, NodeId, NodeKind, Reading, Step, Values};
use crate::rule::Code;

impl Values<'_, '_> {
    /// A text.
    pub(in crate::rule::parse::read) fn text(&mut self, node: NodeId) -> Option<String> {
        self.text_as(node, Expected::Text).flatten()
    }

    /// A text, or null.
    #[expect(clippy::option_option, reason = "the outer none is: refused, and told; the inner one: null")]
    pub(in crate::rule::parse::read) fn text_or_null(&mut self, node: NodeId) -> Option<Option<String>> {
        self.text_as(node, Expected::TextOrNull)
    }

    #[expect(clippy::option_option, reason = "as text_or_null")]
    fn text_as(&mut self, node: NodeId, expected: Expected) -> Option<Option<String>> {
        match &self.node(node).kind {
            NodeKind::Text(text) => Some(Some(text.to_string())),
            NodeKind::Plain(text) => match self.reading(node, text, expected)? {
                Reading::Text => Some(Some(text.to_string())),
                Reading::Null if expected == Expected::TextOrNull => Some(None),
                _ => self.wrong_type(node, expected),
            },
            _ => self.wrong_type(node, expected),
        }
    }

    /// A list of texts.
    pub(in crate::rule::parse::read) fn texts(&mut self, node: NodeId, needed: bool) -> Option<Vec<String>> {
        let texts: Vec<Option<String>> = self.list(node, needed, Self::text)?;
        texts.into_iter().collect()
    }

    /// A list, whose elements `read` reads; if `needed`, it must not be empty.
    pub(in crate::rule::parse::read) fn list<T>(
        &mut self,
        node: NodeId,
        needed: bool,
        mut read: impl FnMut(&mut Self, NodeId) -> T,
    ) -> Option<Vec<T>> {
        let NodeKind::List(list) = &self.node(node).kind else {
            // A scalar that the two versions read differently is reported as such.
            if let NodeKind::Plain(text) = &self.node(node).kind {
                self.reading(node, text, Expected::List)?;
            }
            return self.wrong_type(node, Expected::List);
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
    pub(in crate::rule::parse::read) fn integer(&mut self, node: NodeId) -> Option<i128> {
        match self.numeric(node, Expected::Integer)? {
            Reading::Int(value) => Some(value),
            _ => self.wrong_type(node, Expected::Integer),
        }
    }

    /// A finite number.
    pub(in crate::rule::parse::read) fn number(&mut self, node: NodeId) -> Option<f64> {
        match self.numeric(node, Expected::Number)? {
            #[expect(clippy::cast_precision_loss, reason = "as Python's float() of an integer")]
            Reading::Int(value) => Some(value as f64),
            Reading::Float(value) => Some(value),
            _ => self.wrong_type(node, Expected::Number),
        }
    }

    fn numeric(&mut self, node: NodeId, expected: Expected) -> Option<Reading> {
        let NodeKind::Plain(text) = &self.node(node).kind else {
            return self.wrong_type(node, expected);
        };
        let reading = self.reading(node, text, expected)?;
        self.representable(node, reading, expected).then_some(reading)
    }

    /// Whether a number can be passed on; if not, it is reported.
    pub(super) fn representable(&mut self, node: NodeId, reading: Reading, expected: Expected) -> bool {
        let message = match reading {
            Reading::Float(value) if !value.is_finite() => "a number that is not finite",
            Reading::HugeInt => "an integer of more than 64 bits",
            Reading::Int(value) if i64::try_from(value).is_err() && u64::try_from(value).is_err() => {
                "an integer of more than 64 bits"
            }
            _ => return true,
        };
        if expected == Expected::Any {
            self.advise(Code::Number, node, message, "quote it if it is a text");
        } else {
            self.add(Code::Number, node, message);
        }
        false
    }
}
