//! A pattern as a tree.

/// What a pattern, or a part of it, matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// The empty text.
    Empty,
    /// One character of a set.
    Set(Set),
    Sequence(Vec<Node>),
    /// The first of these that leads to a match.
    Alternatives(Vec<Node>),
    Repeat {
        node: Box<Node>,
        least: u64,
        /// `u64::MAX` means no bound.
        most: u64,
        greed: Greed,
    },
    /// A position in the text.
    Anchor(Anchor),
    Capture(usize, Box<Node>),
    /// The text that a group matched before.
    Reference(usize),
    Look {
        behind: bool,
        negated: bool,
        node: Box<Node>,
    },
    /// A part that is not retried once it has matched.
    Atomic(Box<Node>),
    /// The first if a group has matched, else the second.
    Condition(usize, Box<Node>, Box<Node>),
}

/// The order in which a repetition tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

/// A position in a text, which has no width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    LineStart,
    End,
    LineEnd,
    WordEdge,
    NoWordEdge,
    /// The very end, without a line feed after it.
    LastEnd,
}

/// A set of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) ranges: Vec<(char, char)>,
    /// `d`, `s`, `w`, and capitals for their complements.
    pub(super) classes: Vec<char>,
    pub(super) negated: bool,
    pub(super) ignore_case: bool,
}

impl Set {
    pub(super) fn of(character: char) -> Self {
        Self { ranges: vec![(character, character)], ..Self::default() }
    }

    /// The set of this character; empty if it is not known which.
    pub(super) fn of_known(character: Option<char>) -> Self {
        character.map(Self::of).unwrap_or_default()
    }

    pub(super) fn class(class: char) -> Self {
        Self { classes: vec![class], ..Self::default() }
    }

    /// The characters that `.` matches.
    pub(super) fn dot(dot_all: bool) -> Self {
        let ranges = if dot_all { Vec::new() } else { vec![('\n', '\n')] };
        Self { ranges, negated: true, ..Self::default() }
    }

    /// Its only character; `None` if there are more.
    pub(super) fn literal(&self) -> Option<char> {
        match self.ranges[..] {
            [(low, high)] if low == high && self.classes.is_empty() && !self.negated && !self.ignore_case => {
                Some(low)
            }
            _ => None,
        }
    }

    /// Whether it contains one character, or all but one.
    pub(super) fn is_plain(&self) -> bool {
        self.classes.is_empty()
            && !self.ignore_case
            && self.ranges.iter().map(|(low, high)| u32::from(*high) - u32::from(*low) + 1).sum::<u32>() <= 1
    }

    pub(super) fn contains(&self, character: char) -> bool {
        let plain = |c: char| {
            self.ranges.iter().any(|&(low, high)| low <= c && c <= high)
                || self.classes.iter().any(|&class| in_class(class, c))
        };
        let found = plain(character)
            || self.ignore_case
                && (plain(character.to_ascii_lowercase()) || plain(character.to_ascii_uppercase()));
        found != self.negated
    }
}

fn in_class(class: char, character: char) -> bool {
    let found = match class.to_ascii_lowercase() {
        'd' => character.is_numeric(),
        's' => character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character),
        _ => is_word(character),
    };
    found != class.is_ascii_uppercase()
}

pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}
