//! The `rulesyncd` program: reads the arguments, runs the command, ends with its exit code.

use std::process::ExitCode;

use clap::Parser as _;
use rulesyncd::cli::{Cli, complain};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.message().into_iter().for_each(complain);
            failure.exit_code()
        }
    }
}
