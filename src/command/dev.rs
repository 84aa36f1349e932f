//! `rulesyncd dev`: a master and a worker in one process.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::mpsc;

use super::daemon::About;
use super::{Failure, Outcome, daemon, watch, worker};
use crate::client::{ClientError, Event, Subscriber};
use crate::clock::SystemClock;
use crate::command::flags::{RulesDirFlags, prepare};
use crate::command::print::write_stdout;
use crate::config::{Config, Flags};
use crate::lifecycle::{Lifecycle, Liveness};
use crate::master::Master;
use crate::telemetry;
use crate::wire::Subscribe;
use crate::worker::Worker;

/// The path of the sample rules in a checkout.
const SAMPLE_RULES: &str = "config/rules";

/// Run a master and a worker in one process on an embedded SQLite, and print every change
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd dev --rules-dir config/rules")]
pub(crate) struct DevArgs {
    #[command(flatten)]
    rules_dir: RulesDirFlags,
}

pub(crate) fn run(args: DevArgs) -> Outcome {
    let scratch = Scratch::new()?;
    let mut flags = args.rules_dir.apply_to(Flags {
        database_url: Some(format!("sqlite://{}", scratch.path("rules.db").display())),
        socket: Some(("worker.socket", scratch.path("events.sock"))),
        quiet: true,
        ..Flags::default()
    });
    flags.rules_dir.get_or_insert_with(|| PathBuf::from(SAMPLE_RULES));
    let mut config = prepare(&flags)?;
    telemetry::export(&config.telemetry, "dev")?;
    config.worker.cache = scratch.path("catalogue.ndjson");
    super::require_directory(&config.master.rules_dir)?;
    super::block_on(super::Threads::Daemon, dev(config))?
}

async fn dev(config: Config) -> Outcome {
    let lifecycle = Lifecycle::start()?;
    let clock = Arc::new(SystemClock);
    let database = worker::open(&config, clock.clone()).await?;
    // The worker only reads, so the tables must exist before its first poll.
    database.ensure_tables().await?;
    let liveness = Liveness::default();
    let (_commands, receiver) = mpsc::channel(1);
    let (_reloads, reloaded) = tokio::sync::watch::channel(None);
    let master = Master::new(
        config.master.clone(),
        database.clone(),
        clock.clone(),
        receiver,
        reloaded,
        liveness.clone(),
        None,
    );
    let worker = Worker::new(config.worker.clone(), worker::origin(&database), clock);
    let status = master.status();
    master.register_metrics();
    worker.handle().register_metrics();
    let stop = lifecycle.stop_token();
    print_introduction(&config)?;
    let work = Box::pin(async {
        let working = async {
            let ((), served) =
                tokio::join!(master.run(stop.clone()), worker.run(&database, None, &liveness, stop.clone()));
            Ok(served?)
        };
        let printing = async {
            match show(config.worker.socket.clone()).await {
                // At the end, the worker closing the connection is no error.
                Err(_) if stop.is_cancelled() => std::future::pending().await,
                ended => ended,
            }
        };
        tokio::select! {
            ended = working => ended,
            ended = printing => ended,
        }
    });
    let about = About::new(&config, format!("rules in {}", config.master.rules_dir.display()));
    daemon::supervise("dev", &about, lifecycle, liveness.clone(), work, || status.borrow().sentence(), |_| {})
        .await
}

fn print_introduction(config: &Config) -> Outcome {
    let (rules, database) = (config.master.rules_dir.display(), &config.database.address);
    let socket = config.worker.socket.display();
    write_stdout(&format!(
        "Watching {rules}: edit a rule there, and the change is printed here. Ctrl-C ends it.\n\
         In another terminal:\n  \
           rulesyncd watch --socket {socket}\n  \
           rulesyncd state set ID disabled --expires-in 30s --database-url {database}\n\n"
    ))
}

/// Prints the changes that a subscriber of the worker receives.
async fn show(socket: PathBuf) -> Outcome {
    let mut subscriber = Subscriber::new(socket, Subscribe { follow: true, ..Subscribe::default() });
    loop {
        match subscriber.next().await {
            Ok(Event::Line(line)) => watch::human(&line.line).map_or(Ok(()), |text| write_stdout(&text))?,
            // The worker starts or ends at the moment.
            Ok(Event::Disconnected(ClientError::Connect { .. } | ClientError::Closed)) => {}
            Ok(Event::Disconnected(error)) | Err(error) => return Err(error.into()),
        }
    }
}

/// A directory of this process, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("rulesyncd-dev-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))
            .map_err(Failure::Environment)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
