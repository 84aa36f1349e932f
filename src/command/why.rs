//! `rulesyncd why`: one rule's story, from its file to who has taken it in.

mod files;
mod story;
mod tell;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::timeout;

use self::story::{Held, Story, Table};
use super::{Failure, Outcome};
use crate::cli::{ConfigFlags, DatabaseFlags, RulesDirFlags, SocketFlags, prepare_quietly, print};
use crate::client::{ClientError, Connection, ask};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::master::MasterStatus;
use crate::rule::RuleId;
use crate::rulefile::LinkPolicy;
use crate::store::{Database, Scope, StoreError};
use crate::wire::{Op, ServerLine, Subscribe};
use crate::worker::WorkerStatus;

/// How long the worker may take to tell what it holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tell where a rule is: its file, its row, its state, this worker, its subscribers
///
/// Each part that can be reached from this host is shown, and what is wrong where they differ.
/// Exit code 1 where something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd why R0015")]
pub struct WhyArgs {
    /// The rule
    #[arg(value_name = "RULE_ID")]
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
    let flags = args.database.over(args.rules_dir.over(args.config.flags()));
    let config = prepare_quietly(args.socket.over("worker.socket", flags))?;
    let story = super::block_on(gather(&config, args.rule_id))?;
    if let (Err(database), Err(worker), true) = (&story.table, &story.worker, story.files.is_empty()) {
        return Err(Failure::Environment(anyhow::anyhow!("{database}\n{worker}")));
    }
    let wrong = story.wrong();
    let text = if args.json {
        let mut told = json!(story);
        told["wrong"] = json!(wrong);
        format!("{told}\n")
    } else {
        tell::human(&story, &wrong)
    };
    print(&text)?;
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Wrong) }
}

async fn gather(config: &Config, rule_id: RuleId) -> Story {
    let table = table(config, &rule_id).await.map_err(|error| error.to_string());
    let row = table.as_ref().ok().and_then(|table| table.row.as_ref());
    let master = &config.master;
    let (directory, limit) = (&master.rules_dir, master.max_rule_size);
    let links = LinkPolicy::new(directory, &master.follow_links_to);
    let files = files::holding(directory, &rule_id, row.map(|row| &*row.source_path), limit, &links);
    let files_unknown =
        files.as_ref().err().map(|error| format!("{} cannot be read: {error}", directory.display()));
    Story {
        files: files.unwrap_or_default(),
        files_unknown,
        owner: master.updated_by.clone(),
        table,
        master: master_status(&master.socket).await,
        worker: held(&config.worker.socket, &rule_id).await.map_err(|error| error.to_string()),
        rule_id,
    }
}

async fn table(config: &Config, rule_id: &RuleId) -> Result<Table, StoreError> {
    let database = Database::open(&config.database, Arc::new(SystemClock)).await?;
    let ids = [rule_id.folded()];
    let rows = database.rows(Scope::Touching { rule_ids: &ids, source_paths: &[] }).await?;
    let (mut exact, others): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.rule_id == rule_id.as_str());
    let states = database.states().await?;
    Ok(Table {
        now: database.now().await?,
        row: exact.pop().map(Into::into),
        twins: others.into_iter().map(|row| row.rule_id).collect(),
        state: states.into_iter().find(|row| row.rule_id == rule_id.as_str()).map(Into::into),
    })
}

/// `None` where no master of this host answers: it need not run here.
async fn master_status(socket: &Path) -> Option<MasterStatus> {
    serde_json::from_value(ask(socket, Op::Status).await.ok()?).ok()
}

/// What the worker holds of this rule.
async fn held(socket: &Path, rule_id: &RuleId) -> Result<Held, ClientError> {
    let status = ask(socket, Op::Status).await?;
    let status: WorkerStatus =
        serde_json::from_value(status).map_err(|error| ClientError::Protocol(error.to_string()))?;
    if status.digest.is_none() {
        return Ok(Held::new(rule_id, status));
    }
    let lines =
        timeout(PATIENCE, snapshot(socket, rule_id)).await.unwrap_or(Err(ClientError::Silent(PATIENCE)))?;
    let mut held = Held::new(rule_id, status);
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
    let mut connection = Connection::open(socket).await?;
    let rule_ids = Some(vec![rule_id.clone()]);
    connection.send(Op::Subscribe(Subscribe { rule_ids, ..Subscribe::default() })).await?;
    let mut lines = Vec::new();
    while let Some(line) = connection.next().await? {
        match line.line {
            ServerLine::SnapshotEnd { .. } => return Ok(lines),
            ServerLine::Error { code, message, .. } => return Err(ClientError::Refused { code, message }),
            line => lines.push(line),
        }
    }
    Err(ClientError::Closed)
}
