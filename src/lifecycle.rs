//! A daemon's life: signals, the soft and the hard stop, and the notifications to systemd.
//!
//! Signals belong to `signal_hook` alone: one thread sleeps in `read(2)` until one comes, so an
//! idle daemon is not woken, and a second SIGTERM ends even a daemon whose runtime hangs.

mod interrupt;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::interrupt::Interrupt;
pub use self::interrupt::Signal;
use crate::paint::sanitize;

/// How long a soft stop may take.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The exit code of a daemon that was stopped before it had finished.
const ABORTED: i32 = 3;

/// What a signal requests, except a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// SIGHUP: reload the configuration; a master compares everything, too.
    Reload,
    /// SIGUSR1: write the status to the log.
    Status,
}

/// Who sent a signal, for the log.
struct Sender {
    signal: &'static str,
    process: Option<(i32, u32)>,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some((pid, uid)) => write!(f, "{} from process {pid} of user {uid}", self.signal),
            None => f.write_str(self.signal),
        }
    }
}

/// The signals of this process.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    stop: CancellationToken,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Lifecycle {
    /// Takes over the process's signals. SIGTERM and SIGINT cancel the stop token; a second one
    /// ends the process at once with exit code 3.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub(crate) fn start() -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, and sets it for the second.
            signal_hook::flag::register_conditional_shutdown(signal, ABORTED, Arc::clone(&stopping))?;
            signal_hook::flag::register(signal, Arc::clone(&stopping))?;
        }
        let mut signals = SignalsInfo::<WithOrigin>::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let stop = CancellationToken::new();
        let (sender, requests) = mpsc::unbounded_channel();
        let token = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for origin in signals.forever() {
                let process = origin.process.map(|process| (process.pid, process.uid));
                let from = |signal| Sender { signal, process };
                match origin.signal {
                    SIGHUP => {
                        tracing::info!("reloading: {}", from("SIGHUP"));
                        let _ = sender.send(Request::Reload);
                    }
                    SIGUSR1 => {
                        let _ = sender.send(Request::Status);
                    }
                    signal => {
                        tracing::info!(
                            "stopping: {}",
                            from(if signal == SIGINT { "SIGINT" } else { "SIGTERM" })
                        );
                        token.cancel();
                    }
                }
            }
        })?;
        Ok(Self { stop, requests })
    }

    /// Cancelled when the daemon must stop softly.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The next request; pending until there is one. Cancel safe.
    pub(crate) async fn request(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// Shows that a daemon's main loop makes progress; the watchdog is fed only while it does.
#[derive(Debug, Clone, Default)]
pub struct Liveness(Arc<AtomicU64>);

impl Liveness {
    /// Records progress of the main loop.
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is progress: of each answer, the progress since the one before counts for `patience`.
    pub(crate) fn within(&self, patience: Duration) -> impl FnMut() -> bool + Send + use<> {
        let liveness = self.clone();
        let mut last = (liveness.count(), Instant::now());
        move || {
            let count = liveness.count();
            if count != last.0 {
                last = (count, Instant::now());
            }
            last.1.elapsed() < patience
        }
    }

    /// How often there was progress.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Notifies systemd; does nothing if systemd did not start the process.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    status: String,
}

impl Notifier {
    /// The daemon works from here on.
    pub(crate) fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// The daemon reloads its configuration; [`Notifier::ready`] ends that.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// The daemon is about to end.
    pub(crate) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Sets the status sentence, if it changed. It must be one line, because further lines are assignments of their
    /// own (sd_notify(3)).
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            notify(&[NotifyState::Status(&sanitize(&status))]);
            self.status = status;
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Best effort: the daemon does not depend on its supervisor.
    let _ = sd_notify::notify(states);
}

/// A main loop without progress for so long hangs, where no watchdog says how long: as in the units.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How long a main loop is without progress before it hangs: systemd's watchdog ends it then.
pub(crate) fn hangs_after() -> Duration {
    watchdog_interval().unwrap_or(HANGS_AFTER)
}

/// The interval of systemd's watchdog; `None` without one.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Feeds systemd's watchdog while the main loop makes progress. Never returns.
pub(crate) async fn feed_watchdog(liveness: Liveness) {
    let Some(interval) = watchdog_interval() else {
        return std::future::pending().await;
    };
    let mut last = None;
    loop {
        let count = liveness.count();
        if last != Some(count) {
            notify(&[NotifyState::Watchdog]);
            last = Some(count);
        }
        tokio::time::sleep(interval / 4).await;
    }
}
