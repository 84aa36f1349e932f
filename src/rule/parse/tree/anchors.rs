//! Checks anchors and aliases: names that both versions end at the same position, values that end.

use std::borrow::Cow;
use std::ops::Range;

use super::NodeId;
use super::build::Builder;
use crate::rule::Code;

impl<'t> Builder<'t, '_> {
    pub(super) fn anchor(&mut self, anchor: usize, node: NodeId) {
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
    }

    pub(super) fn name(&mut self, name: Cow<'t, str>, span: Range<usize>) {
        self.check_name(&name, span.clone());
        if !self.names.insert(name) {
            self.advise(
                Code::Dialect,
                span,
                "an anchor that occurs twice, which YAML 1.1 readers refuse",
                "give each anchor a name of its own",
            );
        }
    }

    fn check_name(&mut self, name: &str, span: Range<usize>) {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let next = self.text[span.end..].chars().next();
        let apart = next.is_none_or(|next| matches!(next, ' ' | '\n' | '\r' | ',' | ']' | '}'));
        if !name.bytes().all(good) || !apart {
            self.advise(
                Code::Dialect,
                span,
                "a name of an anchor that YAML 1.1 readers read differently",
                "use letters, digits, `-` and `_`, and a space after it",
            );
        }
    }

    pub(super) fn alias(&mut self, id: usize, span: Range<usize>) -> Option<()> {
        let text = self.text;
        self.check_name(text.get(span.clone()).unwrap_or_default().trim_start_matches('*'), span.clone());
        let &target = self.anchors.get(&id)?;
        if self.open.iter().any(|open| open.node == target) {
            self.advise(
                Code::Alias,
                span,
                "an alias of a value that the alias is part of",
                "write the value itself",
            );
            return None;
        }
        self.has_aliases = true;
        self.key_on_one_line(&span);
        let span = self.at(span);
        let (values, bytes) = (self.nodes[target.0].values, self.nodes[target.0].bytes);
        self.count(values, &span)?;
        self.repeat(bytes, &span)?;
        self.place(target);
        Some(())
    }
}
