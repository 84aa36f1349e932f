//! `rulesyncd config`: the resolved configuration.

use clap::{Args, ValueEnum};

use super::Outcome;
use crate::cli::{ConfigFlags, print};
use crate::config::Config;

/// Print the resolved configuration of a daemon, each value with where it came from, secrets
/// redacted
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd config worker --config /etc/rulesyncd/worker.yaml")]
pub struct ConfigArgs {
    /// Whose configuration
    daemon: Daemon,
    #[command(flatten)]
    config: ConfigFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Daemon {
    Master,
    Worker,
}

pub(crate) fn run(args: ConfigArgs) -> Outcome {
    let config = Config::load(&args.config.flags())?;
    let section = match args.daemon {
        Daemon::Master => "master",
        Daemon::Worker => "worker",
    };
    Ok(print(&config.show(&["database", section, "telemetry"]))?)
}
