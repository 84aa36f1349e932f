//! `rulesyncd sync`: reconcile once.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, Outcome};
use crate::cli::{ConfigFlags, DatabaseFlags, RulesDirFlags, prepare_quietly, print};
use crate::client::{ClientError, Connection, PATIENCE};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::master::Summary;
use crate::master::plan::Plan;
use crate::master::reconcile::{DELETE_AFTER, Operator, ReconcileError, Reconciler};
use crate::master::scan::Extent;
use crate::paint::plain;
use crate::socket::WORK_TIMEOUT;
use crate::store::{Database, MasterSession, Scope};
use crate::telemetry;
use crate::wire::Op;

/// Make the table equal to the rules directory once, and exit
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd sync --dry-run --rules-dir config/rules")]
pub struct SyncArgs {
    /// Print what would be done, as a diff, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Carry out deletions above `master.max_delete`
    #[arg(long)]
    allow_mass_delete: bool,
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    rules_dir: RulesDirFlags,
    #[command(flatten)]
    database: DatabaseFlags,
}

pub(crate) fn run(args: SyncArgs) -> Outcome {
    let config = prepare_quietly(args.database.over(args.rules_dir.over(args.config.flags())))?;
    telemetry::export(&config.telemetry, "sync")?;
    super::require_directory(&config.master.rules_dir)?;
    super::block_on(async {
        let clock = Arc::new(SystemClock);
        let database = Database::open(&config.database, clock.clone()).await?;
        let mut reconciler = Reconciler::new(config.master.clone(), clock);
        if args.dry_run {
            return dry_run(&database, &mut reconciler, args.allow_mass_delete).await;
        }
        database.ensure_tables().await?;
        let summary = match database.try_lock().await? {
            Some(session) => {
                let bar = progress();
                let summary = reconcile(session, &mut reconciler, args.allow_mass_delete).await;
                bar.finish_and_clear();
                summary?
            }
            None => ask_the_master(&config, args.allow_mass_delete).await?,
        };
        print(&describe(&summary, ["added", "changed", "deleted"]))?;
        judge(&summary)
    })?
}

/// What is not as it should be afterwards is no success.
fn judge(summary: &Summary) -> Outcome {
    if summary.held > 0 || summary.broken > 0 || summary.conflicts > 0 || summary.refused > 0 {
        return Err(Failure::Wrong);
    }
    Ok(())
}

/// A sign of life on a terminal; nothing elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message("comparing the directory with the table");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

async fn reconcile(
    mut session: MasterSession,
    reconciler: &mut Reconciler,
    allow_mass_delete: bool,
) -> Result<Summary, Failure> {
    let lifted_by = allow_mass_delete.then(Operator::this_process);
    let mut total = Summary::default();
    loop {
        let report = reconciler
            .reconcile(&mut session, &Extent::All, lifted_by)
            .await
            .map_err(|error| Failure::Environment(error.into()))?;
        total = total.then(Summary::of(&report, reconciler));
        if report.look_again.is_empty() && report.changing.is_empty() {
            break;
        }
        // A file that is missing must stay so for a moment before its row goes.
        tokio::time::sleep(DELETE_AFTER).await;
    }
    drop(session);
    Ok(total)
}

async fn dry_run(database: &Database, reconciler: &mut Reconciler, allow_mass_delete: bool) -> Outcome {
    let rows = database.rows(Scope::All).await?;
    let report = reconciler
        .preview(&rows, allow_mass_delete)
        .await
        .map_err(|away| Failure::Environment(ReconcileError::from(away).into()))?;
    let summary = Summary::of(&report, reconciler);
    let invalid =
        reconciler.broken().map(|(path, why)| format!("! {}  {}\n", plain(path), plain(&why.sentence())));
    let held = reconciler.held().into_iter().flat_map(|held| &held.rule_ids);
    let held = held.map(|rule_id| format!("! {}  its deletion would be held back\n", plain(rule_id)));
    let text: String = std::iter::once(diff(&report.plan)).chain(invalid).chain(held).collect();
    print(&(text + &describe(&summary, ["to add", "to change", "to delete"])))?;
    judge(&summary)
}

/// The plan as a diff: `+` is added, `~` changed, `-` deleted, `!` in conflict.
fn diff(plan: &Plan) -> String {
    let mut text = String::new();
    for delete in &plan.deletes {
        let _ = writeln!(text, "- {}  {} is gone", plain(&delete.rule_id), plain(&delete.source_path));
    }
    for write in &plan.writes {
        let (id, version, path) =
            (plain(write.rule.rule_id.as_str()), write.rule.rule_version, plain(&write.path));
        let _ = match &write.replaces {
            None => writeln!(text, "+ {id}  version {version} from {path}"),
            Some(row) if row.rule_version == i64::from(version) => {
                writeln!(text, "~ {id}  version {version} from {path}, now by `{}`", plain(&row.updated_by))
            }
            Some(row) => writeln!(
                text,
                "~ {id}  version {} becomes {version} from {path}, now by `{}`",
                row.rule_version,
                plain(&row.updated_by)
            ),
        };
    }
    for conflict in &plan.conflicts {
        let _ = writeln!(
            text,
            "! {}  {} is not taken: {} holds the id",
            plain(conflict.rule_id.as_str()),
            plain(&conflict.path),
            plain(&conflict.held_by)
        );
    }
    text
}

/// What was done, or is to be done: the words are for rows that are new, changed and gone.
fn describe(summary: &Summary, [new, changed, gone]: [&str; 3]) -> String {
    let Summary { inserted, updated, deleted, unchanged, conflicts, broken, refused, held } = summary;
    let mut text = format!("{inserted} {new}, {updated} {changed}, {deleted} {gone}, {unchanged} unchanged");
    for (count, what) in
        [(broken, "rejected"), (conflicts, "in conflict"), (refused, "refused by the database")]
    {
        if *count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    if *held > 0 {
        text += &format!(", {held} deletions held back (--allow-mass-delete carries them out)");
    }
    text + "\n"
}

/// The lock is held: whoever holds it is asked to do the work, if it is a master of this host.
async fn ask_the_master(config: &Config, allow_mass_delete: bool) -> Result<Summary, Failure> {
    let socket = &config.master.socket;
    let answer = Connection::open(socket).await;
    let mut master = answer.map_err(|error| {
        Failure::Environment(anyhow!(
            "a master holds the lock, and none listens at {} ({error}); run this on the master's host",
            socket.display()
        ))
    })?;
    let failed = |error: ClientError| Failure::Environment(anyhow!("{}: {error}", socket.display()));
    // One that hangs is told at once; one that works may take the time that it gives itself.
    master.ask_within(Op::Status, PATIENCE).await.map_err(failed)?;
    let asked = master.ask_within(Op::Reconcile { allow_mass_delete }, WORK_TIMEOUT + PATIENCE).await;
    let result = asked.map_err(failed)?;
    serde_json::from_value(result).context("the master's answer is not one").map_err(Failure::Environment)
}
