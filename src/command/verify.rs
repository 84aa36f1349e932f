//! `rulesyncd verify`: compares directory, tables and worker, rule by rule.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::common::{self, Daemons};
use super::compare::{self, Found};
use super::{Failure, Outcome};
use crate::address::Address;
use crate::client::{self, ClientError};
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, RulesDirFlags, SocketFlags, prepare_quietly};
use crate::command::print::print;
use crate::config::Config;
use crate::master::reconcile::Reconciler;
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::{Catalogue, CatalogueDigest, Observation, RuleHeader};
use crate::store::{Follow as _, RuleStore, Scope, StoreError};
use crate::wire::{Op, Subscribe};

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
    differences: Vec<Found>,
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
        let mut comparison = compare_all(&config, &daemons, needs_worker).await?;
        for _ in 1..LOOKS {
            if comparison.differences.is_empty() {
                break;
            }
            sleep(BETWEEN).await;
            comparison = compare_all(&config, &daemons, needs_worker).await?;
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

async fn compare_all(config: &Config, daemons: &Daemons, needs_worker: bool) -> Result<Comparison, Failure> {
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
        comparison.differences.push(Found::new(row.key, what));
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
                self.differences.extend(compare::files_with_rows(&report.plan));
                self.differences.extend(compare::conflicts(&report.plan));
                self.differences.extend(compare::invalid_files(reconciler.scanner().invalid(), rows));
            }
            Err(away) if daemons.keep_rules(config) => {
                self.unanswered.push(format!("the rules directory: {away}"));
            }
            Err(away) => self.left_out.push(format!("the rules directory: {away}")),
        }
    }
}

/// The content of a store, read as a worker reads it.
async fn catalogue(store: &impl RuleStore) -> Result<Catalogue, StoreError> {
    let delta = store.follow().poll(&Arc::<Catalogue>::default()).await?;
    let mut catalogue = Catalogue::default();
    catalogue.apply(delta);
    Ok(catalogue)
}

async fn against_worker(
    socket: &Path,
    status: &Result<Value, ClientError>,
    tables: &Catalogue,
) -> Result<Vec<Found>, ClientError> {
    // The command does not wait again for a worker that did not answer.
    if let Err(ClientError::Timeout(waited)) = status {
        return Err(ClientError::Timeout(*waited));
    }
    if client::ask(socket, Op::Status {}).await?["digest"].is_null() {
        return Ok(vec![Found::new("(all)", "the worker has not yet read the tables")]);
    }
    let (digest, served) =
        compare::worker(socket, Subscribe { follow: false, ..Subscribe::default() }).await?;
    if digest == tables.digest() {
        return Ok(Vec::new());
    }
    Ok(compare::rows_with_worker(&Observation::from(tables), &served))
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
