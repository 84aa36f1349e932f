//! `rulesyncd verify`: compares directory, tables and worker, rule by rule.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::common::{self, Daemons};
use super::compare::{self, Discrepancy};
use super::release::{PublishedRelease, ReleaseSummary, states_of};
use super::{Failure, Outcome};
use crate::address::Address;
use crate::client::{self, ClientError};
use crate::clock::{SystemClock, Timestamp};
use crate::command::flags::{HostFlags, prepare_quietly};
use crate::command::print::{print, table};
use crate::config::Config;
use crate::master::reconcile::Reconciler;
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::{Catalogue, CatalogueDigest, Difference, Observation, RuleHeader, diff};
use crate::store::{Scope, load};
use crate::trust::{Policy, TrustState, TrustStatus};
use crate::wire::{Op, Subscribe};

/// A difference counts if it is still there after so many comparisons; before, the change may be in transit.
const LOOKS: u32 = 4;

/// How long to wait between two comparisons.
const BETWEEN: Duration = Duration::from_millis(500);

/// Compare the rules directory, the tables and this host's worker, rule by rule
///
/// What this host does not have is left out, and named. With trust, the tables and the worker are compared with the signed
/// release. Exit code 1, with a table, if something differs or a file is invalid; a change in transit has two seconds to
/// arrive. Exit code 3 if something did not answer within 5 s.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd verify --rules-dir /etc/rulesyncd/rules")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    host: HostFlags,
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
    /// The published release; `None` without trust, and if it does not verify.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<ReleaseSummary>,
    /// What was compared.
    compared: Vec<&'static str>,
    /// What this host does not have.
    left_out: Vec<String>,
    /// What this host has, but did not answer.
    unanswered: Vec<String>,
    differences: Vec<Discrepancy>,
}

pub(crate) fn run(args: VerifyArgs) -> Outcome {
    // What the command line names must exist; what is only configured need not.
    let flags = args.host.flags();
    let (needs_directory, needs_worker) = (flags.rules_dir.is_some(), flags.socket.is_some());
    let config = prepare_quietly(flags)?;
    let comparison = super::block_on(super::Threads::Database, async {
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

/// What the worker should serve, and what it is called in a difference.
struct Expected {
    source: &'static str,
    content: Observation,
    digest: CatalogueDigest,
    /// The version of the release, under trust.
    version: Option<String>,
}

async fn compare_all(config: &Config, daemons: &Daemons, needs_worker: bool) -> Result<Comparison, Failure> {
    let clock = Arc::new(SystemClock);
    let policy = common::load_policy(config)?;
    let (tables, now, published, mut comparison) = match common::directory_store(config, clock.clone()) {
        Some(store) => {
            let (files, now) = load(&store).await?;
            let published = PublishedRelease::of_directory(config, policy.as_ref()).await;
            let comparison = Comparison::of(&files, "directory");
            (files, now, published, comparison)
        }
        None => {
            let database = common::open_database(config, clock).await?;
            common::ping(&database).await?;
            let (tables, now) = load(&database).await?;
            let published = PublishedRelease::of_database(&database, policy.as_ref()).await?;
            let mut comparison = Comparison::of(&tables, "tables");
            let rows = database.rows(Scope::All).await?;
            comparison.compare_directory(&rows, config, policy, daemons).await;
            (tables, now, published, comparison)
        }
    };
    let is_directory = matches!(config.database.address, Address::Directory(_));
    for row in tables.quarantined() {
        let what =
            format!("{} is quarantined: {}", if is_directory { "the file" } else { "the row" }, row.reason);
        comparison.differences.push(Discrepancy::new(row.key, what));
    }
    let expected = comparison.expected(&tables, now, published);
    match against_worker(&config.worker.socket, &daemons.worker, expected.as_ref()).await {
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
            release: None,
            compared: vec![place],
            left_out: Vec::new(),
            unanswered: Vec::new(),
            differences: Vec::new(),
        }
    }

    /// What the worker should serve: the tables, or under trust the release that they hold, with which they are compared.
    /// `None` if that does not verify.
    fn expected(
        &mut self,
        tables: &Catalogue,
        now: Timestamp,
        published: Option<Result<PublishedRelease, String>>,
    ) -> Option<Expected> {
        let release = match published {
            None => {
                let (content, digest) = (Observation::from(tables), tables.digest());
                return Some(Expected { source: "row", content, digest, version: None });
            }
            Some(Err(why)) => {
                let what = format!("the published release does not verify: {why}");
                self.differences.push(Discrepancy::new("(all)", what));
                return None;
            }
            Some(Ok(release)) => release,
        };
        let content = release.served(tables, now);
        for (rule_id, difference) in diff(&content, &Observation::from(tables)) {
            let what = match difference {
                Difference::Rule(Some(_), None) => "the release lists it, and it is missing",
                Difference::Rule(None, _) => "the release does not list it",
                Difference::Rule(Some(_), Some(_)) => "it is not what the release lists",
                Difference::State(..) => continue,
            };
            self.differences.push(Discrepancy::new(rule_id, what));
        }
        for (rule_id, why) in release.without_effect(&states_of(tables), now) {
            self.differences.push(Discrepancy::new(rule_id, format!("its state has no effect: {why}")));
        }
        let (digest, version) = (content.digest(), Some(release.version()));
        (self.rules, self.states, self.digest) = (content.rules.len(), content.states.len(), digest);
        self.release = Some(release.summary());
        Some(Expected { source: "release", content, digest, version })
    }

    async fn compare_directory(
        &mut self,
        rows: &[RuleHeader],
        config: &Config,
        policy: Option<Policy>,
        daemons: &Daemons,
    ) {
        let mut reconciler = Reconciler::new(config.master.clone(), Arc::new(SystemClock));
        reconciler.publish_releases(policy);
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
                let held_back = reconciler.release().and_then(|release| release.held_back);
                self.differences.extend(held_back.map(|why| Discrepancy::new("(all)", why)));
            }
            Err(error) if daemons.keep_rules(config) => {
                self.unanswered.push(format!("the rules directory: {error}"));
            }
            Err(error) => self.left_out.push(format!("the rules directory: {error}")),
        }
    }
}

/// `None` for `expected`: what the worker should serve is not known.
async fn against_worker(
    socket: &Path,
    status: &Result<Value, ClientError>,
    expected: Option<&Expected>,
) -> Result<Vec<Discrepancy>, ClientError> {
    // The command does not wait again for a worker that did not answer.
    if let Err(ClientError::Timeout(waited)) = status {
        return Err(ClientError::Timeout(*waited));
    }
    let status = client::ask(socket, Op::Status {}).await?;
    let trust: Option<TrustStatus> =
        status.get("trust").and_then(|trust| serde_json::from_value(trust.clone()).ok());
    let mut found = Vec::new();
    if let Some(trust) = trust.as_ref().filter(|trust| trust.state != TrustState::Ok) {
        found.push(Discrepancy::new("(all)", format!("the worker: {}", trust.sentence())));
    }
    if status["digest"].is_null() {
        if found.is_empty() {
            found.push(Discrepancy::new("(all)", "the worker has not yet read the tables"));
        }
        return Ok(found);
    }
    let Some(Expected { source, content, digest, version }) = expected else { return Ok(found) };
    let served_version = trust.as_ref().and_then(|trust| trust.version.as_ref());
    match (version, served_version) {
        (Some(published), Some(served)) if published != served => {
            let what = format!("the worker serves the release of {served}, and {published} is published");
            found.push(Discrepancy::new("(all)", what));
            return Ok(found);
        }
        (Some(_), None) => {
            found.push(Discrepancy::new(
                "(all)",
                "the worker serves the rows without verifying them: `trust` is off there",
            ));
        }
        _ => {}
    }
    let (served_digest, served) =
        compare::worker(socket, Subscribe { follow: false, ..Subscribe::default() }).await?;
    if served_digest != *digest {
        found.extend(compare::with_worker(source, content, &served));
    }
    Ok(found)
}

fn human(comparison: &Comparison) -> String {
    let Comparison { rules, states, digest, release, compared, left_out, unanswered, differences } =
        comparison;
    let rows = differences.iter().map(|difference| [&difference.rule_id, &difference.what]);
    let mut text = table(["RULE", "WHAT DIFFERS"], rows);
    for place in left_out {
        text += &format!("not here: {}\n", sanitize(place));
    }
    for place in unanswered {
        text += &format!("no answer: {}\n", sanitize(place));
    }
    if let Some(release) = release {
        text += &format!("release {}\n", sanitize(&release.sentence()));
    }
    let outcome = match (differences.len(), &**compared) {
        (0, [_]) => "nothing to compare them with".to_owned(),
        (0, places) => format!("in sync: {}", places.join(", ")),
        (number, _) => count(number, "difference"),
    };
    let (rules, states) = (count(*rules, "rule"), count(*states, "state"));
    text + &format!("{rules}, {states}, digest {digest}: {outcome}\n")
}
