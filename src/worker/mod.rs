//! Follows the tables and serves what it hears.
//!
//! ```text
//! tail ─▶ hub (catalogue, journal) ─▶ a cursor for each subscriber ─▶ socket
//! ```
//!
//! The tail alone writes. A subscriber is a place in the journal, not a queue: a slow one costs
//! what it was last given and delays nobody.

mod accept;
mod bus;
mod cache;
mod hub;
mod journal;
mod log;
mod output;
mod refusals;
mod snapshot;
mod status;
mod subscriber;
mod tail;
mod texts;
mod trace;

use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use status::{
    BusStatus, DatabaseStatus, QuarantinedStatus, StreamStatus, SubscriberStatus, WorkerStatus,
};

use self::accept::{Admission, Peers};
use self::bus::Bus;
use self::hub::Hub;
use self::subscriber::Service;
use self::tail::Tail;
use self::texts::Texts;
use crate::clock::{SharedClock, Timestamp};
use crate::config::WorkerConfig;
use crate::lifecycle::Liveness;
use crate::socket::{ListenError, listen};
use crate::store::{RuleStore, driver_failures};
use crate::telemetry::metrics;

/// How long the first answer of the database may take before the catalogue on disk is served in its
/// place. A database that refuses is not waited for.
const FRESH_WITHIN: Duration = Duration::from_secs(1);

/// Which store is followed, for `status` and for the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOrigin {
    /// Its address without a password.
    pub url: String,
    /// The file that the whole address was read from; `None` where it stood in the configuration.
    pub url_file: Option<PathBuf>,
    /// Server, port and database alone: whose rules a cache holds, whoever reads them and however the
    /// connection is protected.
    pub place: String,
    /// What it is: `sqlite`, `mysql`, `postgresql`, `filesystem`.
    pub backend: String,
}

/// A worker that is not yet running.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    shared: Arc<Shared>,
}

/// A running worker, seen from the outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    peers: Arc<Peers>,
    /// `None` where none is configured.
    bus: Option<Bus>,
    origin: CacheOrigin,
    started_at: Timestamp,
}

impl Worker {
    /// A worker that will follow the store that `origin` names.
    pub fn new(config: WorkerConfig, origin: CacheOrigin, clock: SharedClock) -> Self {
        let started_at = clock.now();
        let texts = Arc::new(Texts::new(config.cache.clone()));
        let hub = Hub::new(clock, config.journal_length, config.subscriber_queue).with_texts(texts);
        let hub = hub.polled_every(config.poll_interval);
        let hub = Arc::new(hub.guarded(config.max_delete, config.max_delete_hold));
        let bus = config.bus_socket.clone().map(|path| Bus::new(path, started_at));
        Self { config, shared: Arc::new(Shared { hub, peers: Arc::default(), bus, origin, started_at }) }
    }

    /// A view on this worker that outlives [`Worker::run`].
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Follows `store` and serves the stream until the shutdown; subscribers are then told, for a
    /// bounded time. `liveness` beats as the tail comes around. Serves on `listener`, or where that is `None` on the configured path.
    ///
    /// # Errors
    /// When the socket cannot be served. A store that does not answer is no error: it is tried
    /// again, for ever.
    pub async fn run<S: RuleStore>(
        self,
        store: &S,
        listener: Option<StdListener>,
        liveness: &Liveness,
        shutdown: CancellationToken,
    ) -> Result<(), ListenError> {
        let Self { config, shared } = self;
        let (listener, _listening) = match listener {
            Some(listener) => (listener, None),
            None => {
                let (listener, listening) =
                    listen(&config.socket, config.socket_mode, config.socket_group.as_deref())?;
                (listener, Some(listening))
            }
        };
        let failed = |source| ListenError::Io { path: config.socket.clone(), source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let admission = Admission {
            allow_uids: config.allow_uids,
            max_subscribers: config.max_subscribers,
            max_per_user: config.max_subscribers_per_uid,
            heartbeat: config.heartbeat_interval,
        };
        let (hub, peers) = (Arc::clone(&shared.hub), Arc::clone(&shared.peers));
        let looked = CancellationToken::new();
        let backend = shared.origin.backend.clone();
        let restored = CancellationToken::new();
        let tail = Tail::new(
            || store.follow(),
            Arc::clone(&hub),
            config.poll_interval,
            backend,
            looked.clone(),
            restored.clone(),
        );
        let origin = shared.origin.place.clone();
        let keep = async {
            cache::restore(config.cache.clone(), &origin, &hub).await;
            restored.cancel();
            cache::keep(config.cache, origin, Arc::clone(&hub), shutdown.clone()).await;
        };
        let hints = async {
            if let Some(bus) = &shared.bus {
                bus.publish(Arc::clone(&hub), shutdown.clone()).await;
            }
        };
        let service = Arc::clone(&shared);
        let accept = async {
            // Who connects meanwhile waits in the socket: while the database answers, nobody is to
            // hear of a state of things that is older than what it heard before a restart.
            tokio::select! {
                () = looked.cancelled() => {}
                () = tokio::time::sleep(FRESH_WITHIN) => {}
                () = shutdown.cancelled() => {}
            }
            accept::accept(listener, Arc::clone(&hub), peers, service, admission, shutdown.clone()).await;
        };
        tokio::join!(tail.run(liveness, &shutdown), accept, keep, hints);
        Ok(())
    }
}

impl WorkerHandle {
    /// How the worker is.
    pub fn status(&self) -> WorkerStatus {
        self.shared.tell()
    }

    /// Has the worker looked at whenever metrics are exported.
    pub fn register_metrics(&self) {
        let gauge = |name, what, read: fn(&WorkerStatus) -> f64| {
            let worker = self.clone();
            metrics::gauge(name, what, "worker", move || read(&worker.status()));
        };
        gauge("rulesyncd.rules", "Rules in force", |status| status.rules as f64);
        gauge("rulesyncd.held_back", "Rules whose deletion is held back", |status| {
            status.pending_mass_delete.len() as f64
        });
        gauge("rulesyncd.quarantined", "Rows that take no part", |status| status.quarantined.len() as f64);
        gauge("rulesyncd.stale_seconds", "Since when what is known is not the database's", |status| {
            status.database.stale_for_ms as f64 / 1_000.0
        });
        gauge("rulesyncd.subscribers", "Subscribers that follow the rules", |status| {
            status.stream.subscribers.iter().filter(|peer| peer.subscribed).count() as f64
        });
        gauge("rulesyncd.lag", "Changes that the slowest subscriber is behind", |status| {
            let lags = status.stream.subscribers.iter().filter(|peer| peer.subscribed).map(|peer| peer.lag);
            lags.max().unwrap_or(0) as f64
        });
    }
}

impl Shared {
    fn tell(&self) -> WorkerStatus {
        let hub = &self.hub;
        let standing = hub.standing();
        let (pending_mass_delete, pending_since) = hub.held_back();
        let mut stream = StreamStatus {
            epoch: hub.epoch.clone(),
            seq: standing.seq,
            resumable_from: 0,
            journal_bytes: 0,
            subscribers: self.peers.status(standing.seq),
        };
        hub.inspect(|catalogue, journal, database| {
            stream.resumable_from = journal.reaches_back_to();
            stream.journal_bytes = journal.bytes() as u64;
            let (last_error, last_error_at) = database.last_error.clone().unzip();
            WorkerStatus {
                mode: "worker".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                now: hub.clock.now(),
                started_at: self.started_at,
                database: DatabaseStatus {
                    url: self.origin.url.clone(),
                    url_file: self.origin.url_file.clone(),
                    backend: self.origin.backend.clone(),
                    state: standing.database,
                    since: database.since,
                    stale_for_ms: u64::try_from(standing.stale_for.as_millis()).unwrap_or(u64::MAX),
                    last_error: last_error.clone(),
                    last_error_at,
                    driver_failures: driver_failures(),
                },
                watermark: catalogue.watermark(),
                rules: catalogue.rule_count() as u64,
                states: catalogue.states().count() as u64,
                digest: standing.digest,
                quarantined: catalogue.quarantined().map(Into::into).collect(),
                pending_mass_delete,
                pending_since,
                stream,
                bus: self.bus.as_ref().map(Bus::status),
                last_error,
                last_error_at,
            }
        })
    }
}

impl Service for Shared {
    fn status(&self) -> WorkerStatus {
        self.tell()
    }

    fn allow_mass_delete(&self, uid: u32, pid: Option<i32>) -> Result<usize, String> {
        // The service's own user, as the system has it for this process's files, and root.
        let own = rustix::process::geteuid().as_raw();
        if uid != own && uid != 0 {
            return Err(format!("user {uid} may not allow a mass deletion: only user {own} and root may"));
        }
        let heard = self.hub.release();
        log::guard_lifted(&self.hub, &heard, log::Lifted::By { uid, pid });
        Ok(heard.changes.len())
    }
}
