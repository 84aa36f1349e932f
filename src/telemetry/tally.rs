//! Keeps what this process counted and measured since it started, for `status` and without a collector.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A current number.
    Gauge,
    /// How many values were up to each of some bounds.
    Histogram,
}

/// A metric, with its OpenTelemetry name, and its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metric {
    /// The name, such as `ttp.rule.changes`.
    pub(crate) name: String,
    /// The kind.
    pub(crate) kind: MetricKind,
    /// `s`, or nothing for a count.
    pub(crate) unit: String,
    /// The description.
    pub(crate) about: String,
    /// One for each set of labels.
    pub(crate) samples: Vec<Sample>,
}

/// A measurement under one set of labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The number; for a histogram, the sum of all values.
    pub(crate) value: f64,
    /// For a histogram: the number of values up to this bound and above the one before, by bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) buckets: Vec<(f64, u64)>,
    /// For a histogram: the number of values.
    #[serde(default)]
    pub(crate) count: u64,
}

/// The definition of a metric.
#[derive(Debug)]
pub(super) struct Instrument {
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    pub(super) unit: &'static str,
    pub(super) about: &'static str,
}

/// Names and values of the labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// All measurements, by metric and by labels.
static TALLY: Mutex<BTreeMap<&'static str, Tally>> = Mutex::new(BTreeMap::new());

/// The gauges, which are read on demand.
static GAUGES: Mutex<Vec<Gauge>> = Mutex::new(Vec::new());

struct Tally {
    instrument: &'static Instrument,
    samples: BTreeMap<Labels, Sample>,
}

struct Gauge {
    name: &'static str,
    about: &'static str,
    labels: BTreeMap<String, String>,
    read: Box<dyn Fn() -> Option<f64> + Send + Sync>,
}

fn tally() -> MutexGuard<'static, BTreeMap<&'static str, Tally>> {
    TALLY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sample<'a>(
    tally: &'a mut BTreeMap<&'static str, Tally>,
    instrument: &'static Instrument,
    labels: &[(&'static str, &str)],
) -> &'a mut Sample {
    let tally =
        tally.entry(instrument.name).or_insert_with(|| Tally { instrument, samples: BTreeMap::new() });
    let key: Labels = labels.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    tally.samples.entry(key).or_insert_with_key(|labels| Sample {
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        value: 0.0,
        buckets: Vec::new(),
        count: 0,
    })
}

/// Adds `more` to a counter.
pub(super) fn count(instrument: &'static Instrument, more: u64, labels: &[(&'static str, &str)]) {
    sample(&mut tally(), instrument, labels).value += more as f64;
}

/// Records one value of a histogram.
pub(super) fn measure(
    instrument: &'static Instrument,
    bounds: &[f64],
    value: f64,
    labels: &[(&'static str, &str)],
) {
    let mut tally = tally();
    let sample = sample(&mut tally, instrument, labels);
    if sample.buckets.is_empty() {
        sample.buckets = bounds.iter().map(|&bound| (bound, 0)).collect();
    }
    if let Some((_, count)) = sample.buckets.iter_mut().find(|(bound, _)| value <= *bound) {
        *count += 1;
    }
    sample.count += 1;
    sample.value += value;
}

/// Registers a gauge that calls `read` on demand; it has no sample while that returns `None`.
pub(super) fn gauge(
    name: &'static str,
    about: &'static str,
    labels: &[(&'static str, &'static str)],
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let gauge = Gauge { name, about, labels, read: Box::new(read) };
    GAUGES.lock().unwrap_or_else(PoisonError::into_inner).push(gauge);
}

/// Every metric of this process, by name.
pub(crate) fn metrics() -> Vec<Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for (name, Tally { instrument, samples }) in &*tally() {
        let metric = Metric {
            name: (*name).to_owned(),
            kind: instrument.kind,
            unit: instrument.unit.to_owned(),
            about: instrument.about.to_owned(),
            samples: samples.values().cloned().collect(),
        };
        metrics.insert(metric.name.clone(), metric);
    }
    for Gauge { name, about, labels, read } in &*GAUGES.lock().unwrap_or_else(PoisonError::into_inner) {
        let Some(value) = read() else { continue };
        let metric = metrics.entry((*name).to_owned()).or_insert_with(|| Metric {
            name: (*name).to_owned(),
            kind: MetricKind::Gauge,
            unit: String::new(),
            about: (*about).to_owned(),
            samples: Vec::new(),
        });
        metric.samples.push(Sample { labels: labels.clone(), value, buckets: Vec::new(), count: 0 });
    }
    metrics.into_values().collect()
}
