//! `rulesyncd manifest`: makes, signs and verifies a release of rules. None of it needs a database.

mod files;
mod make;
mod sign;
mod verify;

use clap::{Args, Subcommand};

use super::Outcome;
use super::flags::{ConfigFlags, prepare_quietly};

/// Make, sign and verify a release of rules
#[derive(Debug, Args)]
#[command(
    after_help = "Example: rulesyncd manifest make rules --realm honeypots && rulesyncd manifest sign rules \
                        --key ~/.ssh/id_ed25519"
)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    config: ConfigFlags,
}

#[derive(Debug, Subcommand)]
enum Action {
    Make(make::MakeArgs),
    Sign(sign::SignArgs),
    Verify(verify::VerifyArgs),
}

pub(crate) fn run(args: ManifestArgs) -> Outcome {
    let config = prepare_quietly(args.config.flags())?;
    match args.action {
        Action::Make(args) => make::run(&args, &config),
        Action::Sign(args) => sign::run(&args, &config),
        Action::Verify(args) => verify::run(&args, &config),
    }
}
