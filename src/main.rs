//! The `rulesyncd` program: reads the arguments, runs the command, ends with its exit code.

use std::process::ExitCode;

use rulesyncd::cli::Cli;
use rulesyncd::command::print::print_error;
use rulesyncd::{store, telemetry};

fn main() -> ExitCode {
    Cli::complete();
    store::quiet_driver_panics();
    let outcome = Cli::from_arguments().map_or_else(|printed| printed, Cli::run);
    telemetry::finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.message().into_iter().for_each(print_error);
            failure.exit_code()
        }
    }
}
