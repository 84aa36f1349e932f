//! `rulesyncd verify`: compares directory, tables and worker, rule by rule.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::common::{self, Daemons};
use super::{Failure, Outcome};
use crate::address::Address;
use crate::client::{ClientError, SocketClient};
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, RulesDirFlags, SocketFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::Config;
use crate::directory::InvalidFile;
use crate::master::reconcile::Reconciler;
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::plan::Plan;
use crate::rule::{Catalogue, CatalogueDigest, RuleHeader, RuleState};
use crate::socket::{REQUEST_TIMEOUT, WORK_TIMEOUT};
use crate::store::{Follow as _, RuleStore, Scope, StoreError};
use crate::wire::{Op, RuleLine, ServerLine, Subscribe};

/// A difference counts if it is still there after so many comparisons; before, the change may be in transit.
const LOOKS: u32 = 4;

/// How long to wait between two comparisons.
const BETWEEN: Duration = Duration::from_millis(500);

/// Compare the rules directory, the tables and this host's worker, rule by rule
///
/// What this host does not have is left out, and named. Exit code 1, with a table, if something differs or a file is
/// invalid; a change in transit has two seconds to arrive. Exit code 3 if something did not answer within 5 s.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd verify --rules-dir /etc/rulesyncd/rules")]
pub(crate) struct VerifyArgs {
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

/// What was compared, and the differences.
#[derive(Debug, Serialize)]
struct Comparison {
    rules: usize,
    states: usize,
    digest: CatalogueDigest,
    /// What was compared.
    compared: Vec<&'static str>,
    /// What this host does not have.
    left_out: Vec<String>,
    /// What this host has, but did not answer.
    unanswered: Vec<String>,
    differences: Vec<Difference>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    rule_id: String,
    what: String,
}

pub(crate) fn run(args: VerifyArgs) -> Outcome {
    // What the command line names must exist; what is only configured need not.
    let (needs_directory, needs_worker) = (args.rules_dir.is_given(), args.socket.is_given());
    let flags = args.database.apply_to(args.rules_dir.apply_to(args.config.flags()));
    let config = prepare_quietly(args.socket.apply_to("worker.socket", flags))?;
    let comparison = super::block_on(async {
        let daemons = Daemons::ask(&config).await;
        let config = daemons.choose_database(daemons.choose_rules_dir(config)?)?;
        if needs_directory {
            super::require_directory(&config.master.rules_dir)?;
        }
        let mut comparison = compare(&config, &daemons, needs_worker).await?;
        for _ in 1..LOOKS {
            if comparison.differences.is_empty() {
                break;
            }
            sleep(BETWEEN).await;
            comparison = compare(&config, &daemons, needs_worker).await?;
        }
        Ok::<_, Failure>(comparison)
    })??;
    let text = if args.json { format!("{}\n", serde_json::json!(comparison)) } else { human(&comparison) };
    print(&text)?;
    match () {
        () if !comparison.differences.is_empty() => Err(Failure::CheckFailed),
        () if comparison.unanswered.is_empty() && comparison.compared.len() > 1 => Ok(()),
        () => Err(Failure::Unanswered),
    }
}

async fn compare(config: &Config, daemons: &Daemons, needs_worker: bool) -> Result<Comparison, Failure> {
    let clock = Arc::new(SystemClock);
    let is_directory = matches!(config.database.address, Address::Directory(_));
    let (tables, mut comparison) = match common::directory_store(config, clock.clone()) {
        Some(store) => {
            let files = catalogue(&store).await?;
            let comparison = Comparison::of(&files, "directory");
            (files, comparison)
        }
        None => {
            let database = common::open_database(config, clock).await?;
            common::ping(&database).await?;
            let tables = catalogue(&database).await?;
            let mut comparison = Comparison::of(&tables, "tables");
            comparison.compare_directory(&database.rows(Scope::All).await?, config, daemons).await;
            (tables, comparison)
        }
    };
    for row in tables.quarantined() {
        let what =
            format!("{} is quarantined: {}", if is_directory { "the file" } else { "the row" }, row.reason);
        comparison.differences.push(Difference { rule_id: row.key, what });
    }
    match against_worker(&config.worker.socket, &daemons.worker, &tables).await {
        Ok(found) => {
            comparison.compared.push("worker");
            comparison.differences.extend(found);
        }
        Err(error) if error.is_absent() && !needs_worker => {
            comparison.left_out.push(format!("the worker: {error}"))
        }
        Err(error) => comparison.unanswered.push(format!("the worker: {error}")),
    }
    if let Err(error) = &daemons.master
        && !error.is_absent()
    {
        comparison.unanswered.push(format!("the master: {error}"));
    }
    comparison.differences.sort_by(|a, b| a.rule_id.cmp(&b.rule_id));
    Ok(comparison)
}

impl Comparison {
    fn of(catalogue: &Catalogue, place: &'static str) -> Self {
        Self {
            rules: catalogue.rule_count(),
            states: catalogue.states().count(),
            digest: catalogue.digest(),
            compared: vec![place],
            left_out: Vec::new(),
            unanswered: Vec::new(),
            differences: Vec::new(),
        }
    }

    async fn compare_directory(&mut self, rows: &[RuleHeader], config: &Config, daemons: &Daemons) {
        let mut reconciler = Reconciler::new(config.master.clone(), Arc::new(SystemClock));
        if let Ok(Some(trust)) = config.trust.load() {
            reconciler.publish_releases(trust.policy);
        }
        match reconciler.preview(rows, true).await {
            Ok(_) if reconciler.scanner().files().next().is_none() && !daemons.keep_rules(config) => {
                let directory = config.master.rules_dir.display();
                self.left_out
                    .push(format!("the rules directory: {directory} is empty, and no master runs here"));
            }
            Ok(report) => {
                self.compared.push("directory");
                self.differences.extend(against_directory(&report.plan));
                self.differences.extend(invalid_files(&reconciler, rows));
            }
            Err(away) if daemons.keep_rules(config) => {
                self.unanswered.push(format!("the rules directory: {away}"));
            }
            Err(away) => self.left_out.push(format!("the rules directory: {away}")),
        }
    }
}

/// The invalid files: under the id of the row that came from them, or under their name.
fn invalid_files(reconciler: &Reconciler, rows: &[RuleHeader]) -> Vec<Difference> {
    let ids: BTreeMap<&str, &str> = rows.iter().map(|row| (&*row.source_path, &*row.rule_id)).collect();
    let difference = |(path, why): (&str, &InvalidFile)| Difference {
        rule_id: (*ids.get(path).unwrap_or(&path)).to_owned(),
        what: format!("{path} is invalid: {}", why.sentence()),
    };
    reconciler.scanner().invalid().map(difference).collect()
}

/// The content of a store, read as a worker reads it.
async fn catalogue(store: &impl RuleStore) -> Result<Catalogue, StoreError> {
    let delta = store.follow().poll(&Arc::<Catalogue>::default()).await?;
    let mut catalogue = Catalogue::default();
    catalogue.apply(delta);
    Ok(catalogue)
}

fn against_directory(plan: &Plan) -> Vec<Difference> {
    let write = plan.writes.iter().map(|write| {
        let (path, version) = (&write.rule.source_path, write.rule.rule_version);
        let what = match &write.replaces {
            None => format!("{path} holds version {version}, and the table has no row"),
            Some(row) if row.rule_version != version => {
                format!("{path} holds version {version}, the row version {}", row.rule_version)
            }
            Some(row) => format!("{path} and the row by `{}` differ", row.updated_by),
        };
        Difference { rule_id: write.rule.rule_id.to_string(), what }
    });
    let delete = plan.deletes.iter().map(|delete| Difference {
        rule_id: delete.rule_id.clone(),
        what: format!("the row stands, and {} no longer holds it", delete.source_path),
    });
    let conflict = plan.conflicts.iter().map(|conflict| Difference {
        rule_id: conflict.rule_id.to_string(),
        what: format!("{} holds it too, and is passed over for {}", conflict.source_path, conflict.held_by),
    });
    write.chain(delete).chain(conflict).collect()
}

/// The content of a worker, from its snapshot.
#[derive(Default)]
struct WorkerContent {
    rules: BTreeMap<String, RuleLine>,
    states: BTreeMap<String, RuleState>,
}

async fn against_worker(
    socket: &Path,
    status: &Result<Value, ClientError>,
    tables: &Catalogue,
) -> Result<Vec<Difference>, ClientError> {
    // The command does not wait again for a worker that did not answer.
    if let Err(ClientError::Timeout(waited)) = status {
        return Err(ClientError::Timeout(*waited));
    }
    let held = timeout(WORK_TIMEOUT, snapshot(socket)).await;
    let Some((digest, held)) = held.unwrap_or(Err(ClientError::Timeout(WORK_TIMEOUT)))? else {
        let what = "the worker has not yet read the tables".to_owned();
        return Ok(vec![Difference { rule_id: "(all)".to_owned(), what }]);
    };
    if digest == tables.digest() {
        return Ok(Vec::new());
    }
    let mut differences = Vec::new();
    let mut differ =
        |rule_id: &str, what: String| differences.push(Difference { rule_id: rule_id.to_owned(), what });
    for (row, _) in tables.rules() {
        let (id, row) = (row.rule_id().as_str(), &row.header);
        match held.rules.get(id) {
            None => differ(id, "the worker does not hold it".to_owned()),
            Some(rule) if rule.rule_version != row.rule_version => {
                differ(
                    id,
                    format!(
                        "the worker holds version {}, the row version {}",
                        rule.rule_version, row.rule_version
                    ),
                );
            }
            Some(rule)
                if rule.content_sha256 != row.content_sha256 || *rule.source_path != *row.source_path =>
            {
                differ(id, "the worker holds another text or path than the row".to_owned());
            }
            Some(_) => {}
        }
    }
    for id in held.rules.keys().filter(|id| tables.rule(id).is_none()) {
        differ(id, "the worker holds it, and no row does".to_owned());
    }
    let set = tables.states().map(|(id, _)| id.as_str());
    let stale = held.states.keys().map(String::as_str).filter(|id| tables.state(id) == RuleState::default());
    for id in set.chain(stale) {
        let (row, worker) = (tables.state(id), held.states.get(id).cloned().unwrap_or_default());
        if row != worker {
            differ(id, format!("the worker says {}, the table {}", in_words(&worker), in_words(&row)));
        }
    }
    Ok(differences)
}

fn in_words(state: &RuleState) -> String {
    match &state.set_by {
        Some(who) => format!("`{}` by {who}", state.state),
        None => format!("`{}`", state.state),
    }
}

/// The worker's digest and content; `None` before it has loaded rules.
async fn snapshot(socket: &Path) -> Result<Option<(CatalogueDigest, WorkerContent)>, ClientError> {
    let mut connection = SocketClient::connect(socket).await?;
    let status = connection.ask_within(Op::Status {}, REQUEST_TIMEOUT).await?;
    if status["digest"].is_null() {
        return Ok(None);
    }
    connection.send(Op::Subscribe(Subscribe { follow: false, ..Subscribe::default() })).await?;
    let mut held = WorkerContent::default();
    while let Some(line) = connection.next_soon().await? {
        match line.line {
            ServerLine::Rule(rule) => {
                let id = rule.rule_id.to_string();
                if rule.new_value.state != RuleState::default() {
                    held.states.insert(id.clone(), rule.new_value.state.clone());
                }
                held.rules.insert(id, rule);
            }
            ServerLine::State { rule_id, new_value } => {
                drop(held.states.insert(rule_id.to_string(), new_value))
            }
            ServerLine::SnapshotEnd { digest, .. } => return Ok(Some((digest, held))),
            ServerLine::Error { code, message, .. } => return Err(ClientError::Refused { code, message }),
            _ => {}
        }
    }
    Err(ClientError::Closed)
}

fn human(comparison: &Comparison) -> String {
    let Comparison { rules, states, digest, compared, left_out, unanswered, differences } = comparison;
    let mut text = String::new();
    if !differences.is_empty() {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["RULE", "WHAT DIFFERS"]);
        for difference in differences {
            table.add_row([sanitize(&difference.rule_id), sanitize(&difference.what)]);
        }
        text += &format!("{table}\n");
    }
    for place in left_out {
        text += &format!("not here: {}\n", sanitize(place));
    }
    for place in unanswered {
        text += &format!("no answer: {}\n", sanitize(place));
    }
    let outcome = match (differences.len(), &**compared) {
        (0, [_]) => "nothing to compare them with".to_owned(),
        (0, places) => format!("in sync: {}", places.join(", ")),
        (number, _) => count(number, "difference"),
    };
    let (rules, states) = (count(*rules, "rule"), count(*states, "state"));
    text + &format!("{rules}, {states}, digest {digest}: {outcome}\n")
}
