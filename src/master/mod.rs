//! From the rules directory to the table.
//!
//! `directory::Watch` names the files that may have changed, [`directory::Scanner`](crate::directory::Scanner) reads
//! them, [`rule::plan`](crate::rule::plan) compares them with the rows, and [`reconcile`] carries the plan out. `Master`
//! is the daemon around them: lock, standby, retries, rescans.

mod audit;
mod command;
mod fleet;
mod held;
mod lock;
mod log;
mod outages;
pub mod reconcile;
mod states;
mod status;
mod summary;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as watch_channel};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::audit::StateAudit;
pub(crate) use self::command::{MasterRequest, Reload};
pub use self::held::{HeldDeletes, Operator};
use self::reconcile::{ReconcileError, Reconciler};
pub(crate) use self::status::{LeaseStatus, LockStatus, MasterStatus};
pub(crate) use self::summary::{Reconciled, Summary, WrittenRule};
use crate::backoff::{Backoff, jittered, until};
use crate::clock::SharedClock;
use crate::config::MasterConfig;
use crate::directory::{DELETE_AFTER, ScanProgress, ScanScope, Watch};
use crate::fleet::{FleetNews, FleetWatch};
use crate::lifecycle::Liveness;
use crate::outage::Outage;
use crate::store::{Database, MasterSession, StoreError};
use crate::telemetry::metrics;
use crate::trust::Policy;

/// How often a standby asks for the lock, and a master checks that it still holds it.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopping master takes to release its lease, at most.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// How often a stopping master checks whether its last write has ended.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait before a file that changed while it was read is read again.
const CHANGING_FOR: Duration = Duration::from_millis(50);

/// The daemon that keeps the table equal to the directory.
#[derive(Debug)]
pub(crate) struct Master {
    database: Database,
    clock: SharedClock,
    config: MasterConfig,
    reconciler: Reconciler,
    watch: Watch,
    commands: mpsc::Receiver<MasterRequest>,
    reloads: watch_channel::Receiver<Option<Reload>>,
    status: Arc<watch_channel::Sender<MasterStatus>>,
    liveness: Liveness,
    directory_outage: Outage,
    database_outage: Outage,
    /// Whether the lock was taken in this outage of the database, and that was logged.
    lock_logged: bool,
    audit: StateAudit,
    /// When to check that the lock is still held, however much else there is to do.
    ping_at: Instant,
    /// When rows are tried again that another session held; `None` when there are none.
    retry_at: Option<Instant>,
    retries: Backoff,
    /// Whether the removal of expired states fails, and that was logged.
    states_stay: bool,
    /// Which workers were logged as silent or behind.
    fleet: FleetWatch,
    /// What the last look at their reports showed; `None` on a standby.
    fleet_seen: watch_channel::Sender<Option<FleetNews>>,
    /// When to read their reports again.
    fleet_at: Instant,
    /// Whether a master that publishes no releases has looked for one in the database.
    looked_for_manifest: bool,
}

/// Whether a scan deferred something to another scan a moment later.
struct Deferred(bool);

/// Why a session ended.
enum End {
    Stopped,
    Lost(StoreError),
}

/// Keeps the watchdog fed during a slow database call, and while a scan goes on. Never returns.
async fn beat_while_working(liveness: &Liveness, database: &Database, scans: &ScanProgress) {
    let mut interval = tokio::time::interval(LOCK_INTERVAL);
    let mut before = scans.count();
    loop {
        interval.tick().await;
        let now = scans.count();
        if database.is_asked() || now != before {
            liveness.beat();
        }
        before = now;
    }
}

/// Returns once `stop` is cancelled and no write is in progress. Reads are abandoned: a stop does not wait for
/// a database that does not answer.
async fn stopped_between_writes(stop: &CancellationToken, database: &Database) {
    stop.cancelled().await;
    while database.is_writing() {
        sleep(STOP_CHECK_INTERVAL).await;
    }
}

impl Master {
    /// Creates a master. It does nothing before [`Master::run`]. With a policy it publishes signed releases only, as the
    /// policy requires.
    pub(crate) fn new(
        config: MasterConfig,
        database: Database,
        clock: SharedClock,
        commands: mpsc::Receiver<MasterRequest>,
        reloads: watch_channel::Receiver<Option<Reload>>,
        liveness: Liveness,
        policy: Option<Policy>,
    ) -> Self {
        let status = MasterStatus::new(&config, &database, clock.now());
        let watch = Watch::new(config.rules_dir.clone());
        let mut reconciler = Reconciler::new(config.clone(), Arc::clone(&clock));
        reconciler.skip_unfinished(watch.unfinished());
        let looked_for_manifest = policy.is_some();
        reconciler.publish_releases(policy);
        Self {
            reconciler,
            watch,
            status: Arc::new(watch_channel::Sender::new(status)),
            audit: StateAudit::default(),
            ping_at: Instant::now(),
            directory_outage: Outage::default(),
            database_outage: Outage::default(),
            lock_logged: false,
            retry_at: None,
            retries: Backoff::default(),
            states_stay: false,
            fleet: FleetWatch::default(),
            fleet_seen: watch_channel::Sender::new(None),
            fleet_at: Instant::now(),
            looked_for_manifest,
            database,
            clock,
            config,
            commands,
            reloads,
            liveness,
        }
    }

    /// Registers the gauges that are read whenever metrics are exported.
    pub(crate) fn register_metrics(&self) {
        let gauge = |name, what, read: fn(&MasterStatus) -> usize| {
            let status = self.status();
            metrics::gauge(name, what, "master", move || read(&status.borrow()) as f64);
        };
        gauge("rulesyncd.rules", "Valid rule files", |status| status.rules);
        gauge("rulesyncd.quarantined", "Invalid files and conflicts", |status| {
            status.invalid_files() + status.conflicting_files()
        });
        gauge("rulesyncd.held_back", "Rules whose deletion is held back", MasterStatus::pending_deletions);
        gauge("rulesyncd.unwatched", "1 while changes are found by the rescan alone", |status| {
            usize::from(status.watch_error.is_some())
        });
        if self.database.has_reports() {
            self.register_fleet_metrics();
        }
    }

    /// The master's status, as a channel of its latest value.
    pub(crate) fn status(&self) -> watch_channel::Receiver<MasterStatus> {
        self.status.subscribe()
    }

    /// Runs until `stop`: takes the lock or stands by for it, keeps the table equal to the directory, and starts over
    /// whenever the database or the lock is lost. A write that has begun is finished.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (liveness, database) = (self.liveness.clone(), self.database.clone());
        let scans = self.reconciler.scan_progress().clone();
        let status = self.status();
        tokio::select! {
            () = self.work(stop) => {}
            () = beat_while_working(&liveness, &database, &scans) => {}
        }
        if status.borrow().lock == LockStatus::Held {
            tokio::time::timeout(RELEASE_LIMIT, database.release_lease()).await.ok();
        }
    }

    async fn work(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut stands_by_since = None;
        while !stop.is_cancelled() {
            let session = tokio::select! {
                () = stop.cancelled() => return,
                session = self.acquire(stands_by_since.take()) => session,
            };
            let end = match session {
                Ok(session) => {
                    let database = self.database.clone();
                    tokio::select! {
                        end = self.serve(session, &stop, &mut backoff) => end,
                        () = stopped_between_writes(&stop, &database) => End::Stopped,
                    }
                }
                Err(error) => End::Lost(error),
            };
            let End::Lost(error) = end else { return };
            self.fleet_seen.send_replace(None);
            let leader = tokio::select! {
                () = stop.cancelled() => return,
                leader = self.who_leads_instead(&error) => leader,
            };
            match leader {
                Some(leader) => {
                    self.was_taken_over(&leader);
                    stands_by_since = Some(Instant::now());
                }
                None => self.database_lost(&error),
            }
            let wait = backoff.wait();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.idle(wait) => {}
            }
        }
    }

    async fn serve(
        &mut self,
        mut session: MasterSession,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> End {
        let mut pending = Some(ScanScope::All);
        let mut rescan_at = Instant::now();
        self.reconciler.begin_session();
        self.ping_at = Instant::now() + LOCK_INTERVAL;
        loop {
            if stop.is_cancelled() {
                return End::Stopped;
            }
            self.liveness.beat();
            let next = match pending.take() {
                Some(scope) => {
                    if scope.is_all() {
                        rescan_at = Instant::now() + jittered(self.config.rescan_interval);
                    }
                    self.try_reconcile(&mut session, &scope).await.map(|()| {
                        backoff.reset();
                        None
                    })
                }
                None => self.wait(&mut session, stop, rescan_at).await,
            };
            match next {
                Ok(scope) => pending = scope,
                Err(error) => return End::Lost(error),
            }
        }
    }

    /// Waits for the next event, and returns what to scan.
    async fn wait(
        &mut self,
        session: &mut MasterSession,
        stop: &CancellationToken,
        rescan_at: Instant,
    ) -> Result<Option<ScanScope>, StoreError> {
        let retry_at = self.retry_at;
        let recheck = self.reconciler.recheck_in();
        let log_in = self.reconciler.log_release();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            // Events may go on without end: whatever is due comes before them.
            () = sleep_until(self.ping_at) => {
                self.ping_at = Instant::now() + LOCK_INTERVAL;
                session.ping().await?;
                self.note_lease(session.lease_problem(), session.lease());
                self.watch_fleet(session).await?;
                let mark = self.audit.mark.clone();
                self.audit_states(session, mark).await.map(|()| None)
            }
            reload = command::reloaded(&mut self.reloads) => {
                self.reload(reload);
                Ok(Some(ScanScope::Reread))
            }
            request = command::receive(&mut self.commands) => self.handle(session, request).await.map(|()| None),
            () = until(retry_at) => Ok(Some(ScanScope::All)),
            () = sleep_until(rescan_at) => Ok(Some(ScanScope::Reread)),
            scope = self.watch.next() => Ok(Some(scope)),
            () = sleep(recheck.unwrap_or_default()), if recheck.is_some() => {
                Ok(Some(self.reconciler.recheck().await).filter(|names| !names.is_empty()).map(ScanScope::Names))
            }
            () = sleep(log_in.unwrap_or_default()), if log_in.is_some() => Ok(None),
        }
    }

    /// Reconciles. A directory that cannot be read is logged and is no error here: the watch and the rescan try it
    /// again.
    async fn try_reconcile(
        &mut self,
        session: &mut MasterSession,
        scope: &ScanScope,
    ) -> Result<(), StoreError> {
        match self.reconcile(session, scope, None).await {
            Ok(_) => Ok(()),
            Err(ReconcileError::Directory(_)) => Ok(()),
            Err(ReconcileError::Store(error)) => Err(error),
        }
    }

    async fn reconcile(
        &mut self,
        session: &mut MasterSession,
        scope: &ScanScope,
        lifted_by: Option<Operator>,
    ) -> Result<(Reconciled, Deferred), ReconcileError> {
        if scope.is_all() {
            self.watch.renew(self.config.rescan_interval).await;
            let failure = self.watch.failure().map(str::to_owned);
            self.status.send_modify(|status| status.watch_error = failure);
        }
        let result = self.reconciler.reconcile(session, scope, lifted_by).await;
        let scanner = self.reconciler.scanner();
        self.watch.expect_links(scanner.has_links(), scanner.link_targets().await);
        match &result {
            Ok(_) => {
                self.directory_back();
                self.database_back();
            }
            Err(ReconcileError::Directory(error)) => {
                // The session has the lock: the database is not what is unavailable.
                self.database_back();
                self.directory_lost(error);
            }
            Err(ReconcileError::Store(_)) => {}
        }
        self.note_version_problem(session.version_problem());
        let report = result?;
        if scope.is_all() {
            self.audit_states(session, None).await?;
            self.remove_expired_states(session).await?;
            self.forget_workers(session).await?;
        }
        if report.retry {
            self.retry_at = Some(Instant::now() + self.retries.wait());
        } else if scope.is_all() {
            self.retry_at = None;
            self.retries.reset();
        }
        self.watch.schedule_rescan(report.rescan.iter().cloned(), DELETE_AFTER);
        self.watch.schedule_rescan(report.changing.iter().cloned(), CHANGING_FOR);
        let reconciled = Reconciled::of(&report, &self.reconciler);
        self.publish(reconciled.summary);
        Ok((reconciled, Deferred(!report.rescan.is_empty() || !report.changing.is_empty())))
    }
}
