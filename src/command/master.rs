//! `rulesyncd master`: the daemon that keeps the table equal to the directory.

use std::sync::Arc;

use clap::Args;
use tokio::sync::mpsc;

use super::{Outcome, daemon};
use crate::cli::{ConfigFlags, DatabaseFlags, RulesDirFlags, prepare};
use crate::clock::SystemClock;
use crate::config::{Config, Flags};
use crate::event;
use crate::lifecycle::{Lifecycle, Pulse, Request};
use crate::master::{Command, Master};
use crate::store::Database;

/// Watch the rules directory and keep the table equal to it; stand by while another master does
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd master --rules-dir /etc/rulesyncd/rules \
                        --database-url sqlite:///var/lib/rulesyncd/rules.db")]
pub struct MasterArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    rules_dir: RulesDirFlags,
    #[command(flatten)]
    database: DatabaseFlags,
}

pub(crate) fn run(args: MasterArgs) -> Outcome {
    let flags = args.database.over(args.rules_dir.over(args.config.flags()));
    let config = prepare(&flags)?;
    super::runtime()?.block_on(master(flags, config))
}

async fn master(flags: Flags, config: Config) -> Outcome {
    super::require_directory(&config.master.rules_dir)?;
    let lifecycle = Lifecycle::start()?;
    let clock = Arc::new(SystemClock);
    let database = Database::open(&config.database, clock.clone()).await?;
    let pulse = Pulse::default();
    let (commands, receiver) = mpsc::channel(16);
    let master = Master::new(config.master.clone(), database, clock, receiver, pulse.clone());
    let status = master.status();
    let stop = lifecycle.stop_token();
    let work = async {
        master.run(stop).await;
        Ok(())
    };
    let on_request = |request| match request {
        Request::Status => tracing::info!("status: {}", status.borrow().sentence()),
        Request::Reload => match Config::load(&flags) {
            Ok(config) => drop(commands.try_send(Command::Configure(config.master))),
            Err(why) => tracing::error!(
                message_id = event::CONFIGURATION_REFUSED,
                "{why}; the master goes on as it was configured before"
            ),
        },
    };
    daemon::attend("master", lifecycle, pulse, work, || status.borrow().sentence(), on_request).await
}
