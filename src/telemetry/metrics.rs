//! What is counted and measured. Names and labels are those of the README's table.

use std::future::Future;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::otlp::sdk_metrics;
use crate::rule::{ChangeKind, StateKind};

/// The bounds of the histograms, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The instruments.
#[derive(Debug)]
pub(super) struct Metrics {
    meter: Meter,
    compiled: Counter<u64>,
    rejected: Counter<u64>,
    state_changed: Counter<u64>,
    changes: Counter<u64>,
    propagation: Histogram<f64>,
    latency: Histogram<f64>,
    driver_failures: Counter<u64>,
}

impl Metrics {
    pub(super) fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter("rulesyncd");
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        let seconds = |name, what| {
            let histogram = meter.f64_histogram(name).with_description(what).with_unit("s");
            histogram.with_boundaries(SECONDS.to_vec()).build()
        };
        Self {
            compiled: counter("ttp.rule.compiled", "Rows that were read and are rules"),
            rejected: counter("ttp.rule.rejected", "Files and rows that are none, each told once"),
            state_changed: counter("ttp.rule.state.changed", "States that came into force"),
            changes: counter("ttp.rule.changes", "Changes that went to the stream"),
            propagation: seconds("ttp.rule.propagation", "How long a change took for a leg of its way"),
            latency: seconds("ttp.store.latency", "How long the store took for an operation"),
            driver_failures: counter(
                "rulesyncd.driver_failures",
                "Panics of the database's driver, and threads that it kept busy without end",
            ),
            meter,
        }
    }
}

/// A part of a change's way.
#[derive(Debug, Clone, Copy)]
pub enum Leg {
    /// From the file's save to the row, by the clock of the master's host.
    SaveToWrite,
    /// From the row's stamp to the worker's stream, by the database's clock.
    WriteToStream,
}

/// Rows of a store that were read and are rules.
pub fn compiled(count: usize, store_backend: &str) {
    if let Some(metrics) = sdk_metrics().filter(|_| count > 0) {
        metrics.compiled.add(count as u64, &[KeyValue::new("store_backend", store_backend.to_owned())]);
    }
}

/// The database's driver panicked, or its thread was abandoned.
pub fn driver_failed() {
    if let Some(metrics) = sdk_metrics() {
        metrics.driver_failures.add(1, &[]);
    }
}

/// A file or a row that is no rule; `reason` is one of a few words.
pub fn rejected(reason: &'static str) {
    if let Some(metrics) = sdk_metrics() {
        metrics.rejected.add(1, &[KeyValue::new("reason", reason)]);
    }
}

/// A change went to the stream.
pub fn changed(kind: ChangeKind, new_state: Option<StateKind>) {
    let Some(metrics) = sdk_metrics() else { return };
    metrics.changes.add(1, &[KeyValue::new("change_kind", kind.as_str())]);
    if let Some(state) = new_state {
        metrics.state_changed.add(1, &[KeyValue::new("new_state", state.as_str())]);
    }
}

/// How long a change took for a leg of its way.
pub fn propagated(leg: Leg, kind: ChangeKind, took: Duration) {
    if let Some(metrics) = sdk_metrics() {
        let leg = match leg {
            Leg::SaveToWrite => "save_to_write",
            Leg::WriteToStream => "write_to_stream",
        };
        let labels = [KeyValue::new("leg", leg), KeyValue::new("change_kind", kind.as_str())];
        metrics.propagation.record(took.as_secs_f64(), &labels);
    }
}

/// Does `work`, and measures how long the store took for it.
pub async fn timed<T>(operation: &'static str, work: impl Future<Output = T>) -> T {
    let Some(metrics) = sdk_metrics() else { return work.await };
    let begun = Instant::now();
    let done = work.await;
    metrics.latency.record(begun.elapsed().as_secs_f64(), &[KeyValue::new("operation", operation)]);
    done
}

/// What is looked at each time that metrics are exported.
pub fn gauge(
    name: &'static str,
    what: &'static str,
    mode: &'static str,
    read: impl Fn() -> f64 + Send + Sync + 'static,
) {
    if let Some(metrics) = sdk_metrics() {
        let labels = [KeyValue::new("mode", mode)];
        let gauge = metrics.meter.f64_observable_gauge(name).with_description(what);
        gauge.with_callback(move |observer| observer.observe(read(), &labels)).build();
    }
}
