//! `rulesyncd master`: the daemon that keeps the table equal to the directory.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::unix::UCred;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::daemon::About;
use super::{Outcome, common, daemon};
use crate::clock::SystemClock;
use crate::command::flags::{MasterFlags, prepare};
use crate::config::{Config, Flags, SystemFiles};
use crate::lifecycle::{Lifecycle, Liveness, Request};
use crate::master::Operator;
use crate::master::{Master, MasterRequest, MasterStatus, Reload};
use crate::socket::{Answer, ListenError, Listening, listen, serve_requests};
use crate::telemetry::{self, tally};
use crate::wire::{ErrorCode, Op};

/// A client of the master's socket may have rules deleted, so only the service's user and root may open it.
const SOCKET_MODE: u32 = 0o600;

/// How often a second master of a host checks whether the socket is free.
const SOCKET_RETRY: Duration = Duration::from_secs(1);

/// Watch the rules directory and keep the table equal to it; stand by while another master does
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd master --rules-dir /etc/rulesyncd/rules \
                        --database-url sqlite:///var/lib/rulesyncd/rules.db")]
pub(crate) struct MasterArgs {
    #[command(flatten)]
    master: MasterFlags,
}

pub(crate) fn run(args: MasterArgs) -> Outcome {
    let flags = Flags { system_files: SystemFiles::Master, ..args.master.flags() };
    let config = common::for_writing(prepare(&flags)?)?;
    telemetry::export(&config.telemetry, "master")?;
    super::block_on(super::Threads::Daemon, master(flags, config))?
}

async fn master(flags: Flags, config: Config) -> Outcome {
    let trust = common::load_policy(&config)?;
    daemon::raise_file_limit();
    let lifecycle = Lifecycle::start()?;
    let clock = Arc::new(SystemClock);
    let database = common::open_database(&config, clock.clone()).await.map_err(daemon::unusable)?;
    let liveness = Liveness::default();
    let (commands, receiver) = mpsc::channel(16);
    let (reloads, reloaded) = watch::channel(None);
    let master = Master::new(
        config.master.clone(),
        database.clone(),
        clock,
        receiver,
        reloaded,
        liveness.clone(),
        trust,
    );
    let status = master.status();
    master.register_metrics();
    let stop = lifecycle.stop_token();
    let listener = try_listen(&config.master.socket)?;
    let answers = answers(status.clone(), commands);
    let work = Box::pin(async {
        let serving = serve(&config.master.socket, listener, answers, stop.clone());
        let (served, ()) = tokio::join!(serving, master.run(stop.clone()));
        served
    });
    let mut running = config.clone();
    let on_request = |request| match request {
        Request::Status => tracing::info!("status: {}", status.borrow().sentence()),
        Request::Reload => {
            let Some(mut changed) = daemon::reload_config(&flags, "master") else { return };
            // Otherwise the databases differ, as is logged.
            if let Ok(database) = changed.database.clone().for_writing() {
                changed.database = database;
            }
            daemon::reload_password(&database, &mut running.database, &changed.database);
            daemon::warn_restart_required("master", &running, &changed);
            // The keys are read again; the section is as it was at the start.
            let policy = common::reload_policy(&running, "master");
            reloads.send_modify(|pending| {
                let before = pending.take().and_then(|before: Reload| before.policy);
                *pending = Some(Reload { config: changed.master, policy: policy.or(before) });
            });
        }
    };
    let about = About::new(&config, format!("rules in {}", config.master.rules_dir.display()));
    daemon::supervise("master", &about, lifecycle, liveness, work, || status.borrow().sentence(), on_request)
        .await
}

/// The master's socket; `None` while another master of this host serves it, of which this one may be the standby.
fn try_listen(path: &Path) -> Result<Option<(UnixListener, Listening)>, ListenError> {
    match listen(path, SOCKET_MODE, None) {
        Ok(listening) => Ok(Some(listening)),
        Err(ListenError::InUse(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Serves the master's socket as soon as it is free.
async fn serve(
    path: &Path,
    listener: Option<(UnixListener, Listening)>,
    answers: impl Fn(Op, UCred) -> Answer + Send + Sync + 'static,
    stop: CancellationToken,
) -> Outcome {
    let (listener, _listening) = match listener {
        Some(listener) => listener,
        None => tokio::select! {
            () = stop.cancelled() => return Ok(()),
            listener = wait_for_socket(path) => listener,
        },
    };
    Ok(serve_requests(listener, answers, stop).await?)
}

/// The master's socket, once no other master of this host serves it.
async fn wait_for_socket(path: &Path) -> (UnixListener, Listening) {
    let shown = path.display();
    tracing::info!(
        "another master of this host answers at {shown}; this master takes the socket over when that one ends"
    );
    let mut failing = false;
    loop {
        tokio::time::sleep(SOCKET_RETRY).await;
        match try_listen(path) {
            Ok(None) => {}
            Ok(Some(listener)) => {
                tracing::info!("this master answers at {shown}");
                return listener;
            }
            // The directory may be unavailable at the moment.
            Err(error) if std::mem::replace(&mut failing, true) => {
                tracing::debug!(error = %error, "the socket still cannot be made");
            }
            Err(error) => {
                tracing::error!("{error}; retrying; `rulesyncd status` cannot reach this master until then")
            }
        }
    }
}

/// The answers on the master's socket: to `status`, and to `reconcile` for `rulesyncd sync`.
fn answers(
    status: watch::Receiver<MasterStatus>,
    commands: mpsc::Sender<MasterRequest>,
) -> impl Fn(Op, UCred) -> Answer + Send + Sync + 'static {
    move |op, peer| {
        let (status, commands) = (status.clone(), commands.clone());
        Box::pin(async move {
            match op {
                Op::Status {} => {
                    let mut answer = serde_json::to_value(&*status.borrow()).unwrap_or_default();
                    answer["metrics"] = serde_json::json!(tally::metrics());
                    Ok(answer)
                }
                Op::Reconcile { allow_mass_delete } => {
                    let failed = |why: String| (ErrorCode::Failed, why);
                    let (reply, said) = oneshot::channel();
                    // Cancelled when this answer is dropped: the client hung up, or its time is over.
                    let gone = CancellationToken::new();
                    let _waiting = gone.clone().drop_guard();
                    let operator = Operator { uid: peer.uid(), pid: peer.pid(), gone };
                    let lifted_by = allow_mass_delete.then_some(operator);
                    let request = MasterRequest { lifted_by, reply };
                    let stopping = || failed("the master is stopping".to_owned());
                    commands.send(request).await.map_err(|_| stopping())?;
                    let summary = said.await.map_err(|_| stopping())?.map_err(failed)?;
                    Ok(serde_json::to_value(summary).unwrap_or_default())
                }
                _ => {
                    let message = "this is the master's socket; the stream is the worker's".to_owned();
                    Err((ErrorCode::UnknownOp, message))
                }
            }
        })
    }
}
