//! How the master that is configured on this host reads rule files: other commands read them alike.

use std::path::PathBuf;

use crate::command::print::print_error;
use crate::config::{Config, Flags, MasterConfig, SystemFiles};
use crate::rule::Limits;

/// How a master reads rule files.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) limits: Limits,
    /// More directories that links among the rules may lead to.
    pub(super) follow_links_to: Vec<PathBuf>,
}

impl Reading {
    /// As the master of this host reads; of one whose configuration cannot be read, the defaults count, with an error.
    pub(super) fn as_configured() -> Self {
        let flags = Flags { quiet: true, system_files: SystemFiles::Master, ..Flags::default() };
        match Config::load(&flags) {
            Ok(config) => Self::of(config.master),
            Err(error) => {
                let context = "the master's configuration cannot be read, and its defaults count";
                print_error(&anyhow::Error::from(error).context(context));
                Self::default()
            }
        }
    }

    /// As a master with this configuration reads.
    pub(super) fn of(MasterConfig { max_rule_size, follow_links_to, .. }: MasterConfig) -> Self {
        Self { limits: Limits { size: max_rule_size, ..Limits::default() }, follow_links_to }
    }
}
