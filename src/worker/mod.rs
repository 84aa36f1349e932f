//! Follows the tables and serves their changes to the subscribers of this host.
//!
//! ```text
//! tail ─▶ broker (catalogue, journal) ─▶ a position for each subscriber ─▶ socket
//! ```
//!
//! Only the tail writes. A subscriber is a position in the journal and has no queue: a slow one takes the
//! memory of its last batch and delays nobody.

mod accept;
mod broker;
mod bus;
mod cache;
mod cached;
mod floor;
mod grace;
mod handle;
pub(crate) mod history;
mod journal;
mod lock;
mod log;
mod output;
mod rejections;
mod report;
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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(any(test, fuzzing))]
pub use cache::laws;
pub use handle::WorkerHandle;
pub use status::{
    BusStatus, DatabaseStatus, QuarantinedStatus, StreamStatus, SubscriberStatus, WorkerStatus,
};

use self::accept::AccessPolicy;
use self::broker::Broker;
use self::bus::Bus;
use self::handle::{Identity, Shared};
use self::lock::CacheLock;
use self::report::Schedule;
use self::tail::Tail;
use self::texts::Texts;
use crate::clock::SharedClock;
use crate::config::WorkerConfig;
use crate::lifecycle::Liveness;
use crate::socket::{ListenError, listen};
use crate::store::RuleStore;
use crate::trust::Policy;

/// How long the worker waits for the end of its first poll before it takes connections. After that it serves
/// the cache.
const FIRST_POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// The store that the worker follows, for `status` and for the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOrigin {
    /// The address without its password.
    pub url: String,
    /// The file that the address was read from; `None` if the configuration holds the address itself.
    pub url_file: Option<PathBuf>,
    /// Server, port and database only: they identify the rules of a cache, whichever user reads them and
    /// however the connection is protected.
    pub place: String,
    /// The kind of store: `sqlite`, `mysql`, `postgresql` or `filesystem`.
    pub backend: String,
}

/// A worker that does not run yet.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    shared: Arc<Shared>,
    /// `None` if another worker keeps the cache.
    lock: Option<CacheLock>,
}

impl Worker {
    /// A worker for the store that `origin` names.
    pub fn new(config: WorkerConfig, origin: CacheOrigin, clock: SharedClock) -> Self {
        Self::with_trust(config, origin, clock, None)
    }

    /// The same, and if there is a policy, a worker that serves only releases that fulfil it. Its store must follow
    /// releases, too.
    pub fn with_trust(
        config: WorkerConfig,
        origin: CacheOrigin,
        clock: SharedClock,
        policy: Option<Policy>,
    ) -> Self {
        let started_at = clock.now();
        let (lock, gate) = grace::blocking(
            || (lock::take(&config.cache), policy.map(|policy| floor::gate(policy, &config.cache))),
            || log::start_waits_for_disk(&config.cache),
        );
        let broker = Broker::new(clock, config.journal_length, config.subscriber_queue);
        let broker = match &lock {
            Some(_) => broker.with_texts(Arc::new(Texts::new(config.cache.clone()))),
            None => broker,
        };
        let broker = broker.polled_every(config.poll_interval);
        let broker = broker.guarded(config.max_delete, config.max_delete_hold);
        let broker = Arc::new(match gate {
            Some(gate) => broker.behind(gate),
            None => broker,
        });
        let bus = config.bus_socket.clone().map(|path| Bus::new(path, started_at));
        let identity = Identity::of(&config);
        let shared = Shared { broker, peers: Arc::default(), bus, origin, started_at, identity };
        Self { config, shared: Arc::new(shared), lock }
    }

    /// A handle that outlives [`Worker::run`].
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Follows `store` and serves the stream until the shutdown, on `listener` or, if that is `None`, on the
    /// configured path. At the shutdown each subscriber gets a last line, for which it has a bounded time.
    /// The tail's loop beats `liveness`.
    ///
    /// # Errors
    /// The socket cannot be served. A store that does not answer is no error: the worker tries again until
    /// the shutdown.
    pub async fn run<S: RuleStore>(
        self,
        store: &S,
        listener: Option<StdListener>,
        liveness: &Liveness,
        shutdown: CancellationToken,
    ) -> Result<(), ListenError> {
        let Self { config, shared, lock } = self;
        let cache = lock.as_ref().map(|_| config.cache);
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
        let policy = AccessPolicy {
            allow_uids: config.allow_uids,
            max_subscribers: config.max_subscribers,
            max_per_user: config.max_subscribers_per_uid,
            heartbeat: config.heartbeat_interval,
        };
        let (broker, peers) = (Arc::clone(&shared.broker), Arc::clone(&shared.peers));
        let polled = CancellationToken::new();
        let backend = shared.origin.backend.clone();
        let restored = CancellationToken::new();
        let tail = Tail::new(
            || store.follow(),
            Arc::clone(&broker),
            config.poll_interval,
            backend,
            polled.clone(),
            restored.clone(),
            cache.as_deref().map(floor::path),
        );
        let reports = Arc::clone(&shared);
        let tail = tail.reporting(
            Schedule::new(config.report_spread, config.report_interval, Instant::now()),
            move || reports.report(),
        );
        let origin = shared.origin.place.clone();
        let history = async {
            if let Some(cache) = &cache {
                history::keep(history::path(cache), Arc::clone(&broker), shutdown.clone()).await;
            }
        };
        let keep_cache = async {
            if let Some(cache) = &cache {
                tokio::select! {
                    () = cache::restore(cache.clone(), &origin, &broker, &restored) => {}
                    // The cache stays as it is.
                    () = shutdown.cancelled() => return,
                }
            }
            restored.cancel();
            if let Some(cache) = &cache {
                cache::keep(cache.clone(), origin, Arc::clone(&broker), shutdown.clone()).await;
            }
        };
        let bus = async {
            if let Some(bus) = &shared.bus {
                bus.publish(Arc::clone(&broker), shutdown.clone()).await;
            }
        };
        let service = Arc::clone(&shared);
        let accept = async {
            // Clients that connect meanwhile wait in the socket's backlog: after a restart a subscriber must
            // not get rules that are older than those it had, as long as the database answers.
            tokio::select! {
                () = polled.cancelled() => {}
                () = tokio::time::sleep(FIRST_POLL_TIMEOUT) => {}
                () = shutdown.cancelled() => {}
            }
            accept::accept(listener, Arc::clone(&broker), peers, service, policy, shutdown.clone()).await;
        };
        tokio::join!(tail.run(liveness, &shutdown), accept, history, keep_cache, bus);
        Ok(())
    }
}
