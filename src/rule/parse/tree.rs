//! The text as a tree with places, within limits, and only as far as YAML 1.1 and 1.2 build the
//! same tree of it.

mod dialect;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StructureStyle};

use super::Limits;
use super::findings::{Findings, Quoted};
use super::gap::{self, Place};
use crate::rule::Code;

/// A node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// A value, and where it stands.
#[derive(Debug)]
pub(super) struct Node<'t> {
    /// Its bytes in the text; of a collection in block style those of its first line.
    pub(super) span: Range<usize>,
    pub(super) kind: Kind<'t>,
    /// How many values it is with all that is in it, aliases followed.
    values: usize,
    /// How deep it is nested, aliases followed; 0 for a scalar.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Kind<'t> {
    /// A scalar without quotes: what it says is to be worked out.
    Plain(Cow<'t, str>),
    /// A scalar in any other style: a text.
    Text(Cow<'t, str>),
    List(Vec<NodeId>),
    Mapping(Vec<(NodeId, NodeId)>),
}

/// A document.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    source: &'t str,
    nodes: Vec<Node<'t>>,
    root: NodeId,
}

impl<'t> Tree<'t> {
    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0]
    }

    /// The line on which a value begins, from 1.
    pub(super) fn line(&self, id: NodeId) -> usize {
        1 + self.source[..self.node(id).span.start].matches('\n').count()
    }
}

/// Builds the tree; `None` where there is none to look at further.
pub(super) fn build<'t>(source: &'t str, limits: &Limits, findings: &mut Findings) -> Option<Tree<'t>> {
    // The byte order mark is no content; every place is moved back by it.
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
            Ok((event, span)) => builder.take(event, span.byte_range().unwrap_or(0..0)),
            Err(error) => builder.scan_error(&error),
        };
        step?;
    }
    builder.finish(source)
}

/// A collection that is not closed yet.
struct Open {
    node: NodeId,
    children: Vec<NodeId>,
    flow: bool,
}

struct Builder<'t, 'f> {
    text: &'t str,
    offset: usize,
    limits: Limits,
    findings: &'f mut Findings,
    nodes: Vec<Node<'t>>,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    names: HashSet<Cow<'t, str>>,
    root: Option<NodeId>,
    /// Values so far, aliases followed.
    values: usize,
    /// End of the last scalar: what stands between it and the next is a gap.
    seen: usize,
    documents: usize,
}

impl<'t, 'f> Builder<'t, 'f> {
    fn new(text: &'t str, offset: usize, limits: &Limits, findings: &'f mut Findings) -> Self {
        Self {
            text,
            offset,
            limits: *limits,
            findings,
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            names: HashSet::new(),
            root: None,
            values: 0,
            seen: 0,
            documents: 0,
        }
    }

    /// Takes an event; `None` ends the reading.
    fn take(&mut self, event: Event<'t>, span: Range<usize>) -> Option<()> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.advise(
                        Code::SeveralDocuments,
                        span,
                        "a second document begins",
                        "one file is one rule: put it into a file of its own",
                    );
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                // Only what is empty has no width: the value after `key:`.
                let empty = span.is_empty() && style == ScalarStyle::Plain;
                let text = if empty { Cow::Borrowed("") } else { text };
                if !span.is_empty() {
                    self.gap(span.start);
                    self.seen = span.end;
                }
                let flow = self.in_flow();
                self.key_on_one_line(&span);
                dialect::check(self.text, &text, style, span.clone(), flow, self.offset, self.findings);
                let kind = if style == ScalarStyle::Plain { Kind::Plain(text) } else { Kind::Text(text) };
                let span = self.shown(span);
                let node = self.push(span, kind, 1, 0)?;
                self.anchor(anchor, node);
                self.place(node);
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                self.begin(Kind::List(Vec::new()), style, span, anchor)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                self.begin(Kind::Mapping(Vec::new()), style, span, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(id) => self.alias(id, span)?,
            Event::Anchor(_, name) => self.name(name, span),
            _ => {}
        }
        Some(())
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|open| open.flow)
    }

    /// In brackets a key and its colon may be lines apart, except for YAML 1.1 readers.
    fn key_on_one_line(&mut self, span: &Range<usize>) {
        let is_key = |open: &Open| {
            open.flow
                && open.children.len().is_multiple_of(2)
                && matches!(self.nodes[open.node.0].kind, Kind::Mapping(_))
        };
        if self.open.last().is_some_and(is_key) && dialect::parts_from_colon(self.text, span) {
            let (message, help) = ("a key that is lines apart from its colon", "put both on one line");
            self.advise(Code::Dialect, span.clone(), message, help);
        }
    }

    /// A range of the text as a range of the file.
    fn at(&self, span: Range<usize>) -> Range<usize> {
        self.offset + span.start..self.offset + span.end
    }

    /// The bytes to show of a value: its first line, without the end of that.
    fn shown(&self, span: Range<usize>) -> Range<usize> {
        let line = self.text[span.clone()].split(['\n', '\r']).next().unwrap_or_default();
        self.at(span.start..span.start + line.len())
    }

    fn advise(&mut self, code: Code, span: Range<usize>, message: impl Into<String>, help: &str) {
        let span = self.at(span);
        self.findings.advise(code, span, "", message, help);
    }

    fn gap(&mut self, end: usize) {
        let place = if self.seen == 0 { Place::First } else { Place::Middle };
        if let Some(gap) = self.text.get(self.seen..end) {
            gap::check(gap, self.offset + self.seen, place, self.findings);
        }
    }

    fn refuse_tag(&mut self, tag: Option<&granit_parser::Tag>, span: &Range<usize>) {
        if let Some(tag) = tag {
            let message = format!("the tag {}", Quoted(&tag.original()));
            let help = "remove it; a text that looks like something else is quoted";
            self.advise(Code::Tag, span.start..span.start, message, help);
        }
    }

    fn push(&mut self, span: Range<usize>, kind: Kind<'t>, values: usize, depth: usize) -> Option<NodeId> {
        self.count(1, &span)?;
        self.nodes.push(Node { span, kind, values, depth });
        Some(NodeId(self.nodes.len() - 1))
    }

    /// Counts values against the limit; `None` when they are too many.
    fn count(&mut self, values: usize, span: &Range<usize>) -> Option<()> {
        self.values = self.values.saturating_add(values);
        if self.values <= self.limits.nodes {
            return Some(());
        }
        let message = format!("more than {} values, aliases followed", self.limits.nodes);
        self.findings.add(Code::TooManyValues, span.clone(), "", message);
        None
    }

    fn begin(
        &mut self,
        kind: Kind<'t>,
        style: StructureStyle,
        span: Range<usize>,
        anchor: usize,
    ) -> Option<()> {
        // A list whose dashes are not indented begins where its first dash is, with no width.
        let line = self.text[span.start..].split(['\n', '\r']).next().unwrap_or_default();
        let shown = self.at(span.start..span.start + line.trim_end().len());
        let node = self.push(shown, kind, 1, 1)?;
        self.anchor(anchor, node);
        self.open.push(Open { node, children: Vec::new(), flow: style == StructureStyle::Flow });
        Some(())
    }

    fn end(&mut self, span: Range<usize>) -> Option<()> {
        let Open { node, children, flow } = self.open.pop()?;
        let (mut values, mut depth) = (1_usize, 0);
        for child in &children {
            let child = &self.nodes[child.0];
            values = values.saturating_add(child.values);
            depth = depth.max(child.depth);
        }
        let end = self.at(span).end;
        let here = &mut self.nodes[node.0];
        (here.values, here.depth) = (values, depth + 1);
        // Of a collection in brackets the first line may hold more than it.
        if flow {
            here.span.end = here.span.end.min(end);
        }
        match &mut here.kind {
            Kind::List(list) => *list = children,
            Kind::Mapping(pairs) => {
                *pairs = children.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            Kind::Plain(_) | Kind::Text(_) => {}
        }
        let too_deep = here.depth > self.limits.depth;
        if too_deep {
            let (span, message) = (here.span.clone(), self.too_deep());
            self.findings.add(Code::TooDeep, span, "", message);
            return None;
        }
        self.place(node);
        Some(())
    }

    /// Puts a value where it belongs: into the collection that is open, or as the document.
    fn place(&mut self, node: NodeId) {
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
    }

    fn anchor(&mut self, anchor: usize, node: NodeId) {
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
    }

    fn name(&mut self, name: Cow<'t, str>, span: Range<usize>) {
        self.check_name(&name, span.clone());
        if !self.names.insert(name) {
            self.advise(
                Code::Dialect,
                span,
                "an anchor that stands twice, which YAML 1.1 readers refuse",
                "give each anchor a name of its own",
            );
        }
    }

    fn check_name(&mut self, name: &str, span: Range<usize>) {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !name.bytes().all(good) {
            self.advise(
                Code::Dialect,
                span,
                "a name of an anchor that YAML 1.1 readers read differently",
                "use letters, digits, `-` and `_`, and a space after it",
            );
        }
    }

    fn alias(&mut self, id: usize, span: Range<usize>) -> Option<()> {
        let text = self.text;
        self.check_name(text.get(span.clone()).unwrap_or_default().trim_start_matches('*'), span.clone());
        let Some(&target) = self.anchors.get(&id) else {
            self.advise(Code::Alias, span, "an alias of nothing", "write the value itself");
            return None;
        };
        if self.open.iter().any(|open| open.node == target) {
            self.advise(
                Code::Alias,
                span,
                "an alias of a value that the alias is part of",
                "write the value itself",
            );
            return None;
        }
        self.key_on_one_line(&span);
        let span = self.at(span);
        let values = self.nodes[target.0].values;
        self.count(values, &span)?;
        self.place(target);
        Some(())
    }

    fn too_deep(&self) -> String {
        format!("values are nested deeper than {}", self.limits.depth)
    }

    /// What the YAML parser stumbled over; always ends the reading.
    fn scan_error(&mut self, error: &ScanError) -> Option<()> {
        let at = error.marker().byte_offset().unwrap_or(self.text.len()).min(self.text.len());
        let next = self.text[at..].chars().next().filter(|&next| next != '\n' && next != '\r');
        let span = self.at(at..at + next.map_or(0, char::len_utf8));
        let (code, message, help) = match error.kind() {
            ErrorKind::RecursionLimitExceeded => (Code::TooDeep, self.too_deep(), None),
            ErrorKind::UnknownAnchor => {
                (Code::Alias, "an alias of nothing".to_owned(), Some("write the value itself"))
            }
            ErrorKind::DirectiveDisallowed => {
                (Code::Dialect, "a directive (`%`)".to_owned(), Some("remove it: a rule needs none"))
            }
            ErrorKind::UndeclaredTagHandle => (
                Code::Tag,
                "a tag".to_owned(),
                Some("remove it; a text that looks like something else is quoted"),
            ),
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar => {
                (Code::Tab, "a tab stands where YAML wants spaces".to_owned(), Some("use spaces"))
            }
            _ => (Code::Syntax, format!("not YAML: {}", error.info()), syntax_help(error.kind())),
        };
        match help {
            Some(help) => self.findings.advise(code, span, "", message, help),
            None => self.findings.add(code, span, "", message),
        }
        None
    }

    fn finish(mut self, source: &'t str) -> Option<Tree<'t>> {
        let last = self.text.get(self.seen..).unwrap_or_default();
        let place = if self.seen == 0 { Place::First } else { Place::Last };
        gap::check(last, self.offset + self.seen, place, self.findings);
        match self.root.take() {
            Some(root) => Some(Tree { source, nodes: self.nodes, root }),
            None => {
                self.findings.add(Code::NotAMapping, 0..0, "", "the file is empty; expected a rule");
                None
            }
        }
    }
}

/// What mends the mistakes that people make.
fn syntax_help(kind: &ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            "quote the text if its colon belongs to it: 'a: b'"
        }
        ErrorKind::UnexpectedCharacter { .. } => "quote the text that begins with this character",
        ErrorKind::UnknownQuotedScalarEscape => "use single quotes where a backslash is meant as it stands",
        ErrorKind::UnclosedQuotedScalar => "close it; inside of single quotes a quote is written twice",
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidBlockScalarIndent => "indent this line like the one that it belongs to",
        ErrorKind::SimpleKeyExpected => "put a colon and a space after the key, on its line",
        _ => return None,
    })
}
