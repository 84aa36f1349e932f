//! `rulesyncd worker`: the daemon that follows the tables and serves the event stream.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use listenfd::ListenFd;

use super::{Failure, Outcome, daemon};
use crate::cli::{ConfigFlags, DatabaseFlags, prepare};
use crate::clock::SystemClock;
use crate::config::{Config, Flags};
use crate::lifecycle::{Lifecycle, Pulse, Request};
use crate::store::{Database, FollowConfig};
use crate::wire::Health;
use crate::worker::{Origin, Worker, WorkerHandle};

/// Follow the tables and serve the event stream to the programs of this host
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd worker --database-url postgres://rulesyncd_worker@db.example.org/honeypots"
)]
pub struct WorkerArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    database: DatabaseFlags,
    /// The socket to serve, unless systemd passes one [env: RULESYNCD_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub(crate) fn run(args: WorkerArgs) -> Outcome {
    let flags = args.database.over(args.config.flags());
    let flags = Flags { socket: args.socket.map(|socket| ("worker.socket", socket)), ..flags };
    let config = prepare(&flags)?;
    super::runtime()?.block_on(worker(config))
}

async fn worker(config: Config) -> Outcome {
    let lifecycle = Lifecycle::start()?;
    let listener = passed_socket()?;
    let clock = Arc::new(SystemClock);
    let database = open(&config, clock.clone()).await?;
    let pulse = Pulse::default();
    let worker = Worker::new(config.worker.clone(), origin(&config, &database), clock);
    let handle = worker.handle();
    let stop = lifecycle.stop_token();
    let work = async { Ok(worker.run(&database, listener, &pulse, stop).await?) };
    let on_request = |request| match request {
        Request::Status => tracing::info!("status: {}", sentence(&handle)),
        Request::Reload => tracing::info!("the worker takes a changed configuration at its next start"),
    };
    daemon::attend("worker", lifecycle, pulse.clone(), work, || sentence(&handle), on_request).await
}

/// The database as this configuration follows it.
pub(super) async fn open(config: &Config, clock: Arc<SystemClock>) -> Result<Database, Failure> {
    let (overlap, full_scan_interval) = (config.worker.overlap, config.worker.full_scan_interval);
    let database = Database::open(&config.database, clock).await?;
    Ok(database.following(FollowConfig { overlap, full_scan_interval }))
}

pub(super) fn origin(config: &Config, database: &Database) -> Origin {
    Origin { url: config.database.address.to_string(), backend: database.backend().to_owned() }
}

/// The socket that systemd passed; `None` when it passed none.
fn passed_socket() -> Result<Option<UnixListener>, Failure> {
    ListenFd::from_env()
        .take_unix_listener(0)
        .context("the socket that was passed is not one to listen on: see ListenStream= in rulesyncd-worker.socket")
        .map_err(Failure::Environment)
}

/// One sentence for `systemctl status`.
pub(super) fn sentence(handle: &WorkerHandle) -> String {
    let status = handle.status();
    let database = match status.database.state {
        Health::Up => format!("{} rules in step", status.rules),
        Health::Down => {
            format!("database away since {}, {} rules served stale", status.database.since, status.rules)
        }
    };
    let subscribers = status.stream.map_or(0, |stream| stream.subscribers.len());
    let mut sentence = format!("{database}, {subscribers} subscribers");
    if let Some(watermark) = status.watermark {
        sentence += &format!(", watermark {watermark}");
    }
    if !status.quarantined.is_empty() {
        sentence += &format!("; {} rows quarantined", status.quarantined.len());
    }
    sentence
}
