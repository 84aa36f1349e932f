//! Which rules a state is set for or cleared of: by their ids, by ids on standard input, or by conditions.

use std::io::{self, Read as _};

use anyhow::Context as _;
use clap::Args;
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use crate::command::Failure;
use crate::rule::{Condition, RuleId};

/// The id that stands for ids on standard input.
const STANDARD_INPUT: &str = "-";

/// The most bytes that are read from standard input: the ids of every rule that a worker may have.
const LONGEST_INPUT: u64 = 64 << 20;

/// Flags that choose rules.
#[derive(Debug, Args)]
pub(super) struct ChoiceArgs {
    /// Choose the rules that fulfil this condition: `tactic=TA0007`, `technique=T1059` (which includes its
    /// sub-techniques) or `name~miner` (the name contains the text, in capitals or not). A rule must fulfil all
    /// conditions if there are several
    #[arg(long = "where", value_name = "CONDITION", add = ArgValueCompleter::new(conditions))]
    conditions: Vec<Condition>,
    /// Do not ask before the states of several rules are changed that are not named on the command line
    #[arg(long, short)]
    pub(super) yes: bool,
}

fn conditions(begin: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    Condition::FORMS.iter().filter(|form| form.starts_with(&*begin)).map(CompletionCandidate::new).collect()
}

/// How the rules of a command are chosen.
#[derive(Debug)]
pub(super) enum Choice {
    /// By these ids.
    Ids(Vec<RuleId>),
    /// By ids on standard input.
    StandardInput(Vec<RuleId>),
    /// By conditions, at least one, which must all hold.
    Where(Vec<Condition>),
    /// By who set their states.
    AllBy(String),
}

impl ChoiceArgs {
    /// The choice by these ids, or by the conditions. Reads standard input if it is named.
    ///
    /// # Errors
    /// [`Failure::Usage`] if nothing is chosen, or both are given, or an id is not valid.
    pub(super) fn choice(&self, ids: &[String], all_by: Option<&str>) -> Result<Choice, Failure> {
        let usage = |what: &str| Err(usage!("{what}"));
        match (ids, &*self.conditions, all_by) {
            ([], [], None) => {
                usage("no rule is chosen: name rules by their ids, or choose them with --where")
            }
            ([], [], Some(set_by)) => Ok(Choice::AllBy(set_by.to_owned())),
            ([], conditions, None) => Ok(Choice::Where(conditions.to_vec())),
            (ids, [], None) => choice_by_ids(ids),
            (_, _, None) => {
                usage("rules are named and --where is given: choose rules in one of the two ways")
            }
            (_, _, Some(_)) => usage("--all-by chooses the rules: leave out ids and --where"),
        }
    }
}

fn choice_by_ids(words: &[String]) -> Result<Choice, Failure> {
    if words.iter().any(|word| word == STANDARD_INPUT) {
        if words.len() > 1 {
            return Err(usage!("`-` takes the ids from standard input: leave out the other ids"));
        }
        let mut text = Vec::new();
        let read = io::stdin().lock().take(LONGEST_INPUT + 1).read_to_end(&mut text);
        read.context("standard input cannot be read").map_err(Failure::Environment)?;
        return Ok(Choice::StandardInput(ids_of_lines(&text).map_err(|why| usage!(why))?));
    }
    Ok(Choice::Ids(words.iter().map(|word| RuleId::new(word)).collect::<Result<_, _>>()?))
}

/// One id a line; empty lines and white space around ids are ignored.
///
/// # Errors
/// What was found, in which line, and what is expected.
fn ids_of_lines(text: &[u8]) -> Result<Vec<RuleId>, String> {
    if text.len() as u64 > LONGEST_INPUT {
        return Err(format!(
            "standard input has more than {LONGEST_INPUT} bytes; expected one rule id a line"
        ));
    }
    let text =
        str::from_utf8(text).map_err(|_| "standard input is not UTF-8; expected one rule id a line")?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let ids = lines.map(|(index, line)| {
        RuleId::new(line).map_err(|why| format!("standard input, line {}: {why}", index + 1))
    });
    match ids.collect::<Result<Vec<_>, _>>() {
        Ok(ids) if ids.is_empty() => {
            Err("standard input has no rule id; expected one a line, at least one".to_owned())
        }
        ids => ids,
    }
}

impl Choice {
    /// Who must have set the states that are cleared; `None` if that does not matter.
    pub(super) fn set_by(&self) -> Option<&str> {
        match self {
            Self::AllBy(set_by) => Some(set_by),
            Self::Ids(_) | Self::StandardInput(_) | Self::Where(_) => None,
        }
    }

    /// Whether ids were named, which may not exist.
    pub(super) const fn has_ids(&self) -> bool {
        matches!(self, Self::Ids(_) | Self::StandardInput(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_one_a_line_and_a_bad_line_is_named() {
        let ids = |text: &str| {
            ids_of_lines(text.as_bytes()).map(|ids| ids.iter().map(RuleId::to_string).collect::<Vec<_>>())
        };
        assert_eq!(ids("R1\n\n  R2\r\nR1"), Ok(vec!["R1".to_owned(), "R2".to_owned(), "R1".to_owned()]));
        for (text, expected) in [
            ("", "standard input has no rule id; expected one a line, at least one"),
            (" \n", "standard input has no rule id; expected one a line, at least one"),
            (
                "R1\n\nR 2\n",
                "standard input, line 3: `R 2` has the character ' '; a rule id is one token of letters, digits, `_` and `-`",
            ),
        ] {
            assert_eq!(ids(text), Err(expected.to_owned()), "{text:?}");
        }
        assert!(ids_of_lines(b"R1\xff").unwrap_err().contains("not UTF-8"));
    }
}
