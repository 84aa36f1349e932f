//! `rulesyncd fleet`: which hosts have every change.

mod page;
mod picture;
mod render;
mod source;
pub(super) mod wait;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use tokio::time::sleep;

use self::source::Source;
pub(super) use self::wait::{WaitFlags, Written};
use super::common::{choose_database, open_database, trust};
use super::{Failure, Outcome};
use crate::address::Address;
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, prepare_quietly};
use crate::command::print::{print, print_error};
use crate::fleet::{Host, HostState, Look, hosts, judge};
use crate::paint::sanitize;
use crate::plural::count;
use crate::store::Database;
use crate::trust::Policy;

/// How long after the first look the second one follows: a change or an expiry on its way has arrived by then.
const BETWEEN: Duration = Duration::from_secs(3);

/// Show which hosts have every change
///
/// Compares what the workers report with the tables. What is not in sync is looked at a second time, 3 s later. Exit
/// code 1 if a host is not in sync.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rulesyncd fleet --expect 50\n  rulesyncd fleet --wait=30s --acknowledged\n  \
                        rulesyncd fleet --html fleet.html\n  \
                        rulesyncd fleet forget hp-ams-02"
)]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    /// Print one JSON object for each look
    #[arg(long)]
    json: bool,
    /// Fewer hosts than this are a finding: a host that never reported cannot be named
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
    /// Print again whenever something changes
    #[arg(long)]
    watch: bool,
    /// Write one HTML page, too, that needs no network and no script: hosts by state, rules in the matrices of ATT&CK,
    /// and the changes a day that this host's worker recorded
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    html: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Forget a host that is gone, at once
    Forget {
        /// The host's name, or its worker's id
        #[arg(value_name = "HOST")]
        host: String,
    },
}

/// What one run shows.
struct Shown {
    look: Look,
    hosts: Vec<(Host, HostState)>,
}

impl Shown {
    fn is_in_sync(&self) -> bool {
        self.hosts.iter().all(|(_, state)| state.is_in_sync())
    }

    fn of(first: &Look, look: Look) -> Self {
        let judged = hosts(&look.workers, look.now).into_iter().map(|host| {
            let state = judge(&host, first, &look);
            (host, state)
        });
        Self { hosts: judged.collect(), look }
    }
}

pub(crate) fn run(args: FleetArgs) -> Outcome {
    let config = prepare_quietly(args.database.apply_to(args.config.flags()))?;
    super::block_on(async {
        let config = choose_database(config).await?;
        if matches!(config.database.address, Address::Directory(_)) {
            return Err(Failure::Usage(anyhow!(
                "a directory has no fleet: it is one host, and `rulesyncd verify` compares it with its worker"
            )));
        }
        let policy = trust(&config)?;
        let database = open_database(&config, std::sync::Arc::new(SystemClock)).await?;
        if let Some(Action::Forget { host }) = args.action {
            return forget(&database, &host).await;
        }
        let waited = args.wait.after(&config, &database, Written::Nothing, !args.json).await;
        let source = Source::new(database, &config, &args.wait.sockets);
        let mut shown = look(&source, policy.as_ref()).await?;
        print(&render::render(&shown, args.json))?;
        if let Some(path) = &args.html {
            picture::write(path, &shown, &source.rules(policy.as_ref()).await?, &config)?;
        }
        loop {
            if !args.watch {
                break;
            }
            sleep(Duration::from_secs(1)).await;
            let first = shown.look.clone();
            let next = Shown::of(&first, source.full(policy.as_ref()).await?);
            let is_new = |a: &Shown, b: &Shown| {
                a.look.version != b.look.version
                    || a.hosts
                        .iter()
                        .map(|(host, state)| (&host.name, state.word()))
                        .ne(b.hosts.iter().map(|(host, state)| (&host.name, state.word())))
            };
            if is_new(&shown, &next) {
                print(&format!("\n{}", render::render(&next, args.json)))?;
            }
            shown = next;
        }
        waited?;
        if let Some(expected) = args.expect.filter(|expected| shown.hosts.len() < *expected) {
            let found = count(shown.hosts.len(), "host");
            print_error(&anyhow!("{found} reported, and {expected} were expected"));
            return Err(Failure::CheckFailed);
        }
        if shown.is_in_sync() { Ok(()) } else { Err(Failure::CheckFailed) }
    })?
}

/// Looks once, and a second time unless all are in sync.
async fn look(source: &Source, policy: Option<&Policy>) -> Result<Shown, Failure> {
    let first = source.full(policy).await?;
    let shown = Shown::of(&first, first.clone());
    if shown.is_in_sync() {
        return Ok(shown);
    }
    sleep(BETWEEN).await;
    Ok(Shown::of(&first, source.full(policy).await?))
}

async fn forget(database: &Database, host: &str) -> Outcome {
    if !database.has_reports() {
        return Err(Failure::Usage(anyhow!(
            "workers do not report to SQLite, so there is nothing to forget"
        )));
    }
    let workers = database.reports().await?.workers;
    let named = workers.iter().filter(|row| row.report.host == host || row.report.worker_id == host);
    let epochs: Vec<String> = named.map(|row| row.report.epoch.clone()).collect();
    if epochs.is_empty() {
        return Err(Failure::Usage(anyhow!(
            "no host {host} has reported; `rulesyncd fleet` lists those that have"
        )));
    }
    let forgotten = database.forget_workers(epochs).await?;
    let reports = count(forgotten, "report");
    Ok(print(&format!("{} is forgotten: {reports} deleted\n", sanitize(host)))?)
}
