//! Builds the tree from the parser's events.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{ErrorKind, Event, ScalarStyle, ScanError, StructureStyle};

use super::mistakes::{self, Mistake};
use super::{Node, NodeId, NodeKind, Tree, dialect, syntax};
use crate::rule::Code;
use crate::rule::parse::Limits;
use crate::rule::parse::findings::{Findings, Quoted};
use crate::rule::parse::gap::{self, GapPosition};

/// A collection that is not closed yet.
pub(super) struct Open {
    pub(super) node: NodeId,
    children: Vec<NodeId>,
    flow: bool,
}

pub(super) struct Builder<'t, 'f> {
    pub(super) text: &'t str,
    offset: usize,
    limits: Limits,
    findings: &'f mut Findings,
    pub(super) nodes: Vec<Node<'t>>,
    pub(super) open: Vec<Open>,
    pub(super) anchors: HashMap<usize, NodeId>,
    pub(super) names: HashSet<Cow<'t, str>>,
    pub(super) has_aliases: bool,
    root: Option<NodeId>,
    /// The number of values so far, with aliases expanded.
    values: usize,
    /// The bytes of scalars that aliases have repeated so far.
    repeated: usize,
    /// The end of the last scalar: the gap to the next one begins here.
    seen: usize,
    documents: usize,
    /// The position of the current event's tag, if it has one.
    pub(super) tag: Option<Range<usize>>,
    /// The line of the current event.
    pub(super) line: usize,
}

impl<'t, 'f> Builder<'t, 'f> {
    pub(super) fn new(text: &'t str, offset: usize, limits: &Limits, findings: &'f mut Findings) -> Self {
        Self {
            text,
            offset,
            limits: *limits,
            findings,
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            names: HashSet::new(),
            has_aliases: false,
            root: None,
            values: 0,
            repeated: 0,
            seen: 0,
            documents: 0,
            tag: None,
            line: 1,
        }
    }

    /// Handles an event; `None` ends the parsing.
    pub(super) fn take(&mut self, event: Event<'t>, span: Range<usize>) -> Option<()> {
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
                // Only an empty value has no width: the one after `key:`.
                let empty = span.is_empty() && style == ScalarStyle::Plain;
                let text = if empty { Cow::Borrowed("") } else { text };
                if !span.is_empty() {
                    self.gap(span.start);
                    self.seen = span.end;
                }
                let flow = self.in_flow();
                self.key_on_one_line(&span);
                if let Some(mistake) = dialect::check(self.text, &text, style, span.clone(), flow) {
                    self.mistake(mistake);
                }
                let bytes = text.len();
                let kind =
                    if style == ScalarStyle::Plain { NodeKind::Plain(text) } else { NodeKind::Text(text) };
                let span = self.shown(span.start, span.end);
                let rest = self.text[self.seen..].trim_start_matches(' ');
                let ends_at_comment = !empty && matches!(kind, NodeKind::Plain(_)) && rest.starts_with('#');
                let node = self.push(span, kind, bytes, 0)?;
                self.nodes[node.0].ends_at_comment = ends_at_comment;
                self.anchor(anchor, node);
                self.place(node);
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                self.begin(NodeKind::List(Vec::new()), style, span, anchor)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                if let Some(template) = mistakes::template(&self.text[span.start..], span.start) {
                    self.mistake(template);
                    return None;
                }
                self.begin(NodeKind::Mapping(Vec::new()), style, span, anchor)?;
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

    /// In brackets, a key and its colon may be lines apart, but not for YAML 1.1 readers.
    pub(super) fn key_on_one_line(&mut self, span: &Range<usize>) {
        let is_key = |open: &Open| {
            open.flow
                && open.children.len().is_multiple_of(2)
                && matches!(self.nodes[open.node.0].kind, NodeKind::Mapping(_))
        };
        if self.open.last().is_some_and(is_key) && dialect::parts_from_colon(self.text, span) {
            let (message, help) = ("a key that is lines apart from its colon", "put both on one line");
            self.advise(Code::Dialect, span.clone(), message, help);
        }
    }

    /// A range of the text as a range of the file.
    pub(super) fn at(&self, span: Range<usize>) -> Range<usize> {
        self.offset + span.start..self.offset + span.end
    }

    /// The bytes to show of what begins at `start`: its line as far as is useful, and not past `end`.
    fn shown(&self, start: usize, end: usize) -> Range<usize> {
        // A line may be as long as the text, with a value at every second byte.
        const LONGEST: usize = 160;
        let end = self.text.floor_char_boundary(end.min(start + LONGEST));
        let line = self.text[start..end].split(['\n', '\r']).next().unwrap_or_default();
        self.at(start..start + line.trim_end().len())
    }

    pub(super) fn advise(&mut self, code: Code, span: Range<usize>, message: impl Into<String>, help: &str) {
        let span = self.at(span);
        self.findings.advise(code, span, "", message, help);
    }

    fn gap(&mut self, end: usize) {
        let place = if self.seen == 0 { GapPosition::First } else { GapPosition::Middle };
        if let Some(gap) = self.text.get(self.seen..end) {
            gap::check(gap, self.offset + self.seen, place, self.findings);
        }
    }

    fn refuse_tag(&mut self, tag: Option<&granit_parser::Tag>, span: &Range<usize>) {
        if let Some(tag) = tag {
            let message = format!("{} is a tag, and a rule has none", Quoted(&tag.original()));
            let help = "remove it; a text that looks like something else is quoted";
            let place = self.tag.clone().unwrap_or(span.start..span.start);
            self.advise(Code::Tag, place, message, help);
        }
    }

    fn push(&mut self, span: Range<usize>, kind: NodeKind<'t>, bytes: usize, depth: usize) -> Option<NodeId> {
        self.count(1, &span)?;
        self.nodes.push(Node {
            span,
            line: self.line,
            kind,
            ends_at_comment: false,
            values: 1,
            bytes,
            depth,
        });
        Some(NodeId(self.nodes.len() - 1))
    }

    /// Counts values against the limit; `None` if there are too many.
    pub(super) fn count(&mut self, values: usize, span: &Range<usize>) -> Option<()> {
        self.values = self.values.saturating_add(values);
        if self.values <= self.limits.nodes {
            return Some(());
        }
        let message = format!("more than {} values, aliases followed", self.limits.nodes);
        self.findings.add(Code::TooManyValues, span.clone(), "", message);
        None
    }

    /// Counts what an alias repeats, up to the size limit of a text.
    pub(super) fn repeat(&mut self, bytes: usize, span: &Range<usize>) -> Option<()> {
        self.repeated = self.repeated.saturating_add(bytes);
        if self.repeated <= self.limits.size {
            return Some(());
        }
        let message = format!("aliases that repeat more than {} bytes", self.limits.size);
        self.findings.add(Code::TooManyValues, span.clone(), "", message);
        None
    }

    fn begin(
        &mut self,
        kind: NodeKind<'t>,
        style: StructureStyle,
        span: Range<usize>,
        anchor: usize,
    ) -> Option<()> {
        // Its end is not known yet, so its first line is shown.
        let shown = self.shown(span.start, self.text.len());
        let node = self.push(shown, kind, 0, 1)?;
        self.anchor(anchor, node);
        self.open.push(Open { node, children: Vec::new(), flow: style == StructureStyle::Flow });
        Some(())
    }

    fn end(&mut self, span: Range<usize>) -> Option<()> {
        let Open { node, children, flow } = self.open.pop()?;
        let (mut values, mut bytes, mut depth) = (1_usize, 0_usize, 0);
        for child in &children {
            let child = &self.nodes[child.0];
            values = values.saturating_add(child.values);
            bytes = bytes.saturating_add(child.bytes);
            depth = depth.max(child.depth);
        }
        let end = self.at(span).end;
        let here = &mut self.nodes[node.0];
        (here.values, here.bytes, here.depth) = (values, bytes, depth + 1);
        // The first line of a collection in brackets may contain more than the collection.
        if flow {
            here.span.end = here.span.end.min(end);
        }
        match &mut here.kind {
            NodeKind::List(list) => *list = children,
            NodeKind::Mapping(pairs) => {
                *pairs = children.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            NodeKind::Plain(_) | NodeKind::Text(_) => {}
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

    /// Adds a value to the open collection, or makes it the document.
    pub(super) fn place(&mut self, node: NodeId) {
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
    }

    fn mistake(&mut self, Mistake { code, at, message, help }: Mistake) {
        self.advise(code, at, message, &help);
    }

    fn too_deep(&self) -> String {
        format!("values are nested deeper than {}", self.limits.depth)
    }

    /// The parser's syntax error, which always ends the parsing.
    pub(super) fn scan_error(&mut self, error: &ScanError) -> Option<()> {
        let mut at = error.marker().byte_offset().unwrap_or(self.text.len()).min(self.text.len());
        if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
            let (span, message) = (self.at(at..at), self.too_deep());
            self.findings.add(Code::TooDeep, span, "", message);
            return None;
        }
        if let Some(mistake) = mistakes::recognize(error.kind(), self.text, at, self.seen) {
            self.mistake(mistake);
            return None;
        }
        let bracket = self.open.iter().find(|open| open.flow).map(|open| self.nodes[open.node.0].line);
        let (code, message, help) = syntax::explain(error, self.text, at, bracket);
        if code == Code::Tab {
            // The parser reports the beginning of the value that contains the tab.
            at += self.text[at..].find('\t').unwrap_or(0);
        }
        let next = self.text[at..].chars().next().filter(|&next| next != '\n' && next != '\r');
        let span = self.at(at..at + next.map_or(0, char::len_utf8));
        match help {
            Some(help) => self.findings.advise(code, span, "", message, help),
            None => self.findings.add(code, span, "", message),
        }
        None
    }

    pub(super) fn finish(mut self) -> Option<Tree<'t>> {
        let last = self.text.get(self.seen..).unwrap_or_default();
        let place = if self.seen == 0 { GapPosition::First } else { GapPosition::Last };
        gap::check(last, self.offset + self.seen, place, self.findings);
        match self.root.take() {
            Some(root) => Some(Tree { nodes: self.nodes, root, has_aliases: self.has_aliases }),
            None => {
                self.findings.add(Code::NotAMapping, 0..0, "", "the file is empty; expected a rule");
                None
            }
        }
    }
}
