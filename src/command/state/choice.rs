//! Which rules a state is set for or cleared of: by their ids, by ids on standard input, or by conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Read as _};

use anyhow::{Context as _, anyhow};
use clap::Args;
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use super::super::common::did_you_mean;
use super::super::{Failure, Outcome};
use crate::command::print::{ask, print, table, write_stderr};
use crate::paint::{sanitize, shorten};
use crate::plural::{count, is_or_are, some_of};
use crate::rule::{Condition, Definition, RuleId, StateRow, Table};
use crate::store::{Database, Scope, StoreError, load};

/// The id that stands for ids on standard input.
const STANDARD_INPUT: &str = "-";

/// The most bytes that are read from standard input: the ids of every rule that a worker may have.
const LONGEST_INPUT: u64 = 64 << 20;

/// The most rules of one error.
const NAMED: usize = 10;

/// No state is longer in the list of the rules, in bytes.
const LONGEST_SUMMARY: usize = 240;

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
    yes: bool,
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

/// The chosen rules, by id.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) rule_ids: Vec<RuleId>,
    /// Their names, as far as they are known; empty unless several rules are chosen.
    names: BTreeMap<RuleId, String>,
    /// The rows of their states; empty unless several rules are chosen.
    states: BTreeMap<RuleId, StateRow>,
}

impl ChoiceArgs {
    /// The choice by these ids, or by the conditions. Reads standard input if it is named.
    ///
    /// # Errors
    /// [`Failure::Usage`] if nothing is chosen, or both are given, or an id is not valid.
    pub(super) fn choice(&self, ids: &[String], all_by: Option<&str>) -> Result<Choice, Failure> {
        let usage = |what: &str| Err(Failure::Usage(anyhow!("{what}")));
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
            return Err(Failure::Usage(anyhow!(
                "`-` takes the ids from standard input: leave out the other ids"
            )));
        }
        let mut text = Vec::new();
        let read = io::stdin().lock().take(LONGEST_INPUT + 1).read_to_end(&mut text);
        read.context("standard input cannot be read").map_err(Failure::Environment)?;
        return Ok(Choice::StandardInput(ids_of_lines(&text).map_err(|why| Failure::Usage(anyhow!(why)))?));
    }
    let ids = words.iter().map(|word| RuleId::new(word)).collect::<Result<Vec<_>, _>>();
    ids.map(Choice::Ids).map_err(|why| Failure::Usage(why.into()))
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
    /// Finds the rules in the tables.
    ///
    /// # Errors
    /// [`Failure::Usage`] if no rule fulfils the conditions, or nobody of that name has set a state;
    /// [`Failure::Environment`] if the database does not answer.
    pub(super) async fn find(&self, database: &Database) -> Result<Chosen, Failure> {
        let mut chosen = Chosen { rule_ids: Vec::new(), names: BTreeMap::new(), states: BTreeMap::new() };
        match self {
            Self::Ids(ids) | Self::StandardInput(ids) => {
                chosen.rule_ids = ids.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect();
                if chosen.rule_ids.len() > 1 {
                    // Only for the list.
                    chosen.names = names(&definitions(database).await?.0);
                    chosen.states = states(database).await?;
                }
            }
            Self::Where(conditions) => {
                let rules = fulfilling(database, conditions).await?;
                chosen.rule_ids = rules.iter().map(|rule| rule.rule_id.clone()).collect();
                chosen.rule_ids.sort_unstable();
                (chosen.names, chosen.states) = (names(&rules), states(database).await?);
            }
            Self::AllBy(set_by) => {
                let states = states(database).await?;
                let (theirs, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    states.into_iter().partition(|(_, row)| row.set_by.as_ref() == Some(set_by));
                if theirs.is_empty() {
                    return Err(Failure::Usage(anyhow!(nothing_set_by(set_by, &others))));
                }
                chosen.rule_ids = theirs.keys().cloned().collect();
                (chosen.names, chosen.states) = (names(&definitions(database).await?.0), theirs);
            }
        }
        Ok(chosen)
    }

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

    /// Prints the rules if there are several, and asks whether to go on if they were not named on the command line.
    /// With JSON, only what is asked is printed, on standard error. Returns whether it asked.
    ///
    /// # Errors
    /// [`Failure::Usage`] if nobody can be asked, and [`Failure::CheckFailed`] if the answer is no.
    pub(super) fn confirm(
        &self,
        args: &ChoiceArgs,
        chosen: &Chosen,
        question: &str,
        as_json: bool,
    ) -> Result<bool, Failure> {
        if chosen.rule_ids.len() <= 1 {
            return Ok(false);
        }
        if !as_json {
            print(&chosen.listing())?;
        }
        let what = match self {
            Self::Ids(_) => return Ok(false),
            _ if args.yes => return Ok(false),
            Self::StandardInput(_) => "standard input chooses",
            Self::Where(_) => "--where chooses",
            Self::AllBy(_) => "--all-by chooses",
        };
        let is_free = !matches!(self, Self::StandardInput(_));
        if !(is_free && io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::Usage(anyhow!(
                "{what} {}, and there is no terminal to ask on, so nothing is changed: give --yes to change them",
                count(chosen.rule_ids.len(), "rule")
            )));
        }
        let listing = if as_json { chosen.listing() } else { String::new() };
        match ask(&format!("{listing}{question} [y/N] "))? {
            true => Ok(true),
            false => {
                write_stderr("nothing is changed\n")?;
                Err(Failure::CheckFailed)
            }
        }
    }
}

impl Chosen {
    /// Leaves out the rules without a state.
    pub(super) fn with_a_state(&mut self) {
        self.rule_ids.retain(|id| self.states.contains_key(id));
    }

    /// A line for each rule: id, state, name.
    fn listing(&self) -> String {
        let rows = self.rule_ids.iter().map(|id| {
            let state = self.states.get(id).map_or("no state".to_owned(), summary);
            [id.to_string(), state, self.names.get(id).cloned().unwrap_or_default()]
        });
        table(["RULE", "STATE", "NAME"], rows)
    }
}

/// The row of a state, valid or not, in words; a long reason is shortened.
fn summary(row: &StateRow) -> String {
    let words = row.state().map_or_else(|_| row.state.clone(), |state| state.summary());
    shorten(&words, LONGEST_SUMMARY).into_owned()
}

/// Refuses rules that the table does not have, and names similar ones.
///
/// # Errors
/// [`Failure::Usage`], or [`Failure::Environment`] if the database does not answer.
pub(super) async fn ensure_exist(database: &Database, rule_ids: &[RuleId]) -> Outcome {
    let missing = missing(database, rule_ids).await?;
    let Some(first) = missing.first() else { return Ok(()) };
    let rows = database.rows(Scope::All).await?;
    let near = did_you_mean(first.as_str(), rows.iter().map(|row| row.rule_id.as_str()));
    let missing = some_of(missing.iter(), NAMED, ", ");
    let force = "states of unknown rules need --force";
    let force = if near.is_empty() { format!("; {force}") } else { format!(" ({force})") };
    Err(Failure::Usage(anyhow!("no rule {missing}{near}{force}")))
}

/// The ids that the table does not have.
///
/// # Errors
/// The database does not answer.
pub(super) async fn missing<'i>(
    database: &Database,
    rule_ids: &'i [RuleId],
) -> Result<Vec<&'i RuleId>, StoreError> {
    let keys: Vec<String> = rule_ids.iter().map(RuleId::to_string).collect();
    let rows = database.rows(Scope::Keys(&keys)).await?;
    let found: BTreeSet<&str> = rows.iter().map(|row| row.rule_id.as_str()).collect();
    Ok(rule_ids.iter().filter(|id| !found.contains(id.as_str())).collect())
}

/// Every valid rule, and the keys of the quarantined rows.
async fn definitions(database: &Database) -> Result<(Vec<Definition>, Vec<String>), Failure> {
    let (catalogue, _) = load(database).await?;
    let rules = catalogue.rules().map(|(rule, _)| rule.definition());
    let rules = rules.collect::<Result<_, _>>().context("reading the rules").map_err(Failure::Environment)?;
    let quarantined = catalogue.quarantined().filter(|row| row.table == Table::Rules);
    Ok((rules, quarantined.map(|row| row.key).collect()))
}

/// The rules that fulfil all conditions. Warns of quarantined rows, of which that is not known.
async fn fulfilling(database: &Database, conditions: &[Condition]) -> Result<Vec<Definition>, Failure> {
    let (rules, quarantined) = definitions(database).await?;
    if !quarantined.is_empty() {
        tracing::warn!(
            "{} {} quarantined and left out: {}; `rulesyncd status` says why",
            count(quarantined.len(), "row"),
            is_or_are(&quarantined.len()),
            some_of(quarantined.iter().map(|key| sanitize(key)), NAMED, ", ")
        );
    }
    let fulfils = |rule: &&Definition| conditions.iter().all(|condition| condition.holds(rule));
    match rules.iter().any(|rule| fulfils(&rule)) {
        true => Ok(rules.into_iter().filter(|rule| fulfils(&rule)).collect()),
        false => Err(Failure::Usage(anyhow!(nothing_fulfils(conditions, &rules)))),
    }
}

fn names(rules: &[Definition]) -> BTreeMap<RuleId, String> {
    rules.iter().map(|rule| (rule.rule_id.clone(), rule.name.clone())).collect()
}

/// The rows of the states whose keys are rule ids.
async fn states(database: &Database) -> Result<BTreeMap<RuleId, StateRow>, StoreError> {
    let rows = database.states().await?;
    Ok(rows.into_iter().filter_map(|row| Some((RuleId::new(&row.rule_id).ok()?, row))).collect())
}

/// Why no rule is chosen.
fn nothing_fulfils(conditions: &[Condition], rules: &[Definition]) -> String {
    let number = |condition: &Condition| rules.iter().filter(|rule| condition.holds(rule)).count();
    let found = match conditions {
        [condition] => format!("no rule fulfils `{condition}`"),
        _ => {
            let each = |condition| format!("{} `{condition}`", count(number(condition), "rule"));
            let each: Vec<String> = conditions.iter().map(each).collect();
            format!("no rule fulfils all conditions: {}", each.join(", "))
        }
    };
    format!("{found}; the table has {}, and `rulesyncd watch --once` shows them", count(rules.len(), "rule"))
}

/// Why no state is chosen.
fn nothing_set_by(set_by: &str, states: &BTreeMap<RuleId, StateRow>) -> String {
    let others: BTreeSet<&str> = states.values().filter_map(|row| row.set_by.as_deref()).collect();
    match others.is_empty() {
        true => format!("`{set_by}` has set no state, and nobody else has"),
        false => format!(
            "`{set_by}` has set no state; expected the name of somebody who has: {}",
            some_of(others.iter(), NAMED, ", ")
        ),
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
