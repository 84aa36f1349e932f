//! Texts that lead into the repetitions of a pattern, and repeat what they match.

use std::collections::BTreeSet;

use crate::python_re::node::{Node, Set};

/// The longest text that leads into a repetition or is repeated, in bytes.
const LONGEST_WITNESS: usize = 1_000;

/// The cost of each character of such a text, in nanoseconds.
const COST_OF_A_CHARACTER: u64 = 20;

/// A repetition that can go on long.
pub(super) struct Repeated<'n> {
    /// A text that leads to it; `None` where that would be too long.
    pub(super) prefix: Option<String>,
    pub(super) body: &'n Node,
    /// Its greatest number of repetitions.
    pub(super) most: u64,
}

/// Makes texts from a pattern, and counts what that costs.
#[derive(Debug, Default)]
pub(super) struct Work(u64);

impl Work {
    /// What was spent since the last call, in nanoseconds.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.0) * COST_OF_A_CHARACTER
    }

    /// Every repetition in a node to which `before` leads.
    pub(super) fn collect<'n>(
        &mut self,
        node: &'n Node,
        before: Option<String>,
        found: &mut Vec<Repeated<'n>>,
    ) {
        match node {
            Node::Repeat { node: body, most, .. } => {
                if *most >= 20 {
                    found.push(Repeated { prefix: before.clone(), body, most: *most });
                }
                self.collect(body, before, found);
            }
            Node::Sequence(nodes) => {
                let mut before = before;
                for node in nodes {
                    self.collect(node, before.clone(), found);
                    before = before.and_then(|before| short(before + &self.witness(node)?));
                }
            }
            Node::Alternatives(nodes) => {
                nodes.iter().for_each(|node| self.collect(node, before.clone(), found));
            }
            Node::Capture(_, node) | Node::Atomic(node) | Node::Look { node, .. } => {
                self.collect(node, before, found);
            }
            Node::Condition(_, with, without) => {
                self.collect(with, before.clone(), found);
                self.collect(without, before, found);
            }
            Node::Empty | Node::Set(_) | Node::Anchor(_) | Node::Reference(_) => {}
        }
    }

    /// A short text that a node matches, as far as its look-arounds and references allow; `None` if it is not short.
    fn witness(&mut self, node: &Node) -> Option<String> {
        self.0 += 1;
        match node {
            Node::Set(set) => Some(member(set).map(String::from).unwrap_or_default()),
            Node::Sequence(nodes) => {
                nodes.iter().try_fold(String::new(), |text, node| short(text + &self.witness(node)?))
            }
            Node::Alternatives(nodes) => {
                nodes.iter().filter_map(|node| self.witness(node)).min_by_key(String::len)
            }
            Node::Repeat { least: 0, .. } => Some(String::new()),
            Node::Repeat { node, least, .. } => {
                let text = self.witness(node)?;
                let count = usize::try_from(*least).unwrap_or(usize::MAX).min(100);
                self.0 += (text.len() * count) as u64;
                short(text.repeat(count))
            }
            Node::Capture(_, node) | Node::Atomic(node) => self.witness(node),
            Node::Condition(_, with, _) => self.witness(with),
            Node::Empty | Node::Anchor(_) | Node::Look { .. } | Node::Reference(_) => Some(String::new()),
        }
    }

    /// The text before the repeated part, and the repeated part.
    pub(super) fn pumps(&mut self, prefix: &str, body: &Node, alphabet: &[char]) -> Vec<(String, String)> {
        let mut pumps = BTreeSet::new();
        match body {
            Node::Set(set) => {
                pumps.extend(alphabet.iter().filter(|&&c| set.contains(c)).map(char::to_string))
            }
            _ => {
                self.branches(body, &mut pumps);
                pumps.extend(self.witness(body));
                self.0 += pumps.iter().map(|pump| pump.len() as u64).sum::<u64>();
                // A repetition inside it matches one character after the other, too.
                let inner: BTreeSet<char> = pumps.iter().flat_map(|pump| pump.chars()).collect();
                pumps.extend(inner.into_iter().map(String::from));
            }
        }
        pumps.remove("");
        // A match may begin at each repetition of the whole.
        let begun = pumps.iter().take(6).filter(|_| !prefix.is_empty());
        let begun: Vec<_> = begun.map(|pump| (String::new(), format!("{prefix}{pump}"))).collect();
        let led_into = pumps.into_iter().take(16).map(|pump| (prefix.to_owned(), pump));
        begun.into_iter().chain(led_into).collect()
    }

    /// Texts of the alternatives in a node, which may be repeated in turn.
    fn branches(&mut self, node: &Node, found: &mut BTreeSet<String>) {
        match node {
            Node::Alternatives(nodes) => found.extend(nodes.iter().filter_map(|node| self.witness(node))),
            Node::Capture(_, node) | Node::Atomic(node) => self.branches(node, found),
            Node::Repeat { node, .. } => {
                self.branches(node, found);
                found.extend(self.witness(node));
            }
            Node::Sequence(nodes) => nodes.iter().for_each(|node| self.branches(node, found)),
            _ => {}
        }
    }
}

/// The text, if it is no longer than [`LONGEST_WITNESS`].
fn short(text: String) -> Option<String> {
    (text.len() <= LONGEST_WITNESS).then_some(text)
}

/// A character of the set, preferably a readable one.
fn member(set: &Set) -> Option<char> {
    readable().find(|&character| set.contains(character)).or_else(|| set.ranges.first().map(|&(low, _)| low))
}

fn readable() -> impl Iterator<Item = char> {
    ('a'..='z').chain(' '..='~').chain(['\n', '\t', '\u{e9}'])
}

/// One character for each class of characters that the sets of a pattern distinguish.
pub(super) fn alphabet(sets: &[Set]) -> Vec<char> {
    let mut seen = Vec::new();
    readable()
        .filter(|&character| {
            let kind: Vec<bool> = sets.iter().map(|set| set.contains(character)).collect();
            let new = !seen.contains(&kind);
            if new {
                seen.push(kind);
            }
            new
        })
        .take(40)
        .collect()
}

/// Endings that prevent a match: nothing, and something that the repetition does not match.
pub(super) fn suffixes(body: &Node) -> [&'static str; 2] {
    let is_taken = |end: &str| matches!(body, Node::Set(set) if end.chars().any(|end| set.contains(end)));
    // Only a line feed may follow the end.
    let end = ["!", "\u{0}", "\n\n"].into_iter().find(|end| !is_taken(end));
    ["", end.unwrap_or("\n\n")]
}
