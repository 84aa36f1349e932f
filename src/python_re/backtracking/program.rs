//! A pattern as instructions for a backtracking matcher.

use crate::python_re::node::{Anchor, Greed, Node, Set};

/// The longest program that is checked, in instructions: a repetition with large bounds is unrolled.
const LONGEST: usize = 4_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// One character of the set of this number.
    Set(usize),
    /// So many characters of a set: greedy, lazy, or possessive, which gives nothing back.
    Run {
        set: usize,
        least: u64,
        most: u64,
        greed: Greed,
    },
    /// Tries the first, and the second if that fails.
    Split(usize, usize),
    Jump(usize),
    /// Records the position.
    Save(usize),
    /// Fails if nothing was matched since the position was recorded.
    Progress(usize),
    Anchor(Anchor),
    /// The text that a group matched, which is between two marks.
    Reference(usize, usize),
    /// The instructions up to `end` must match here, or must not, and consume nothing.
    Look {
        behind: Option<u64>,
        negated: bool,
        end: usize,
    },
    /// The instructions up to `end`, without retry.
    Atomic {
        end: usize,
    },
    /// Continues at `otherwise` unless the group has matched.
    Condition {
        mark: usize,
        otherwise: usize,
    },
    /// The end of the program, of a look-around, of an atomic group.
    Accept,
}

/// The instructions, and the sets that they name.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
    pub(super) sets: Vec<Set>,
    /// For each set its ASCII characters, as bits, which are tested most often.
    ascii: Vec<u128>,
    /// How many marks there are; a group has two.
    pub(super) marks: usize,
}

impl Program {
    /// The program of a pattern; `None` if it would be too long.
    pub(super) fn of(pattern: &Node) -> Option<Self> {
        let mut program = Self { marks: 2 * groups(pattern), ..Self::default() };
        program.node(pattern)?;
        program.push(Op::Accept)?;
        let bits = |set: &Set| {
            (0..128_u8).filter(|&byte| set.contains(char::from(byte))).fold(0, |bits, byte| bits | 1 << byte)
        };
        program.ascii = program.sets.iter().map(bits).collect();
        Some(program)
    }

    /// Whether the set of this number has a character.
    pub(super) fn is_in(&self, set: usize, character: char) -> bool {
        match u32::from(character) {
            code @ 0..128 => self.ascii[set] >> code & 1 == 1,
            _ => self.sets[set].contains(character),
        }
    }

    fn push(&mut self, op: Op) -> Option<usize> {
        self.ops.push(op);
        (self.ops.len() <= LONGEST).then_some(self.ops.len() - 1)
    }

    fn here(&self) -> usize {
        self.ops.len()
    }

    fn set(&mut self, set: &Set) -> usize {
        self.sets.iter().position(|known| known == set).unwrap_or_else(|| {
            self.sets.push(set.clone());
            self.sets.len() - 1
        })
    }

    fn node(&mut self, node: &Node) -> Option<()> {
        match node {
            Node::Empty => {}
            Node::Set(set) => {
                let set = self.set(set);
                self.push(Op::Set(set))?;
            }
            Node::Sequence(nodes) => {
                for node in nodes {
                    self.node(node)?;
                }
            }
            Node::Alternatives(nodes) => self.alternatives(nodes)?,
            Node::Repeat { node, least, most, greed } => self.repeat(node, *least, *most, *greed)?,
            Node::Anchor(place) => drop(self.push(Op::Anchor(*place))?),
            Node::Capture(group, node) => {
                self.push(Op::Save(2 * group - 2))?;
                self.node(node)?;
                self.push(Op::Save(2 * group - 1))?;
            }
            Node::Reference(group) => drop(self.push(Op::Reference(2 * group - 2, 2 * group - 1))?),
            Node::Look { behind, negated, node } => {
                let behind = if *behind { Some(width(node)) } else { None };
                let look = self.push(Op::Accept)?;
                self.node(node)?;
                let end = self.push(Op::Accept)? + 1;
                self.ops[look] = Op::Look { behind, negated: *negated, end };
            }
            Node::Atomic(node) => {
                let atomic = self.push(Op::Accept)?;
                self.node(node)?;
                let end = self.push(Op::Accept)? + 1;
                self.ops[atomic] = Op::Atomic { end };
            }
            Node::Condition(group, with, without) => {
                let condition = self.push(Op::Accept)?;
                self.node(with)?;
                let jump = self.push(Op::Accept)?;
                self.ops[condition] = Op::Condition { mark: 2 * group - 1, otherwise: self.here() };
                self.node(without)?;
                self.ops[jump] = Op::Jump(self.here());
            }
        }
        Some(())
    }

    fn alternatives(&mut self, nodes: &[Node]) -> Option<()> {
        let mut ends = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            if index + 1 == nodes.len() {
                self.node(node)?;
                break;
            }
            let split = self.push(Op::Accept)?;
            self.node(node)?;
            ends.push(self.push(Op::Accept)?);
            self.ops[split] = Op::Split(split + 1, self.here());
        }
        for end in ends {
            self.ops[end] = Op::Jump(self.here());
        }
        Some(())
    }

    fn repeat(&mut self, node: &Node, least: u64, most: u64, greed: Greed) -> Option<()> {
        if let Node::Set(set) = node {
            let set = self.set(set);
            self.push(Op::Run { set, least, most, greed })?;
            return Some(());
        }
        if greed == Greed::Possessive {
            let greedy = Node::Repeat { node: Box::new(node.clone()), least, most, greed: Greed::Greedy };
            return self.node(&Node::Atomic(Box::new(greedy)));
        }
        for _ in 0..least {
            let before = self.here();
            self.node(node)?;
            if self.here() == before {
                // It matches the empty text alone, however often.
                break;
            }
        }
        let split = |one, other| match greed {
            Greed::Lazy => Op::Split(other, one),
            _ => Op::Split(one, other),
        };
        if most == u64::MAX {
            let mark = self.marks;
            self.marks += 1;
            let start = self.push(Op::Accept)?;
            self.push(Op::Save(mark))?;
            self.node(node)?;
            self.push(Op::Progress(mark))?;
            self.push(Op::Jump(start))?;
            self.ops[start] = split(start + 1, self.here());
            return Some(());
        }
        let mut splits = Vec::new();
        for _ in least..most {
            splits.push(self.push(Op::Accept)?);
            self.node(node)?;
        }
        for start in splits {
            self.ops[start] = split(start + 1, self.here());
        }
        Some(())
    }
}

/// The number of the last group.
fn groups(node: &Node) -> usize {
    match node {
        Node::Capture(group, node) => groups(node).max(*group),
        Node::Repeat { node, .. } | Node::Look { node, .. } | Node::Atomic(node) => groups(node),
        Node::Sequence(nodes) | Node::Alternatives(nodes) => nodes.iter().map(groups).max().unwrap_or(0),
        Node::Condition(_, with, without) => groups(with).max(groups(without)),
        Node::Empty | Node::Set(_) | Node::Anchor(_) | Node::Reference(_) => 0,
    }
}

/// How many characters a node of fixed width matches.
fn width(node: &Node) -> u64 {
    match node {
        Node::Set(_) => 1,
        Node::Sequence(nodes) => nodes.iter().map(width).fold(0, u64::saturating_add),
        Node::Alternatives(nodes) => nodes.first().map_or(0, width),
        Node::Repeat { node, least, .. } => width(node).saturating_mul(*least),
        Node::Capture(_, node) | Node::Atomic(node) => width(node),
        Node::Condition(_, with, _) => width(with),
        Node::Empty | Node::Anchor(_) | Node::Look { .. } | Node::Reference(_) => 0,
    }
}
