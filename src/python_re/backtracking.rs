//! Finds texts on which a backtracking matcher takes very long.
//!
//! Python's `re` tries every way to match before it reports that there is none. If repetitions can share the same
//! characters, the number of ways grows with the square of the text's length, or doubles with each character. For
//! each repetition, this module makes a text that leads into it and then repeats what it matches; a matcher that
//! works in Python's order ([`machine`]) counts the cost of such texts, at several lengths that show how the cost
//! grows.

mod machine;
mod program;
mod witness;

use std::fmt;

use machine::cost;
use program::Program;
use witness::{Repeated, Work, alphabet, suffixes};

/// The length of the reported text, in characters.
const LENGTH: usize = 20_000;

/// How much of its beginning a message shows, in characters.
const SHOWN: usize = 60;

/// The most that checking one pattern may cost, in nanoseconds of Python's time.
const BUDGET: u64 = 40_000_000;

/// The most that checking the patterns of one file may cost, in nanoseconds of Python's time: two seconds.
const BUDGET_OF_A_FILE: u64 = 50 * BUDGET;

/// The most that one text may cost before its growth is known, in nanoseconds.
const BUDGET_OF_A_TEXT: u64 = 2_000_000;

/// The most that is spent once a slow text is found, to find a slower one, in nanoseconds.
const BUDGET_AFTER_A_FIND: u64 = 4_000_000;

/// How many texts beyond the bounds show how slow a pattern is whose repetitions all have bounds.
const MOST_BEYOND_BOUNDS: u32 = 2;

/// The most that a text may cost that is longer than the bounds of a pattern's repetitions, in nanoseconds.
const BUDGET_BEYOND_BOUNDS: u64 = 20_000_000;

/// The cost of a text, in nanoseconds, from which on its growth shows the growth of longer texts.
const ENOUGH: u64 = 60_000;

/// A text of [`LENGTH`] that takes longer than this causes a warning, in nanoseconds.
const TOO_LONG: f64 = 250e6;

/// Anything slower counts as endless, in seconds: a day.
const FOR_EVER: f64 = 86_400.0;

/// How a pattern's cost grows, with the text that shows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backtracking {
    /// The beginning of the text.
    pub(super) prefix: String,
    /// The repeated part.
    pub(super) pump: String,
    /// The end, which prevents a match.
    pub(super) suffix: String,
    /// The seconds that Python takes for [`LENGTH`] characters; `None` for more than a day, as whenever the time
    /// doubles with each character.
    pub(super) seconds: Option<f64>,
}

impl fmt::Display for Backtracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, pump, suffix, seconds } = self;
        let mut text = "`".to_owned();
        for character in format!("{prefix}{}", pump.repeat(3)).chars().take(SHOWN) {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        let text = format!("{text}…{}`", suffix.escape_default());
        match seconds {
            Some(seconds) => {
                write!(f, "{LENGTH} characters like {text} take Python's `re` about {seconds:.1} s")
            }
            None => write!(f, "Python's `re` does not come to an end with {LENGTH} characters like {text}"),
        }
    }
}

/// What remains for the patterns of one file.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    is_reported: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: BUDGET_OF_A_FILE, is_reported: false }
    }
}

/// What is found about a pattern.
#[derive(Debug, PartialEq)]
pub(crate) enum Finding {
    /// It is slow.
    Slow(Backtracking),
    /// Neither it nor any later one is checked: the patterns before it took what the file may take.
    NotChecked,
}

/// Checks a pattern of a file, at the expense of its `budget`. The first pattern for which nothing is left is reported, the
/// later ones are not.
pub(crate) fn find(pattern: &str, budget: &mut Budget) -> Option<Finding> {
    if budget.left < BUDGET {
        return (!std::mem::replace(&mut budget.is_reported, true)).then_some(Finding::NotChecked);
    }
    let mut spent = 0;
    let found = slowest(pattern, &mut spent);
    budget.left = budget.left.saturating_sub(spent);
    found.map(Finding::Slow)
}

/// The slowest of the texts that were tried; `None` if none is slow, or the pattern is too large to be checked, or
/// invalid. Adds what it cost to `spent`.
fn slowest(pattern: &str, spent: &mut u64) -> Option<Backtracking> {
    let tree = super::tree(pattern).ok()??;
    // Refuses what is too large, before anything is made whose size the pattern decides.
    let program = Program::of(&tree)?;
    let mut work = Work::default();
    let mut repeats = Vec::new();
    work.collect(&tree, Some(String::new()), &mut repeats);
    if repeats.is_empty() {
        return None;
    }
    let alphabet = alphabet(&program.sets);
    let bound = repeats.iter().map(|repeat| repeat.most).filter(|&most| most < LENGTH as u64 / 2).max();
    let bound = bound.and_then(|most| usize::try_from(most).ok());
    let all_bounded = repeats.iter().all(|repeat| repeat.most < LENGTH as u64 / 2);
    let mut beyond = if all_bounded { MOST_BEYOND_BOUNDS } else { u32::MAX };
    let mut worst: Option<Backtracking> = None;
    for Repeated { prefix, body, .. } in &repeats {
        let Some(prefix) = prefix else { continue };
        let pumps = work.pumps(prefix, body, &alphabet);
        *spent += work.take();
        for (prefix, pump) in pumps {
            for suffix in suffixes(body) {
                let budget = if worst.is_some() { BUDGET_AFTER_A_FIND } else { BUDGET };
                if *spent >= budget || beyond == 0 {
                    return worst;
                }
                let attempt = Attempt { program: &program, prefix: &prefix, pump: &pump, suffix, bound };
                let Some(seconds) = attempt.growth(spent, &mut beyond) else { continue };
                let is_worse = match (&worst, seconds) {
                    (None, _) => true,
                    (Some(Backtracking { seconds: None, .. }), _) => false,
                    (Some(_), None) => true,
                    (Some(Backtracking { seconds: Some(known), .. }), Some(seconds)) => seconds > *known,
                };
                if is_worse {
                    let (prefix, pump, suffix) = (prefix.clone(), pump.clone(), suffix.to_owned());
                    worst = Some(Backtracking { prefix, pump, suffix, seconds });
                }
                if seconds.is_none() {
                    return worst;
                }
            }
        }
    }
    worst
}

struct Attempt<'a> {
    program: &'a Program,
    prefix: &'a str,
    pump: &'a str,
    suffix: &'a str,
    /// The most repetitions of those that have a bound.
    bound: Option<usize>,
}

impl Attempt<'_> {
    /// `Some(None)` if it is endless, `Some(seconds)` if it is slow at [`LENGTH`], `None` if it is neither.
    #[expect(clippy::option_option, reason = "what is found, and how long it takes, where that is bounded")]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn growth(&self, spent: &mut u64, beyond: &mut u32) -> Option<Option<f64>> {
        let mut at = |count: usize| self.cost(count, BUDGET_OF_A_TEXT, spent);
        // A cost that grows in proportion has no second difference; its cost at LENGTH limits the rest.
        let [first, second, third] = [8, 16, 24].map(&mut at);
        let repeats = LENGTH as f64 / self.pump.chars().count() as f64;
        let bend = (third + first).saturating_sub(2 * second) as f64 / 128.0;
        if third < BUDGET_OF_A_TEXT && bend * repeats * repeats < TOO_LONG / 8.0 {
            return None;
        }
        let (mut count, mut short, mut long) = (24, at(12), third);
        if long >= BUDGET_OF_A_TEXT {
            (count, short, long) = (12, at(6), short);
        }
        // The longer the text, the less its beginning counts compared with the repeated part.
        while count < 300 && long < ENOUGH {
            if count >= 96 && long < short.saturating_mul(5) / 2 {
                return None;
            }
            count *= 2;
            (short, long) = (long, at(count));
        }
        let degree = (long as f64 / short as f64).log2();
        let nanoseconds = long as f64 * (repeats / count as f64).powf(degree);
        if degree <= 1.5 || nanoseconds <= TOO_LONG {
            return None;
        }
        let nanoseconds = match self.bound {
            Some(bound) => {
                *beyond = beyond.saturating_sub(1);
                self.beyond(bound, spent).unwrap_or(nanoseconds)
            }
            None => nanoseconds,
        };
        let seconds = Some(nanoseconds / 1e9).filter(|&seconds| seconds < FOR_EVER);
        (nanoseconds > TOO_LONG).then_some(seconds)
    }

    /// The cost of a text, which is spent, as is the text itself.
    fn cost(&self, count: usize, budget: u64, spent: &mut u64) -> u64 {
        let text = [self.prefix, &self.pump.repeat(count), self.suffix].concat();
        let cost = cost(self.program, &text, budget);
        *spent += cost + text.len() as u64;
        cost
    }

    /// The cost of a text of [`LENGTH`], in nanoseconds, computed from texts longer than `bound`: from there on the
    /// cost grows more slowly. `None` if those cost too much.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn beyond(&self, bound: usize, spent: &mut u64) -> Option<f64> {
        let pump = self.pump.chars().count();
        let count = (2 * bound).div_ceil(pump);
        let [short, long] = [count, 2 * count].map(|count| self.cost(count, BUDGET_BEYOND_BOUNDS, spent));
        if long >= BUDGET_BEYOND_BOUNDS {
            return None;
        }
        let degree = (long as f64 / short as f64).log2();
        let repeats = LENGTH as f64 / pump as f64;
        Some(long as f64 * (repeats / (2 * count) as f64).powf(degree))
    }
}

#[cfg(test)]
mod tests;
