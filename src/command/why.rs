//! `rulesyncd why`: one rule's report, from its file to its subscribers.

mod files;
mod render;
mod report;

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde_json::{Value, json};
use tokio::time::timeout;

use self::report::{Report, RuleInTables, WorkerView};
use super::common::{self, Daemons, did_you_mean};
use super::completions::rule_ids;
use super::{Failure, Outcome};
use crate::address::Address;
use crate::client::{ClientError, SocketClient};
use crate::clock::{Clock as _, SystemClock};
use crate::command::flags::{ConfigFlags, DatabaseFlags, RulesDirFlags, SocketFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::Config;
use crate::rule::RuleId;
use crate::rulefile::LinkPolicy;
use crate::socket::WORK_TIMEOUT;
use crate::store::{RuleStore as _, Scope};
use crate::wire::{Op, ServerLine, Subscribe};
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
    config: ConfigFlags,
    #[command(flatten)]
    rules_dir: RulesDirFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    #[command(flatten)]
    socket: SocketFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: WhyArgs) -> Outcome {
    let flags = args.database.apply_to(args.rules_dir.apply_to(args.config.flags()));
    let config = prepare_quietly(args.socket.apply_to("worker.socket", flags))?;
    let report = super::block_on(async {
        let daemons = Daemons::ask(&config).await;
        let config = daemons.choose_database(daemons.choose_rules_dir(config)?)?;
        Ok::<_, Failure>(gather(&config, daemons, args.rule_id).await)
    })??;
    if let (Err(database), Err(worker), true) = (&report.table, &report.worker, report.files.is_empty()) {
        return Err(Failure::Environment(anyhow::anyhow!("{database}\n{worker}")));
    }
    let wrong = report.problems();
    let text = if args.json {
        let mut told = json!(report);
        told["wrong"] = json!(wrong);
        told["compared"] = json!(report.compared());
        format!("{told}\n")
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

async fn gather(config: &Config, daemons: Daemons, rule_id: RuleId) -> Report {
    let table = table(config, &rule_id).await.map_err(message);
    let row = table.as_ref().ok().and_then(|table| table.row.as_ref());
    let master = &config.master;
    let directory = match &config.database.address {
        Address::Directory(directory) => directory,
        _ => &master.rules_dir,
    };
    let limit = master.max_rule_size;
    let links = LinkPolicy::new(directory, &master.follow_links_to);
    let files = files::holding(directory, &rule_id, row.map(|row| &*row.source_path), limit, &links);
    let files_unknown = match &files {
        Err(error) => Some(format!("{} cannot be read: {error}", directory.display())),
        Ok(found) if found.is_empty() && !daemons.keep_rules(config) => {
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
    let worker = held(&config.worker.socket, daemons.worker, &rule_id).await;
    if worker.as_ref().is_err_and(|error| !error.is_absent()) {
        unanswered.push("the worker");
    }
    Report {
        files: files.unwrap_or_default(),
        files_unknown,
        owner: config.master.updated_by.clone(),
        table,
        master,
        worker: worker.map_err(|error| error.to_string()),
        unanswered,
        rule_id,
    }
}

/// The message of a failure, with its causes.
fn message(failure: Failure) -> String {
    failure.message().map_or_else(String::new, |error| format!("{error:#}"))
}

async fn table(config: &Config, rule_id: &RuleId) -> Result<RuleInTables, Failure> {
    if let Some(store) = common::directory_store(config, Arc::new(SystemClock)) {
        let subscription = store.subscribe_changes().await?;
        let catalogue = subscription.catalogue();
        let row = catalogue.rule(rule_id.as_str());
        let did_you_mean = match row {
            Some(_) => String::new(),
            None => {
                did_you_mean(rule_id.as_str(), catalogue.rules().map(|(rule, _)| rule.rule_id().as_str()))
            }
        };
        let (now, row) = (SystemClock.now(), row.map(|row| row.header.unchecked()));
        return Ok(RuleInTables { did_you_mean, now, row, case_variants: Vec::new(), state: None });
    }
    let database = common::open_database(config, Arc::new(SystemClock)).await?;
    common::ping(&database).await?;
    let ids = [rule_id.folded()];
    let rows = database.rows(Scope::Touching { rule_ids: &ids, source_paths: &[] }).await?;
    let (mut exact, others): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.rule_id == rule_id.as_str());
    let states = database.states().await?;
    let did_you_mean = if exact.is_empty() {
        let rows = database.rows(Scope::All).await?;
        did_you_mean(rule_id.as_str(), rows.iter().map(|row| row.rule_id.as_str()))
    } else {
        String::new()
    };
    Ok(RuleInTables {
        did_you_mean,
        now: database.now().await?,
        row: exact.pop(),
        case_variants: others.into_iter().map(|row| row.rule_id).collect(),
        state: states.into_iter().find(|row| row.rule_id == rule_id.as_str()).map(Into::into),
    })
}

/// The rule as this worker has it.
async fn held(
    socket: &Path,
    status: Result<Value, ClientError>,
    rule_id: &RuleId,
) -> Result<WorkerView, ClientError> {
    let status: WorkerStatus =
        serde_json::from_value(status?).map_err(|error| ClientError::Protocol(error.to_string()))?;
    if status.digest.is_none() {
        return Ok(WorkerView::new(rule_id, status));
    }
    let lines = timeout(WORK_TIMEOUT, snapshot(socket, rule_id))
        .await
        .unwrap_or(Err(ClientError::Timeout(WORK_TIMEOUT)))?;
    let mut held = WorkerView::new(rule_id, status);
    for line in lines {
        match line {
            ServerLine::Rule(rule) => {
                held.state = rule.new_value.state.clone();
                held.rule = Some(rule.into());
            }
            ServerLine::State { new_value, .. } => held.state = new_value,
            _ => {}
        }
    }
    Ok(held)
}

async fn snapshot(socket: &Path, rule_id: &RuleId) -> Result<Vec<ServerLine>, ClientError> {
    let mut connection = SocketClient::connect(socket).await?;
    let rule_ids = Some(vec![rule_id.clone()]);
    connection.send(Op::Subscribe(Subscribe { rule_ids, ..Subscribe::default() })).await?;
    let mut lines = Vec::new();
    while let Some(line) = connection.next_soon().await? {
        match line.line {
            ServerLine::SnapshotEnd { .. } => return Ok(lines),
            ServerLine::Error { code, message, .. } => return Err(ClientError::Refused { code, message }),
            line => lines.push(line),
        }
    }
    Err(ClientError::Closed)
}
