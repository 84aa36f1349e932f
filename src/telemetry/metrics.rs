//! What the daemon counts and measures. The README lists the names and labels.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::tally::{self, Instrument, MetricKind};
use crate::rule::{ChangeKind, StateKind};

/// The bounds of the histograms, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const fn counter(name: &'static str, about: &'static str) -> Instrument {
    Instrument { name, kind: MetricKind::Counter, unit: "", about }
}

const fn seconds(name: &'static str, about: &'static str) -> Instrument {
    Instrument { name, kind: MetricKind::Histogram, unit: "s", about }
}

static COMPILED: Instrument = counter("ttp.rule.compiled", "Rows that were read and are rules");
static REJECTED: Instrument =
    counter("ttp.rule.rejected", "Invalid files and quarantined rows, each counted once");
static STATE_CHANGED: Instrument = counter("ttp.rule.state.changed", "States that came into force");
static CHANGES: Instrument = counter("ttp.rule.changes", "Changes that went to the stream");
static DRIVER_FAILURES: Instrument = counter(
    "rulesyncd.driver_failures",
    "Panics of the database's driver, and threads that it kept busy without end",
);
static PROPAGATION: Instrument = seconds("ttp.rule.propagation", "How long a stage of a change took");
static FLEET_PROPAGATION: Instrument = seconds(
    "rulesyncd.fleet.propagation",
    "From a change of the tables to the report of the last worker that has it",
);
static LATENCY: Instrument = seconds("ttp.store.latency", "How long the store took for an operation");

/// The instruments of the collector; empty without a collector.
static SDK: OnceLock<Metrics> = OnceLock::new();

/// Exports every later measurement through `provider`, the only one of this process.
pub(super) fn export_by(provider: &SdkMeterProvider) {
    drop(SDK.set(Metrics::new(provider)));
}

/// The instruments of the collector.
#[derive(Debug)]
struct Metrics {
    meter: Meter,
    counters: BTreeMap<&'static str, Counter<u64>>,
    histograms: BTreeMap<&'static str, Histogram<f64>>,
}

impl Metrics {
    fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter("rulesyncd");
        let counters = [&COMPILED, &REJECTED, &STATE_CHANGED, &CHANGES, &DRIVER_FAILURES];
        let counter =
            |of: &Instrument| (of.name, meter.u64_counter(of.name).with_description(of.about).build());
        let histogram = |of: &Instrument| {
            let histogram = meter.f64_histogram(of.name).with_description(of.about).with_unit(of.unit);
            (of.name, histogram.with_boundaries(SECONDS.to_vec()).build())
        };
        Self {
            counters: counters.into_iter().map(counter).collect(),
            histograms: [&PROPAGATION, &FLEET_PROPAGATION, &LATENCY].into_iter().map(histogram).collect(),
            meter,
        }
    }
}

fn key_values(labels: &[(&'static str, &str)]) -> Vec<KeyValue> {
    labels.iter().map(|&(name, value)| KeyValue::new(name, value.to_owned())).collect()
}

fn count(instrument: &'static Instrument, more: u64, labels: &[(&'static str, &str)]) {
    tally::count(instrument, more, labels);
    if let Some(counter) = SDK.get().and_then(|metrics| metrics.counters.get(instrument.name)) {
        counter.add(more, &key_values(labels));
    }
}

fn measure(instrument: &'static Instrument, took: Duration, labels: &[(&'static str, &str)]) {
    tally::measure(instrument, &SECONDS, took.as_secs_f64(), labels);
    if let Some(histogram) = SDK.get().and_then(|metrics| metrics.histograms.get(instrument.name)) {
        histogram.record(took.as_secs_f64(), &key_values(labels));
    }
}

/// A stage on the way of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    /// From the save of the file to the row, by the clock of the master's host.
    SaveToWrite,
    /// From the row's stamp to the worker's stream, by the database's clock.
    WriteToStream,
}

/// Counts rows of a store that were read and are valid rules.
pub(crate) fn compiled(rows: usize, store_backend: &str) {
    if rows > 0 {
        count(&COMPILED, rows as u64, &[("store_backend", store_backend)]);
    }
}

/// Counts a panic of the database's driver, or an abandoned thread.
pub(crate) fn driver_failed() {
    count(&DRIVER_FAILURES, 1, &[]);
}

/// Counts an invalid file or a quarantined row; `reason` is one of a few words.
pub(crate) fn rejected(reason: &'static str) {
    count(&REJECTED, 1, &[("reason", reason)]);
}

/// Counts a change that went to the stream.
pub(crate) fn changed(kind: ChangeKind, new_state: Option<StateKind>) {
    count(&CHANGES, 1, &[("change_kind", kind.as_str())]);
    if let Some(state) = new_state {
        count(&STATE_CHANGED, 1, &[("new_state", state.as_str())]);
    }
}

/// Measures how long a stage of a change took.
pub(crate) fn propagated(stage: Stage, kind: ChangeKind, took: Duration) {
    let stage = match stage {
        Stage::SaveToWrite => "save_to_write",
        Stage::WriteToStream => "write_to_stream",
    };
    measure(&PROPAGATION, took, &[("leg", stage), ("change_kind", kind.as_str())]);
}

/// Runs `work`, and measures how long the store took.
pub(crate) async fn timed<T>(operation: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    measure(&LATENCY, begun.elapsed(), &[("operation", operation)]);
    done
}

/// Measures from a change of the tables to the report of the last worker that has it.
pub(crate) fn arrived_everywhere(took: Duration) {
    measure(&FLEET_PROPAGATION, took, &[]);
}

/// Registers a gauge that is read at each export, and for each `status`.
pub(crate) fn gauge(
    name: &'static str,
    what: &'static str,
    mode: &'static str,
    read: impl Fn() -> f64 + Send + Sync + Clone + 'static,
) {
    optional_gauge(name, what, &[("mode", mode)], move || Some(read()));
}

/// The same with other labels, and while `read` returns something.
pub(crate) fn optional_gauge(
    name: &'static str,
    what: &'static str,
    labels: &[(&'static str, &'static str)],
    read: impl Fn() -> Option<f64> + Send + Sync + Clone + 'static,
) {
    tally::gauge(name, what, labels, read.clone());
    if let Some(metrics) = SDK.get() {
        let labels = key_values(labels);
        let gauge = metrics.meter.f64_observable_gauge(name).with_description(what);
        let observe = gauge.with_callback(move |observer| {
            if let Some(value) = read() {
                observer.observe(value, &labels);
            }
        });
        observe.build();
    }
}
