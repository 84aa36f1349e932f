//! What a running worker says of itself: its status, its gauges, and what it reports to the fleet.

use std::sync::Arc;
use std::time::Duration;

use super::accept::Peers;
use super::broker::Broker;
use super::bus::Bus;
use super::subscriber::Service;
use super::{CacheOrigin, DatabaseStatus, StreamStatus, WorkerStatus, log};
use crate::clock::Timestamp;
use crate::config::WorkerConfig;
use crate::fleet::WorkerReport;
use crate::store::driver_failures;
use crate::telemetry::metrics;
use crate::trust::{Policy, TrustState};

/// The most rules or rows that a list of `status` names: each connection holds an answer until it is read.
const MAX_LISTED: usize = 1_000;

/// Reads the status of a worker while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) shared: Arc<Shared>,
}

/// Who this worker is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    worker_id: String,
    host: String,
    interval: Duration,
}

impl Identity {
    /// The id of the configuration, or of the machine; the host's name where the machine has none.
    pub(super) fn of(config: &WorkerConfig) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let machine = || std::fs::read_to_string("/etc/machine-id").ok().map(|id| id.trim().to_owned());
        let worker_id = config.id.clone().or_else(machine).filter(|id| !id.is_empty());
        Self { worker_id: worker_id.unwrap_or_else(|| host.clone()), host, interval: config.report_interval }
    }
}

/// What a worker and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) broker: Arc<Broker>,
    pub(super) peers: Arc<Peers>,
    /// `None` if no bus is configured.
    pub(super) bus: Option<Bus>,
    pub(super) origin: CacheOrigin,
    pub(super) started_at: Timestamp,
    pub(super) identity: Identity,
}

impl WorkerHandle {
    /// Requires this of releases from now on. Without effect if the worker started without trust.
    pub fn trust(&self, policy: Policy) {
        self.shared.broker.trust(policy);
    }

    /// The worker's status.
    pub fn status(&self) -> WorkerStatus {
        self.shared.status()
    }

    /// Registers the gauges that read this worker's status at each export of metrics.
    pub(crate) fn register_metrics(&self) {
        // Each answer to `status` has all of them, so none makes a status of its own.
        let gauge = |name, what, read: fn(&Shared) -> f64| {
            let worker = Arc::clone(&self.shared);
            metrics::gauge(name, what, "worker", move || read(&worker));
        };
        gauge("rulesyncd.rules", "Rules that are served", |worker| {
            worker.broker.inspect(|catalogue, _, _| catalogue.rule_count()) as f64
        });
        gauge("rulesyncd.held_back", "Rules whose deletion is held back", |worker| {
            worker.broker.held_back(0).1 as f64
        });
        gauge(
            "rulesyncd.untrusted",
            "0 while the signed release is in order, 1 degraded, 2 none",
            |worker| match worker.broker.trust_status().map(|trust| trust.state) {
                None | Some(TrustState::Ok) => 0.0,
                Some(TrustState::Degraded) => 1.0,
                Some(TrustState::None) => 2.0,
            },
        );
        gauge("rulesyncd.quarantined", "Rows that are quarantined", |worker| {
            worker.broker.some_quarantined(0).1 as f64
        });
        gauge(
            "rulesyncd.stale_seconds",
            "Age of the rules that are served; 0 while they are current",
            |worker| worker.broker.head_status().stale_for_ms() as f64 / 1_000.0,
        );
        gauge("rulesyncd.subscribers", "Subscribers that follow the rules", |worker| {
            worker.lags().len() as f64
        });
        gauge("rulesyncd.lag", "Changes that the slowest subscriber is behind", |worker| {
            worker.lags().into_iter().max().unwrap_or(0) as f64
        });
    }
}

impl Shared {
    /// How many changes each subscriber is behind.
    fn lags(&self) -> Vec<u64> {
        let connections = self.peers.status(self.broker.head_status().seq).into_iter();
        connections.filter(|peer| peer.subscribed).map(|peer| peer.lag).collect()
    }

    /// The status without the report.
    fn plain_status(&self) -> WorkerStatus {
        let broker = &self.broker;
        let head_status = broker.head_status();
        let (pending_mass_delete, pending_count, pending_since) = broker.held_back(MAX_LISTED);
        let (quarantined, quarantined_count) = broker.some_quarantined(MAX_LISTED);
        let trust = broker.trust_status();
        let mut stream = StreamStatus {
            epoch: broker.epoch.clone(),
            seq: head_status.seq,
            resumable_from: 0,
            journal_bytes: 0,
            subscribers: self.peers.status(head_status.seq),
        };
        broker.inspect(|catalogue, journal, database| {
            stream.resumable_from = journal.reaches_back_to();
            stream.journal_bytes = journal.bytes() as u64;
            let (last_error, last_error_at) = database.last_error.clone().unzip();
            WorkerStatus {
                mode: "worker".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                now: broker.clock.now(),
                started_at: self.started_at,
                database: DatabaseStatus {
                    url: self.origin.url.clone(),
                    url_file: self.origin.url_file.clone(),
                    backend: self.origin.backend.clone(),
                    state: head_status.database,
                    since: database.since,
                    stale_for_ms: head_status.stale_for_ms(),
                    master_silent_for_ms: u64::try_from(database.master_silent.lasts.as_millis())
                        .unwrap_or(u64::MAX),
                    no_master_since: database.master_silent.released_at,
                    last_error: last_error.clone(),
                    last_error_at,
                    version_problem: database.version_problem.clone(),
                    report_problem: database.report_problem.clone(),
                    driver_failures: driver_failures(),
                },
                watermark: catalogue.watermark(),
                rules: catalogue.rule_count() as u64,
                states: catalogue.states().count() as u64,
                digest: head_status.digest,
                quarantined: quarantined.into_iter().map(Into::into).collect(),
                quarantined_count,
                trust,
                pending_mass_delete,
                pending_count,
                pending_since,
                stream,
                bus: self.bus.as_ref().map(Bus::status),
                last_error,
                last_error_at,
                report: None,
            }
        })
    }

    /// What the worker reports now.
    pub(super) fn report(&self) -> WorkerReport {
        self.report_of(&self.plain_status())
    }

    /// What the worker with this status reports.
    pub(super) fn report_of(&self, status: &WorkerStatus) -> WorkerReport {
        let seq = status.stream.seq;
        let subscribers = status.stream.subscribers.iter().filter(|peer| peer.subscribed);
        let acked: Vec<u64> = subscribers.clone().filter_map(|peer| peer.acked).collect();
        let trust = status.trust.as_ref().map(|trust| {
            let state = match trust.state {
                TrustState::Ok => "ok",
                TrustState::Degraded => "degraded",
                TrustState::None => "none",
            };
            let reasons = trust.reasons.iter().map(|reason| format!(" {}", reason.as_str()));
            state.to_owned() + &reasons.collect::<String>()
        });
        WorkerReport {
            epoch: status.stream.epoch.to_string(),
            worker_id: self.identity.worker_id.clone(),
            host: self.identity.host.clone(),
            program: status.version.clone(),
            interval_ms: u64::try_from(self.identity.interval.as_millis()).unwrap_or(u64::MAX),
            applied: self.broker.applied(),
            seq,
            digest: status.digest.map(|digest| digest.to_string()),
            rules: status.rules,
            states: status.states,
            quarantined: status.quarantined_rows() as u64,
            quarantined_ids: WorkerReport::join_ids(status.quarantined.iter().map(|row| &*row.rule_id)),
            trust,
            manifest_version: status.trust.as_ref().and_then(|trust| trust.version.clone()),
            subscribers: subscribers.count() as u64,
            acknowledging: acked.len() as u64,
            acknowledged: acked.iter().filter(|&&acked| acked >= seq).count() as u64,
            server: self.origin.place.clone(),
            stale_ms: status.database.stale_for_ms,
        }
    }
}

impl Service for Shared {
    fn status(&self) -> WorkerStatus {
        let mut status = self.plain_status();
        status.report = Some(self.report_of(&status));
        status
    }

    fn allow_mass_delete(&self, uid: u32, pid: Option<i32>) -> Result<usize, String> {
        let own = rustix::process::geteuid().as_raw();
        if uid != own && uid != 0 {
            return Err(format!("user {uid} may not allow a mass deletion: only user {own} and root may"));
        }
        let applied = self.broker.release();
        log::guard_lifted(&self.broker, &applied, log::Lifted::By { uid, pid });
        Ok(applied.changes.len())
    }
}
