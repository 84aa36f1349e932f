//! Flags that several commands share, and the configuration that results.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::{Config, Flags, SystemFiles, unknown_variables};

/// The configuration file, and the flags that override it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigFlags {
    /// The configuration file [env: RULESYNCD_CONFIG]; by default /etc/rulesyncd/master.yaml and worker.yaml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The flag for the database.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DatabaseFlags {
    /// The database's address, in sqlx's or SQLAlchemy's spelling [env: RULESYNCD_DATABASE_URL]. Put an address with
    /// a password into the environment or `database.url_file`: every user of the host can read a command line
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
}

/// The flag for the rules directory.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RulesDirFlags {
    /// The directory that holds the rules [env: RULESYNCD_RULES_DIR]
    #[arg(long, value_name = "DIR")]
    rules_dir: Option<PathBuf>,
}

/// The flag for a daemon's socket.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SocketFlags {
    /// The daemon's socket [env: RULESYNCD_SOCKET]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The flags of a master's work: where the rules are, and where they go.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MasterFlags {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    rules_dir: RulesDirFlags,
    #[command(flatten)]
    database: DatabaseFlags,
}

/// The flags of a comparison of all that a host has.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HostFlags {
    #[command(flatten)]
    master: MasterFlags,
    #[command(flatten)]
    socket: SocketFlags,
}

impl ConfigFlags {
    /// Only these flags.
    pub(crate) fn flags(self) -> Flags {
        Flags { config: self.config, ..Flags::default() }
    }
}

impl DatabaseFlags {
    /// `flags` with this one.
    pub(crate) fn apply_to(self, flags: Flags) -> Flags {
        Flags { database_url: self.database_url, ..flags }
    }
}

impl SocketFlags {
    /// Whether the flag is given.
    pub(crate) const fn is_given(&self) -> bool {
        self.socket.is_some()
    }

    /// `flags` with this one, for the worker's socket.
    pub(crate) fn apply_to(self, flags: Flags) -> Flags {
        Flags { socket: self.socket.map(|socket| ("worker.socket", socket)), ..flags }
    }
}

impl RulesDirFlags {
    /// `flags` with this one.
    pub(crate) fn apply_to(self, flags: Flags) -> Flags {
        Flags { rules_dir: self.rules_dir, ..flags }
    }
}

impl MasterFlags {
    /// Only these flags.
    pub(crate) fn flags(self) -> Flags {
        self.database.apply_to(self.rules_dir.apply_to(self.config.flags()))
    }
}

impl HostFlags {
    /// Only these flags.
    pub(crate) fn flags(self) -> Flags {
        self.socket.apply_to(self.master.flags())
    }
}

/// As [`prepare`], for a command that prints its results: it logs only warnings unless configured otherwise, and uses
/// the configuration of this host's daemons unless another is named.
///
/// # Errors
/// As [`prepare`].
pub(super) fn prepare_quietly(flags: Flags) -> Result<Config, Failure> {
    prepare(&Flags { quiet: true, system_files: SystemFiles::Both, ..flags })
}

/// Resolves the configuration and starts the log.
///
/// # Errors
/// As [`Config::load`] and [`crate::telemetry::start`].
pub(super) fn prepare(flags: &Flags) -> Result<Config, Failure> {
    let config = Config::load(flags)?;
    crate::telemetry::start(&config.telemetry)?;
    unknown_variables().into_iter().for_each(|sentence| tracing::warn!("{sentence}"));
    Ok(config)
}
