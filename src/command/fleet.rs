//! `rulesyncd fleet`: which hosts have every change.

mod effect;
mod page;
mod render;
mod source;
pub(super) mod wait;
mod written;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use tokio::time::sleep;

use self::source::Source;
pub(super) use self::wait::WaitFlags;
pub(crate) use self::wait::spaced_duration;
pub(super) use self::written::Written;
use super::common::{choose_database, load_policy, open_database};
use super::{Failure, Outcome, history};
use crate::address::Address;
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, prepare_quietly};
use crate::command::print::{print, print_done, print_error, redraw, write_stdout};
use crate::fleet::{Host, HostState, Look, hosts, named, state_of};
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::attack::Attack;
use crate::rulefile;
use crate::store::Database;
use crate::trust::Policy;

/// How long after the first look the second one follows: a change or an expiry on its way has arrived by then.
const BETWEEN: Duration = Duration::from_secs(3);

/// How long after the second look the third one follows, which is for hosts that have not reported since the first: after
/// several changes in a row a worker reports every 5 s.
const UNTIL_REPORTED: Duration = Duration::from_secs(4);

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Show which hosts have every change
///
/// Compares what the workers report with the tables. What is not in sync is looked at a second time, 3 s later, and a
/// third time if it has not reported since. Exit code 1 if a host is not in sync.
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
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail if fewer hosts than this have reported: a host that never did cannot be named
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
    /// Go on until it is interrupted: redraw each second on a terminal, and print again elsewhere when something changes
    #[arg(long, conflicts_with_all = ["wait", "expect"])]
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
        /// The host as `rulesyncd fleet` shows it, its name, or its worker's id
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

    /// Whether a host seems to lack something, and has not reported since the first look.
    fn lacks_reports_since(&self, first: &Look) -> bool {
        self.hosts.iter().any(|(host, state)| {
            !matches!(state, HostState::InSync | HostState::Silent { .. })
                && host.worker.reported_at <= first.now
        })
    }

    /// Whether the version, the hosts or the state of one of them differ.
    fn differs_from(&self, before: &Self) -> bool {
        let states = |shown: &Self| -> Vec<(String, &'static str)> {
            shown.hosts.iter().map(|(host, state)| (host.name.clone(), state.word())).collect()
        };
        self.look.version != before.look.version || states(self) != states(before)
    }

    fn of(first: &Look, look: Look) -> Self {
        let judged = hosts(&look.workers, look.now).into_iter().map(|host| {
            let state = state_of(&host, first, &look);
            (host, state)
        });
        Self { hosts: judged.collect(), look }
    }
}

pub(crate) fn run(args: FleetArgs) -> Outcome {
    let config = prepare_quietly(args.database.apply_to(args.config.flags()))?;
    super::block_on(super::Threads::Database, async {
        let config = choose_database(config).await?;
        if matches!(config.database.address, Address::Directory(_)) {
            return Err(usage!(
                "a directory has no fleet: it is one host, and `rulesyncd verify` compares it with its worker"
            ));
        }
        let policy = load_policy(&config)?;
        let database = open_database(&config, std::sync::Arc::new(SystemClock)).await?;
        if let Some(Action::Forget { host }) = args.action {
            return forget(&database, &host).await;
        }
        let waited = args.wait.after(&config, &database, Written::Nothing, None, !args.json).await;
        if matches!(waited, Err(Failure::Interrupted(_))) {
            return waited;
        }
        let mut source = Source::new(database, &config, &args.wait.sockets);
        let shown = look(&mut source, policy.as_ref()).await?;
        let text = render::render(&shown, args.json);
        if args.watch { write_stdout(&text) } else { print(&text) }?;
        if let Some(path) = &args.html {
            let (rules, changes) = (source.rules(policy.as_ref()).await?, history::changes_by_day(&config));
            let html = page::page(&shown, &rules, changes.as_ref(), Attack::built_in());
            rulefile::publish_at(path, html.as_bytes())
                .map_err(|error| environment!("{} cannot be written: {error}", path.display()))?;
        }
        if args.watch {
            return watch(&mut source, policy.as_ref(), shown, args.json).await;
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

/// Looks once, a second time unless all are in sync, and a third time if one that is not has not reported since.
async fn look(source: &mut Source, policy: Option<&Policy>) -> Result<Shown, Failure> {
    let first = source.full(policy).await?;
    let mut shown = Shown::of(&first, first.clone());
    for wait in [BETWEEN, UNTIL_REPORTED] {
        if shown.is_in_sync() || (wait == UNTIL_REPORTED && !shown.lacks_reports_since(&first)) {
            break;
        }
        sleep(wait).await;
        shown = Shown::of(&first, source.full(policy).await?);
    }
    Ok(shown)
}

/// Shows each second what is new, until nobody reads it any more.
async fn watch(source: &mut Source, policy: Option<&Policy>, mut shown: Shown, as_json: bool) -> Outcome {
    let is_terminal = io::stdout().is_terminal() && !as_json;
    if is_terminal {
        // The first picture begins at the top, too.
        redraw(&render::render(&shown, as_json))?;
    }
    let mut said = String::new();
    loop {
        sleep(WATCH_INTERVAL).await;
        let next = match source.next(policy, &shown.look).await {
            Ok(look) => Shown::of(&shown.look, look),
            // The database may be unavailable for a while.
            Err(error) => {
                if is_terminal {
                    // Below the last picture; and a terminal that is gone ends this.
                    redraw(&render::render(&shown, as_json))?;
                }
                let before = std::mem::replace(&mut said, error.to_string());
                if is_terminal || before != said {
                    print_error(&error.into());
                }
                continue;
            }
        };
        said.clear();
        if is_terminal || next.differs_from(&shown) {
            redraw(&render::render(&next, as_json))?;
        }
        shown = next;
    }
}

async fn forget(database: &Database, host: &str) -> Outcome {
    if !database.has_reports() {
        return Err(usage!("workers do not report to SQLite, so there is nothing to forget"));
    }
    let look = database.fleet_reader().look().await?;
    let epochs = named(&look.workers, look.now, host);
    if epochs.is_empty() {
        return Err(usage!(
            "no host {} has reported; `rulesyncd fleet` lists those that have",
            sanitize(host)
        ));
    }
    let forgotten = database.forget_workers(epochs).await?;
    let reports = count(forgotten, "report");
    let done = format!("{} is forgotten: {reports} deleted\n", sanitize(host));
    print_done(&done, &done)
}
