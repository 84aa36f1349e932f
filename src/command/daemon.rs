//! What the daemons share: how they handle requests while they run, and how they end.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::Failure;
use crate::config::{Config, ConfigError, DatabaseConfig, Flags, is_credential};
use crate::event;
use crate::lifecycle::{Lifecycle, Liveness, Notifier, Request, STOP_WITHIN, feed_watchdog};
use crate::store::{Database, StoreError};

/// How often the daemon updates its sentence for `systemctl status`.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How many files a worker needs besides its connections: the database's, the log, and others.
const OWN_FILES: u64 = 64;

/// Raises this process's limit of open files to the hard limit and returns it; `None` if the system does not say. The
/// soft limit is lower for the sake of programs that use select(2).
pub(super) fn raise_file_limit() -> Option<u64> {
    let (soft, hard) = file_limits(&std::fs::read_to_string("/proc/self/limits").ok()?)?;
    match setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }) {
        Ok(()) => Some(hard),
        // A hardened unit may forbid it.
        Err(error) => {
            tracing::debug!(error = %error, "the limit of open files stays as it is");
            Some(soft)
        }
    }
}

/// The soft and the hard limit of open files, from proc_pid_limits(5). (Not from getrlimit(2): if a system call
/// filter forbids prlimit(2), rustix returns a wrong answer.)
fn file_limits(limits: &str) -> Option<(u64, u64)> {
    let mut words = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// How many of the `wanted` connections a worker may serve with this limit of open files, since it needs some itself.
/// Logs if these are fewer.
pub(super) fn connections(wanted: usize, files: u64) -> usize {
    // With very few files nothing is certain, but some clients are still served.
    let left = files.saturating_sub(OWN_FILES).max(files / 4);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left < wanted {
        tracing::warn!(
            "this process may open {files} files: at most {left} connections are served, not the {wanted} of \
             worker.max_subscribers; raise LimitNOFILE= of its unit, or `ulimit -n`"
        );
    }
    wanted.min(left)
}

/// Why a daemon cannot open its database. This concerns only the configuration (a file that is not a database, an
/// invalid certificate, a connection without encryption), which a restart does not correct.
pub(super) fn unusable(error: StoreError) -> Failure {
    Failure::Usage(error.into())
}

/// The configuration, read again. If it is not valid, `None`, with an error: the previous one stays.
pub(super) fn reload_config(flags: &Flags, daemon: &str) -> Option<Config> {
    let log = |why: &ConfigError| {
        tracing::error!(
            message_id = event::CONFIGURATION_REFUSED,
            "{why}; the {daemon} keeps its previous configuration"
        );
    };
    Config::load(flags).inspect_err(log).ok()
}

/// Makes the daemon use another password, if a reload changed it.
pub(super) fn reload_password(database: &Database, running: &mut DatabaseConfig, changed: &DatabaseConfig) {
    if running.differs_in_password_only(changed) {
        match database.change_password(changed) {
            Ok(()) => {
                *running = changed.clone();
                tracing::info!(
                    message_id = event::RELOADED,
                    "the database's password has changed: new connections use it"
                );
            }
            Err(error) => tracing::error!(
                "the database's password cannot be read again, and the previous one stays in use: {error}"
            ),
        }
    } else if let Some(file) = changed.url_file.as_ref().filter(|file| is_credential(file)) {
        tracing::info!(
            "{} is a credential, which systemd copies when the unit starts: restart the unit after a change of it",
            file.display()
        );
    }
}

/// Warns of changed keys that need a restart.
pub(super) fn warn_restart_required(daemon: &str, running: &Config, changed: &Config) {
    let keys: Vec<String> =
        running.changed_for_restart(changed, daemon).iter().map(|key| format!("`{key}`")).collect();
    if !keys.is_empty() {
        tracing::warn!("{} changed: restart the daemon to apply it", keys.join(", "));
    }
}

/// What a daemon works with, for the record of its start.
pub(super) struct About {
    /// `None` without a configuration file.
    pub(super) config_file: Option<PathBuf>,
    /// The address without its password.
    pub(super) database: String,
    /// The directory that a master watches, or the socket that a worker serves.
    pub(super) place: String,
}

impl About {
    pub(super) fn new(config: &Config, place: String) -> Self {
        let config_file = config.file().map(Path::to_owned);
        Self { config_file, database: config.database.address.place(), place }
    }
}

/// Runs `work` to its end: handles signals, feeds the watchdog, notifies systemd.
///
/// `work` must end when the lifecycle's stop token is cancelled; it is dropped [`STOP_WITHIN`] later.
///
/// # Errors
/// The error of `work`, or [`Failure::Environment`] if it did not end in time.
pub(super) async fn supervise(
    mode: &'static str,
    about: &About,
    mut lifecycle: Lifecycle,
    liveness: Liveness,
    work: impl Future<Output = Result<(), Failure>>,
    sentence: impl Fn() -> String,
    mut on_request: impl FnMut(Request),
) -> Result<(), Failure> {
    let stop = lifecycle.stop_token();
    let mut notifier = Notifier::default();
    let mut work = pin!(work);
    let mut watchdog = pin!(feed_watchdog(liveness));
    let mut tick = tokio::time::interval(STATUS_INTERVAL);
    // Its first step makes the socket: what systemd starts after this daemon can connect.
    let begun = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    if let Poll::Ready(ended) = begun {
        return ended;
    }
    notifier.ready();
    let About { config_file, database, place } = about;
    tracing::info!(
        message_id = event::STARTED,
        version = env!("CARGO_PKG_VERSION"),
        config_file = config_file.as_ref().map(|file| file.display().to_string()),
        database,
        "{mode} started: {place}, database {database}, {}",
        config_file.as_ref().map_or_else(
            || "no configuration file".to_owned(),
            |file| format!("configured by {}", file.display())
        )
    );
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            () = &mut watchdog => {}
            () = stop.cancelled() => {
                notifier.stopping();
                break tokio::time::timeout(STOP_WITHIN, &mut work).await.unwrap_or_else(|_| {
                    Err(environment!("{mode} did not end within {STOP_WITHIN:?} and was cut short"))
                });
            }
            request = lifecycle.request() => {
                if request == Request::Reload {
                    notifier.reloading();
                }
                on_request(request);
                if request == Request::Reload {
                    notifier.ready();
                }
            }
            _ = tick.tick() => notifier.status(sentence()),
        }
    };
    tracing::info!(message_id = event::STOPPED, "{mode} stopped");
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_file_descriptors_that_the_worker_does_not_need() {
        for (wanted, files, served) in
            [(1024, 4096, 1024), (1024, 1088, 1024), (1024, 1087, 1023), (1024, 32, 8)]
        {
            assert_eq!(connections(wanted, files), served, "{wanted} of {files}");
        }
        let told =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024     524288     files\n";
        assert_eq!(file_limits(told), Some((1024, 524_288)));
        assert_eq!(file_limits("Max open files            unlimited"), None);
    }
}
