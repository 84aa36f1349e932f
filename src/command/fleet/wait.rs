//! `--wait`: returns when every host has the change.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use super::source::Source;
use crate::clock::humanize;
use crate::command::print::{print, print_error};
use crate::command::{Failure, Outcome};
use crate::config::{Config, duration};
use crate::fleet::{Look, Missing, Wait, Waiting, hosts};
use crate::plural::{count, some_of};
use crate::rule::{RuleId, RuleState};
use crate::store::{Database, StoreError};

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(200);

/// How many hosts a message names.
const NAMED: usize = 20;

/// Flags of the commands that can wait for the fleet.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitFlags {
    /// Return when every host has the change, and fail with exit code 1 after this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = duration)]
    wait: Option<Duration>,
    /// Wait for the subscribers that acknowledge, too
    #[arg(long, requires = "wait")]
    acknowledged: bool,
    /// Count silent hosts, and those that cannot read the version, too
    #[arg(long, requires = "wait")]
    strict: bool,
    /// Ask the workers at these sockets instead of reading their reports; on SQLite by default this host's worker
    #[arg(long = "socket", value_name = "PATH")]
    pub(super) sockets: Vec<PathBuf>,
}

/// What was written.
#[derive(Debug)]
pub(crate) enum Written {
    /// The states of these rules; `None` for one that was cleared.
    States(Vec<(RuleId, Option<RuleState>)>),
    /// Rules.
    Rules,
    /// Nothing: the current version is waited for.
    Nothing,
}

impl WaitFlags {
    /// Whether `--wait` is given.
    pub(crate) const fn is_given(&self) -> bool {
        self.wait.is_some()
    }

    /// Refuses `--wait` before anything is written, where the write could not be waited for.
    ///
    /// # Errors
    /// [`Failure::Usage`] without the right to raise the version or to read the reports.
    pub(crate) async fn before(&self, config: &Config, database: &Database) -> Outcome {
        if self.wait.is_none() {
            return Ok(());
        }
        if let Some(problem) = database.why_no_version().await? {
            return Err(Failure::Usage(anyhow!("--wait cannot work, and nothing was written: {problem}")));
        }
        match Source::new(database.clone(), config, &self.sockets).look().await {
            Ok(_) => Ok(()),
            Err(error @ StoreError::Refused { .. }) => {
                Err(Failure::Usage(anyhow!("--wait cannot work, and nothing was written: {error}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until every host has what was written.
    ///
    /// # Errors
    /// [`Failure::CheckFailed`], after who lacks it was said on standard error.
    pub(crate) async fn after(
        &self,
        config: &Config,
        database: &Database,
        written: Written,
        is_told: bool,
    ) -> Outcome {
        let Some(limit) = self.wait else { return Ok(()) };
        let begun = Instant::now();
        let source = Source::new(database.clone(), config, &self.sockets);
        // Read after the commit, so it is not lower than the write's own version.
        let start = source.look().await?;
        let version = start.version.ok_or_else(|| {
            Failure::Environment(anyhow!("rulesyncd_version has no row; `rulesyncd sync` creates it"))
        })?;
        let waiting = Waiting::new(version, &start, self.acknowledged, self.strict);
        let progress = progress();
        let (look, wait) = until_done(&source, &waiting, start, begun + limit, &progress).await;
        progress.finish_and_clear();
        let mut has_failed = false;
        if !wait.passed_over.is_empty() {
            print_error(&anyhow!("not waited for: {}", names(&wait.passed_over)));
        }
        if !wait.is_done() {
            let (lack, all) = (wait.missing.len(), count(wait.counted, "host"));
            print_error(&anyhow!(
                "after {}, {lack} of {all} lack the change: {}",
                humanize(limit),
                names(&wait.missing)
            ));
            has_failed = true;
        } else if wait.counted == 0 {
            print_error(&anyhow!("no host reports, so nobody knows who has the change"));
            has_failed = true;
        }
        let quarantining = quarantining(&look, &written);
        if !quarantining.is_empty() {
            print_error(&anyhow!("the change is quarantined at {}", names(&quarantining)));
            has_failed = true;
        }
        let latest = source.look().await?.version.unwrap_or_default();
        if latest < version || !still_written(database, &written, latest > version).await? {
            print_error(&anyhow!("the database lost the change, as in a failover: write it again"));
            has_failed = true;
        }
        if has_failed {
            return Err(Failure::CheckFailed);
        }
        if is_told {
            let who = match wait.counted {
                1 => "the host has".to_owned(),
                hosts => format!("all {hosts} hosts have"),
            };
            print(&format!("{who} it, after {}\n", humanize(begun.elapsed())))?;
        }
        Ok(())
    }
}

async fn until_done(
    source: &Source,
    waiting: &Waiting,
    start: Look,
    deadline: Instant,
    progress: &ProgressBar,
) -> (Look, Wait) {
    let mut look = start;
    loop {
        let wait = waiting.judge(&look);
        if wait.is_done() || Instant::now() >= deadline {
            return (look, wait);
        }
        let done = wait.counted - wait.missing.len();
        progress.set_message(format!("{done} of {}", count(wait.counted, "host")));
        sleep(INTERVAL.min(deadline.duration_since(Instant::now()))).await;
        // The database may be unavailable for a moment.
        match source.look().await {
            Ok(found) => look = found,
            Err(error) => tracing::debug!(%error, "the reports are not read"),
        }
    }
}

/// The hosts that quarantined what was written.
fn quarantining(look: &Look, written: &Written) -> Vec<Missing> {
    let is_concerned = |host: &crate::fleet::Host| {
        let report = &host.worker.report;
        match written {
            Written::Nothing => false,
            Written::Rules => report.quarantined > 0,
            Written::States(states) => states.iter().any(|(id, _)| report.may_quarantine(id.as_str())),
        }
    };
    let hosts = hosts(&look.workers, look.now).into_iter().filter(|host| !host.worker.is_silent(look.now));
    let named = hosts.filter(is_concerned);
    named.map(|host| Missing { host: host.name, why: host.worker.report.quarantined_ids }).collect()
}

/// Whether the states are still what was written, or were written or removed later.
async fn still_written(database: &Database, written: &Written, is_newer: bool) -> Result<bool, StoreError> {
    let Written::States(states) = written else { return Ok(true) };
    let rows = database.states().await?;
    let is_there = |(rule_id, state): &(RuleId, Option<RuleState>)| {
        let Some(state) = state else { return true };
        // Who removes a state raises the version.
        let row = rows.iter().find(|row| row.rule_id == rule_id.as_str());
        row.map_or(is_newer, |row| row.set_at >= state.set_at)
    };
    Ok(states.iter().all(is_there))
}

/// A progress bar on a terminal; nothing elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn names(hosts: &[Missing]) -> String {
    some_of(hosts.iter().map(|missing| format!("{} ({})", missing.host, missing.why)), NAMED, ", ")
}
