//! What this process has counted and measured since it started, for whoever asks without a collector.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What kind of numbers a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number as it is now.
    Gauge,
    /// How often a value was up to each of some bounds.
    Histogram,
}

/// A metric, as it is named for OpenTelemetry, and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The name, such as `ttp.rule.changes`.
    pub name: String,
    /// The kind.
    pub kind: MetricKind,
    /// `s`, or nothing where it is a number of things.
    pub unit: String,
    /// What is measured.
    pub about: String,
    /// One for each set of labels.
    pub samples: Vec<Sample>,
}

/// What was measured under one set of labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The number; of a histogram the sum of all values.
    pub value: f64,
    /// Of a histogram: how many values were up to this bound and above the one before, by bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(f64, u64)>,
    /// Of a histogram: how many values there were.
    #[serde(default)]
    pub count: u64,
}

/// A metric that is counted or measured, as the program names it.
#[derive(Debug)]
pub(super) struct Instrument {
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    pub(super) unit: &'static str,
    pub(super) about: &'static str,
}

/// Labels of one sample: their names and values.
type Labels = Vec<(&'static str, String)>;

/// What was measured: by metric, and by labels, of which there are few.
static TALLY: Mutex<BTreeMap<&'static str, Tally>> = Mutex::new(BTreeMap::new());

/// What is looked at whenever somebody asks.
static GAUGES: Mutex<Vec<Gauge>> = Mutex::new(Vec::new());

struct Tally {
    instrument: &'static Instrument,
    samples: BTreeMap<Labels, Sample>,
}

struct Gauge {
    name: &'static str,
    about: &'static str,
    mode: &'static str,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
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

/// Counts `more` of something.
pub(super) fn count(instrument: &'static Instrument, more: u64, labels: &[(&'static str, &str)]) {
    sample(&mut tally(), instrument, labels).value += more as f64;
}

/// Measures one value.
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

/// Looks at `read` whenever somebody asks.
pub(super) fn gauge(
    name: &'static str,
    about: &'static str,
    mode: &'static str,
    read: impl Fn() -> f64 + Send + Sync + 'static,
) {
    let gauge = Gauge { name, about, mode, read: Box::new(read) };
    GAUGES.lock().unwrap_or_else(PoisonError::into_inner).push(gauge);
}

/// Everything that this process has counted and measured, by name.
pub fn metrics() -> Vec<Metric> {
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
    for Gauge { name, about, mode, read } in &*GAUGES.lock().unwrap_or_else(PoisonError::into_inner) {
        let metric = metrics.entry((*name).to_owned()).or_insert_with(|| Metric {
            name: (*name).to_owned(),
            kind: MetricKind::Gauge,
            unit: String::new(),
            about: (*about).to_owned(),
            samples: Vec::new(),
        });
        let labels = BTreeMap::from([("mode".to_owned(), (*mode).to_owned())]);
        metric.samples.push(Sample { labels, value: read(), buckets: Vec::new(), count: 0 });
    }
    metrics.into_values().collect()
}
