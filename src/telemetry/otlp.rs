//! Configures the export of traces and metrics, and ends it.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use url::Url;

use super::TelemetryError;
use super::collector::{Client, Outage, Signal};
use super::metrics;
use crate::config::{TelemetryConfig, environment};

/// How long the end of the process may wait for a collector.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1_500);

/// How long one export may take by default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most that a variable may set for it: far longer ones overflow clocks.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);

static EXPORT: OnceLock<Export> = OnceLock::new();

/// What this process exports.
#[derive(Debug)]
struct Export {
    traces: Option<(SdkTracerProvider, SdkTracer)>,
    metrics: Option<SdkMeterProvider>,
}

/// Exports traces and metrics until [`finish`], if the configuration or the standard variables of the environment
/// name a collector. `mode` is the command that runs.
///
/// # Errors
/// [`TelemetryError::Otlp`] for an invalid address or variable. A collector that does not answer is no error: it is
/// logged once, and the daemon works on.
pub(crate) fn export(config: &TelemetryConfig, mode: &'static str) -> Result<(), TelemetryError> {
    let endpoint = |signal| endpoint(signal, config.otlp.as_deref(), environment);
    let (traces, metrics) = (endpoint(Signal::Traces)?, endpoint(Signal::Metrics)?);
    if traces.is_none() && metrics.is_none() {
        return Ok(());
    }
    let resource = resource(mode);
    let outage = Arc::new(Outage::default());
    let traces = traces.map(|url| tracer(&url, resource.clone(), &outage)).transpose()?;
    let metrics = metrics.map(|url| meter(&url, resource, &outage)).transpose()?;
    // A process runs one command, so the cell is empty.
    let _ = EXPORT.set(Export { traces, metrics });
    Ok(())
}

/// Sends the collector what is not exported yet, for at most a second and a half.
pub fn finish() {
    let Some(Export { traces, metrics }) = EXPORT.get() else { return };
    let (done, ends) = mpsc::channel();
    let mut waiting = 0;
    let mut end = |work: Box<dyn FnOnce() + Send>| {
        let done = done.clone();
        let thread = std::thread::Builder::new().name("export".into()).spawn(move || {
            work();
            let _ = done.send(());
        });
        waiting += usize::from(thread.is_ok());
    };
    if let Some((provider, _)) = traces {
        end(Box::new(|| drop(provider.shutdown_with_timeout(SHUTDOWN_GRACE))));
    }
    if let Some(provider) = metrics {
        end(Box::new(|| drop(provider.shutdown())));
    }
    let last = std::time::Instant::now() + SHUTDOWN_GRACE;
    for _ in 0..waiting {
        if ends.recv_timeout(last.saturating_duration_since(std::time::Instant::now())).is_err() {
            return;
        }
    }
}

pub(super) fn sdk_tracer() -> Option<&'static SdkTracer> {
    EXPORT.get()?.traces.as_ref().map(|(_, tracer)| tracer)
}

/// The endpoint of a signal; `None` if it is not exported.
fn endpoint(
    signal: Signal,
    configured: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, TelemetryError> {
    let word = signal.as_str().to_ascii_uppercase();
    let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let exporters = set(&format!("OTEL_{word}_EXPORTER"));
    if off || exporters.is_some_and(|names| !names.split(',').any(|name| name.trim() == "otlp")) {
        return Ok(None);
    }
    let own = format!("OTEL_EXPORTER_OTLP_{word}_ENDPOINT");
    let common = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let below = |base: &str| format!("{}/v1/{}", base.trim_end_matches('/'), signal.as_str());
    let (from, url) = if let Some(base) = configured {
        ("telemetry.otlp".to_owned(), below(base))
    } else if let Some(url) = set(&own) {
        (own, url)
    } else if let Some(base) = set(common) {
        (common.to_owned(), below(&base))
    } else {
        return Ok(None);
    };
    for variable in [format!("OTEL_EXPORTER_OTLP_{word}_PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()]
    {
        if let Some(protocol) = set(&variable) {
            if protocol == "http/protobuf" {
                break;
            }
            let why = format!(
                "`{protocol}` is not supported; expected `http/protobuf` (port 4318 of most collectors)"
            );
            return Err(TelemetryError::Otlp { from: variable, why });
        }
    }
    let why = match Url::parse(&url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
            "the scheme is neither `http` nor `https`".to_owned()
        }
        Ok(_) => return Ok(Some(url)),
        Err(error) => error.to_string(),
    };
    Err(TelemetryError::Otlp {
        from,
        why: format!("{why}; expected an address such as `http://localhost:4318`"),
    })
}

/// The resource that exports. The standard variables take precedence.
fn resource(mode: &'static str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut resource = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", "rulesyncd"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        // The same after each start, so that a host's series continue.
        KeyValue::new("service.instance.id", format!("{host}/{mode}")),
        KeyValue::new("host.name", host),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ]);
    resource = resource.with_detector(Box::new(EnvResourceDetector::new()));
    match environment("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// How long one export may take.
fn timeout(signal: Signal) -> Duration {
    let own = format!("OTEL_EXPORTER_OTLP_{}_TIMEOUT", signal.as_str().to_ascii_uppercase());
    let set = environment(&own).or_else(|| environment("OTEL_EXPORTER_OTLP_TIMEOUT"));
    let set = set.and_then(|millis| millis.trim().parse().ok()).map(Duration::from_millis);
    set.map_or(TIMEOUT, |timeout| timeout.min(LONGEST_TIMEOUT))
}

fn refused(error: impl std::fmt::Display) -> TelemetryError {
    TelemetryError::Otlp { from: "the export of traces and metrics".to_owned(), why: error.to_string() }
}

/// An exporter that sends to `url`.
fn to<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    signal: Signal,
    url: &str,
    outage: &Arc<Outage>,
) -> B {
    let client = Client::new(signal, timeout(signal), Arc::clone(outage));
    builder.with_http_client(client).with_protocol(Protocol::HttpBinary).with_endpoint(url)
}

fn tracer(
    url: &str,
    resource: Resource,
    outage: &Arc<Outage>,
) -> Result<(SdkTracerProvider, SdkTracer), TelemetryError> {
    let exporter = to(SpanExporter::builder().with_http(), Signal::Traces, url, outage);
    let exporter = exporter.build().map_err(refused)?;
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    let tracer = provider.tracer("rulesyncd");
    Ok((provider, tracer))
}

fn meter(url: &str, resource: Resource, outage: &Arc<Outage>) -> Result<SdkMeterProvider, TelemetryError> {
    let exporter = to(MetricExporter::builder().with_http(), Signal::Metrics, url, outage);
    let exporter = exporter.build().map_err(refused)?;
    let provider =
        SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(exporter).build();
    metrics::export_by(&provider);
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(configured: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let environment = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        };
        endpoint(Signal::Traces, configured, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_configuration_or_the_standard_variables_say_where_to_and_silence_is_off() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let goes = |configured, variables: &[(&str, &str)]| traces(configured, variables).unwrap();
        assert_eq!(goes(None, &[]), None);
        assert_eq!(goes(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        assert_eq!(goes(None, &[base]).unwrap(), "http://c:4318/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/in");
        assert_eq!(goes(None, &[base, own]).unwrap(), "https://t/in");
        assert_eq!(goes(None, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m")]), None);
        assert_eq!(goes(Some("http://f:1"), &[base]).unwrap(), "http://f:1/v1/traces");
        assert_eq!(goes(Some("http://f:1"), &[("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(goes(None, &[base, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert!(goes(None, &[base, ("OTEL_TRACES_EXPORTER", "console, otlp")]).is_some());
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_address() {
        for (value, said) in [
            ("user:canary@c", "the scheme is neither `http` nor `https`"),
            ("//canary", "relative URL without a base"),
            ("http://u:canary@:x", "empty host"),
        ] {
            let error = traces(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", value)]).unwrap_err();
            assert!(error.contains(said) && error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
        let error = traces(Some("http://c"), &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
        assert!(error.contains("`grpc` is not supported"), "{error}");
    }
}
