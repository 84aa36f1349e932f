//! `rulesyncd status --format prometheus`: the metrics in Prometheus' text format, with the names that an
//! OpenTelemetry collector gives them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize as _;

use super::Asked;
use crate::paint::sanitize;
use crate::telemetry::tally::{Metric, MetricKind, Sample};

/// The metric that says which daemons answer; no daemon has it itself.
const UP: &str = "rulesyncd_up";

/// All metrics of the daemons; each sample has the daemon as its label `mode`.
pub(super) fn render(asked: &[Asked]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# HELP {UP} Whether the daemon answers\n# TYPE {UP} gauge");
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for Asked { name, is_expected, answer } in asked {
        if answer.is_ok() || *is_expected {
            let _ = writeln!(text, "{UP}{{mode=\"{name}\"}} {}", u8::from(answer.is_ok()));
        }
        let reported = answer.as_ref().ok().map(|status| &status["metrics"]);
        let reported: Vec<Metric> =
            reported.and_then(|reported| Vec::deserialize(reported).ok()).unwrap_or_default();
        for mut metric in reported {
            for sample in &mut metric.samples {
                sample.labels.entry("mode".to_owned()).or_insert_with(|| (*name).to_owned());
            }
            match metrics.get_mut(&metric.name) {
                Some(known) if known.kind == metric.kind => known.samples.append(&mut metric.samples),
                Some(_) => {}
                None => drop(metrics.insert(metric.name.clone(), metric)),
            }
        }
    }
    for metric in metrics.values() {
        family(&mut text, metric);
    }
    text
}

/// A name with only letters, digits and `_`.
fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A text, escaped for Prometheus.
fn escaped(text: &str) -> String {
    sanitize(text).replace('\\', r"\\")
}

/// The name in Prometheus, with the unit and, for a counter, `total` at its end.
fn name_of(metric: &Metric) -> String {
    let mut name = word(&metric.name);
    let unit = if metric.unit == "s" { "seconds" } else { &word(&metric.unit) };
    for (end, is_wanted) in [(unit, !unit.is_empty()), ("total", metric.kind == MetricKind::Counter)] {
        if is_wanted && !name.ends_with(&format!("_{end}")) {
            name = format!("{name}_{end}");
        }
    }
    name
}

fn family(text: &mut String, metric: &Metric) {
    let name = name_of(metric);
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let about = escaped(&metric.about);
    let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} {kind}");
    for sample in &metric.samples {
        if metric.kind == MetricKind::Histogram {
            histogram(text, &name, sample);
        } else {
            let _ = writeln!(text, "{name}{} {}", labels(sample, None), number(sample.value));
        }
    }
}

/// The cumulative buckets, the sum and the count.
fn histogram(text: &mut String, name: &str, sample: &Sample) {
    let mut below = 0;
    for &(bound, count) in &sample.buckets {
        below += count;
        let _ = writeln!(text, "{name}_bucket{} {below}", labels(sample, Some(&number(bound))));
    }
    let _ = writeln!(text, "{name}_bucket{} {}", labels(sample, Some("+Inf")), sample.count);
    let _ = writeln!(text, "{name}_sum{} {}", labels(sample, None), number(sample.value));
    let _ = writeln!(text, "{name}_count{} {}", labels(sample, None), sample.count);
}

fn labels(sample: &Sample, bound: Option<&str>) -> String {
    let quoted = |text: &str| escaped(text).replace('"', "\\\"");
    let label = |(name, value): (&String, &String)| format!("{}=\"{}\"", word(name), quoted(value));
    let mut labels: Vec<String> = sample.labels.iter().map(label).collect();
    labels.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}
