//! `--wait`: returns when every host has the change.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use super::effect;
use super::source::Source;
use super::written::{Written, not_followed};
use crate::clock::humanize;
use crate::command::common::load_policy;
use crate::command::print::{print_done, print_error, progress};
use crate::command::{Failure, Outcome};
use crate::config::{Config, duration, time};
use crate::fleet::{Look, Missing, Waiting};
use crate::lifecycle::Interrupt;
use crate::paint::sanitize;
use crate::plural::{count, some_of};
use crate::store::{Database, StoreError};

/// How often to look whether there is anything new.
const INTERVAL: Duration = Duration::from_millis(200);

/// How often to read all reports although as many as before lack the change: one may be its successor's by now.
const REREAD: Duration = Duration::from_secs(1);

/// How many hosts a message names.
const NAMED: usize = 20;

/// Flags of the commands that can wait for the fleet.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitFlags {
    /// Return when every host has the change, and fail with exit code 1 after this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = time)]
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

/// What to say of `--wait 30s`, which would be read as `--wait` and, say, the state `30s`; `None` if that is not there.
pub(crate) fn spaced_duration(arguments: impl IntoIterator<Item = String>) -> Option<String> {
    let mut arguments = arguments.into_iter().skip_while(|argument| argument != "--wait");
    let value = arguments.nth(1).filter(|value| duration(value).is_ok())?;
    Some(format!("--wait {value}: write --wait={value}, since --wait alone has a meaning, too"))
}

impl WaitFlags {
    /// Whether `--wait` is given.
    pub(crate) const fn is_given(&self) -> bool {
        self.wait.is_some()
    }

    /// Refuses `--wait` before anything is written, where the write could not be waited for. Returns the version before
    /// the write: that of the write is higher. `None` without `--wait`.
    ///
    /// # Errors
    /// [`Failure::Usage`] without the right to raise the version or to read the reports.
    pub(crate) async fn before(&self, config: &Config, database: &Database) -> Result<Option<u64>, Failure> {
        if self.wait.is_none() {
            return Ok(None);
        }
        if let Some(problem) = database.why_no_version().await? {
            return Err(usage!("--wait cannot work, and nothing was written: {problem}"));
        }
        match self.source(config, database).look().await {
            Ok(Look { version: None, .. }) => Err(usage!(
                "--wait cannot work, and nothing was written: rulesyncd_version has no row; `rulesyncd sync` creates it"
            )),
            Ok(look) => Ok(look.version),
            Err(error @ StoreError::Refused { .. }) => {
                Err(usage!("--wait cannot work, and nothing was written: {error}"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn source(&self, config: &Config, database: &Database) -> Source {
        Source::new(database.clone(), config, &self.sockets)
    }

    /// Waits until every host has what was written; `before` is what [`WaitFlags::before`] returned.
    ///
    /// # Errors
    /// [`Failure::CheckFailed`], after who lacks it was said on standard error.
    pub(crate) async fn after(
        &self,
        config: &Config,
        database: &Database,
        written: Written,
        before: Option<u64>,
        prints: bool,
    ) -> Outcome {
        let Some(limit) = self.wait else { return Ok(()) };
        let begun = Instant::now();
        let mut source = self.source(config, database);
        // Read after the commit, so it is not lower than the write's own version.
        let start =
            source.look().await.map_err(|error| written.unknown("whether every host has it", error))?;
        let version = start
            .version
            .ok_or_else(|| environment!("rulesyncd_version has no row; `rulesyncd sync` creates it"))?;
        let waiting = Waiting::new(version, &start, self.acknowledged, self.strict);
        let mut look = start;
        let (progress, interrupt) = (progress(), Interrupt::hold_back()?);
        let signal = tokio::select! {
            () = until_done(&mut source, &waiting, &mut look, begun + limit, &progress) => None,
            signal = interrupt.received() => Some(signal),
        };
        drop(interrupt);
        progress.finish_and_clear();
        let wait = waiting.check(&look);
        let mut has_failed = false;
        if !wait.passed_over.is_empty() {
            print_error(&anyhow!("not waited for: {}", names(&wait.passed_over)));
        }
        let lacking = format!(
            "{} of {} {} the change: {}",
            wait.missing.len(),
            count(wait.counted, "host"),
            if wait.missing.len() == 1 { "lacks" } else { "lack" },
            names(&wait.missing)
        );
        if let Some(signal) = signal.filter(|_| !wait.is_done()) {
            let stays = if matches!(written, Written::Nothing) { "" } else { "what was written stays, and " };
            print_error(&anyhow!("interrupted after {}: {stays}{lacking}", humanize(begun.elapsed())));
            return Err(Failure::Interrupted(signal));
        }
        if !wait.is_done() {
            print_error(&anyhow!("after {}, {lacking}", humanize(limit)));
            has_failed = true;
        } else if wait.counted == 0 {
            print_error(&anyhow!("no host reports, so nobody knows who has the change"));
            has_failed = true;
        }
        let quarantining = written.quarantining(&look);
        if !quarantining.is_empty() {
            print_error(&anyhow!("the change is quarantined at {}", names(&quarantining)));
            has_failed = true;
        }
        if matches!(&written, Written::Rules(rules) if !rules.is_empty()) {
            let full = source.full(load_policy(config)?.as_ref()).await;
            let full = full.map_err(|error| written.unknown("whether every host follows it", error))?;
            let not_followed = not_followed(&full);
            if !not_followed.is_empty() {
                print_error(&anyhow!(
                    "not followed at {}: see `rulesyncd status` there",
                    names(&not_followed)
                ));
                has_failed = true;
            }
        }
        let lost = |error| written.unknown("whether the database still has it", error);
        if let Some(problem) = effect::problem(config, database, &written, &look).await? {
            print_error(&anyhow!(problem));
            has_failed = true;
        }
        // In this order: who removes a row that is missing here has raised the version that is read next.
        let kept = written.kept(database).await.map_err(lost)?;
        let latest = source.look().await.map_err(lost)?.version.unwrap_or_default();
        let own = before.map_or(version, |before| before + 1);
        if latest < version || kept.is_lost(latest > own) {
            print_error(&anyhow!("the database lost the change, as in a failover: write it again"));
            has_failed = true;
        }
        if has_failed {
            return Err(Failure::CheckFailed);
        }
        if prints {
            let who = match wait.counted {
                1 => "the host has".to_owned(),
                hosts => format!("all {hosts} hosts have"),
            };
            let done = format!("{who} it, after {}\n", humanize(begun.elapsed()));
            print_done(&done, &done)?;
        }
        Ok(())
    }
}

/// Looks until every host has the change, or the deadline is reached; `look` is the last look.
async fn until_done(
    source: &mut Source,
    waiting: &Waiting,
    look: &mut Look,
    deadline: Instant,
    progress: &ProgressBar,
) {
    loop {
        let wait = waiting.check(look);
        if wait.is_done() || Instant::now() >= deadline {
            return;
        }
        let done = wait.counted - wait.missing.len();
        progress.set_message(format!("{done} of {}", count(wait.counted, "host")));
        // These reports lack the change, and are not waited for.
        let ignored = waiting.lacking(look).saturating_sub(wait.missing.len());
        until_news(source, waiting, ignored, deadline).await;
        // The database may be unavailable for a moment.
        match source.look().await {
            Ok(found) => *look = found,
            Err(error) => tracing::debug!(%error, "the reports are not read"),
        }
    }
}

/// Waits until it is worth while to read all reports: no more than `ignored` of them lack the change, or some time has
/// passed.
async fn until_news(source: &mut Source, waiting: &Waiting, ignored: usize, deadline: Instant) {
    let reread_at = deadline.min(Instant::now() + REREAD);
    loop {
        sleep_until(reread_at.min(Instant::now() + INTERVAL)).await;
        let lacking = source.lacking(waiting.version, waiting.acknowledged).await;
        let has_news = match lacking {
            Ok(lacking) => lacking.is_none_or(|lacking| lacking <= ignored),
            Err(_) => false,
        };
        if has_news || Instant::now() >= reread_at {
            return;
        }
    }
}

fn names(hosts: &[Missing]) -> String {
    let names = hosts.iter().map(|Missing { host, why }| format!("{} ({})", sanitize(host), sanitize(why)));
    some_of(names, NAMED, ", ")
}
