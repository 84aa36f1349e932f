//! `rulesyncd config`: the resolved configuration.

use clap::{Args, ValueEnum};

use super::Outcome;
use super::common::Daemons;
use crate::command::flags::ConfigFlags;
use crate::command::print::print;
use crate::config::{Config, Flags, SystemFiles, ValueOrigin};

/// Print the resolved configuration of a daemon, each value with where it came from, secrets
/// redacted
///
/// Where no configuration names the database, the daemon is asked, should it run on this host.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd config worker")]
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
    let (section, system_files) = match args.daemon {
        Daemon::Master => ("master", SystemFiles::Master),
        Daemon::Worker => ("worker", SystemFiles::Worker),
    };
    let mut config = Config::load(&Flags { system_files, ..args.config.flags() })?;
    if config.database_origin() == ValueOrigin::Default {
        config = super::block_on(Daemons::ask(&config))?.show_database(section, config)?;
    }
    Ok(print(&config.show(&["database", section, "telemetry"]))?)
}
