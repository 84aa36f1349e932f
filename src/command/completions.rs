//! `rulesyncd completions`: completion for shells.

use clap::Args;

use super::Outcome;
use crate::cli::{Cli, print};

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd completions bash > /usr/share/bash-completion/completions/rulesyncd"
)]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::definition(), "rulesyncd", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}
