//! A matcher that backtracks in the same order as Python's, and counts the cost.
//!
//! The unit is about a nanosecond of Python's `re` on a machine of 2024: one instruction takes about twenty, one
//! character of a run of a set one or two. `tests/python/backtracking.py` compares the costs with the time that
//! Python takes.

use super::program::{Op, Program};
use crate::python_re::node::{Anchor, Greed, Set, is_word};

// Costs are in nanoseconds of Python's time.

/// The cost of one instruction.
const STEP: u64 = 20;
/// The cost of a retry.
const RETRY: u64 = 30;
/// The cost of comparing one character with a single one.
const GLANCE: u64 = 1;
/// The cost of comparing one character with a set.
const GLANCE_AT_SET: u64 = 3;
/// The cost of starting a match at one position.
const BEGIN: u64 = 40;

/// What to retry when the current way fails.
#[derive(Debug, Clone, Copy)]
enum Retry {
    /// Continue from this instruction at this position.
    At { pc: usize, at: usize },
    /// A greedy run that may give back down to `least`, and continues at `pc`.
    Shorter { pc: usize, at: usize, least: usize },
    /// A lazy run that may take more, up to `most`.
    Longer { pc: usize, at: usize, most: usize, set: usize },
    /// Restore a mark.
    Unmark { mark: usize, value: Option<usize> },
}

/// The matcher.
#[derive(Debug)]
pub(super) struct Machine<'p> {
    program: &'p Program,
    text: Vec<char>,
    marks: Vec<Option<usize>>,
    cost: u64,
    budget: u64,
}

/// The budget is spent.
struct Spent;

/// The cost of searching `text`, at most `budget`.
pub(super) fn cost(program: &Program, text: &str, budget: u64) -> u64 {
    let text = text.chars().collect();
    let mut machine = Machine { program, text, marks: vec![None; program.marks], cost: 0, budget };
    let first = machine.first();
    for start in 0..=machine.text.len() {
        if let Some(set) = first
            && !machine.is_in(set, start)
        {
            machine.cost += GLANCE;
            continue;
        }
        machine.cost += BEGIN;
        machine.marks.fill(None);
        match machine.run(0, start) {
            Ok(Some(_)) | Err(Spent) => break,
            Ok(None) => {}
        }
        // An anchored match cannot begin elsewhere, but each position is tried.
        if machine.cost >= budget {
            break;
        }
    }
    machine.cost.min(budget)
}

impl<'p> Machine<'p> {
    /// The set with which a match must begin, if there is one.
    fn first(&self) -> Option<usize> {
        self.program.ops.iter().find_map(|op| match *op {
            Op::Save(_) => None,
            Op::Set(set) | Op::Run { set, least: 1.., .. } => Some(Some(set)),
            _ => Some(None),
        })?
    }

    fn is_in(&self, set: usize, at: usize) -> bool {
        self.text.get(at).is_some_and(|&character| self.program.is_in(set, character))
    }

    /// Matches from an instruction on, up to the next end; returns the position there.
    fn run(&mut self, pc: usize, at: usize) -> Result<Option<usize>, Spent> {
        let mut retries: Vec<Retry> = Vec::new();
        let mut next = Some((pc, at));
        loop {
            let Some((pc, at)) = next.take().or_else(|| self.back(&mut retries)) else { return Ok(None) };
            self.cost += STEP;
            if self.cost >= self.budget || retries.len() > 100_000 {
                self.cost = self.budget;
                return Err(Spent);
            }
            next = match self.program.ops[pc] {
                Op::Accept => return Ok(Some(at)),
                Op::Set(set) => self.is_in(set, at).then_some((pc + 1, at + 1)),
                Op::Run { set, least, most, greed } => {
                    self.run_of((set, least, most, greed), pc, at, &mut retries)
                }
                Op::Split(first, second) => {
                    retries.push(Retry::At { pc: second, at });
                    Some((first, at))
                }
                Op::Jump(to) => Some((to, at)),
                Op::Save(mark) => {
                    retries.push(Retry::Unmark { mark, value: self.marks[mark] });
                    self.marks[mark] = Some(at);
                    Some((pc + 1, at))
                }
                Op::Progress(mark) => (self.marks[mark] != Some(at)).then_some((pc + 1, at)),
                Op::Anchor(place) => self.is_at(place, at).then_some((pc + 1, at)),
                Op::Reference(from, to) => self.reference(from, to, at).map(|at| (pc + 1, at)),
                Op::Condition { mark, otherwise } => {
                    Some((if self.marks[mark].is_some() { pc + 1 } else { otherwise }, at))
                }
                Op::Atomic { end } => self.run(pc + 1, at)?.map(|at| (end, at)),
                Op::Look { behind, negated, end } => {
                    let from = match behind {
                        Some(width) => usize::try_from(width).ok().and_then(|width| at.checked_sub(width)),
                        None => Some(at),
                    };
                    let matched = match from {
                        Some(from) => self.run(pc + 1, from)?.is_some(),
                        None => false,
                    };
                    (matched != negated).then_some((end, at))
                }
            };
        }
    }

    fn run_of(
        &mut self,
        (set, least, most, greed): (usize, u64, u64, Greed),
        pc: usize,
        at: usize,
        retries: &mut Vec<Retry>,
    ) -> Option<(usize, usize)> {
        let bound = |count: u64| usize::try_from(count).map_or(usize::MAX, |count| at.saturating_add(count));
        let (least, most) = (bound(least), bound(most).min(self.text.len()));
        let wanted = if greed == Greed::Lazy { least.min(most) } else { most };
        let mut end = at;
        while end < wanted && self.is_in(set, end) {
            end += 1;
        }
        let glance =
            if self.program.sets.get(set).is_some_and(Set::is_plain) { GLANCE } else { GLANCE_AT_SET };
        self.cost += glance * (end - at + 1) as u64;
        if end < least {
            return None;
        }
        match greed {
            Greed::Possessive => Some((pc + 1, end)),
            Greed::Greedy => {
                retries.push(Retry::Shorter { pc: pc + 1, at: end, least });
                None
            }
            Greed::Lazy => {
                retries.push(Retry::Longer { pc: pc + 1, at: end, most, set });
                None
            }
        }
    }

    /// The last alternative that can be retried.
    fn back(&mut self, retries: &mut Vec<Retry>) -> Option<(usize, usize)> {
        loop {
            self.cost += RETRY;
            match retries.pop()? {
                Retry::At { pc, at } => return Some((pc, at)),
                Retry::Unmark { mark, value } => self.marks[mark] = value,
                Retry::Shorter { pc, mut at, least } => {
                    // If a literal comes next, Python searches for it and tries nothing else.
                    while !self.may_go_on(pc, at) && at > least {
                        at -= 1;
                        self.cost += GLANCE;
                    }
                    if at > least {
                        retries.push(Retry::Shorter { pc, at: at - 1, least });
                    }
                    return Some((pc, at));
                }
                Retry::Longer { pc, mut at, most, set } => {
                    while !self.may_go_on(pc, at) && at < most && self.is_in(set, at) {
                        at += 1;
                        self.cost += GLANCE;
                    }
                    if at < most && self.is_in(set, at) {
                        retries.push(Retry::Longer { pc, at: at + 1, most, set });
                    }
                    return Some((pc, at));
                }
            }
        }
    }

    fn may_go_on(&self, pc: usize, at: usize) -> bool {
        let Some(&Op::Set(set)) = self.program.ops.get(pc) else { return true };
        match self.program.sets.get(set).and_then(Set::literal) {
            Some(literal) => self.text.get(at) == Some(&literal),
            None => true,
        }
    }

    fn reference(&self, from: usize, to: usize, at: usize) -> Option<usize> {
        let (from, to) = (self.marks[from]?, self.marks[to]?);
        let group = self.text.get(from..to)?;
        self.text[at..].starts_with(group).then_some(at + group.len())
    }

    fn is_at(&self, place: Anchor, at: usize) -> bool {
        let before = at.checked_sub(1).map(|at| self.text[at]);
        let after = self.text.get(at).copied();
        let edge = before.is_some_and(is_word) != after.is_some_and(is_word);
        match place {
            Anchor::Start => before.is_none(),
            Anchor::LineStart => before.is_none_or(|before| before == '\n'),
            Anchor::End => after.is_none() || (after == Some('\n') && at + 1 == self.text.len()),
            Anchor::LineEnd => after.is_none_or(|after| after == '\n'),
            Anchor::LastEnd => after.is_none(),
            Anchor::WordEdge => edge,
            Anchor::NoWordEdge => !edge,
        }
    }
}
