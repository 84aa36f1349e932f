//! `rulesyncd sync`: reconcile once.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::common::{Daemons, for_writing, load_policy, open_database};
use super::fleet::{WaitFlags, Written};
use super::{Failure, Outcome};
use crate::address::Address;
use crate::client::{ClientError, SocketClient};
use crate::clock::SystemClock;
use crate::command::flags::{MasterFlags, prepare_quietly};
use crate::command::print::{print, print_done, progress};
use crate::config::Config;
use crate::directory::{DELETE_AFTER, ScanScope};
use crate::master::Operator;
use crate::master::reconcile::{ReconcileError, Reconciler};
use crate::master::{MasterStatus, Reconciled, Summary};
use crate::paint::sanitize;
use crate::plural::count;
use crate::rule::plan::Plan;
use crate::socket::{REQUEST_TIMEOUT, WORK_TIMEOUT};
use crate::store::{Database, MasterSession, Scope};
use crate::telemetry;
use crate::wire::Op;

/// Make the table equal to the rules directory once, and exit
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd sync --dry-run --rules-dir config/rules")]
pub(crate) struct SyncArgs {
    /// Print the changes as a diff, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Carry out deletions above `master.max_delete`
    #[arg(long)]
    allow_mass_delete: bool,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    master: MasterFlags,
}

pub(crate) fn run(args: SyncArgs) -> Outcome {
    let config = prepare_quietly(args.master.flags())?;
    telemetry::export(&config.telemetry, "sync")?;
    super::block_on(super::Threads::Database, async {
        let daemons = Daemons::ask(&config).await;
        let config = daemons.choose_rules_dir(config)?;
        if !args.dry_run
            && let Some((master, address)) = daemons.writing_master(&config)
        {
            let waited = match args.wait.is_given() {
                true => {
                    let config = for_writing(daemons.choose_database(config.clone())?)?;
                    let database = open_database(&config, Arc::new(SystemClock)).await?;
                    let before = args.wait.before(&config, &database).await?;
                    Some((database, before))
                }
                false => None,
            };
            let done = ask_the_master(&config, &master, args.allow_mass_delete).await?;
            report(&done.summary, &address)?;
            if let Some((database, before)) = waited {
                args.wait.after(&config, &database, Written::Rules(done.written), before, true).await?;
            }
            return outcome_of(&done.summary);
        }
        let config = for_writing(daemons.choose_database(config)?)?;
        super::require_directory(&config.master.rules_dir)?;
        let clock = Arc::new(SystemClock);
        let database = open_database(&config, clock.clone()).await?;
        let mut reconciler = Reconciler::new(config.master.clone(), clock);
        reconciler.publish_releases(load_policy(&config)?);
        if args.dry_run {
            return dry_run(&database, &mut reconciler, args.allow_mass_delete).await;
        }
        database.ensure_tables().await?;
        let before = args.wait.before(&config, &database).await?;
        let done = match database.try_lock().await? {
            Some(session) => {
                let bar = progress();
                bar.set_message("comparing the directory with the table");
                let done = reconcile(session, &mut reconciler, args.allow_mass_delete).await;
                bar.finish_and_clear();
                done?
            }
            None => ask_the_lock_holder(&config, daemons, args.allow_mass_delete).await?,
        };
        report(&done.summary, &config.database.address)?;
        args.wait.after(&config, &database, Written::Rules(done.written), before, true).await?;
        outcome_of(&done.summary)
    })?
}

/// Prints what was done, and to which database.
fn report(summary: &Summary, address: &Address) -> Outcome {
    let done = describe(summary, ["added", "changed", "deleted"]);
    let done = format!("{done}on {}\n", sanitize(&address.place()));
    print_done(&done, &done)
}

/// Anything that is not in order afterwards is a failure.
fn outcome_of(summary: &Summary) -> Outcome {
    if summary.held > 0
        || summary.broken > 0
        || summary.conflicts > 0
        || summary.refused > 0
        || summary.release_held_back
    {
        return Err(Failure::CheckFailed);
    }
    Ok(())
}

/// Refuses to use this host's master for another directory than its own.
fn ensure_same_directory(config: &Config, master: &MasterStatus) -> Outcome {
    let (named, its) = (&config.master.rules_dir, Path::new(&master.rules_dir));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real(named) == real(its) {
        return Ok(());
    }
    Err(usage!(
        "{} is not the rules directory of the master that keeps {}, which is {}: stop that master first, or leave \
         the directory to it",
        named.display(),
        master.database.url,
        its.display()
    ))
}

/// Reconciles, and releases the lease, so that a master that waits for it leads at once.
async fn reconcile(
    mut session: MasterSession,
    reconciler: &mut Reconciler,
    allow_mass_delete: bool,
) -> Result<Reconciled, Failure> {
    let done = reconcile_all(&mut session, reconciler, allow_mass_delete).await;
    session.close().await;
    done
}

async fn reconcile_all(
    session: &mut MasterSession,
    reconciler: &mut Reconciler,
    allow_mass_delete: bool,
) -> Result<Reconciled, Failure> {
    let lifted_by = allow_mass_delete.then(Operator::this_process);
    let mut total = Reconciled::default();
    loop {
        let report = reconciler.reconcile(session, &ScanScope::All, lifted_by.clone()).await?;
        total = total.then(Reconciled::of(&report, reconciler));
        if report.rescan.is_empty() && report.changing.is_empty() {
            return Ok(total);
        }
        // A file must stay missing for a moment before its row is deleted.
        tokio::time::sleep(DELETE_AFTER).await;
    }
}

async fn dry_run(database: &Database, reconciler: &mut Reconciler, allow_mass_delete: bool) -> Outcome {
    let rows = database.rows(Scope::All).await?;
    let report = reconciler.preview(&rows, allow_mass_delete).await.map_err(ReconcileError::from)?;
    let summary = Summary::of(&report, reconciler);
    let invalid = reconciler
        .scanner()
        .invalid()
        .map(|(path, why)| format!("! {}  {}\n", sanitize(path), sanitize(&why.sentence())));
    let held = reconciler.held().into_iter().flat_map(|held| &held.rule_ids);
    let held = held.map(|rule_id| format!("! {}  its deletion would be held back\n", sanitize(rule_id)));
    let release = reconciler.release().and_then(|release| release.held_back);
    let release = release.map(|why| format!("! {}\n", sanitize(&why)));
    let text: String =
        std::iter::once(diff(&report.plan)).chain(invalid).chain(held).chain(release).collect();
    print(&(text + &describe(&summary, ["to add", "to change", "to delete"])))?;
    outcome_of(&summary)
}

/// The plan as a diff: `+` is added, `~` changed, `-` deleted, `!` in conflict.
fn diff(plan: &Plan) -> String {
    let mut text = String::new();
    for delete in &plan.deletes {
        let _ = writeln!(text, "- {}  {} is gone", sanitize(&delete.rule_id), sanitize(&delete.source_path));
    }
    for write in &plan.writes {
        let (id, version, path) = (
            sanitize(write.rule.rule_id.as_str()),
            write.rule.rule_version,
            sanitize(&write.rule.source_path),
        );
        let _ = match &write.replaces {
            None => writeln!(text, "+ {id}  version {version} from {path}"),
            Some(row) if row.rule_version == version => {
                writeln!(
                    text,
                    "~ {id}  version {version} from {path}, now by `{}`",
                    sanitize(&row.updated_by)
                )
            }
            Some(row) => writeln!(
                text,
                "~ {id}  version {} becomes {version} from {path}, now by `{}`",
                row.rule_version,
                sanitize(&row.updated_by)
            ),
        };
    }
    for conflict in &plan.conflicts {
        let _ = writeln!(
            text,
            "! {}  {} is not taken: {} holds the id",
            sanitize(conflict.rule_id.as_str()),
            sanitize(&conflict.source_path),
            sanitize(&conflict.held_by)
        );
    }
    text
}

/// What was or would be done, with the words for rows that are new, changed and deleted.
fn describe(summary: &Summary, [new, changed, gone]: [&str; 3]) -> String {
    let Summary {
        inserted,
        updated,
        deleted,
        unchanged,
        conflicts,
        broken,
        refused,
        held,
        release_held_back,
    } = summary;
    let mut text = format!("{inserted} {new}, {updated} {changed}, {deleted} {gone}, {unchanged} unchanged");
    for (number, what) in
        [(broken, "invalid"), (conflicts, "in conflict"), (refused, "rejected by the database")]
    {
        if *number > 0 {
            text += &format!(", {number} {what}");
        }
    }
    if *held > 0 {
        text += &format!(", {} held back (--allow-mass-delete carries them out)", count(*held, "deletion"));
    }
    if *release_held_back {
        text += ", the release is held back (`rulesyncd manifest verify` says why)";
    }
    text + "\n"
}

/// Asks this host's master, which holds the lock, to do the work.
async fn ask_the_master(
    config: &Config,
    master: &MasterStatus,
    allow_mass_delete: bool,
) -> Result<Reconciled, Failure> {
    ensure_same_directory(config, master)?;
    let socket = &config.master.socket;
    let failed = |error: ClientError| environment!("{}: {error}", socket.display());
    let mut connection = SocketClient::connect(socket).await.map_err(failed)?;
    let work = Op::Reconcile { allow_mass_delete };
    let result = connection.ask_within(work, WORK_TIMEOUT + REQUEST_TIMEOUT).await.map_err(failed)?;
    serde_json::from_value(result).context(
        "this program cannot read the master's answer, which may be of another version: restart the master; what it did \
         is in its log and in `rulesyncd status`",
    ).map_err(Failure::Environment)
}

/// As [`ask_the_master`], if the lock is held by this host's master or by another one.
async fn ask_the_lock_holder(
    config: &Config,
    daemons: Daemons,
    allow_mass_delete: bool,
) -> Result<Reconciled, Failure> {
    // A master that answered may have taken the lock since.
    let daemons = if daemons.master_hangs() { daemons } else { Daemons::ask(config).await };
    match daemons.writing_master(config) {
        Some((master, _)) => ask_the_master(config, &master, allow_mass_delete).await,
        None => Err(environment!(
            "a master holds the lock of {}, and none that does answers at {} ({}); run this on the master's host",
            config.database.address.place(),
            config.master.socket.display(),
            daemons.why_no_master()
        )),
    }
}
