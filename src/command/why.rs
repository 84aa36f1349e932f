//! `rulesyncd why`: one rule's report, from its file to its subscribers.

mod files;
mod render;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde_json::{Value, json};

use self::report::{ReleaseView, Report, RuleInTables, WorkerView};
use super::common::{self, Daemons, did_you_mean};
use super::completions::rule_ids;
use super::release::{PublishedRelease, valid_states};
use super::{Failure, Outcome, compare};
use crate::address::Address;
use crate::client::ClientError;
use crate::clock::{Clock as _, SystemClock};
use crate::command::flags::{HostFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::Config;
use crate::rule::plan::Plan;
use crate::rule::{RuleId, StateRow};
use crate::store::{RuleStore as _, Scope};
use crate::trust::Policy;
use crate::wire::Subscribe;
use crate::worker::WorkerStatus;

/// Show where a rule is: its file, its row, its state, this worker, its subscribers
///
/// Shows each part that this host can reach, and how the parts differ. Exit code 1 if something is wrong, 3 if
/// something did not answer within 5 s.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd why R0015")]
pub(crate) struct WhyArgs {
    /// The rule
    #[arg(value_name = "RULE_ID", add = ArgValueCompleter::new(rule_ids))]
    rule_id: RuleId,
    #[command(flatten)]
    host: HostFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: WhyArgs) -> Outcome {
    let config = prepare_quietly(args.host.flags())?;
    let report = super::block_on(super::Threads::Database, async {
        let daemons = Daemons::ask(&config).await;
        let config = daemons.choose_database(daemons.choose_rules_dir(config)?)?;
        let policy = common::load_policy(&config)?;
        Ok::<_, Failure>(gather(&config, policy, daemons, args.rule_id).await)
    })??;
    if let (Err(database), Err(worker), true) = (&report.table, &report.worker, report.files.is_empty()) {
        return Err(environment!("{database}\n{worker}"));
    }
    let wrong = report.problems();
    let text = if args.json {
        let mut object = json!(report);
        object["wrong"] = json!(wrong);
        object["compared"] = json!(report.compared());
        format!("{object}\n")
    } else {
        render::human(&report, &wrong)
    };
    print(&text)?;
    match () {
        () if !wrong.is_empty() => Err(Failure::CheckFailed),
        () if report.unanswered.is_empty() && report.compared().len() > 1 => Ok(()),
        () => Err(Failure::Unanswered),
    }
}

async fn gather(config: &Config, policy: Option<Policy>, daemons: Daemons, rule_id: RuleId) -> Report {
    let table = table(config, policy.as_ref(), &rule_id).await.map_err(message);
    let (table, release) = match table {
        Ok((table, release)) => (Ok(table), release),
        Err(why) => (Err(why), None),
    };
    let rows = table.as_ref().map_or(&[][..], |table| &table.rows);
    let master = &config.master;
    let directory = match &config.database.address {
        Address::Directory(directory) => directory,
        _ => &master.rules_dir,
    };
    let files = files::holding(directory, master, &rule_id, rows).await;
    let files_unknown = match &files {
        Err(error) => Some(format!("{} cannot be read: {error}", directory.display())),
        Ok((found, _)) if found.is_empty() && !daemons.keep_rules(config) => {
            Some(format!("no master runs here, and nothing in {} names the rule", directory.display()))
        }
        Ok(_) => None,
    };
    let mut unanswered = Vec::new();
    if table.is_err() {
        unanswered.push("the database");
    }
    if files.is_err() && daemons.keep_rules(config) {
        unanswered.push("the rules directory");
    }
    if daemons.master.as_ref().is_err_and(|error| !error.is_absent()) {
        unanswered.push("the master");
    }
    let master = daemons.master_status();
    let worker = served(&config.worker.socket, daemons.worker, &rule_id).await;
    if worker.as_ref().is_err_and(|error| !error.is_absent()) {
        unanswered.push("the worker");
    }
    let (files, plan) = files.unwrap_or_default();
    let plan = if table.is_ok() && files_unknown.is_none() { plan } else { Plan::default() };
    let worker = worker.map_err(|error| error.to_string());
    Report { files, plan, files_unknown, table, release, master, worker, unanswered, rule_id }
}

/// The message of a failure, with its causes.
fn message(failure: Failure) -> String {
    failure.message().map_or_else(String::new, |error| format!("{error:#}"))
}

/// The rule in the tables, and with trust in the published release.
async fn table(
    config: &Config,
    policy: Option<&Policy>,
    rule_id: &RuleId,
) -> Result<(RuleInTables, Option<Result<ReleaseView, String>>), Failure> {
    if let Some(store) = common::directory_store(config, Arc::new(SystemClock)) {
        let (now, subscription) = (SystemClock.now(), store.subscribe_changes().await?);
        let release = PublishedRelease::of_directory(config, policy).await;
        let release = release
            .map(|release| release.map(|release| ReleaseView::new(&release, rule_id, &BTreeMap::new(), now)));
        let catalogue = subscription.catalogue();
        let row = catalogue.rule(rule_id.as_str());
        let did_you_mean = match row {
            Some(_) => String::new(),
            None => {
                did_you_mean(rule_id.as_str(), catalogue.rules().map(|(rule, _)| rule.rule_id().as_str()))
            }
        };
        let row = row.map(|row| row.header.unchecked());
        let table = RuleInTables::new(rule_id, now, row.into_iter().collect(), None, did_you_mean);
        return Ok((table, release));
    }
    let database = common::open_database(config, Arc::new(SystemClock)).await?;
    common::ping(&database).await?;
    let ids = [rule_id.folded()];
    let rows = database.rows(Scope::AnyCase(&ids)).await?;
    let states = database.found_states().await?;
    let readable: Vec<StateRow> = states.iter().filter_map(|(_, row)| row.clone().ok()).collect();
    let now = database.now().await?;
    let release = PublishedRelease::of_database(&database, policy).await?;
    let release = release.map(|release| {
        release.map(|release| ReleaseView::new(&release, rule_id, &valid_states(&readable), now))
    });
    let state = states.into_iter().find(|(key, _)| key == rule_id.as_str()).map(|(_, row)| row);
    let did_you_mean = if rows.iter().any(|row| row.rule_id == rule_id.as_str()) {
        String::new()
    } else {
        let rows = database.rows(Scope::All).await?;
        did_you_mean(rule_id.as_str(), rows.iter().map(|row| row.rule_id.as_str()))
    };
    Ok((RuleInTables::new(rule_id, now, rows, state, did_you_mean), release))
}

/// The rule as this worker serves it.
async fn served(
    socket: &Path,
    status: Result<Value, ClientError>,
    rule_id: &RuleId,
) -> Result<WorkerView, ClientError> {
    let status: WorkerStatus =
        serde_json::from_value(status?).map_err(|error| ClientError::Protocol(error.to_string()))?;
    let mut view = WorkerView::new(rule_id, status);
    if view.loaded {
        let rule_ids = Some(vec![rule_id.clone()]);
        let (_, mut served) = compare::worker(socket, Subscribe { rule_ids, ..Subscribe::default() }).await?;
        view.rule = served.rules.remove(rule_id);
        view.state = served.states.remove(rule_id).unwrap_or_default();
    }
    Ok(view)
}
