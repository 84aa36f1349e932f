//! The subcommands, one file each, which connect the other modules.

/// [`Failure::Usage`] with this message.
macro_rules! usage {
    ($($message:tt)+) => { $crate::command::Failure::Usage(anyhow::anyhow!($($message)+)) };
}

/// [`Failure::Environment`] with this message.
macro_rules! environment {
    ($($message:tt)+) => { $crate::command::Failure::Environment(anyhow::anyhow!($($message)+)) };
}

pub(crate) mod allow_mass_delete;
pub(crate) mod check;
mod common;
mod compare;
pub(crate) mod completions;
pub(crate) mod config;
mod daemon;
pub(crate) mod dev;
pub(crate) mod flags;
pub(crate) mod fleet;
pub(crate) mod history;
pub(crate) mod layer;
pub(crate) mod man;
pub(crate) mod manifest;
pub(crate) mod master;
pub mod print;
mod reading;
mod release;
pub(crate) mod schema;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod test;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod why;
pub(crate) mod worker;

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::Builder;

use crate::client::ClientError;
use crate::config::ConfigError;
use crate::lifecycle::Signal;
use crate::master::reconcile::ReconcileError;
use crate::rule::{InvalidRuleId, InvalidState};
use crate::socket::ListenError;
use crate::store::StoreError;
use crate::telemetry::TelemetryError;
use crate::trust::Malformed;

/// Why a command failed, by exit code.
#[derive(Debug)]
pub enum Failure {
    /// The check failed, and everything was printed. Exit code 1.
    CheckFailed,
    /// Something did not answer and was named; the rest is in sync. Exit code 3.
    Unanswered,
    /// The exit code of a monitoring plugin; everything was printed.
    Checked(u8),
    /// The command line or the configuration is not valid. Exit code 2.
    Usage(anyhow::Error),
    /// The database, the directory or the socket cannot be used. Exit code 3.
    Environment(anyhow::Error),
    /// The reader of standard output went away, which is no failure. Exit code 0.
    ReaderGone,
    /// A signal ended the command, and everything was printed. The process ends by this signal.
    Interrupted(Signal),
}

/// The result of a command.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// The exit code that scripts rely on. Does not return where a signal ended the command.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::ReaderGone => 0,
            Self::CheckFailed => 1,
            Self::Usage(_) => 2,
            Self::Unanswered | Self::Environment(_) => 3,
            Self::Checked(code) => *code,
            Self::Interrupted(signal) => return signal.end_process(),
        })
    }

    /// What to print; `None` if everything was printed.
    pub const fn message(&self) -> Option<&anyhow::Error> {
        match self {
            Self::Usage(error) | Self::Environment(error) => Some(error),
            _ => None,
        }
    }
}

macro_rules! failures {
    ($($kind:ident: $($error:ty),+;)+) => {$($(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::$kind(error.into())
            }
        }
    )+)+};
}

failures! {
    Usage: ConfigError, TelemetryError, InvalidRuleId, InvalidState, Malformed;
    Environment: StoreError, ListenError, ClientError, ReconcileError, std::io::Error;
}

/// Runs a command's work on one thread: it is I/O, and threads cost memory. The work is on the heap, because a stack
/// keeps its pages as long as a daemon runs. A thread that waits for a file system does not delay the end: what must be
/// complete, the work waits for.
///
/// # Errors
/// The operating system provides no event queue, or too few threads.
fn block_on<T>(threads: Threads, work: impl Future<Output = T>) -> std::io::Result<T> {
    ensure_threads(threads as usize)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(Box::pin(work));
    runtime.shutdown_background();
    Ok(done)
}

/// How many threads a command cannot do without at once.
#[derive(Debug, Clone, Copy)]
enum Threads {
    /// It asks daemons.
    None = 0,
    /// Of a database, its driver, and one each for what blocks the database's thread and the command's.
    Database = 4,
    /// Also of a directory's events, signals, and an exporter of traces.
    Daemon = 8,
}

/// Fails early, with a remedy, if the system does not give this process so many threads: some libraries panic without
/// them.
fn ensure_threads(at_once: usize) -> std::io::Result<()> {
    const STACK: usize = 16 << 10;
    let gate = Mutex::new(());
    let all = std::thread::scope(|scope| {
        let _closed = gate.lock();
        let wait = || drop(gate.lock());
        let start = |_| Builder::new().stack_size(STACK).spawn_scoped(scope, wait).map(drop);
        (0..at_once).try_for_each(start)
    });
    all.map_err(|error| {
        std::io::Error::other(format!(
            "the system does not let this process have {at_once} threads ({error}): raise its limit of tasks (`ulimit -u`, \
             TasksMax= of a unit)"
        ))
    })
}

/// Fails early, with a remedy, if the rules directory cannot be read.
///
/// # Errors
/// [`Failure::Environment`].
fn require_directory(path: &std::path::Path) -> Outcome {
    std::fs::read_dir(path).map(drop).map_err(|error| {
        environment!(
            "the rules directory {} cannot be read: {error}; create it, or name another with --rules-dir or \
             master.rules_dir",
            path.display()
        )
    })
}
