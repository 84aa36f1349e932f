//! Python's `re`: whether it would compile a pattern, how long it may take to match, and the same pattern for the crate
//! `fancy-regex`. This room knows nothing of rules, and imports nothing of this crate.
//!
//! Follows Python's own grammar (3.11 and later, for texts), not another engine's: a valid pattern must not be
//! reported. Nothing is matched; the parser only looks for what makes `re.compile` fail, including widths, since a
//! look-behind must have a fixed width.

pub(crate) mod backtracking;
mod class;
mod escape;
mod group;
mod node;
mod spelling;
mod suspicion;
mod token;

use std::collections::HashMap;
use std::fmt;

use node::{Anchor, Greed, Node, Set};
pub use spelling::spell_for_fancy_regex;
pub(crate) use suspicion::{Suspicion, suspicions};
use token::{Token, Tokens};

/// Deeper groups are not checked: Python gives up on them at a depth of its own.
const DEEPEST: usize = 200;
/// Python refuses this many repetitions and more.
const MOST_REPEATS: u64 = u32::MAX as u64;

/// Why Python would not compile a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PatternError {
    /// The position in characters, from 0.
    at: usize,
    what: String,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at character {}", self.what, self.at + 1)
    }
}

/// How many characters something matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Width {
    least: u64,
    most: u64,
}

impl Width {
    const ONE: Self = Self { least: 1, most: 1 };
    const ZERO: Self = Self { least: 0, most: 0 };

    fn then(self, next: Self) -> Self {
        Self { least: self.least.saturating_add(next.least), most: self.most.saturating_add(next.most) }
    }

    fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    fn repeated(self, least: u64, most: u64) -> Self {
        Self { least: self.least.saturating_mul(least), most: self.most.saturating_mul(most) }
    }
}

/// What precedes a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    /// An anchor, which cannot be repeated.
    Anchor,
    /// Something that is already repeated.
    Repeat,
    Other,
}

/// Why parsing stopped.
#[derive(Debug)]
enum Stop {
    PatternError(PatternError),
    /// Blanks turned out to be meaningless: parse again from the start.
    Verbose,
    /// Too deep to be checked.
    Unknown,
}

struct Validator {
    tokens: Tokens,
    /// The groups' widths by number, `None` while one is open; there is always group 0.
    groups: Vec<Option<Width>>,
    names: HashMap<String, usize>,
    /// Inside a look-behind: how many groups there were before it.
    behind: Option<usize>,
    /// Groups that a condition refers to, which may come later: number, position.
    asked: Vec<(usize, usize)>,
    depth: usize,
    /// Whether one of the flags that exclude each other is set for the whole pattern.
    ascii: bool,
    unicode: bool,
    /// Whether the ASCII flag is set for a group.
    ascii_group: bool,
    mode: Mode,
}

/// The flags that change what a part of a pattern matches.
#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    ignore_case: bool,
    dot_all: bool,
    lines: bool,
}

impl Mode {
    fn set(&mut self, flags: &str, on: bool) {
        for flag in flags.chars() {
            match flag {
                'i' => self.ignore_case = on,
                's' => self.dot_all = on,
                'm' => self.lines = on,
                _ => {}
            }
        }
    }
}

/// Checks a pattern.
///
/// # Errors
/// Why Python's `re` would not compile it.
pub(crate) fn validate(pattern: &str) -> Result<(), PatternError> {
    tree(pattern).map(drop)
}

/// The pattern as a tree; `None` if it is too deep to be checked.
fn tree(pattern: &str) -> Result<Option<Node>, PatternError> {
    Ok(read(pattern)?.map(|(node, _)| node))
}

/// The pattern as a tree, and whether a flag limits its classes to ASCII; `None` if it is too deep to be checked.
fn read(pattern: &str) -> Result<Option<(Node, bool)>, PatternError> {
    let tokens = Tokens::new(pattern)?;
    let read = match whole(tokens.clone(), false) {
        Err(Stop::Verbose) => whole(tokens, true),
        read => read,
    };
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Stop::PatternError(fault)) => Err(fault),
        Err(_) => Ok(None),
    }
}

fn whole(tokens: Tokens, verbose: bool) -> Result<(Node, bool), Stop> {
    let mut validator = Validator {
        tokens,
        groups: vec![None],
        names: HashMap::new(),
        behind: None,
        asked: Vec::new(),
        depth: 0,
        ascii: false,
        unicode: false,
        ascii_group: false,
        mode: Mode::default(),
    };
    let (_, node) = validator.alternatives(verbose, true)?;
    if validator.tokens.peek().is_some() {
        return Err(validator.fault_here("a parenthesis is closed that was not opened"));
    }
    match validator.asked.iter().find(|&&(number, _)| number >= validator.groups.len()) {
        Some(&(number, at)) => Err(fault(at, format!("there is no group {number}"))),
        None => Ok((node, validator.ascii || validator.ascii_group)),
    }
}

fn fault(at: usize, what: impl Into<String>) -> Stop {
    Stop::PatternError(PatternError { at, what: what.into() })
}

impl Validator {
    fn fault_here(&self, what: impl Into<String>) -> Stop {
        fault(self.tokens.position(), what)
    }

    /// Alternatives up to a closing parenthesis or the end. `outermost` is the whole pattern.
    fn alternatives(&mut self, verbose: bool, outermost: bool) -> Result<(Width, Node), Stop> {
        let (mut width, first) = self.sequence(verbose, outermost)?;
        let mut nodes = vec![first];
        while self.tokens.eat('|') {
            let (other, node) = self.sequence(verbose, false)?;
            width = width.or(other);
            nodes.push(node);
        }
        let node = if nodes.len() == 1 { nodes.remove(0) } else { Node::Alternatives(nodes) };
        Ok((width, node))
    }

    /// One alternative. `first` says that it is the pattern's first, which may begin with flags.
    fn sequence(&mut self, verbose: bool, first: bool) -> Result<(Width, Node), Stop> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Stop::Unknown);
        }
        let mut total = Width::ZERO;
        let mut nodes = Vec::new();
        let mut last: Option<(ItemKind, Width, Node)> = None;
        loop {
            let at = self.tokens.position();
            let Some(token) = self.tokens.peek() else { break };
            if matches!(token, Token::Char('|' | ')')) {
                break;
            }
            self.tokens.advance();
            if verbose && self.skip_blank(token) {
                continue;
            }
            let item = match token {
                Token::Escape(escaped) => self.escape(escaped, at)?,
                Token::Char('*' | '+' | '?' | '{') => match self.repetition(token) {
                    Some(bounds) => {
                        last = Some(self.repeat(last, bounds?, at)?);
                        continue;
                    }
                    None => self.one(Set::of('{')),
                },
                Token::Char(sign @ ('^' | '$')) => {
                    let anchor = match (sign, self.mode.lines) {
                        ('^', true) => Anchor::LineStart,
                        ('^', false) => Anchor::Start,
                        (_, true) => Anchor::LineEnd,
                        (_, false) => Anchor::End,
                    };
                    (ItemKind::Anchor, Width::ZERO, Node::Anchor(anchor))
                }
                Token::Char('[') => {
                    let set = self.class(at)?;
                    self.one(set)
                }
                Token::Char('(') => {
                    let empty = last.is_none();
                    match self.group(verbose, at, first && empty)? {
                        Some((width, node)) => (ItemKind::Other, width, node),
                        // A comment or flags, which cannot be repeated.
                        None => continue,
                    }
                }
                Token::Char('.') => self.one(Set::dot(self.mode.dot_all)),
                Token::Char(character) => self.one(Set::of(character)),
            };
            // The item before cannot be repeated any more.
            if let Some((_, width, node)) = last.replace(item) {
                total = total.then(width);
                nodes.push(node);
            }
        }
        self.depth -= 1;
        if let Some((_, width, node)) = last {
            total = total.then(width);
            nodes.push(node);
        }
        let node = match nodes.len() {
            0 => Node::Empty,
            1 => nodes.remove(0),
            _ => Node::Sequence(nodes),
        };
        Ok((total, node))
    }

    /// One character of a set, with the current flags.
    fn one(&self, set: Set) -> (ItemKind, Width, Node) {
        (ItemKind::Other, Width::ONE, Node::Set(Set { ignore_case: self.mode.ignore_case, ..set }))
    }

    /// The item before, repeated by the operator at `at`.
    fn repeat(
        &mut self,
        last: Option<(ItemKind, Width, Node)>,
        (least, most): (u64, u64),
        at: usize,
    ) -> Result<(ItemKind, Width, Node), Stop> {
        let (width, node) = match last {
            None | Some((ItemKind::Anchor, ..)) => return Err(fault(at, "there is nothing to repeat")),
            Some((ItemKind::Repeat, ..)) => return Err(fault(at, "a repetition of a repetition")),
            Some((ItemKind::Other, width, node)) => (width, Box::new(node)),
        };
        let greed = if self.tokens.eat('?') {
            Greed::Lazy
        } else if self.tokens.eat('+') {
            Greed::Possessive
        } else {
            Greed::Greedy
        };
        Ok((ItemKind::Repeat, width.repeated(least, most), Node::Repeat { node, least, most, greed }))
    }

    /// Skips blanks and comments if they have no meaning.
    fn skip_blank(&mut self, token: Token) -> bool {
        match token {
            Token::Char(' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}') => true,
            Token::Char('#') => {
                while self.tokens.next().is_some_and(|token| token != Token::Char('\n')) {}
                true
            }
            _ => false,
        }
    }

    /// The bounds of a repetition that begins with `token`; `None` if a brace is only a brace.
    fn repetition(&mut self, token: Token) -> Option<Result<(u64, u64), Stop>> {
        match token {
            Token::Char('*') => return Some(Ok((0, u64::MAX))),
            Token::Char('+') => return Some(Ok((1, u64::MAX))),
            Token::Char('?') => return Some(Ok((0, 1))),
            _ => {}
        }
        let start = self.tokens.mark();
        let at = self.tokens.position();
        if self.tokens.peek() == Some(Token::Char('}')) {
            return None;
        }
        let least = self.tokens.digits();
        let most = if self.tokens.eat(',') { self.tokens.digits() } else { least.clone() };
        if !self.tokens.eat('}') {
            self.tokens.back_to(start);
            return None;
        }
        let number = |digits: &str, none: u64| match digits {
            "" => Ok(none),
            digits => digits
                .parse()
                .ok()
                .filter(|&number: &u64| number < MOST_REPEATS)
                .ok_or_else(|| fault(at, "a number of repetitions that is too large")),
        };
        Some(number(&least, 0).and_then(|least| {
            let most = number(&most, u64::MAX)?;
            if most < least {
                return Err(fault(at, format!("at least {least} repetitions and at most {most}")));
            }
            Ok((least, most))
        }))
    }
}

#[cfg(test)]
mod tests;
