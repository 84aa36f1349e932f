//! A collector in the test's process: OTLP over HTTP/1.1, decoded by the published protobufs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use prost::Message as _;

use crate::support::swarm::wait_for;

/// What the collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Takes,
    /// It reads, and never answers.
    Hangs,
    /// It answers this status.
    Refuses(u16),
}

/// A received span.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) name: String,
    pub(super) id: Vec<u8>,
    pub(super) parent: Vec<u8>,
    pub(super) trace: String,
    /// Attributes as text.
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) failed: bool,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where it came from.
    pub(super) resource: BTreeMap<String, String>,
    /// Ids of the spans that it is linked with.
    pub(super) links: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    /// The newest value by name and labels: a number, or a histogram's count.
    metrics: BTreeMap<String, f64>,
    units: BTreeMap<String, String>,
    /// Names as Prometheus has them.
    prometheus: BTreeSet<String>,
    /// Every body, to search for what must not be exported.
    bodies: Vec<u8>,
    headers: String,
    requests: usize,
}

pub(super) struct Receiver {
    port: u16,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    pub(super) fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::<Mutex<Received>>::default();
        let into = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let into = Arc::clone(&into);
                std::thread::spawn(move || serve(stream, manner, &into));
            }
        });
        Self { port, received }
    }

    /// Makes a command export to this receiver, without delay.
    pub(super) fn collect(&self, command: &mut Command) {
        export_to(command, &self.endpoint());
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.received.lock().unwrap().requests
    }

    pub(super) fn headers(&self) -> String {
        self.received.lock().unwrap().headers.clone()
    }

    pub(super) fn unit(&self, metric: &str) -> Option<String> {
        self.received.lock().unwrap().units.get(metric).cloned()
    }

    /// Whether any received body contains a text.
    pub(super) fn holds(&self, text: &str) -> bool {
        let received = self.received.lock().unwrap();
        received.bodies.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// Waits for a span that fits, and returns it.
    pub(super) fn span(&self, what: &str, fits: impl Fn(&Span) -> bool) -> Span {
        wait_for(what, || self.spans().into_iter().find(|span| fits(span)))
    }

    /// Waits for a span of this name with this attribute.
    pub(super) fn named(&self, name: &str, key: &str, value: &str) -> Span {
        let fits = |span: &Span| span.name == name && span.attributes.get(key).is_some_and(|is| is == value);
        self.span(&format!("{name} with {key}={value}"), fits)
    }

    /// Waits until the span has children of exactly these names, and returns them in this order.
    pub(super) fn children<const N: usize>(&self, of: &Span, names: [&str; N]) -> [Span; N] {
        wait_for(&format!("{names:?} in {}", of.name), || {
            let mut children: Vec<_> = self
                .spans()
                .into_iter()
                .filter(|span| span.parent == of.id && span.trace == of.trace)
                .collect();
            children.sort_by_key(|span| names.iter().position(|name| *name == span.name));
            let found: Vec<_> = children.iter().map(|span| span.name.as_str()).collect();
            (found == names).then(|| children.try_into().unwrap())
        })
    }

    /// Waits until a metric, written `name{label=value,…}`, has a value that fits.
    pub(super) fn metric(&self, metric: &str, fits: impl Fn(f64) -> bool) -> f64 {
        wait_for(metric, || {
            let received = self.received.lock().unwrap();
            received.metrics.get(metric).copied().filter(|value| fits(*value))
        })
    }

    /// The metrics' names as a collector gives them to Prometheus.
    pub(super) fn prometheus_names(&self) -> BTreeSet<String> {
        self.received.lock().unwrap().prometheus.clone()
    }

    pub(super) fn metrics(&self) -> Vec<String> {
        self.received.lock().unwrap().metrics.keys().cloned().collect()
    }
}

/// Has a command export to this address, without delay.
pub(super) fn export_to(command: &mut Command, endpoint: &str) {
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "50");
}

fn serve(stream: TcpStream, manner: Manner, into: &Mutex<Received>) {
    let mut reader = BufReader::new(stream);
    while let Some((path, headers, body)) = request(&mut reader) {
        let mut received = into.lock().unwrap();
        received.requests += 1;
        received.headers += &headers;
        received.bodies.extend_from_slice(&body);
        match path.as_str() {
            "/v1/traces" => received.traces(&ExportTraceServiceRequest::decode(&*body).unwrap()),
            "/v1/metrics" => received.metrics(&ExportMetricsServiceRequest::decode(&*body).unwrap()),
            other => panic!("nothing is exported to {other}"),
        }
        drop(received);
        let status = match manner {
            Manner::Takes => 200,
            Manner::Refuses(status) => status,
            Manner::Hangs => loop {
                std::thread::park();
            },
        };
        let answer = format!("HTTP/1.1 {status} told\r\nContent-Length: 0\r\n\r\n");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Path, headers and body; `None` at the connection's end.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|length| *length > 0)?;
    let path = first.split(' ').nth(1)?.to_owned();
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        if line == "\r\n" {
            break;
        }
        headers += &line.to_ascii_lowercase();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, headers, body))
}

impl Received {
    fn traces(&mut self, request: &ExportTraceServiceRequest) {
        for of in &request.resource_spans {
            let resource = attributes(&of.resource.as_ref().unwrap().attributes);
            for span in of.scope_spans.iter().flat_map(|scope| &scope.spans) {
                self.spans.push(Span {
                    name: span.name.clone(),
                    id: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    trace: span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect(),
                    attributes: attributes(&span.attributes),
                    failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    resource: resource.clone(),
                    links: span.links.iter().map(|link| link.span_id.clone()).collect(),
                });
            }
        }
    }

    fn metrics(&mut self, request: &ExportMetricsServiceRequest) {
        let scopes = request.resource_metrics.iter().flat_map(|of| &of.scope_metrics);
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            self.units.insert(metric.name.clone(), metric.unit.clone());
            let (name, data) = (metric.name.replace('.', "_"), metric.data.as_ref().unwrap());
            self.prometheus.insert(match data {
                metric::Data::Sum(_) => format!("{name}_total"),
                metric::Data::Histogram(_) => format!("{name}_seconds_bucket"),
                _ => name,
            });
            let points: Vec<(BTreeMap<String, String>, f64)> = match data {
                metric::Data::Gauge(gauge) => gauge.data_points.iter().map(number).collect(),
                metric::Data::Sum(sum) => sum.data_points.iter().map(number).collect(),
                metric::Data::Histogram(histogram) => {
                    let points = histogram.data_points.iter();
                    points.map(|point| (attributes(&point.attributes), point.count as f64)).collect()
                }
                other => panic!("{other:?}"),
            };
            for (labels, value) in points {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                self.metrics.insert(format!("{}{{{}}}", metric.name, labels.join(",")), value);
            }
        }
    }
}

fn number(
    point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint,
) -> (BTreeMap<String, String>, f64) {
    let value = match point.value.unwrap() {
        number_data_point::Value::AsDouble(value) => value,
        number_data_point::Value::AsInt(value) => value as f64,
    };
    (attributes(&point.attributes), value)
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.clone()).unwrap() {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}
