//! `rulesyncd worker`: the daemon that follows the tables and serves the event stream.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use listenfd::ListenFd;

use super::daemon::About;
use super::{Failure, Outcome, common, daemon};
use crate::address::{Address, DatabaseConfig, DatabasePlace};
use crate::backoff::jittered;
use crate::clock::SystemClock;
use crate::command::flags::{ConfigFlags, DatabaseFlags, SocketFlags, prepare};
use crate::config::{Config, Flags, SystemFiles, WorkerConfig};
use crate::event;
use crate::lifecycle::{Lifecycle, Liveness, Request};
use crate::store::{Database, FilesystemStore, FollowConfig};
use crate::telemetry;
use crate::trust::Policy;
use crate::worker::{CacheOrigin, Worker};

/// Follow the tables and serve the event stream to the programs of this host
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd worker --database-url postgres://rulesyncd_worker@db.example.org/honeypots"
)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    #[command(flatten)]
    socket: SocketFlags,
}

pub(crate) fn run(args: WorkerArgs) -> Outcome {
    let flags = Flags { system_files: SystemFiles::Worker, ..args.database.apply_to(args.config.flags()) };
    let flags = args.socket.apply_to(flags);
    let config = prepare(&flags)?;
    telemetry::export(&config.telemetry, "worker")?;
    super::block_on(super::Threads::Daemon, worker(flags, config))?
}

async fn worker(flags: Flags, mut config: Config) -> Outcome {
    let trust = common::load_policy(&config)?;
    let mut running = config.clone();
    if !config.worker.allow_uids.is_empty() && !sees_every_user() {
        return Err(usage!(
            "worker.allow_uids cannot be judged here: this process is in a user namespace, where other users have \
             no number of their own; set PrivateUsers=no for its unit"
        ));
    }
    if let Some(files) = daemon::raise_file_limit() {
        config.worker.max_subscribers = daemon::connections(config.worker.max_subscribers, files);
    }
    let lifecycle = Lifecycle::start()?;
    let listener = passed_socket()?;
    let socket = match &listener {
        Some(listener) => passed_path(listener).unwrap_or_else(|| "without a path, passed by systemd".into()),
        None => config.worker.socket.clone(),
    };
    let clock = Arc::new(SystemClock);
    let followed = Followed::open(&config, clock.clone(), trust.as_ref()).await?;
    let liveness = Liveness::default();
    let worker = Worker::with_trust(config.worker.clone(), followed.origin(&config), clock, trust);
    let handle = worker.handle();
    handle.register_metrics();
    let stop = lifecycle.stop_token();
    let work = async {
        match &followed {
            Followed::Directory(store) => Box::pin(worker.run(store, listener, &liveness, stop)).await?,
            Followed::Database(database) => Box::pin(worker.run(database, listener, &liveness, stop)).await?,
        }
        Ok(())
    };
    let on_request = |request| match request {
        Request::Status => tracing::info!("status: {}", handle.status().sentence()),
        Request::Reload => {
            let Some(changed) = daemon::reload_config(&flags, "worker") else { return };
            if let Followed::Database(database) = &followed {
                daemon::reload_password(database, &mut running.database, &changed.database);
            }
            daemon::warn_restart_required("worker", &running, &changed);
            // The keys are read again; the section is as it was at the start.
            if let Some(policy) = common::reload_policy(&running, "worker") {
                handle.trust(policy);
            }
            tracing::info!(message_id = event::RELOADED, "the configuration was read again");
        }
    };
    let about = About::new(&config, format!("socket {}", socket.display()));
    daemon::supervise(
        "worker",
        &about,
        lifecycle,
        liveness.clone(),
        work,
        || handle.status().sentence(),
        on_request,
    )
    .await
}

/// What a worker follows.
enum Followed {
    /// A directory on this host, without a database.
    Directory(FilesystemStore),
    Database(Database),
}

impl Followed {
    async fn open(config: &Config, clock: Arc<SystemClock>, trust: Option<&Policy>) -> Result<Self, Failure> {
        match common::directory_store(config, clock.clone()) {
            Some(store) => {
                tracing::info!(
                    "{} is followed without a database: there are no operator states",
                    config.database.address
                );
                Ok(Self::Directory(match trust {
                    Some(_) => store.following_releases(),
                    None => store,
                }))
            }
            None => {
                let database = open(config, clock).await?;
                Ok(Self::Database(match trust {
                    Some(policy) => database.following_releases(policy.realm.as_str()),
                    None => database,
                }))
            }
        }
    }

    fn origin(&self, config: &Config) -> CacheOrigin {
        match self {
            Self::Directory(_) => {
                let url = config.database.address.to_string();
                let url_file = config.database.url_file.clone();
                CacheOrigin { place: url.clone(), url, url_file, backend: "filesystem".to_owned() }
            }
            Self::Database(database) => origin(database),
        }
    }
}

/// The database, with the worker's configuration.
pub(super) async fn open(config: &Config, clock: Arc<SystemClock>) -> Result<Database, Failure> {
    let WorkerConfig { overlap, full_scan_interval, max_rules, max_memory, .. } = config.worker;
    // Workers that start together do not read everything at the same time for ever.
    let full_scan_interval = jittered(full_scan_interval);
    let database = common::open_database(config, clock).await.map_err(daemon::unusable)?;
    let database = match &config.worker.report_url {
        None => database,
        Some(address) => {
            let reports_to = DatabaseConfig { address: address.clone(), ..config.database.clone() };
            database.reporting_to(&reports_to).map_err(daemon::unusable)?
        }
    };
    Ok(database.following(FollowConfig { overlap, full_scan_interval, max_rules, max_memory }))
}

pub(super) fn origin(database: &Database) -> CacheOrigin {
    let DatabasePlace { url, url_file } = database.place();
    let place = url.parse::<Address>().map_or_else(|_| url.clone(), |address| address.place());
    CacheOrigin { url, url_file, place, backend: database.backend().to_owned() }
}

/// Whether the user ids of peers are real: in a user namespace (user_namespaces(7)) they may not be.
fn sees_every_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The socket that systemd passed; `None` if it passed none.
fn passed_socket() -> Result<Option<UnixListener>, Failure> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        return Err(usage!(
            "{} sockets were passed, and a worker serves one: nobody would answer on the others; leave one ListenStream= in rulesyncd-worker.socket (in a drop-in, an empty `ListenStream=` removes those before it)",
            passed.len()
        ));
    }
    passed
        .take_unix_listener(0)
        .context("the socket that was passed is not one to listen on: see ListenStream= in rulesyncd-worker.socket")
        .map_err(Failure::Usage)
}

/// Where a socket that was passed listens; `None` if it has no path.
fn passed_path(listener: &UnixListener) -> Option<PathBuf> {
    Some(listener.local_addr().ok()?.as_pathname()?.to_owned())
}
