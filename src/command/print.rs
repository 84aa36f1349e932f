//! What commands print, and where.

use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, Outcome};
use crate::paint::{sanitize, sanitize_lines, sanitize_output, shorten};
use crate::telemetry::report_failure;

/// No message of a failure is longer, in bytes: what it quotes may be as long as a column.
const LONGEST_FAILURE: usize = 16 << 10;

/// Prints a result to standard output. Whether anybody reads it changes nothing about the command's outcome.
///
/// # Errors
/// [`Failure::Environment`].
pub(super) fn print(text: &str) -> Outcome {
    match write_stdout(text) {
        Err(Failure::ReaderGone) => Ok(()),
        written => written,
    }
}

/// Prints that something was done, as [`print`] does. An error says it, too: what was done stays done, although nobody read it.
///
/// # Errors
/// [`Failure::Environment`].
pub(super) fn print_done(text: &str, done: &str) -> Outcome {
    print(text).map_err(|failure| match failure {
        Failure::Environment(error) => {
            environment!("{error}; this was done nevertheless: {}", done.trim_end())
        }
        other => other,
    })
}

/// Prints a part of an output that goes on as long as it is read. Of control characters only ends of lines, tabs and
/// colour get there, whatever `text` has.
///
/// # Errors
/// [`Failure::ReaderGone`] and [`Failure::Environment`].
pub(super) fn write_stdout(text: &str) -> Outcome {
    let stdout = io::stdout().lock();
    // Colour goes to a terminal alone unless --color says otherwise, and anstream obeys `NO_COLOR`.
    let choice = match ColorChoice::global() {
        ColorChoice::Auto if !stdout.is_terminal() => ColorChoice::Never,
        choice => choice,
    };
    let mut stdout = AutoStream::new(stdout, choice);
    outcome_of(stdout.write_all(sanitize_output(text).as_bytes()).and_then(|()| stdout.flush()))
}

/// How a command ends that wrote to standard output like this.
///
/// # Errors
/// As [`write_stdout`].
pub(crate) fn outcome_of(written: io::Result<()>) -> Outcome {
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => environment!("standard output broke: {error}"),
    })
}

/// A table of texts of any origin under its header; empty without rows.
pub(super) fn table<R: IntoIterator<Item: AsRef<str>>>(
    header: impl IntoIterator<Item = &'static str>,
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| sanitize(cell.as_ref()).into_owned()));
    }
    if table.is_empty() { String::new() } else { format!("{table}\n") }
}

/// A text, escaped for XML and HTML, also in double quotes; characters that XML forbids are replaced.
pub(super) fn escape_xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\t' | '\n' | '\r' => out += &format!("&#{};", u32::from(character)),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// A progress bar on a terminal; nothing elsewhere.
pub(super) fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar =
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Prints instead of what the terminal shows; elsewhere, after a blank line.
///
/// # Errors
/// As [`write_stdout`].
pub(super) fn redraw(text: &str) -> Outcome {
    const TO_THE_TOP: &[u8] = b"\x1b[H";
    const CLEAR_BELOW: &[u8] = b"\x1b[J";
    let mut stdout = io::stdout();
    if !stdout.is_terminal() {
        return write_stdout(&format!("\n{text}"));
    }
    // Each line clears what it does not cover, and what is below is cleared last, so that nothing flickers.
    let text = sanitize_output(text).replace('\n', "\x1b[K\n");
    stdout.write_all(TO_THE_TOP)?;
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(CLEAR_BELOW)?;
    Ok(stdout.flush()?)
}

/// Prints to standard error what a person at the terminal is to read. Control characters are as in [`write_stdout`].
///
/// # Errors
/// Standard error cannot be written.
pub(super) fn write_stderr(text: &str) -> io::Result<()> {
    let mut stderr = AutoStream::auto(io::stderr().lock());
    stderr.write_all(sanitize_output(text).as_bytes()).and_then(|()| stderr.flush())
}

/// Asks the person at the terminal, on standard error. Only `y` and `yes` are a yes.
///
/// # Errors
/// As [`write_stderr`], or standard input cannot be read.
pub(super) fn ask(question: &str) -> io::Result<bool> {
    const LONGEST_ANSWER: u64 = 1 << 10;
    write_stderr(question)?;
    let mut answer = Vec::new();
    BufReader::new(io::stdin().lock().take(LONGEST_ANSWER)).read_until(b'\n', &mut answer)?;
    let answer = answer.trim_ascii();
    Ok([&b"y"[..], b"yes"].iter().any(|yes| answer.eq_ignore_ascii_case(yes)))
}

/// Reports why a command failed: to the journal where standard error is connected to it, else on
/// standard error. A cause that the error already names is not repeated. Of control characters only ends
/// of lines get there.
pub fn print_error(error: &anyhow::Error) {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    let said = shorten(&said, LONGEST_FAILURE);
    if !report_failure(&said) {
        // A line that a quoted text may have is none of its own.
        let lines = sanitize_lines(&said).replace('\n', "\n  ");
        let _ = writeln!(io::stderr(), "rulesyncd: {lines}");
    }
}
