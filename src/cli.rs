//! The command line.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anstream::{AutoStream, ColorChoice};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::command::{self, Outcome};
use crate::config::{Config, Flags, SystemFiles};
use crate::telemetry::report_failure;

/// Keeps detection rules in step across a swarm of hosts.
///
/// A master watches a directory of rules and keeps the tables of a database equal to it; workers
/// follow the tables and tell the programs of their host of each change.
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
    /// When to colour what is printed: auto is where it goes to a terminal and NO_COLOR is not set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

/// When to colour what is printed.
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
    Why(command::why::WhyArgs),
    Verify(command::verify::VerifyArgs),
    AllowMassDelete(command::allow_mass_delete::AllowMassDeleteArgs),
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

    /// Parses the arguments of this process. Where help or the version is asked for, prints it and
    /// ends the process; where the arguments cannot be used, reports that and ends it with exit code 2.
    pub fn from_arguments() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            if error.use_stderr() && report_failure(error.to_string().trim_end()) {
                std::process::exit(error.exit_code());
            }
            error.exit()
        })
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
            Command::Why(args) => command::why::run(args),
            Command::Verify(args) => command::verify::run(args),
            Command::AllowMassDelete(args) => command::allow_mass_delete::run(args),
            Command::Schema(args) => command::schema::run(args),
            Command::Config(args) => command::config::run(args),
            Command::Completions(args) => command::completions::run(args),
            Command::Man(args) => command::man::run(args),
        }
    }

    /// The definition of the command line, for completions and manual pages.
    pub(crate) fn definition() -> clap::Command {
        Self::command()
    }
}

/// Where the configuration is, and the flags that override it.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFlags {
    /// The configuration file [env: RULESYNCD_CONFIG]; where none is named, /etc/rulesyncd/master.yaml and
    /// worker.yaml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The flag for the database.
#[derive(Debug, Clone, Default, Args)]
pub struct DatabaseFlags {
    /// The database's address, in sqlx's or SQLAlchemy's spelling [env: RULESYNCD_DATABASE_URL].
    /// An address with a password belongs in the environment or in `database.url_file`: every user
    /// of the host can read a command line
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
}

/// The flag for the rules directory.
#[derive(Debug, Clone, Default, Args)]
pub struct RulesDirFlags {
    /// The directory that holds the rules [env: RULESYNCD_RULES_DIR]
    #[arg(long, value_name = "DIR")]
    rules_dir: Option<PathBuf>,
}

/// The flag for a daemon's socket.
#[derive(Debug, Clone, Default, Args)]
pub struct SocketFlags {
    /// The daemon's socket [env: RULESYNCD_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl ConfigFlags {
    /// These flags alone.
    pub fn flags(self) -> Flags {
        Flags { config: self.config, ..Flags::default() }
    }
}

impl DatabaseFlags {
    /// Adds these flags.
    pub fn over(self, flags: Flags) -> Flags {
        Flags { database_url: self.database_url, ..flags }
    }
}

impl SocketFlags {
    /// Whether the flag is given.
    pub const fn is_given(&self) -> bool {
        self.socket.is_some()
    }

    /// Adds this flag, for the socket that `key` configures.
    pub fn over(self, key: &'static str, flags: Flags) -> Flags {
        Flags { socket: self.socket.map(|socket| (key, socket)), ..flags }
    }
}

impl RulesDirFlags {
    /// Whether the flag is given.
    pub const fn is_given(&self) -> bool {
        self.rules_dir.is_some()
    }

    /// Adds these flags.
    pub fn over(self, flags: Flags) -> Flags {
        Flags { rules_dir: self.rules_dir, ..flags }
    }
}

/// As [`prepare`], for a command that prints what it does: only warnings are logged where nobody
/// says otherwise, and the configuration is the host's daemons' where no other is named.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn prepare_quietly(flags: Flags) -> Result<Config, command::Failure> {
    prepare(&Flags { quiet: true, system_files: SystemFiles::Both, ..flags })
}

/// Resolves the configuration and starts the log by it.
///
/// # Errors
/// As [`Config::load`] and [`crate::telemetry::start`].
pub(crate) fn prepare(flags: &Flags) -> Result<Config, command::Failure> {
    let config = Config::load(flags)?;
    crate::telemetry::start(&config.telemetry)?;
    Ok(config)
}

/// Prints to standard output; a reader that went away ends the program quietly.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match put(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints to standard output, and tells of a reader that went away.
pub(crate) fn put(text: &str) -> io::Result<()> {
    let stdout = io::stdout().lock();
    // Colour goes to a terminal alone unless --color says otherwise, and anstream obeys `NO_COLOR`.
    let choice = match ColorChoice::global() {
        ColorChoice::Auto if !stdout.is_terminal() => ColorChoice::Never,
        choice => choice,
    };
    let mut stdout = AutoStream::new(stdout, choice);
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| io::Error::new(error.kind(), format!("standard output broke: {error}")))
}

/// Reports why a command failed: to the journal where standard error is connected to it, else on
/// standard error. What an error says of its cause itself is not said again.
pub fn complain(error: &anyhow::Error) {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    if !report_failure(&said) {
        let _ = writeln!(io::stderr(), "rulesyncd: {said}");
    }
}
