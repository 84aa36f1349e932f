//! Where the log goes: journald with its fields, or a terminal, or JSON for machines.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

use tracing::field::{Field, Visit};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::TelemetryError;
use super::sanitized::Sanitized;
use crate::config::{LogFormat, TelemetryConfig, environment};
use crate::event;
use crate::paint::sanitize_lines;

/// Sends the log where the configuration says, from here to the end of the process.
///
/// # Errors
/// [`TelemetryError`]; nothing is logged anywhere then.
pub(crate) fn start(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = filter(&config.log)?;
    let format = match config.log_format {
        LogFormat::Auto if under_journald() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        format => format,
    };
    let layer = match format {
        LogFormat::Journald => {
            let is_audit = |metadata: &tracing::Metadata<'_>| metadata.target() == event::AUDIT;
            let audit = Sanitized::new(journald(Priority::Notice)?).with_filter(filter_fn(is_audit));
            Sanitized::new(journald(Priority::Informational)?)
                .with_filter(filter_fn(move |metadata| !is_audit(metadata)))
                .and_then(audit)
                .boxed()
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
            Sanitized::new(json.with_writer(std::io::stderr)).boxed()
        }
        LogFormat::Auto | LogFormat::Text => text(std::io::stderr, wants_colour()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    Ok(())
}

/// What is logged, by the directives of `telemetry.log`.
fn filter(directives: &str) -> Result<Targets, TelemetryError> {
    let filter: Targets = directives.parse()?;
    // The driver's warnings repeat this program's errors, or concern nothing that an operator acts on, so they are
    // logged only if a directive names the driver.
    let is_named = filter.iter().any(|(target, _)| target.starts_with("sqlx"));
    let filter = if is_named { filter } else { filter.with_target("sqlx", LevelFilter::OFF) };
    // A server's notices have any length, and come before the server is authenticated.
    Ok(filter.with_target("sqlx::postgres::notice", LevelFilter::OFF))
}

/// Whether standard error is a terminal whose owner did not refuse colour
/// (<https://no-color.org>).
pub(crate) fn wants_colour() -> bool {
    match anstream::ColorChoice::global() {
        anstream::ColorChoice::Auto => {}
        choice => return choice != anstream::ColorChoice::Never,
    }
    std::io::stderr().is_terminal() && environment("NO_COLOR").is_none()
}

/// Whether standard error is connected to journald: systemd says by which device and inode in
/// `JOURNAL_STREAM` (systemd.exec(5)), and a redirected standard error has others.
fn under_journald() -> bool {
    let Some((device, inode)) = environment("JOURNAL_STREAM")
        .and_then(|stream| stream.split_once(':').map(|(d, i)| (d.to_owned(), i.to_owned())))
    else {
        return false;
    };
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else { return false };
    let metadata = std::fs::File::from(stderr).metadata();
    use std::os::unix::fs::MetadataExt as _;
    metadata.is_ok_and(|m| device == m.dev().to_string() && inode == m.ino().to_string())
}

/// Reports why the process cannot start or go on, where standard error is connected to journald: one
/// record of priority `err` with the id of [`event::FAILED`]. It needs neither a configuration nor
/// [`start`], for these may be what failed. Returns whether it was reported; where it was not,
/// standard error is the place.
pub(crate) fn report_failure(message: &str) -> bool {
    if !under_journald() {
        return false;
    }
    match journald(Priority::Informational) {
        Ok(layer) => {
            let layer = Sanitized::of_lines(layer);
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::error!(message_id = event::FAILED, "{message}");
            });
        }
        // Journald reads standard error line by line, and takes a line's priority from its prefix
        // (sd-daemon(3)).
        Err(_) => {
            let message = sanitize_lines(message);
            let lines: String = message.lines().map(|line| format!("<3>{line}\n")).collect();
            drop(std::io::stderr().write_all(lines.as_bytes()));
        }
    }
    true
}

/// Fields under their own names (`RULE_ID`, `MESSAGE_ID`), levels as syslog priorities have them.
fn journald(info: Priority) -> Result<tracing_journald::Layer, TelemetryError> {
    let layer = tracing_journald::layer().map_err(TelemetryError::Journald)?;
    Ok(layer.with_field_prefix(None).with_syslog_identifier("rulesyncd".to_owned()).with_priority_mappings(
        PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info,
            debug: Priority::Debug,
            trace: Priority::Debug,
        },
    ))
}

fn text<S, W>(writer: W, colour: bool) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(colour).with_target(false);
    Sanitized::new(lines.fmt_fields(ReadableFields).with_writer(writer))
}

/// The message, then `name=value` for each field. A record that has a message id is a sentence
/// which says it all: its fields are for journald's queries, and noise to a reader.
struct ReadableFields;

impl<'writer> FormatFields<'writer> for ReadableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut visitor = ReadableVisitor { writer, result: Ok(()), first: true, is_sentence: false };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct ReadableVisitor<'writer> {
    writer: Writer<'writer>,
    result: std::fmt::Result,
    first: bool,
    is_sentence: bool,
}

impl Visit for ReadableVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.is_sentence |= field.name() == "message_id";
        if self.is_sentence || self.result.is_err() {
            return;
        }
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value:?}"),
            name => write!(self.writer, "{space}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_servers_notices_are_logged_at_no_level() {
        for directives in ["info", "trace", "sqlx=trace", "sqlx::postgres=trace,info"] {
            let filter = filter(directives).unwrap();
            assert!(!filter.would_enable("sqlx::postgres::notice", &Level::ERROR), "{directives}");
        }
        assert!(filter("info,sqlx=debug").unwrap().would_enable("sqlx::query", &Level::DEBUG));
    }

    #[test]
    fn the_drivers_own_warnings_are_logged_where_they_are_asked_for() {
        for target in ["sqlx::query", "sqlx_core::net::tls", "sqlx_postgres::options::pgpass"] {
            let is_logged = |directives: &str| filter(directives).unwrap().would_enable(target, &Level::WARN);
            for directives in ["info", "trace", "rulesyncd=debug,warn"] {
                assert!(!is_logged(directives), "{target} {directives}");
            }
            assert!(is_logged("info,sqlx=warn"), "{target}");
        }
        assert!(filter("info").unwrap().would_enable("rulesyncd::worker", &Level::INFO));
    }

    #[test]
    fn a_line_has_the_fields_unless_its_message_is_a_sentence_that_says_them() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::registry().with(text(move || writer.clone(), false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(message_id = event::RULE_WRITTEN, rule_id = "R0001", "R0001 added");
            tracing::info!(rows = 3, "slow query");
            let forged = "x\n2026-01-01T00:00:00Z  INFO y\u{1b}[31m";
            tracing::info!(by = forged, "written by `{forged}`");
        });
        let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let ends: Vec<_> =
            log.lines().filter_map(|line| line.split_once(" INFO ")).map(|(_, end)| end).collect();
        let harmless = r"x\n2026-01-01T00:00:00Z  INFO y\u001b[31m";
        let last = format!("written by `{harmless}` by={harmless}");
        assert_eq!(ends, ["R0001 added", "slow query rows=3", &*last]);
    }
}
