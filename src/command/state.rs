//! `rulesyncd state`: the operators' states.

use std::time::Duration;

use anyhow::anyhow;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use serde_json::json;

use super::common::{choose_database, did_you_mean, open_database, trust};
use super::completions::rule_ids;
use super::release::{PublishedRelease, valid_states};
use super::{Failure, Outcome};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::command::flags::{ConfigFlags, DatabaseFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::{Config, duration, environment};
use crate::paint::sanitize;
use crate::rule::{RuleId, RuleState, StateKind, StateRow};
use crate::store::{Database, RuleStore as _, Scope, StoreError};
use crate::telemetry;

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
    /// Set the state of a rule
    Set(SetArgs),
    /// Clear a rule's state, so that it is enabled again
    Clear {
        /// The rule
        #[arg(value_name = "ID", add = ArgValueCompleter::new(rule_ids))]
        rule_id: RuleId,
    },
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The rule
    #[arg(value_name = "ID", add = ArgValueCompleter::new(rule_ids))]
    rule_id: RuleId,
    /// The state
    #[arg(value_parser = state_parser())]
    state: StateKind,
    /// The ceiling of the rule's confidence; one above 1 limits nothing, as does none
    #[arg(long, value_name = "NUMBER")]
    confidence_max: Option<f64>,
    /// End the state after this time, such as `4h`
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// End the state at this time, such as `2026-05-01T07:25:09Z`; if it is past, the state has ended at once
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<Timestamp>,
    /// The reason, for other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Set the state although no such rule exists yet
    #[arg(long)]
    force: bool,
    /// Who sets it; by default the login name
    #[arg(long, value_name = "NAME")]
    set_by: Option<String>,
}

fn state_parser() -> impl TypedValueParser<Value = StateKind> {
    PossibleValuesParser::new([
        PossibleValue::new(StateKind::Enabled.as_str()).help("The rule counts, as without a state"),
        PossibleValue::new(StateKind::Disabled.as_str()).help("The rule does not count"),
        PossibleValue::new(StateKind::Clipped.as_str())
            .help("The rule counts with a confidence of at most --confidence-max, if that is given"),
    ])
    .try_map(|word| word.parse::<StateKind>())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| format!("`{text}` is not a time; expected `2026-05-01T07:25:09Z`"))
}

pub(crate) fn run(args: StateArgs) -> Outcome {
    let config = prepare_quietly(args.database.apply_to(args.config.flags()))?;
    telemetry::export(&config.telemetry, "state")?;
    super::block_on(async {
        let config = choose_database(config).await?;
        let clock = std::sync::Arc::new(SystemClock);
        let database = open_database(&config, clock).await?;
        let place = config.database.address.place();
        match args.action {
            Action::List => list(&database, args.json).await,
            Action::Get { rule_id } => {
                let state = database.get_state(&rule_id).await?;
                let row = StateRow::new(&rule_id, &state);
                let without_effect = without_effect(&config, &database, &rule_id).await?;
                if args.json {
                    let mut told = to_json(&row);
                    if let Some(why) = &without_effect {
                        told["without_effect"] = json!(why);
                    }
                    return Ok(print(&format!("{told}\n"))?);
                }
                let unknown = if exists(&database, &rule_id).await? { "" } else { "; there is no such rule" };
                let without_effect = without_effect
                    .map_or_else(String::new, |why| format!("; it has no effect: {}", sanitize(&why)));
                Ok(print(&format!("{}{unknown}{without_effect}\n", in_words(&row)))?)
            }
            Action::Set(set) => {
                let state = set.state(database.now().await?)?;
                if !set.force {
                    ensure_exists(&database, &set.rule_id).await?;
                }
                ensure_effect(&config, &database, &set.rule_id, &state).await?;
                let state = database.set_state(&set.rule_id, state).await?;
                let row = StateRow::new(&set.rule_id, &state);
                if args.json {
                    let mut told = to_json(&row);
                    told["database"] = json!(place);
                    return Ok(print(&format!("{told}\n"))?);
                }
                Ok(print(&format!("{}\non {}\n", in_words(&row), sanitize(&place)))?)
            }
            Action::Clear { rule_id } => {
                let cleared = database.clear_state(&rule_id).await?;
                if args.json {
                    return Ok(print(&format!(
                        "{}\n",
                        json!({ "rule_id": rule_id, "cleared": cleared, "database": place })
                    ))?);
                }
                let outcome = if cleared { "is enabled again" } else { "had no state" };
                Ok(print(&format!("{rule_id} {outcome}\non {}\n", sanitize(&place)))?)
            }
        }
    })?
}

impl SetArgs {
    /// The requested state; `now` is the database's time, since its clock determines expiry.
    fn state(&self, now: Timestamp) -> Result<RuleState, Failure> {
        let expires_at = self.expires_at.or_else(|| self.expires_in.map(|span| now.after(span)));
        let state = RuleState {
            state: self.state,
            confidence_max: self.confidence_max,
            expires_at,
            reason: self.reason.clone(),
            set_by: Some(self.set_by.clone().unwrap_or_else(login_name)),
            set_at: None,
        };
        state.validate().map_err(|why| Failure::Usage(why.into()))?;
        Ok(state)
    }
}

/// The user at the terminal: `sudo` names the original one; without a login, the name of the user's number.
fn login_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .find_map(|name| environment(name).filter(|value| !value.is_empty()))
        .or_else(|| name_of_user(&std::fs::read_to_string("/etc/passwd").ok()?, uid))
        .unwrap_or_else(|| format!("uid {uid}"))
}

/// The first name of a user in a passwd(5) file.
fn name_of_user(passwd: &str, uid: u32) -> Option<String> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|fields| fields.get(2) == Some(&&*uid.to_string())).map(|fields| fields[0].to_owned())
}

async fn list(database: &Database, as_json: bool) -> Outcome {
    let rows = database.states().await?;
    if as_json {
        let lines: String = rows.iter().map(|row| format!("{}\n", to_json(row))).collect();
        return Ok(print(&lines)?);
    }
    let now = SystemClock.now();
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["RULE", "STATE", "CEILING", "UNTIL", "SET BY", "SINCE", "REASON"]);
    for row in &rows {
        let until = match row.expires_at {
            None => "until cleared".to_owned(),
            Some(end) if end <= now => "expired".to_owned(),
            Some(end) => end.to_string(),
        };
        let cells = [
            row.rule_id.clone(),
            row.state.clone(),
            row.confidence_max.map_or_else(String::new, |ceiling| ceiling.to_string()),
            until,
            row.set_by.clone().unwrap_or_default(),
            row.set_at.map_or_else(String::new, |at| at.to_string()),
            row.reason.clone().unwrap_or_default(),
        ];
        table.add_row(cells.map(|cell| sanitize(&cell).into_owned()));
    }
    let text = if rows.is_empty() { "no state is set\n".to_owned() } else { format!("{table}\n") };
    Ok(print(&text)?)
}

/// Whether the table has the rule.
async fn exists(database: &Database, rule_id: &RuleId) -> Result<bool, StoreError> {
    let ids = [rule_id.folded()];
    let rows = database.rows(Scope::Touching { rule_ids: &ids, source_paths: &[] }).await?;
    Ok(rows.iter().any(|row| row.rule_id == rule_id.as_str()))
}

/// Refuses a rule that the table does not have, and names similar ones.
///
/// # Errors
/// [`Failure::Usage`], or [`Failure::Environment`] if the database does not answer.
async fn ensure_exists(database: &Database, rule_id: &RuleId) -> Outcome {
    if exists(database, rule_id).await? {
        return Ok(());
    }
    let rows = database.rows(Scope::All).await?;
    let near = did_you_mean(rule_id.as_str(), rows.iter().map(|row| row.rule_id.as_str()));
    Err(Failure::Usage(anyhow!("no rule {rule_id}{near}; states of unknown rules need --force")))
}

/// Refuses a state that would have no effect under the published release.
///
/// # Errors
/// [`Failure::Usage`], or [`Failure::Environment`] if the database does not answer.
async fn ensure_effect(config: &Config, database: &Database, rule_id: &RuleId, state: &RuleState) -> Outcome {
    let Some(release) = published_release(config, database).await? else { return Ok(()) };
    let now = database.now().await?;
    let mut rows = valid_states(&database.states().await?);
    rows.insert(rule_id.clone(), RuleState { set_at: Some(now), ..state.clone() });
    match release.judge(&rows, now).without_effect.get(rule_id) {
        None => Ok(()),
        Some(why) => Err(Failure::Usage(anyhow!("the state would have no effect: {why}"))),
    }
}

/// Why the state of a rule has no effect under the published release; `None` if it has one.
///
/// # Errors
/// [`Failure::Environment`] if the database does not answer.
async fn without_effect(
    config: &Config,
    database: &Database,
    rule_id: &RuleId,
) -> Result<Option<String>, Failure> {
    let Some(release) = published_release(config, database).await? else { return Ok(None) };
    let (now, rows) = (database.now().await?, valid_states(&database.states().await?));
    Ok(release.judge(&rows, now).without_effect.get(rule_id).map(ToString::to_string))
}

/// The published release; `None` without trust, and, with a warning, if it does not verify: in an emergency a state must be
/// set, and the workers judge it by the release that they serve.
///
/// # Errors
/// [`Failure::Usage`] if the configured keys cannot be used.
async fn published_release(
    config: &Config,
    database: &Database,
) -> Result<Option<PublishedRelease>, Failure> {
    let Some(policy) = trust(config)? else { return Ok(None) };
    let release = PublishedRelease::of_database(database, &policy).await;
    Ok(release
        .inspect_err(|why| {
            tracing::warn!(
                "whether the state has an effect is not known: the published release does not verify: {why}"
            );
        })
        .ok())
}

fn in_words(row: &StateRow) -> String {
    let mut line = format!("{} is {}", sanitize(&row.rule_id), sanitize(&row.state));
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

fn to_json(row: &StateRow) -> serde_json::Value {
    json!({
        "rule_id": row.rule_id,
        "state": row.state,
        "confidence_max": row.confidence_max,
        "expires_at": row.expires_at,
        "reason": row.reason,
        "set_by": row.set_by,
        "set_at": row.set_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_number_has_its_first_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nodd\nalice:x:1000:1000::/:\nally:x:1000:1000::/:\n";
        assert_eq!(name_of_user(passwd, 1_000).as_deref(), Some("alice"));
        assert_eq!(name_of_user(passwd, 100), None);
    }
}
