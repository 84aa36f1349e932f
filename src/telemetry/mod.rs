//! What the daemon tells of itself: the log, and over OTLP traces and metrics.
//!
//! Spans and measurements are made at the edges, beside the log's records, through [`trace`] and
//! [`metrics`]; where nothing is exported a span is one look at an empty cell. [`tally`] keeps the
//! measurements for `rulesyncd status`, too. Nothing
//! of a rule's text, no reason and no address goes into them: ids, versions, paths and counts.

mod collector;
mod log;
pub mod metrics;
mod otlp;
mod sanitized;
pub mod tally;
pub mod trace;

pub use log::{report_failure, start, wants_colour};
pub use otlp::{export, finish};

/// Why the log, or the export of traces and metrics, cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives are none.
    #[error("telemetry.log: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// Journald does not listen.
    #[error("cannot reach journald: {0}; set telemetry.log_format to `text`")]
    Journald(#[source] std::io::Error),
    /// The log was set up before.
    #[error("{0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The collector's address, or a variable of the environment, cannot be used.
    #[error("{from}: {why}")]
    Otlp {
        /// The key or the variable.
        from: String,
        /// What was found and what was expected, without the address: it may hold a password.
        why: String,
    },
}
