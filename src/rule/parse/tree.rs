//! The text as a tree with positions, within limits, and only if YAML 1.1 and 1.2 build the same tree.

mod anchors;
mod build;
mod dialect;
mod mistakes;
mod syntax;

use std::borrow::Cow;
use std::ops::Range;

use granit_parser::Parser;

use super::Limits;
use super::findings::Findings;
use build::Builder;
pub(super) use mistakes::{Mistake, is_odd_space, odd_space};

/// A node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// A value with its position.
#[derive(Debug)]
pub(super) struct Node<'t> {
    /// Its bytes in the text, at most to the end of its first line.
    pub(super) span: Range<usize>,
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    pub(super) kind: NodeKind<'t>,
    /// Whether it is a scalar without quotes directly before a comment, on the same line.
    pub(super) ends_at_comment: bool,
    /// How many values it contains, itself included, with aliases expanded.
    values: usize,
    /// How many bytes its scalars have, with aliases expanded.
    bytes: usize,
    /// The depth of its nesting, with aliases expanded; 0 for a scalar.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum NodeKind<'t> {
    /// A scalar without quotes, whose type is not determined yet.
    Plain(Cow<'t, str>),
    /// A scalar in any other style: a text.
    Text(Cow<'t, str>),
    List(Vec<NodeId>),
    Mapping(Vec<(NodeId, NodeId)>),
}

/// A document.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    root: NodeId,
    has_aliases: bool,
}

impl<'t> Tree<'t> {
    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    /// Whether a value is used in more than one place.
    pub(super) fn has_aliases(&self) -> bool {
        self.has_aliases
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0]
    }
}

/// Builds the tree; `None` if the text cannot be checked any further.
pub(super) fn build<'t>(source: &'t str, limits: &Limits, findings: &mut Findings) -> Option<Tree<'t>> {
    // The byte order mark is not content; all positions are moved back by it.
    let text = source.strip_prefix('\u{feff}').unwrap_or(source);
    let offset = source.len() - text.len();
    let mut options = granit_parser::options! {
        disallow_directives: true,
        emit_anchor_events: true,
        flow_nesting_limit: limits.depth,
        block_nesting_limit: limits.depth,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::new(text, offset, limits, findings);
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => {
                builder.line = span.start.line();
                builder.tag = span.tag_span().and_then(|tag| tag.byte_range());
                builder.take(event, span.byte_range().unwrap_or(0..0))
            }
            Err(error) => builder.scan_error(&error),
        };
        step?;
    }
    builder.finish()
}
