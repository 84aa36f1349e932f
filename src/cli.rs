//! The command line.

use anstream::ColorChoice;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::command::{self, Outcome};
use crate::paint::sanitize;
use crate::telemetry::report_failure;

/// Keeps detection rules in sync across a swarm of hosts.
///
/// A master watches a directory of rules and keeps the tables of a database equal to it; workers
/// follow the tables and send each change to the programs of their host.
#[derive(Debug, Parser)]
#[command(
    name = "rulesyncd",
    version,
    long_version = concat!(env!("CARGO_PKG_VERSION"), "\nwith the ids of MITRE ATT&CK ", env!("ATTACK_VERSION")),
    max_term_width = 100,
    after_help = "Exit codes: 0 fine, 1 what was checked is wrong, 2 usage or configuration, \
                  3 the environment (database, directory, socket), or no answer within 5 s.\n\n\
                  Example: rulesyncd dev --rules-dir config/rules"
)]
pub struct Cli {
    /// When to print in colour; `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

/// When to print in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Master(command::master::MasterArgs),
    Worker(command::worker::WorkerArgs),
    Dev(command::dev::DevArgs),
    Sync(command::sync::SyncArgs),
    Check(command::check::CheckArgs),
    Test(command::test::TestArgs),
    State(command::state::StateArgs),
    Watch(command::watch::WatchArgs),
    Status(command::status::StatusArgs),
    Fleet(command::fleet::FleetArgs),
    Why(command::why::WhyArgs),
    Verify(command::verify::VerifyArgs),
    AllowMassDelete(command::allow_mass_delete::AllowMassDeleteArgs),
    History(command::history::HistoryArgs),
    Layer(command::layer::LayerArgs),
    Manifest(command::manifest::ManifestArgs),
    Schema(command::schema::SchemaArgs),
    Config(command::config::ConfigArgs),
    Completions(command::completions::CompletionsArgs),
    Man(command::man::ManArgs),
}

impl Cli {
    /// Where a shell asks for completions, prints them and ends the process.
    pub fn complete() {
        clap_complete::CompleteEnv::with_factory(Self::command).complete();
    }

    /// Parses the arguments of this process. Where the arguments cannot be used, reports that and ends the process with
    /// exit code 2.
    ///
    /// # Errors
    /// Help or the version is asked for and printed; how that went.
    pub fn from_arguments() -> Result<Self, Outcome> {
        // Messages repeat arguments, such as names of files that a shell lists.
        let arguments =
            || std::env::args_os().map(|argument| sanitize(&argument.to_string_lossy()).into_owned());
        let error = match command::fleet::spaced_duration(arguments()) {
            Some(problem) => Self::command().error(ErrorKind::InvalidValue, problem),
            None => match Self::try_parse() {
                Ok(parsed) => return Ok(parsed),
                Err(error) => Self::try_parse_from(arguments()).err().unwrap_or(error),
            },
        };
        if !error.use_stderr() {
            return Err(command::print::outcome_of(error.print()));
        }
        if report_failure(error.to_string().trim_end()) {
            std::process::exit(error.exit_code());
        }
        error.exit()
    }

    /// Runs the command.
    ///
    /// # Errors
    /// [`command::Failure`] with the exit code and what to print.
    pub fn run(self) -> Outcome {
        match self.color {
            Colour::Auto => {}
            Colour::Always => ColorChoice::AlwaysAnsi.write_global(),
            Colour::Never => ColorChoice::Never.write_global(),
        }
        match self.command {
            Command::Master(args) => command::master::run(args),
            Command::Worker(args) => command::worker::run(args),
            Command::Dev(args) => command::dev::run(args),
            Command::Sync(args) => command::sync::run(args),
            Command::Check(args) => command::check::run(&args),
            Command::Test(args) => command::test::run(args),
            Command::State(args) => command::state::run(args),
            Command::Watch(args) => command::watch::run(args),
            Command::Status(args) => command::status::run(args),
            Command::Fleet(args) => command::fleet::run(args),
            Command::Why(args) => command::why::run(args),
            Command::Verify(args) => command::verify::run(args),
            Command::AllowMassDelete(args) => command::allow_mass_delete::run(args),
            Command::History(args) => command::history::run(args),
            Command::Layer(args) => command::layer::run(args),
            Command::Manifest(args) => command::manifest::run(args),
            Command::Schema(args) => command::schema::run(args),
            Command::Config(args) => command::config::run(args),
            Command::Completions(args) => command::completions::run(args),
            Command::Man(args) => command::man::run(args, Self::command()),
        }
    }
}
