//! What commands print, and where.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};

use crate::telemetry::report_failure;

/// Prints to standard output; a reader that went away ends the program quietly.
pub(super) fn print(text: &str) -> io::Result<()> {
    match write_stdout(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints to standard output.
///
/// # Errors
/// Among others, that the reader has closed its end.
pub(super) fn write_stdout(text: &str) -> io::Result<()> {
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
/// standard error. A cause that the error already names is not repeated.
pub fn print_error(error: &anyhow::Error) {
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
