//! `rulesyncd state`: the operators' states.

mod args;
mod choice;
mod chosen;
mod effect;

use std::collections::HashSet;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use serde_json::json;

use self::args::{ClearArgs, SetArgs};
use self::choice::Choice;
use self::chosen::{Chosen, ensure_exist, missing};
use self::effect::{ensure_effect, without_effect};
use super::common::{choose_database, for_writing, open_database};
use super::completions::rule_ids;
use super::fleet::Written;
use super::{Failure, Outcome};
use crate::clock::{SystemClock, Timestamp};
use crate::command::flags::{ConfigFlags, DatabaseFlags, prepare_quietly};
use crate::command::print::{print, print_done, table};
use crate::config::Config;
use crate::paint::{sanitize, shorten};
use crate::plural::{count, is_or_are};
use crate::rule::{FoundStateRow, RuleId, StateKind, StateRow};
use crate::store::{Database, RuleStore as _};
use crate::telemetry;

/// No reason is longer in a table, in bytes.
const LONGEST_REASON: usize = 160;

/// What `state list` says of a row that is no state.
const NO_STATE: &str = "(no state: enabled)";

/// Disable rules, clip them, and see who did
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd state set R0015 disabled --expires-in 4h --reason 'noisy on mail hosts'"
)]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List every state that is set
    List,
    /// Show the effective state of a rule
    Get {
        /// The rule
        #[arg(value_name = "ID", add = ArgValueCompleter::new(rule_ids))]
        rule_id: RuleId,
    },
    Set(SetArgs),
    Clear(ClearArgs),
}

pub(crate) fn run(args: StateArgs) -> Outcome {
    let config = prepare_quietly(args.database.apply_to(args.config.flags()))?;
    telemetry::export(&config.telemetry, "state")?;
    let request = Request::new(args.action)?;
    super::block_on(super::Threads::Database, async {
        let config = choose_database(config).await?;
        let config = match &request {
            Request::List | Request::Get(_) => config,
            Request::Set(..) | Request::Clear(..) => for_writing(config)?,
        };
        let clock = std::sync::Arc::new(SystemClock);
        let database = open_database(&config, clock).await?;
        let operator = Operator { config, database, as_json: args.json };
        match request {
            Request::List => operator.list().await,
            Request::Get(rule_id) => operator.get(&rule_id).await,
            Request::Set(set, kind, choice) => operator.set(&set, kind, &choice).await,
            Request::Clear(clear, choice) => operator.clear(&clear, &choice).await,
        }
    })?
}

/// What a command is to do; nothing is left that could be a usage error, except what depends on the tables.
enum Request {
    List,
    Get(RuleId),
    Set(SetArgs, StateKind, Choice),
    Clear(ClearArgs, Choice),
}

impl Request {
    fn new(action: Action) -> Result<Self, Failure> {
        Ok(match action {
            Action::List => Self::List,
            Action::Get { rule_id } => Self::Get(rule_id),
            Action::Set(set) => {
                let (kind, ids) = set.kind_and_ids()?;
                let choice = set.choice.choice(ids, None)?;
                Self::Set(set, kind, choice)
            }
            Action::Clear(clear) => {
                let choice = clear.choice.choice(&clear.rule_ids, clear.all_by.as_deref())?;
                Self::Clear(clear, choice)
            }
        })
    }
}

/// An operator at a database.
struct Operator {
    config: Config,
    database: Database,
    as_json: bool,
}

impl Operator {
    fn place(&self) -> String {
        self.config.database.address.place()
    }

    async fn list(&self) -> Outcome {
        let rows = self.database.found_states().await?;
        let without_effect = without_effect(&self.config, &self.database).await?;
        let why = |rule_id: &str| without_effect.get(rule_id).map(String::as_str);
        if self.as_json {
            let line = |(rule_id, row): &FoundStateRow| match row {
                Ok(row) => to_json(row, why(rule_id)),
                Err(reason) => json!({ "rule_id": rule_id, "invalid": reason }),
            };
            return print(&rows.iter().map(|row| format!("{}\n", line(row))).collect::<String>());
        }
        let now = self.database.now().await?;
        let header = ["RULE", "STATE", "CEILING", "UNTIL", "SET BY", "SINCE", "REASON", "WITHOUT EFFECT"];
        let shown = header.len() - usize::from(without_effect.is_empty());
        let cells = rows.iter().map(|(rule_id, row)| {
            let cells = match row {
                Ok(row) => cells(row, now, why(rule_id)),
                Err(reason) => cells_of_unreadable(rule_id, reason),
            };
            cells.into_iter().take(shown)
        });
        let text = table(header.into_iter().take(shown), cells);
        print(if rows.is_empty() { "no state is set\n" } else { &text })
    }

    async fn get(&self, rule_id: &RuleId) -> Outcome {
        let state = self.database.get_state(rule_id).await?;
        let row = StateRow::new(rule_id, &state);
        let without_effect = without_effect(&self.config, &self.database).await?.remove(rule_id);
        if self.as_json {
            return print(&format!("{}\n", to_json(&row, without_effect.as_deref())));
        }
        let is_missing = !missing(&self.database, std::slice::from_ref(rule_id)).await?.is_empty();
        let unknown = if is_missing { "; there is no such rule" } else { "" };
        let without_effect =
            without_effect.map_or_else(String::new, |why| format!("; it has no effect: {}", sanitize(&why)));
        print(&format!("{}{unknown}{without_effect}\n", in_words(&row)))
    }

    async fn set(&self, set: &SetArgs, kind: StateKind, choice: &Choice) -> Outcome {
        let mut state = set.state(kind, self.database.now().await?)?;
        let chosen = choice.find(&self.database).await?;
        if choice.has_ids() && !set.force {
            ensure_exist(&self.database, &chosen.rule_ids).await?;
        }
        ensure_effect(&self.config, &self.database, &chosen.rule_ids, &state).await?;
        let question =
            format!("Set {} to {kind} on {}?", count(chosen.rule_ids.len(), "rule"), sanitize(&self.place()));
        if choice.confirm(&set.choice, &chosen, &question, self.as_json)? {
            // The answer took its time.
            state = set.state(kind, self.database.now().await?)?;
        }
        let before = set.wait.before(&self.config, &self.database).await?;
        let states = self.database.set_states(&chosen.rule_ids, &state).await?;
        let rows: Vec<_> =
            chosen.rule_ids.iter().zip(&states).map(|(id, state)| StateRow::new(id, state)).collect();
        let done = match &*rows {
            [row] => in_words(row),
            [] => String::new(),
            [row, ..] => format!("{} are {}", count(rows.len(), "rule"), state_in_words(row)),
        };
        self.print_done(&done, rows.iter().map(|row| to_json(row, None)))?;
        let written = chosen.rule_ids.into_iter().zip(states).collect();
        set.wait.after(&self.config, &self.database, Written::States(written), before, !self.as_json).await
    }

    async fn clear(&self, clear: &ClearArgs, choice: &Choice) -> Outcome {
        let mut chosen = choice.find(&self.database).await?;
        if !choice.has_ids() {
            chosen.keep_those_with_a_state();
        }
        let number = chosen.rule_ids.len();
        let question =
            format!("Clear the states of {} on {}?", count(number, "rule"), sanitize(&self.place()));
        choice.confirm(&clear.choice, &chosen, &question, self.as_json)?;
        let before = clear.wait.before(&self.config, &self.database).await?;
        let set_before = if clear.wait.is_given() { self.database.states().await? } else { Vec::new() };
        let cleared = self.database.clear_states(&chosen.rule_ids, choice.set_by()).await?;
        let rows = chosen.rule_ids.iter().zip(&cleared);
        let rows = rows.map(|(rule_id, cleared)| json!({ "rule_id": rule_id, "cleared": cleared }));
        self.print_done(&cleared_in_words(&chosen, &cleared), rows)?;
        let done = chosen.rule_ids.iter().zip(&cleared).filter(|(_, cleared)| **cleared);
        let done: HashSet<&str> = done.map(|(rule_id, _)| rule_id.as_str()).collect();
        let cleared = set_before.into_iter().filter(|row| done.contains(&*row.rule_id));
        let written = Written::Cleared(cleared.collect());
        clear.wait.after(&self.config, &self.database, written, before, !self.as_json).await
    }

    /// Prints what was done, and to which database; with --json one line for each rule.
    fn print_done(&self, done: &str, rows: impl Iterator<Item = serde_json::Value>) -> Outcome {
        let place = self.place();
        let done = format!("{done}\non {}\n", sanitize(&place));
        if !self.as_json {
            return print_done(&done, &done);
        }
        let line = |mut row: serde_json::Value| {
            row["database"] = json!(place);
            format!("{row}\n")
        };
        print_done(&rows.map(line).collect::<String>(), &done)
    }
}

fn cleared_in_words(chosen: &Chosen, cleared: &[bool]) -> String {
    if cleared.is_empty() {
        return "no chosen rule has a state".to_owned();
    }
    if let ([rule_id], [cleared]) = (&*chosen.rule_ids, cleared) {
        let outcome = if *cleared { "is enabled again" } else { "had no state" };
        return format!("{rule_id} {outcome}");
    }
    let number = cleared.iter().filter(|cleared| **cleared).count();
    let kept = cleared.len() - number;
    let others = if kept == 0 { String::new() } else { format!(", {kept} had no such state") };
    format!("{} {} enabled again{others}", count(number, "rule"), is_or_are(&number))
}

fn in_words(row: &StateRow) -> String {
    format!("{} is {}", sanitize(&row.rule_id), state_in_words(row))
}

/// A line of `state list`, with why the state has no effect under the published release.
fn cells(row: &StateRow, now: Timestamp, without_effect: Option<&str>) -> [String; 8] {
    let until = match row.expires_at {
        None => "until cleared".to_owned(),
        Some(end) if end <= now => "expired".to_owned(),
        Some(end) => end.to_string(),
    };
    let state = match row.state() {
        Ok(_) => row.state.clone(),
        Err(_) => format!("{} {NO_STATE}", row.state),
    };
    [
        row.rule_id.clone(),
        state,
        row.confidence_max.map_or_else(String::new, |ceiling| ceiling.to_string()),
        until,
        row.set_by.clone().unwrap_or_default(),
        row.set_at.map_or_else(String::new, |at| at.to_string()),
        shorten(row.reason.as_deref().unwrap_or_default(), LONGEST_REASON).into_owned(),
        without_effect.unwrap_or_default().to_owned(),
    ]
}

fn cells_of_unreadable(rule_id: &str, reason: &str) -> [String; 8] {
    let reason = shorten(reason, LONGEST_REASON);
    [rule_id, NO_STATE, "", "", "", "", &reason, ""].map(str::to_owned)
}

fn state_in_words(row: &StateRow) -> String {
    let mut line = sanitize(&row.state).into_owned();
    if let Some(ceiling) = row.confidence_max {
        line += &format!(", its confidence at most {ceiling}");
    }
    if let Some(end) = row.expires_at {
        line += &format!(", until {end}");
    }
    if let Some(who) = &row.set_by {
        line += &format!(", set by {}", sanitize(who));
    }
    if let Some(reason) = &row.reason {
        line += &format!(": {}", sanitize(reason));
    }
    line
}

/// With `without_effect` if the state has none under the published release, and `invalid` if it is no state: then the
/// rule counts as enabled.
fn to_json(row: &StateRow, without_effect: Option<&str>) -> serde_json::Value {
    let mut shown = json!(row);
    if let Err(why) = row.state() {
        shown["invalid"] = json!(why.to_string());
    }
    if let Some(why) = without_effect {
        shown["without_effect"] = json!(why);
    }
    shown
}
