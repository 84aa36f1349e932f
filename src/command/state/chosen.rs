//! The chosen rules in the tables, which are shown to the operator before their states change.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};

use anyhow::Context as _;

use super::choice::{Choice, ChoiceArgs};
use crate::command::common::did_you_mean;
use crate::command::print::{ask, print, table, write_stderr};
use crate::command::{Failure, Outcome};
use crate::paint::{sanitize, shorten};
use crate::plural::{count, is_or_are, some_of};
use crate::rule::{Condition, Definition, RuleId, StateRow, Table};
use crate::store::{Database, Scope, StoreError, load};

/// The most rules of one error.
const NAMED: usize = 10;

/// No state is longer in the list of the rules, in bytes.
const LONGEST_SUMMARY: usize = 240;

/// The chosen rules, by id.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) rule_ids: Vec<RuleId>,
    /// Their names, as far as they are known; empty unless several rules are chosen.
    names: BTreeMap<RuleId, String>,
    /// The rows of their states; empty unless several rules are chosen.
    states: BTreeMap<RuleId, StateRow>,
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
                    return Err(usage!(nothing_set_by(set_by, &others)));
                }
                chosen.rule_ids = theirs.keys().cloned().collect();
                (chosen.names, chosen.states) = (names(&definitions(database).await?.0), theirs);
            }
        }
        Ok(chosen)
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
            return Err(usage!(
                "{what} {}, and there is no terminal to ask on, so nothing is changed: give --yes to change them",
                count(chosen.rule_ids.len(), "rule")
            ));
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
    pub(super) fn keep_those_with_a_state(&mut self) {
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
    Err(usage!("no rule {missing}{near}{force}"))
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
        false => Err(usage!(nothing_fulfils(conditions, &rules))),
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
