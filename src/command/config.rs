//! `rulesyncd config`: the resolved configuration.

use clap::{Args, ValueEnum};

use super::Outcome;
use super::common::Daemons;
use crate::command::flags::ConfigFlags;
use crate::command::print::print;
use crate::config::{Config, Flags, SystemFiles, ValueOrigin, unknown_variables};

/// Print a daemon's resolved configuration, with the origin of each value and without secrets
///
/// If no configuration names the database, the running daemon of this host is asked.
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd config worker")]
pub(crate) struct ConfigArgs {
    /// The daemon
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
        config =
            super::block_on(super::Threads::None, Daemons::ask(&config))?.show_database(section, config)?;
    }
    let unknown = unknown_variables().into_iter().map(|sentence| format!("# {sentence}\n"));
    let shown = config.show(&["database", section, "trust", "telemetry"]);
    print(&unknown.chain([shown]).collect::<String>())
}
