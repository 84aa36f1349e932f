//! `rulesyncd man`: manual pages.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{Failure, Outcome};
use crate::cli::Cli;

/// Write the manual pages, one a command, into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example: rulesyncd man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory, which must exist
    dir: PathBuf,
}

pub(crate) fn run(args: ManArgs) -> Outcome {
    clap_mangen::generate_to(Cli::definition(), &args.dir)
        .with_context(|| format!("cannot write manual pages into {}", args.dir.display()))
        .map_err(Failure::Environment)
}
