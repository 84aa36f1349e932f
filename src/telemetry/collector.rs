//! An HTTP client for a collector. It blocks, because the exporters' threads have no reactor.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;

/// The most bytes of a collector's answer that are read.
const ANSWER: u64 = 64 * 1024;

/// The kinds of exported data, each with an endpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// The last part of the endpoint's path.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

/// Sends what one exporter exports.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    signal: Signal,
    outage: Arc<Outage>,
}

impl Client {
    pub(super) fn new(signal: Signal, timeout: Duration, outage: Arc<Outage>) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("rulesyncd/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { agent, signal, outage }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let host = head.uri.host().unwrap_or_default().to_owned();
        let answer = self.agent.run(Request::from_parts(head, &body[..])).and_then(|answer| {
            let (head, mut body) = answer.into_parts();
            let body = body.with_config().limit(ANSWER).read_to_vec()?;
            Ok(Response::from_parts(head, Bytes::from(body)))
        });
        match &answer {
            Ok(answer) if answer.status().is_success() => self.outage.ended(self.signal, &host),
            Ok(answer) => self.outage.failed(self.signal, &host, format!("it answers {}", answer.status())),
            // Only the text of this error contains the address.
            Err(ureq::Error::BadUri(_)) => {
                self.outage.failed(self.signal, &host, "the address cannot be used".to_owned());
            }
            Err(error) => self.outage.failed(self.signal, &host, error.to_string()),
        }
        Ok(answer?)
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(ready(self.send(request)))
    }
}

/// Which signals the collector rejects, and why: an outage is logged once, and its end.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<BTreeMap<Signal, String>>);

impl Outage {
    fn failed(&self, signal: Signal, host: &str, why: String) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = failing.contains_key(&signal) || failing.values().any(|other| *other == why);
        if !is_logged {
            tracing::warn!(
                "the collector at {host} does not accept {}: {why}; they are dropped, and rules are not affected",
                signal.as_str()
            );
        }
        failing.insert(signal, why);
    }

    fn ended(&self, signal: Signal, host: &str) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.remove(&signal).is_some() && failing.is_empty() {
            tracing::info!("the collector at {host} accepts traces and metrics again");
        }
    }
}
