//! Observability: the log, and traces and metrics over OTLP.
//!
//! Spans and measurements are made at the edges, next to the log's records, through `trace` and `metrics`; a span
//! costs almost nothing while none are exported. `tally` also keeps the measurements for `rulesyncd status`. They
//! contain ids, versions, paths and counts, but no text of a rule, no reason and no address.

mod collector;
mod log;
pub(crate) mod metrics;
mod otlp;
mod sanitized;
pub(crate) mod tally;
pub(crate) mod trace;

pub(crate) use log::{report_failure, start};
pub(crate) use otlp::export;
pub use otlp::finish;

/// Why the log, or the export of traces and metrics, cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// The log directives are not valid.
    #[error("telemetry.log: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// Journald does not listen.
    #[error("cannot reach journald: {0}; set telemetry.log_format to `text`")]
    Journald(#[source] std::io::Error),
    /// The log was already set up.
    #[error("{0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The collector's address, or a variable of the environment, is not valid.
    #[error("{from}: {why}")]
    Otlp {
        /// The key or the variable.
        from: String,
        /// What was found and what was expected, without the address, which may contain a password.
        why: String,
    },
}
